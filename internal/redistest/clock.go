package redistest

import (
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed clock/clock.c
var clockSource []byte

// CanJump returns nil when a test may move a server's clock: on Linux, with a C
// compiler, which the race detector needs too.
func CanJump() error {
	if runtime.GOOS != "linux" {
		return errors.New("moving redis's clock needs Linux")
	}
	if _, err := exec.LookPath("cc"); err != nil {
		return fmt.Errorf("moving redis's clock needs a C compiler: %w", err)
	}
	return nil
}

// StartWithClock is Start for a server whose wall clock Jump moves.
func StartWithClock(t testing.TB, args ...string) *Server {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(CanJump())
	port, err := freePort()
	must(err)
	s, err := prepare(t.TempDir(), port, args...)
	must(err)
	source, lib := filepath.Join(s.Dir, "clock.c"), filepath.Join(s.Dir, "clock.so")
	must(os.WriteFile(source, clockSource, 0o600))
	if said, err := exec.CommandContext(t.Context(), "cc", "-O2", "-shared", "-fPIC", "-o", lib, source).CombinedOutput(); err != nil { //nolint:gosec // our own files
		t.Fatalf("compile redis's clock: %v\n%s", err, said)
	}
	s.env = []string{"LD_PRELOAD=" + lib, "REDISTEST_CLOCK=" + s.clock()}
	must(s.setClock(0))
	must(s.Restart())
	t.Cleanup(s.Kill)
	return s
}

func (s *Server) clock() string { return filepath.Join(s.Dir, "clock") }

// setClock writes into the file that the server has mapped.
func (s *Server) setClock(ahead time.Duration) error {
	f, err := os.OpenFile(s.clock(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the clock of redis: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(binary.NativeEndian.AppendUint64(nil, uint64(ahead))); err != nil {
		return fmt.Errorf("write the clock of redis: %w", err)
	}
	return nil
}

// Jump sets the wall clock of a server of StartWithClock that far ahead of this
// machine's, and checks that the server tells that time. Its waits go by the
// monotonic clock, which nobody can set.
func (s *Server) Jump(ahead time.Duration) error {
	if err := s.setClock(ahead); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return s.until(ctx, func(rdb *redis.Client) bool {
		now, err := rdb.Time(ctx).Result()
		return err == nil && (time.Until(now)-ahead).Abs() < time.Second
	})
}

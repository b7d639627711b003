package store

import (
	"path/filepath"
	"testing"

	"dispatchd/internal/redistest"
)

// TestUnixSocket: redis.url may be unix:///path, as the package's Redis has it.
func TestUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "redis.sock")
	redistest.Start(t, "--unixsocket", path)
	s := newStore(t, "unix://"+path+"?db=0", t.TempDir())
	if err := s.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Package redistest runs a real redis-server for tests, one process per server,
// on loopback and in a temporary directory, and can do to it what happens to
// real ones: stop, kill -9, freeze, restart.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Server is one redis-server process.
type Server struct {
	Addr string // host:port
	Dir  string
	args []string
	env  []string // besides the test's own
	cmd  *exec.Cmd
	done chan error
}

// Start runs a redis-server with AOF (everysec) and noeviction; extra arguments
// come last and win. The test fails, never skips, when redis-server is missing.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s, err := New(t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

// New is Start outside of a test; the caller stops it with Kill.
func New(dir string, args ...string) (*Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return at(dir, port, args...)
}

// at starts a server with its files in dir.
func at(dir string, port int, args ...string) (*Server, error) {
	s, err := prepare(dir, port, args...)
	if err != nil {
		return nil, err
	}
	return s, s.Restart()
}

func prepare(dir string, port int, args ...string) (*Server, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of redis: %w", err)
	}
	s := &Server{Addr: "127.0.0.1:" + strconv.Itoa(port), Dir: dir}
	s.args = append([]string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "yes",
		"--appendfsync", "everysec", "--maxmemory-policy", "noeviction", "--hash-max-listpack-value", "1024",
		"--loglevel", "warning", "--logfile", filepath.Join(dir, "redis.log"), "--enable-debug-command", "yes",
	}, args...)
	return s, nil
}

// FreeAddresses finds n addresses on loopback that a test's processes may listen
// on, also after they were stopped: see freePorts.
func FreeAddresses(t testing.TB, n int) []string {
	t.Helper()
	ports, err := freePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, n)
	for i, port := range ports {
		out[i] = "127.0.0.1:" + strconv.Itoa(port)
	}
	return out
}

func freePort() (int, error) {
	ports, err := freePorts(1)
	if err != nil {
		return 0, err
	}
	return ports[0], nil
}

// freePorts finds ports below those that the kernel hands out by itself: nobody
// else gets one before somebody listens there, or while a test has him stopped.
func freePorts(n int) ([]int, error) {
	const from, below = 12_000, 22_000 // a cluster also takes the port + 10000
	var ports []int
	for range 100 * n {
		port := from + rand.IntN(below-from)
		ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			continue // taken
		}
		defer ln.Close() // at the end, so that no two are the same
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("no %d ports are free between %d and %d", n, from, below)
}

// URL returns the redis:// URL of the server.
func (s *Server) URL() string { return "redis://" + s.Addr + "/0" }

// Restart starts the process (again) and waits until it answers.
func (s *Server) Restart() error {
	cmd := exec.Command("redis-server", s.args...) //nolint:gosec,noctx // it lives until Kill; a test names its arguments
	cmd.Env = append(os.Environ(), s.env...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start redis-server (apt-get install redis-server): %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	s.cmd, s.done = cmd, done
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return s.until(ctx, func(rdb *redis.Client) bool { return rdb.Ping(ctx).Err() == nil })
}

// until asks the server again and again until it is as the test wants it.
func (s *Server) until(ctx context.Context, so func(*redis.Client) bool) error {
	rdb := s.plain()
	defer rdb.Close()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if so(rdb) {
			return nil
		}
		select {
		case err := <-s.done:
			s.done <- err
			log, rerr := os.ReadFile(filepath.Join(s.Dir, "redis.log"))
			return errors.Join(fmt.Errorf("redis-server ended: %w\n%s", err, log), rerr)
		case <-ctx.Done():
			return errors.New("redis-server does not answer as it should")
		case <-tick.C:
		}
	}
}

// plain returns a client that the caller closes.
func (s *Server) plain() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, DisableIdentity: true})
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the process with SIGTERM and waits until it is gone.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

func (s *Server) end(sig syscall.Signal) {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	// A frozen process takes no SIGTERM; an ended one takes no signal at all.
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.cmd.Process.Signal(sig)
	s.done <- <-s.done
}

// Freeze stops the process without ending it; Thaw lets it go on.
func (s *Server) Freeze() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (s *Server) Thaw() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

// Client returns a plain client, closed with the test.
func (s *Server) Client(t testing.TB) *redis.Client {
	t.Helper()
	rdb := s.plain()
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// Embedded runs miniredis and returns its URL.
func Embedded(t testing.TB) string {
	t.Helper()
	return "redis://" + miniredis.RunT(t).Addr() + "/0"
}

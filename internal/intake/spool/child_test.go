package spool

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dispatchd/internal/event"
)

// The tests that need a process of their own start this test binary again with
// childEnv set to what it is to do; it works in its working directory.
const childEnv = "DISPATCHD_SPOOL_TEST_CHILD"

// child starts the test binary as the child that does what.
func child(t *testing.T, what, dir string, attr *syscall.SysProcAttr) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestChild$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	cmd.SysProcAttr = attr
	return cmd
}

// TestChild is not a test by itself.
func TestChild(t *testing.T) {
	switch os.Getenv(childEnv) {
	case "put":
		childPut(t)
	case "limit":
		childLimit(t)
	case "tmpfs":
		childTmpfs(t)
	default:
		t.Skip("runs in child processes only")
	}
}

// childPut puts for ever and says what was acknowledged.
func childPut(t *testing.T) {
	s := mustOpen(t, "spool.db")
	var wg sync.WaitGroup
	start, _ := strconv.Atoi(os.Getenv("SPOOL_START"))
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				n := start + i*8 + w
				if err := s.Put(t.Context(), []event.Ping{ping(n, 0)}); err != nil {
					t.Error(err)
					return
				}
				fmt.Printf("stored %d\n", n) // one write: lines do not mix
			}
		})
	}
	wg.Wait()
}

// TestKilledWhilePutting kills the process again and again on one file:
// everything acknowledged must be there, and the file must be whole.
func TestKilledWhilePutting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "spool.db")
	acknowledged := map[int]bool{}
	for round := range 4 {
		cmd := child(t, "put", dir, nil)
		cmd.Env = append(cmd.Env, "SPOOL_START="+strconv.Itoa(round*1_000_000))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		killAt := 50 + 130*round
		for seen := 0; lines.Scan(); {
			var n int
			if _, err := fmt.Sscanf(lines.Text(), "stored %d", &n); err != nil {
				continue // what the test binary says
			}
			acknowledged[n] = true
			if seen++; seen == killAt {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the child was not killed: %v", err)
		}
		s, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		items, err := s.Next(t.Context(), 1_000_000)
		if err != nil {
			t.Fatal(err)
		}
		there := map[int]bool{}
		for _, it := range items {
			there[int(it.Ping.ORCID.Base())-1] = true
		}
		for n := range acknowledged {
			if !there[n] {
				t.Errorf("round %d: ping %d was acknowledged and is lost", round, n)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// full puts until the disk refuses, and checks what a full disk may not break.
func full(t *testing.T, path string, makeRoom func()) {
	t.Helper()
	s := mustOpen(t, path)
	stored := 0
	var err error
	for err == nil && stored < 1_000_000 {
		if err = s.Put(t.Context(), pings(stored, stored+200)); err == nil {
			stored += 200
		}
	}
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("a full disk gives: %v", err)
	}
	fmt.Printf("full after %d: %v\n", stored, err)
	if stored == 0 || s.Len() != stored {
		t.Errorf("%d were acknowledged, %d are counted", stored, s.Len())
	}
	if err := s.Put(t.Context(), pings(stored, stored+200)); err == nil {
		t.Error("the disk is full no more")
	}
	if got := mustNext(t, s, stored+1); len(got) != stored {
		t.Errorf("a full disk holds %d of %d", len(got), stored)
	}
	// A put and a Done that share a transaction: the put must not take the
	// Done down with it, or a full spool could not be drained.
	in := &op{pings: pings(stored, stored+2000), done: make(chan error, 1)}
	out := &op{items: mustNext(t, s, 10), done: make(chan error, 1)}
	s.commitGroup([]*op{in, out})
	if err := <-in.done; err == nil {
		t.Error("2000 more found room on a full disk")
	}
	if err := <-out.done; err != nil {
		t.Errorf("Done on a full disk: %v", err)
	}
	makeRoom()
	mustPut(t, s, pings(stored, stored+200)...)
	mustDone(t, s, mustNext(t, s, 90))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := mustOpen(t, path).Len(); n != stored+100 {
		t.Errorf("%d are there after reopening, want %d", n, stored+100)
	}
	fmt.Println("full: checked")
}

// childLimit makes the disk full by a limit on the size of files.
func childLimit(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	set := func(cur uint64) {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: cur, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
	}
	set(1 << 20)
	full(t, "spool.db", func() { set(was.Cur) })
}

// childTmpfs makes a file system of 1 MiB in a mount namespace of its own.
func childTmpfs(t *testing.T) {
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		t.Skip("cannot make mounts private:", err)
	}
	if err := os.Mkdir("small", 0o700); err != nil {
		t.Fatal(err)
	}
	// It goes away with the namespace.
	if err := syscall.Mount("tmpfs", "small", "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount:", err)
	}
	const ballast = "small/ballast"
	if err := os.WriteFile(ballast, make([]byte, 512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	full(t, "small/spool.db", func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	namespace := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		namespace.Cloneflags |= syscall.CLONE_NEWUSER
		namespace.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		namespace.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	for what, attr := range map[string]*syscall.SysProcAttr{"limit": nil, "tmpfs": namespace} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			cmd := child(t, what, t.TempDir(), attr)
			cmd.WaitDelay = time.Second
			out, err := cmd.CombinedOutput()
			switch {
			case errors.Is(err, syscall.EPERM), strings.Contains(string(out), "--- SKIP"):
				t.Skipf("no rights for a mount namespace here: %v\n%s", err, out)
			case err != nil || !strings.Contains(string(out), "full: checked"):
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}

package chaos

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// stream is ORCID's traffic at a fixed pace that does not slow down when
// answers are late: what cannot be answered at once is waited for.
type stream struct {
	stop    chan struct{}
	running sync.WaitGroup
	sent    atomic.Int64
	failed  atomic.Int64 // refused, reset or not 204
	slowest atomic.Int64 // ns
	mu      sync.Mutex
	errs    []string // the first few
}

// startStream pings the users one after the other, so many a second.
func (w *world) startStream(rate int) *stream {
	s := &stream{stop: make(chan struct{})}
	const tick = 5 * time.Millisecond
	each := max(1, rate*int(tick)/int(time.Second))
	s.running.Go(func() {
		t := time.NewTicker(tick)
		defer t.Stop()
		for u := 0; ; {
			select {
			case <-s.stop:
				return
			case <-t.C:
			}
			for range each {
				user := u % len(w.users)
				u++
				s.running.Go(func() { s.one(w, user) })
			}
		}
	})
	return s
}

func (s *stream) one(w *world, user int) {
	began := time.Now()
	status, err := w.ping(user)
	s.sent.Add(1)
	for took := int64(time.Since(began)); ; {
		old := s.slowest.Load()
		if took <= old || s.slowest.CompareAndSwap(old, took) {
			break
		}
	}
	if err == nil && status == http.StatusNoContent {
		return
	}
	s.failed.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errs) < 5 {
		s.errs = append(s.errs, fmt.Sprintf("status %d, %v", status, err))
	}
}

// end waits for the pings under way.
func (s *stream) end() {
	close(s.stop)
	s.running.Wait()
}

// TestRestartUnderLoad: with a socket that is held over restarts no ping of
// 1,000 a second is refused, reset or lost; of 200 in the short version, beside
// which other tests have the machine.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{orgs: []string{"uni-a"}, users: 400, activated: true})
	// Patience is the test's, not ORCID's: a busy machine starts a process slowly.
	w.pinger.Timeout, w.pinger.Transport.(*http.Transport).ResponseHeaderTimeout = 30*time.Second, 30*time.Second
	rate := 200
	if opts.claims() {
		rate = 1000
	}
	s := w.startStream(rate)
	var downs []time.Duration
	for range opts.restart {
		took, err := w.daemon.term(stopLimit)
		w.must(err)
		w.must(w.daemon.start())
		w.must(within(patience, 5*time.Millisecond, w.api.ready))
		downs = append(downs, took)
		before := s.sent.Load()
		w.must(within(patience, 5*time.Millisecond, func() error {
			if s.sent.Load() < before+int64(rate)/2 {
				return errors.New("the load does not go on")
			}
			return nil
		}))
	}
	s.end()
	if n := s.failed.Load(); n != 0 {
		t.Errorf("%d of %d pings were not answered 204: %s", n, s.sent.Load(), strings.Join(s.errs, "; "))
	}
	lost := -1
	err := within(patience, 50*time.Millisecond, func() error {
		if lost = len(w.books.missing()); lost > 0 {
			return fmt.Errorf("%d users' latest ping was not told", lost)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	l, err := w.api.ledger()
	w.must(err)
	if !l.Balanced {
		t.Errorf("the books do not balance: %q", l.Differences)
	}
	var longest time.Duration
	for _, d := range downs {
		longest = max(longest, d)
	}
	t.Logf("%d restarts under load: %d pings, refused %d, lost %d; slowest answer %s, longest stop %s",
		opts.restart, s.sent.Load(), s.failed.Load(), lost, time.Duration(s.slowest.Load()).Round(time.Millisecond), longest.Round(time.Millisecond))
}

// TestBadConfigurationExitsWithTwo, which RestartPreventExitStatus=2 of the unit
// builds on, and says every mistake with its line.
func TestBadConfigurationExitsWithTwo(t *testing.T) {
	t.Parallel()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(bad, []byte("public_url = \"ftp://x\"\ncolour = \"red\"\n[delivery]\ntimeout = \"soon\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"serve", "--config", bad}, {"check", bad}, {"serve", "--config", bad + ".missing"}, {"serve"}, {"frobnicate"}} {
		out, err := exec.Command(bin, args...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 {
			t.Errorf("%q: %v, want exit code 2\n%s", args, err, out)
		}
		for _, want := range []string{bad + ":1: public_url", bad + ":2: colour", bad + ":4: delivery.timeout"} {
			if len(args) > 1 && args[len(args)-1] == bad && !strings.Contains(string(out), want) {
				t.Errorf("%q does not say %q:\n%s", args, want, out)
			}
		}
	}
}

// TestACrashIsNoBadConfiguration: the watchdog's SIGABRT does not end it with 2,
// after which systemd would not start it again.
func TestACrashIsNoBadConfiguration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{orgs: []string{"uni-a"}, users: 1})
	w.must(w.daemon.signal(syscall.SIGABRT))
	<-w.daemon.done
	var exit *exec.ExitError
	if !errors.As(w.daemon.err, &exit) || exit.ExitCode() != -1 {
		t.Errorf("it ended with %v, want by a signal", w.daemon.err)
	}
}

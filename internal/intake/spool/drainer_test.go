package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"dispatchd/internal/event"
)

// fakeLog is an intake log whose next answers a test decides. The real one is
// tried by package store.
type fakeLog struct {
	mu      sync.Mutex
	fail    func(n int) error // of the n-th append, from 1; nil means none fails
	calls   int
	entries [][]event.Ping
	at      []time.Time
}

func (l *fakeLog) Append(_ context.Context, pings []event.Ping) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	l.at = append(l.at, time.Now())
	if l.fail != nil {
		if err := l.fail(l.calls); err != nil {
			return err
		}
	}
	l.entries = append(l.entries, append([]event.Ping(nil), pings...))
	return nil
}

func (l *fakeLog) setFail(f func(n int) error) {
	l.mu.Lock()
	l.fail = f
	l.mu.Unlock()
}

func (l *fakeLog) sizes() (n []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		n = append(n, len(e))
	}
	return n
}

func newDrainer(tb testing.TB, s *Spool, o DrainerOptions) *Drainer {
	tb.Helper()
	d, err := NewDrainer(s, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.Stop)
	return d
}

func TestRunOnceMovesTheOldestBatch(t *testing.T) {
	t.Parallel()
	s, log := newSpool(t), &fakeLog{}
	hints := 0
	d := newDrainer(t, s, DrainerOptions{Log: log, Batch: 4, OnAppended: func() { hints++ }})
	mustPut(t, s, pings(0, 6)...)
	for i, want := range []int{4, 2, 0} {
		n, err := d.runOnce(t.Context())
		if n != want || err != nil {
			t.Errorf("pass %d moved %d, %v; want %d", i, n, err, want)
		}
	}
	if fmt.Sprint(log.sizes()) != "[4 2]" || log.entries[0][0].ORCID != ping(0, 0).ORCID || hints != 2 {
		t.Errorf("log has %v, %d hints", log.entries, hints)
	}
	wantStats(t, s, Stats{Received: 6, Drained: 6})
}

func TestAFailedAppendTakesNothingOut(t *testing.T) {
	t.Parallel()
	refused, lost := errors.New("OOM command not allowed"), fmt.Errorf("append: %w", context.DeadlineExceeded)
	for name, c := range map[string]struct {
		err    error
		unsure int64
	}{"refused": {refused, 0}, "no answer": {lost, 3}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, log := newSpool(t), &fakeLog{fail: func(int) error { return c.err }}
			hints := 0
			d := newDrainer(t, s, DrainerOptions{Log: log, OnAppended: func() { hints++ }})
			mustPut(t, s, pings(0, 3)...)
			if n, err := d.runOnce(t.Context()); n != 0 || !errors.Is(err, c.err) {
				t.Errorf("runOnce: %d, %v", n, err)
			}
			if hints != 0 {
				t.Error("a failed append gave a hint")
			}
			wantStats(t, s, Stats{Waiting: 3, Received: 3, Unsure: c.unsure, Oldest: epoch})
		})
	}
}

func TestGuardKeepsTheSpool(t *testing.T) {
	t.Parallel()
	s, log := newSpool(t), &fakeLog{}
	forgot := errors.New("redis forgot")
	d := newDrainer(t, s, DrainerOptions{Log: log, Guard: func() error { return forgot }})
	if n, err := d.runOnce(t.Context()); n != 0 || err != nil {
		t.Errorf("an empty spool under guard: %d, %v", n, err)
	}
	mustPut(t, s, pings(0, 3)...)
	if _, err := d.runOnce(t.Context()); !errors.Is(err, forgot) || log.calls != 0 {
		t.Errorf("%v, %d appends", err, log.calls)
	}
}

// TestWhatIsInTheLogIsNotAppendedAgain: the append worked, the disk did not.
func TestWhatIsInTheLogIsNotAppendedAgain(t *testing.T) {
	t.Parallel()
	s, log := newSpool(t), &fakeLog{}
	d := newDrainer(t, s, DrainerOptions{Log: log})
	mustPut(t, s, pings(0, 3)...)
	bad := fmt.Errorf("the disk does not write")
	items := mustNext(t, s, 3)
	s.broken.Store(&bad)
	d.appended = items
	if _, err := d.runOnce(t.Context()); !errors.Is(err, bad) || log.calls != 0 {
		t.Fatalf("%v, %d appends", err, log.calls)
	}
	s.broken.Store(nil)
	if n, err := d.runOnce(t.Context()); n != 0 || err != nil || log.calls != 0 {
		t.Errorf("%d, %v, %d appends", n, err, log.calls)
	}
	wantStats(t, s, Stats{Received: 3, Drained: 3})
}

func TestDrainIsPaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, log := mustOpen(t, filepath.Join(dir, "spool.db")), &fakeLog{}
		d := newDrainer(t, s, DrainerOptions{Log: log, Rate: 1000, Batch: 100})
		mustPut(t, s, pings(0, 1050)...)
		began := time.Now()
		if err := d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(450 * time.Millisecond)
		synctest.Wait()
		if n := len(log.sizes()); n != 5 { // at 0, 100, 200, 300 and 400 ms
			t.Errorf("%d batches after 450 ms, want 5", n)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s.Len() != 0 {
			t.Errorf("%d wait", s.Len())
		}
		if took := log.at[len(log.at)-1].Sub(began); took != time.Second {
			t.Errorf("draining 1050 at 1000/s took %v, want 1 s to the last batch", took)
		}
		// An empty spool is not polled, and a new ping is drained at once.
		mustPut(t, s, ping(5000, 0))
		synctest.Wait()
		if s.Len() != 0 || log.calls != 12 {
			t.Errorf("%d wait, %d appends; want 0 and 12", s.Len(), log.calls)
		}
		d.Stop()
		_ = s.Close()
	})
}

func TestWhileFailingOnePingIsTheProbe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var words strings.Builder
		s, log := mustOpen(t, filepath.Join(dir, "spool.db")), &fakeLog{}
		log.setFail(func(int) error { return context.DeadlineExceeded })
		d := newDrainer(t, s, DrainerOptions{Log: log, Batch: 10, Logger: slog.New(slog.NewTextHandler(&words, nil))})
		mustPut(t, s, pings(0, 25)...)
		if err := d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		log.mu.Lock()
		tries := log.calls
		log.mu.Unlock()
		// 2 s at most and 1 s at least between tries: 30 to 60, and a few while it doubles.
		if tries < 30 || tries > 70 {
			t.Errorf("%d tries in a minute", tries)
		}
		if got := s.Stats().Unsure; got != int64(10+tries-1) {
			t.Errorf("unsure %d after %d tries, want 10 for the first and 1 for each later", got, tries)
		}
		log.setFail(nil)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := fmt.Sprint(log.sizes()); got != "[1 10 10 4]" {
			t.Errorf("batches %s, want the probe and then whole ones", got)
		}
		d.Stop()
		if n := strings.Count(words.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings, want 1:\n%s", n, words.String())
		}
		if !strings.Contains(words.String(), "the spool is drained") || !strings.Contains(words.String(), "pings=25") {
			t.Errorf("the end is not said:\n%s", words.String())
		}
		_ = s.Close()
	})
}

func TestStartAndStopMayBeCalledTwice(t *testing.T) {
	t.Parallel()
	s, log := newSpool(t), &fakeLog{}
	appended := make(chan struct{}, 10)
	d := newDrainer(t, s, DrainerOptions{Log: log, OnAppended: func() { appended <- struct{}{} }})
	d.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	for range 2 {
		if err := d.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	mustPut(t, s, ping(1, 1))
	<-appended
	cancel()
	<-d.done // a loop whose context ended can be started again
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, ping(2, 2))
	<-appended
	d.Stop()
	d.Stop()
	wantStats(t, s, Stats{Received: 2, Drained: 2})
}

func TestAPanicOfTheLogIsCounted(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	s, log := newSpool(t), &fakeLog{}
	appended := make(chan struct{}, 1)
	d := newDrainer(t, s, DrainerOptions{Log: &panicsOnce{fakeLog: log}, Registerer: reg, MinBackoff: time.Millisecond, OnAppended: func() { appended <- struct{}{} }})
	mustPut(t, s, ping(1, 1))
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-appended
	d.Stop()
	if n := testutil.ToFloat64(d.metrics.panics); n != 1 {
		t.Errorf("%v panics counted", n)
	}
	if _, err := NewDrainer(s, DrainerOptions{Log: log, Registerer: reg}); err != nil {
		t.Errorf("the panics vector is not shared: %v", err)
	}
}

type panicsOnce struct {
	*fakeLog
	once sync.Once
}

func (p *panicsOnce) Append(ctx context.Context, pings []event.Ping) error {
	p.once.Do(func() { panic("boom") })
	return p.fakeLog.Append(ctx, pings)
}

func TestNewDrainerRefuses(t *testing.T) {
	t.Parallel()
	s, log := newSpool(t), &fakeLog{}
	for name, call := range map[string]func() (*Drainer, error){
		"no spool":      func() (*Drainer, error) { return NewDrainer(nil, DrainerOptions{Log: log}) },
		"no log":        func() (*Drainer, error) { return NewDrainer(s, DrainerOptions{}) },
		"batch":         func() (*Drainer, error) { return NewDrainer(s, DrainerOptions{Log: log, Batch: 257}) },
		"negative rate": func() (*Drainer, error) { return NewDrainer(s, DrainerOptions{Log: log, Rate: -1}) },
	} {
		if _, err := call(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

type refusal struct{}

func (refusal) Error() string { return "LOADING" }

func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want bool
	}{
		{context.DeadlineExceeded, true},
		{fmt.Errorf("append: %w", context.Canceled), true},
		{io.EOF, true},
		{fmt.Errorf("x: %w", io.ErrUnexpectedEOF), true},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, true},
		{&net.OpError{Op: "write", Err: syscall.EPIPE}, true},
		{&net.OpError{Op: "read", Err: timeout{}}, true},
		{errAppendTimeout, true},
		{net.ErrClosed, true},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, false},
		{&net.OpError{Op: "dial", Err: timeout{}}, false},
		{refusal{}, false},
		{errors.New("redis forgot"), false},
	} {
		if got := OutcomeUnknown(c.err); got != c.want {
			t.Errorf("OutcomeUnknown(%v) = %v", c.err, got)
		}
	}
}

type timeout struct{}

func (timeout) Error() string   { return "i/o timeout" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

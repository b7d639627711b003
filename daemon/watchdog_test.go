package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dispatchd/internal/sim"
)

// The feed comes at its pace, stops while there is no answer in time, and goes
// on with the answers.
func TestTheWatchdogIsFedOnlyWhileThereAreAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var feeds atomic.Int64
		var hang atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		w := watchdog{every: 10 * time.Second, log: slog.New(slog.DiscardHandler), feed: func() { feeds.Add(1) }, alive: func(ctx context.Context) error {
			if hang.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}}
		done := make(chan struct{})
		go func() { w.run(ctx); close(done) }()
		pass := func(d time.Duration, atLeast, atMost int64) {
			t.Helper()
			before := feeds.Load()
			<-time.After(d)
			synctest.Wait()
			if n := feeds.Load() - before; n < atLeast || n > atMost {
				t.Errorf("%d feeds in %s, want %d to %d", n, d, atLeast, atMost)
			}
		}
		pass(time.Minute, 6, 7)
		hang.Store(true)
		pass(10*time.Second, 0, 1)
		pass(time.Minute, 0, 0)
		hang.Store(false)
		pass(20*time.Second, 1, 3)
		pass(time.Minute, 6, 6)
		cancel()
		<-done
	})
}

func TestWatchdogTime(t *testing.T) {
	t.Parallel()
	for env, want := range map[[2]string]time.Duration{
		{"30000000", ""}: 30 * time.Second, {"30000000", "7"}: 30 * time.Second, {"30000000", "8"}: 0, {"", ""}: 0, {"soon", ""}: 0, {"-1", ""}: 0,
	} {
		if got := watchdogTime(func(k string) string { return map[string]string{"WATCHDOG_USEC": env[0], "WATCHDOG_PID": env[1]}[k] }, 7); got != want {
			t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s: %s, want %s", env[0], env[1], got, want)
		}
	}
}

// manager is a service manager that keeps what it is told.
type manager struct {
	mu   sync.Mutex
	said []string
}

func (m *manager) tell(state string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.said = append(m.said, state)
}

// count is how many messages begin like this.
func (m *manager) count(prefix string) (n int) {
	for _, s := range m.all() {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

func (m *manager) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.said)
}

// stuckLog blocks whoever logs a message, as a full pipe to the journal does.
type stuckLog struct {
	slog.Handler
	message string
	stuck   chan struct{} // closed when somebody is stuck
	once    *sync.Once
	release chan struct{}
}

// Handle implements slog.Handler.
func (h stuckLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == h.message {
		h.once.Do(func() { close(h.stuck); <-h.release })
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h stuckLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.Handler = h.Handler.WithAttrs(attrs)
	return h
}

// A root actor that is frozen stops the feed; a Redis that is killed does not.
func TestAFrozenActorStarvesTheWatchdogAndRedisDoesNot(t *testing.T) {
	t.Parallel()
	m := &manager{}
	h := stuckLog{message: "ORCID asks for fewer requests; going slower", stuck: make(chan struct{}), once: new(sync.Once), release: make(chan struct{})}
	w := newWorld(t, setting{later: true, notify: m.tell, watchdog: 300 * time.Millisecond, logTo: func(inner slog.Handler) slog.Handler {
		h.Handler = inner
		return h
	}})
	w.start()
	fed := func(n int) func() bool {
		want := m.count("WATCHDOG=1") + n
		return func() bool { return m.count("WATCHDOG=1") >= want }
	}
	w.eventually("the watchdog is fed", fed(3))
	w.redis.Kill()
	w.eventually("the watchdog is fed without Redis", fed(10))
	w.eventually("the status says so", func() bool { return m.count("STATUS=Redis does not answer: pings go to the spool") == 1 })
	w.must(w.redis.Restart())
	w.eventually("the status says that it works", func() bool { return m.count("STATUS=Working") == 1 })

	_, err := w.orcid.InjectFault(sim.Fault{Operation: "put", Kind: sim.FaultStatus, Status: http.StatusTooManyRequests, Count: 1})
	w.must(err)
	w.simple("uni-a")
	<-h.stuck
	w.eventually("the log says so", func() bool { return strings.Contains(w.log.String(), "the actors do not answer") })
	// From here on there is nothing until it is let go: also not in more time
	// than ten feeds took before.
	asked := func(d time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return w.d.app.alive(ctx)
	}
	err = asked(500 * time.Millisecond) // what was asked before it froze is over
	before := m.count("WATCHDOG=1")
	err = errors.Join(err, asked(3*time.Second))
	if n := m.count("WATCHDOG=1") - before; n != 0 || err == nil || !strings.Contains(err.Error(), "actor credentials does not answer") {
		t.Errorf("fed %d times while an actor is frozen: %v", n, err)
	}
	close(h.release)
	w.eventually("the watchdog is fed again", fed(3))
}

// The service manager hears READY once the pings are safe, and after every
// RELOADING a READY, whatever came of it.
func TestTheServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	m := &manager{}
	w := newWorld(t, setting{later: true, notify: m.tell})
	w.redis.Kill()
	w.boot()
	w.eventually("ready without Redis", func() bool {
		return m.count("READY=1\nSTATUS=Redis does not answer: pings go to the spool") == 1
	})
	w.must(w.redis.Restart())
	w.eventually("the daemon works with Redis", w.d.app.attached.isStarted)
	w.eventually("ready with Redis", func() bool { return m.count("READY=1\nSTATUS=Working") == 1 })
	good := w.set.more
	w.writeConfig("colour = \"red\"\n")
	if status, _, _ := w.reload(); status != http.StatusUnprocessableEntity {
		t.Errorf("a bad file was answered %d", status)
	}
	w.d.app.reloadOnSignal(t.Context())
	w.writeConfig(good)
	w.d.app.reloadOnSignal(t.Context())
	w.stop()
	var got []string
	for _, s := range m.all() {
		if strings.HasPrefix(s, "STATUS=") {
			continue // the status line is looked after now and then, too
		}
		first, status, _ := strings.Cut(s, "\n")
		if strings.HasPrefix(first, "RELOADING") && !strings.HasPrefix(status, "MONOTONIC_USEC=") {
			t.Errorf("%q has no time", s)
		}
		if _, words, ok := strings.Cut(s, "STATUS="); ok {
			first += " " + words
		}
		got = append(got, first)
	}
	want := []string{
		"READY=1 Redis does not answer: pings go to the spool", "READY=1 Working",
		"RELOADING=1", "READY=1 Working with the old configuration: the new one has errors",
		"RELOADING=1", "READY=1 Working with the old configuration: the new one has errors",
		"RELOADING=1", "READY=1 Working",
		"STOPPING=1 Stopping",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the service manager was told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

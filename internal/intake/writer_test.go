package intake

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"dispatchd/internal/event"
)

func TestBreaker(t *testing.T) {
	t.Parallel()
	t0 := time.Unix(1_800_000_000, 0)
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	b := breaker{probeAfter: 10 * time.Second}
	for i, step := range []struct {
		do    string // "fail", "succeed" or nothing
		at    int
		allow bool
	}{
		{"", 0, true},
		{"", 0, true},
		{"fail", 1, false},
		{"", 10, false},
		{"", 11, true},  // the probe
		{"", 11, false}, // only one
		{"", 20, false},
		{"", 21, true},
		{"fail", 21, false},
		{"", 30, false},
		{"succeed", 30, true},
		{"", 30, true},
	} {
		switch step.do {
		case "fail":
			b.fail(at(step.at))
		case "succeed":
			b.succeed()
		}
		if got := b.allow(at(step.at)); got != step.allow {
			t.Errorf("step %d: allow = %v", i, got)
		}
	}
}

// frozen is a Redis that takes the request and never answers.
func frozen(ctx context.Context, _ []event.Ping) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestOnlyTheFirstPingWaitsForAFrozenRedis(t *testing.T) {
	t.Parallel()
	const wait = 60 * time.Millisecond
	b := setup(t, func(o *Options) { o.RedisWait = wait })
	var down atomic.Bool
	down.Store(true)
	b.log.do = func(ctx context.Context, p []event.Ping) error {
		if down.Load() {
			return frozen(ctx, p)
		}
		return nil
	}
	began := time.Now()
	b.wantPost(t, 1, http.StatusNoContent)
	if took := time.Since(began); took < wait {
		t.Errorf("the first ping was answered after %v, before Redis had its %v", took, wait)
	}
	for n := range 20 {
		b.wantPost(t, n+2, http.StatusNoContent)
	}
	if n := b.log.calls.Load(); n != 1 {
		t.Errorf("Redis was asked %d times, want once", n)
	}
	if st := b.spool.Stats(); st.Received != 21 || st.Unsure != 1 {
		t.Errorf("the spool has %+v, want 21 and the first unsure", st)
	}
	if s := b.State(); s.Mode != ToSpool || s.Err == nil || !s.Since.Equal(b.clock.Now()) {
		t.Errorf("state %+v", s)
	}

	b.clock.add(9 * time.Second)
	b.wantPost(t, 100, http.StatusNoContent)
	if n := b.log.calls.Load(); n != 1 {
		t.Errorf("Redis was asked again before its time")
	}
	b.clock.add(2 * time.Second) // a ping is the probe
	b.wantPost(t, 101, http.StatusNoContent)
	b.wantPost(t, 102, http.StatusNoContent)
	if n := b.log.calls.Load(); n != 2 {
		t.Errorf("Redis was asked %d times, want a second time for the probe", n)
	}

	down.Store(false)
	b.wantPost(t, 103, http.StatusNoContent)
	if n := b.log.calls.Load(); n != 2 {
		t.Error("Redis was asked before anybody knew that it is back")
	}
	b.LogWorks()
	b.wantPost(t, 104, http.StatusNoContent)
	if n := b.log.calls.Load(); n != 3 {
		t.Errorf("after LogWorks Redis was asked %d times, want 3", n)
	}
	b.wantResults(t, map[string]int{"spooled": 25, "accepted": 1})
	if s := b.State(); s.Mode != ToLog || s.Err != nil {
		t.Errorf("state %+v", s)
	}
	said := b.words.String()
	if strings.Count(said, "level=WARN") != 1 || strings.Count(said, "pings go to redis again") != 1 {
		t.Errorf("an outage is to be said once, and its end once:\n%s", said)
	}
}

// TestTheProbeFindsRedisByItself: without a Drainer.
func TestTheProbeFindsRedisByItself(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var down atomic.Bool
	down.Store(true)
	b.log.do = func(context.Context, []event.Ping) error {
		if down.Load() {
			return errors.New("LOADING Redis is loading the dataset in memory")
		}
		return nil
	}
	b.wantPost(t, 1, http.StatusNoContent)
	down.Store(false)
	b.wantPost(t, 2, http.StatusNoContent)
	b.clock.add(11 * time.Second)
	b.wantPost(t, 3, http.StatusNoContent)
	b.wantPost(t, 4, http.StatusNoContent)
	b.wantResults(t, map[string]int{"spooled": 2, "accepted": 2})
	if st := b.spool.Stats(); st.Unsure != 0 {
		t.Errorf("a refusal by Redis is no unknown outcome: %+v", st)
	}
}

func TestGuardSendsEverythingToTheSpool(t *testing.T) {
	t.Parallel()
	var guard atomic.Pointer[error]
	forgot := errors.New("redis forgot")
	guard.Store(&forgot)
	b := setup(t, func(o *Options) {
		o.Guard = func() error {
			if p := guard.Load(); p != nil {
				return *p
			}
			return nil
		}
	})
	b.wantPost(t, 1, http.StatusNoContent)
	b.LogWorks() // says nothing about whether Redis may be trusted
	if s := b.State(); s.Mode != ToSpool {
		t.Errorf("state %+v after LogWorks under guard", s)
	}
	b.wantPost(t, 2, http.StatusNoContent)
	if s := b.State(); s.Mode != ToSpool || !errors.Is(s.Err, forgot) || b.log.calls.Load() != 0 {
		t.Errorf("state %+v, %d appends", s, b.log.calls.Load())
	}
	guard.Store(nil)
	b.wantPost(t, 3, http.StatusNoContent)
	b.wantResults(t, map[string]int{"spooled": 2, "accepted": 1})
}

func TestRefusedOnlyWhenNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	full := badSpool{errors.New("no space left on device")}
	b := setup(t, func(o *Options) { o.Spool = full })
	var down atomic.Bool
	down.Store(true)
	b.log.do = func(context.Context, []event.Ping) error {
		if down.Load() {
			return errors.New("connection refused")
		}
		return nil
	}
	for n := range 3 {
		res := b.post(t, n)
		if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "120" || res.ContentLength != 0 {
			t.Errorf("ping %d: %s, Retry-After %q, length %d", n, res.Status, res.Header.Get("Retry-After"), res.ContentLength)
		}
	}
	if s := b.State(); s.Mode != Refusing || !strings.Contains(s.Err.Error(), "no space left") || !strings.Contains(s.Err.Error(), "connection refused") {
		t.Errorf("state %+v", s)
	}
	if n := strings.Count(b.words.String(), "level=ERROR"); n != 1 {
		t.Errorf("refusing was said %d times, want once:\n%s", n, b.words.String())
	}
	// The breaker is open, the spool is full, but Redis is back: no refusal.
	down.Store(false)
	b.wantPost(t, 10, http.StatusNoContent)
	b.wantPost(t, 11, http.StatusNoContent)
	b.wantResults(t, map[string]int{"refused": 3, "accepted": 2})
	if got := b.log.users(); len(got) != 2 {
		t.Errorf("log has %v", got)
	}
}

func TestGuardAndFullDiskRefuse(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *Options) {
		o.Spool = badSpool{errors.New("read-only file system")}
		o.Guard = func() error { return errors.New("redis forgot") }
	})
	b.wantPost(t, 1, http.StatusTooManyRequests)
	if b.log.calls.Load() != 0 {
		t.Error("a Redis under guard was written to")
	}
}

func TestTroubleThatComesAndGoesIsSaidOnceAMinute(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var n atomic.Int64
	b.log.do = func(context.Context, []event.Ping) error {
		if n.Add(1)%2 == 1 {
			return errors.New("flapping")
		}
		return nil
	}
	for i := range 10 {
		b.wantPost(t, i, http.StatusNoContent)
		b.LogWorks()
	}
	if got := strings.Count(b.words.String(), "level=WARN"); got != 1 {
		t.Errorf("%d warnings:\n%s", got, b.words.String())
	}
	b.clock.add(2 * time.Minute)
	for i := range 2 {
		b.wantPost(t, i, http.StatusNoContent)
		b.LogWorks()
	}
	if got := strings.Count(b.words.String(), "level=WARN"); got != 2 {
		t.Errorf("%d warnings after two minutes:\n%s", got, b.words.String())
	}
}

func TestPanicsAreCountedAndCostNoPing(t *testing.T) {
	t.Parallel()
	t.Run("in a lookup", func(t *testing.T) {
		t.Parallel()
		b := setup(t, func(o *Options) { o.Credential = func(string) (string, bool) { panic("lookup") } })
		c := b.dial(t)
		for range 2 { // the connection lives
			c.send(t, rawPing(b.path(1)))
			if res := c.answer(t, http.MethodPost); res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
				t.Errorf("answer %s", res.Status)
			}
		}
		b.wantResults(t, map[string]int{"refused": 2})
		if n := testutil.ToFloat64(b.metrics.panics); n != 2 {
			t.Errorf("%v panics counted", n)
		}
	})
	t.Run("in the log", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.log.do = func(context.Context, []event.Ping) error { panic("log") }
		b.wantPost(t, 1, http.StatusNoContent)
		if st := b.spool.Stats(); st.Received != 1 || st.Unsure != 1 {
			t.Errorf("the spool has %+v", st)
		}
		if n := testutil.ToFloat64(b.metrics.panics); n != 1 {
			t.Errorf("%v panics counted", n)
		}
	})
	t.Run("in the spool", func(t *testing.T) {
		t.Parallel()
		b := setup(t, func(o *Options) { o.Spool = nilSpool{} })
		b.log.do = func(context.Context, []event.Ping) error { return errors.New("down") }
		b.wantPost(t, 1, http.StatusTooManyRequests)
		if n := testutil.ToFloat64(b.metrics.panics); n != 1 {
			t.Errorf("%v panics counted", n)
		}
	})
}

// A lane that ends in a panic is free again: the pings after it are written.
func TestAPanicKeepsNoLane(t *testing.T) {
	t.Parallel()
	const lanes = 2
	var left atomic.Int64
	left.Store(lanes)
	b := setup(t, func(o *Options) {
		o.Lanes = lanes
		o.OnTaken = func() {
			if left.Add(-1) >= 0 {
				panic("taken")
			}
		}
	})
	for n := range lanes {
		b.wantPost(t, n, http.StatusTooManyRequests) // it is in the log; being told again does no harm
	}
	for n := range lanes + 1 {
		b.wantPost(t, n, http.StatusNoContent)
	}
	if n := testutil.ToFloat64(b.metrics.panics); n != lanes {
		t.Errorf("%v panics counted", n)
	}
}

// nilSpool panics in every call.
type nilSpool struct{ Spool }

// TestNoPingIsLostUnderLoad: while Redis comes and goes, every ping that was
// answered 204 is in the log or in the spool.
func TestNoPingIsLostUnderLoad(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *Options) {
		o.RedisWait = 5 * time.Millisecond
		o.ProbeAfter = time.Millisecond
		o.Now = time.Now
	})
	var n atomic.Int64
	b.log.do = func(ctx context.Context, p []event.Ping) error {
		switch n.Add(1) % 7 {
		case 3:
			return frozen(ctx, p)
		case 5:
			return errors.New("READONLY")
		}
		return nil
	}
	const clients, each = 40, 50
	var wg sync.WaitGroup
	for c := range clients {
		conn := b.dial(t)
		wg.Go(func() {
			for i := range each {
				conn.send(t, rawPing(b.path(c*each+i)))
				if res := conn.answer(t, http.MethodPost); res.StatusCode != http.StatusNoContent {
					t.Errorf("%s", res.Status)
				}
			}
		})
	}
	wg.Wait()
	there := b.log.users()
	items, err := b.spool.Next(t.Context(), clients*each)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		there[it.Ping.ORCID.Base()]++
	}
	if len(there) != clients*each {
		t.Errorf("%d of %d pings are somewhere", len(there), clients*each)
	}
	if len(items) == 0 || len(items) == clients*each {
		t.Errorf("%d were spooled: the test did not try both ways", len(items))
	}
}

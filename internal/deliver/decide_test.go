package deliver

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	t0     = time.Date(2026, 11, 23, 2, 5, 32, 0, time.UTC)
	iD     = mustID("0000-0002-1825-0097")
	middle = func() float64 { return 0.5 } // no jitter
)

func mustID(s string) orcid.ID {
	id, err := orcid.ParseStrict(s)
	if err != nil {
		panic(err)
	}
	return id
}

func delivery(attempt int, first time.Time) event.Delivery {
	return event.Delivery{
		Org: "uni-a", Channel: event.Webhook, ORCID: iD, Type: event.Updated, Generation: 7, Token: "t",
		Attempt: attempt, FirstAttemptAt: first, FirstAt: t0.Add(-time.Minute), LatestAt: t0.Add(-time.Minute),
	}
}

func answered(status int) Answer {
	return Answer{Kind: KindHTTP, Status: status, Excerpt: "no", Start: t0.Add(-time.Second), Duration: time.Second}
}

func after(a Answer, d time.Duration) Answer {
	a.RetryAfter, a.HasRetryAfter = d, true
	return a
}

func failed(k Kind) Answer {
	return Answer{Kind: k, Err: errors.New("why"), Start: t0.Add(-time.Second), Duration: time.Second}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	const (
		delivered = event.Delivered
		retry     = event.Retry
		dead      = event.Dead
		released  = event.Released
	)
	type want struct {
		result event.Result
		wait   time.Duration // RetryAt - now
		hold   time.Duration // HoldUntil - now; 0: none
	}
	for _, c := range []struct {
		name    string
		a       Answer
		attempt int
		since   time.Duration // since the first attempt
		want    want
	}{
		{"200", Answer{Kind: KindOK, Status: 200}, 1, 0, want{delivered, 0, 0}},
		{"204 as http", answered(204), 1, 0, want{delivered, 0, 0}},
		{"202 in the last try", answered(202), 11, 90 * time.Hour, want{delivered, 0, 0}},
		{"299", answered(299), 1, 0, want{delivered, 0, 0}},
		{"200 ignores Retry-After", after(answered(200), time.Hour), 1, 0, want{delivered, 0, 0}},
		{"410", answered(410), 1, 0, want{released, 30 * time.Second, 0}},
		{"410 in the last try", answered(410), 11, 90 * time.Hour, want{released, 30 * time.Second, 0}},
		{"500", answered(500), 1, 0, want{retry, 30 * time.Second, 0}},
		{"500 second", answered(500), 2, time.Minute, want{retry, 2 * time.Minute, 0}},
		{"599 tenth", answered(599), 10, 50 * time.Hour, want{retry, 24 * time.Hour, 0}},
		{"500 eleventh", answered(500), 11, 75 * time.Hour, want{dead, 0, 0}},
		{"503 without Retry-After", answered(503), 1, 0, want{retry, 30 * time.Second, 0}},
		{"503 with Retry-After", after(answered(503), 5*time.Minute), 1, 0, want{retry, 5 * time.Minute, 5 * time.Minute}},
		{"503 with a shorter Retry-After", after(answered(503), 5*time.Second), 1, 0, want{retry, 30 * time.Second, 5 * time.Second}},
		{"503 Retry-After 0", after(answered(503), 0), 1, 0, want{retry, 30 * time.Second, 0}},
		{"503 Retry-After a year", after(answered(503), 365*day), 1, 0, want{retry, day, day}},
		{"503 used up still holds", after(answered(503), time.Hour), 11, 75 * time.Hour, want{dead, 0, time.Hour}},
		{"429 with Retry-After", after(answered(429), time.Hour), 3, 0, want{retry, time.Hour, time.Hour}},
		{"408", answered(408), 4, 40 * time.Hour, want{retry, 30 * time.Minute, 0}},
		{"425", answered(425), 4, 40 * time.Hour, want{retry, 30 * time.Minute, 0}},
		{"429 after a day", answered(429), 9, 40 * time.Hour, want{retry, 24 * time.Hour, 0}},
		{"500 with Retry-After waits, holds nothing", after(answered(500), time.Hour), 1, 0, want{retry, time.Hour, 0}},
		{"404 with Retry-After waits, holds nothing", after(answered(404), time.Hour), 1, 0, want{retry, time.Hour, 0}},
		{"302", answered(302), 1, 0, want{retry, 30 * time.Second, 0}},
		{"308 after a day", answered(308), 9, 40 * time.Hour, want{retry, 24 * time.Hour, 0}},
		{"301 used up", answered(301), 11, 75 * time.Hour, want{dead, 0, 0}},
		{"304", answered(304), 1, 0, want{retry, 30 * time.Second, 0}},
		{"101", answered(101), 1, 0, want{retry, 30 * time.Second, 0}},
		{"400 first", answered(400), 1, 0, want{retry, 30 * time.Second, 0}},
		{"400 second", answered(400), 2, time.Minute, want{retry, 2 * time.Minute, 0}},
		{"400 third", answered(400), 3, 3 * time.Minute, want{dead, 0, 0}},
		{"422 third", answered(422), 3, 3 * time.Minute, want{dead, 0, 0}},
		{"422 fourth, after others", answered(422), 4, 3 * time.Minute, want{dead, 0, 0}},
		{"401", answered(401), 1, 0, want{retry, 30 * time.Second, 0}},
		{"403 within the day", answered(403), 9, 24*time.Hour - time.Second, want{retry, 24 * time.Hour, 0}},
		{"404 after the day", answered(404), 9, 24 * time.Hour, want{dead, 0, 0}},
		{"451 used up", answered(451), 11, time.Hour, want{dead, 0, 0}},
		{"network", failed(KindNetwork), 1, 0, want{retry, 30 * time.Second, 0}},
		{"network after days", failed(KindNetwork), 10, 50 * time.Hour, want{retry, 24 * time.Hour, 0}},
		{"network used up", failed(KindNetwork), 11, 75 * time.Hour, want{dead, 0, 0}},
		{"timeout", failed(KindTimeout), 5, 0, want{retry, time.Hour, 0}},
		{"blocked", failed(KindBlocked), 1, 0, want{retry, 30 * time.Second, 0}},
		{"settings", failed(KindSettings), 1, 0, want{retry, 30 * time.Second, 0}},
		{"deferred", failed(KindDeferred), 1, 0, want{retry, 30 * time.Second, 0}},
		{"refused", failed(KindRefused), 1, 0, want{dead, 0, 0}},
		{"panic", failed(KindPanic), 1, 0, want{retry, 30 * time.Second, 0}},
		{"cancelled", failed(KindCancelled), 11, 75 * time.Hour, want{released, 0, 0}},
		{"attempt 0 counts as the first", failed(KindNetwork), 0, 0, want{retry, 30 * time.Second, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := delivery(c.attempt, t0.Add(-c.since))
			if c.since == 0 {
				d.FirstAttemptAt = time.Time{}
			}
			o := Decide(DefaultPolicy(), d, c.a, t0, middle)
			if o.Result != c.want.result || o.Attempt.Result != c.want.result {
				t.Errorf("result %s (attempt %s), want %s", o.Result, o.Attempt.Result, c.want.result)
			}
			if o.Result == retry || o.Result == released {
				if got := o.RetryAt.Sub(t0); got != c.want.wait {
					t.Errorf("wait %s, want %s", got, c.want.wait)
				}
			} else if !o.RetryAt.IsZero() {
				t.Errorf("RetryAt %s for %s", o.RetryAt, o.Result)
			}
			switch {
			case c.want.hold == 0 && !o.HoldUntil.IsZero():
				t.Errorf("held until %s", o.HoldUntil)
			case c.want.hold != 0 && !o.HoldUntil.Equal(t0.Add(c.want.hold)):
				t.Errorf("held until %s, want %s later", o.HoldUntil, c.want.hold)
			}
			if suspended := o.Suspend != ""; suspended != strings.HasPrefix(c.name, "410") {
				t.Errorf("suspend %q", o.Suspend)
			}
			if o.TimedOut != (c.a.Kind == KindTimeout) || o.Reached != (c.a.Status > 0) {
				t.Errorf("timed out %v, reached %v", o.TimedOut, o.Reached)
			}
		})
	}
}

func TestAttemptRecord(t *testing.T) {
	t.Parallel()
	d := delivery(2, t0.Add(-time.Minute))
	o := Decide(DefaultPolicy(), d, answered(503), t0, middle)
	want := event.Attempt{
		DeliveryID: d.ID(), ORCID: iD, Channel: event.Webhook, Type: event.Updated, Number: 2, Start: t0.Add(-time.Second),
		Duration: time.Second, Status: 503, Error: "answered 503 Service Unavailable", Excerpt: "no", Result: event.Retry,
	}
	if o.Attempt != want {
		t.Errorf("got  %+v\nwant %+v", o.Attempt, want)
	}
	a := answered(200)
	a.SlowBody = true
	o = Decide(DefaultPolicy(), d, a, t0, middle)
	if o.Attempt.Excerpt != "" || o.Attempt.Error != "" {
		t.Errorf("a success keeps excerpt %q, error %q", o.Attempt.Excerpt, o.Attempt.Error)
	}
	if !o.TimedOut {
		t.Error("a body that outlasts the timeout holds the place as long as an answer that does")
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for want, a := range map[string]Answer{
		"":                                   {Kind: KindOK, Status: 204},
		"answered 500 Internal Server Error": {Kind: KindHTTP, Status: 500},
		"answered 599":                       {Kind: KindHTTP, Status: 599},
		"redirect to https://b.example/x (302 Found; redirects are not followed)": {Kind: KindHTTP, Status: 302, Location: "https://b.example/x"},
		"redirect to nowhere (302 Found without Location)":                        {Kind: KindHTTP, Status: 302},
		"connection refused": Failure(KindNetwork, "connection refused"),
		"timeout":            {Kind: KindTimeout},
	} {
		if got := a.Words(); got != want {
			t.Errorf("%+v: %q, want %q", a, got, want)
		}
	}
}

func TestEmptyTable(t *testing.T) {
	t.Parallel()
	if o := Decide(Policy{}, delivery(1, time.Time{}), answered(500), t0, middle); o.Result != event.Dead {
		t.Errorf("500 without a table: %s", o.Result)
	}
	if o := Decide(Policy{}, delivery(1, time.Time{}), answered(410), t0, middle); o.Result != event.Released || !o.RetryAt.After(t0) {
		t.Errorf("410 without a table: %s at %s", o.Result, o.RetryAt)
	}
}

func drawAnswer(t *rapid.T) Answer {
	a := Answer{
		Kind: rapid.SampledFrom([]Kind{
			KindOK, KindHTTP, KindHTTP, KindHTTP, KindNetwork, KindTimeout, KindBlocked, KindDeferred,
			KindRefused, KindSettings, KindCancelled, KindPanic, Kind("new"),
		}).Draw(t, "kind"),
		Status:        rapid.IntRange(0, 700).Draw(t, "status"),
		HasRetryAfter: rapid.Bool().Draw(t, "has"),
		RetryAfter:    time.Duration(rapid.Int64().Draw(t, "after")),
		Start:         t0.Add(-time.Second),
		Duration:      time.Second,
	}
	return a
}

// TestProperties says what holds for every policy, answer and attempt.
func TestProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{Jitter: rapid.Float64Range(0, 1).Draw(t, "jitter")}
		for _, s := range rapid.SliceOfN(rapid.IntRange(1, 200_000), 0, 12).Draw(t, "table") {
			p.Retry = append(p.Retry, time.Duration(s)*time.Second)
		}
		if rapid.Bool().Draw(t, "cap set") {
			p.MaxRetryAfter = time.Duration(rapid.IntRange(1, 1_000_000).Draw(t, "cap")) * time.Second
		}
		limit := p.withDefaults().MaxRetryAfter
		n := rapid.IntRange(1, 15).Draw(t, "attempt")
		a := drawAnswer(t)
		seed := rapid.Uint64().Draw(t, "seed")
		first := t0.Add(-time.Duration(rapid.IntRange(1, 400_000).Draw(t, "since")) * time.Second)
		decide := func() event.Outcome {
			return Decide(p, delivery(n, first), a, t0, rand.New(rand.NewPCG(seed, 1)).Float64)
		}
		o := decide()
		if again := decide(); again != o {
			t.Fatal("not pure")
		}
		wish := min(max(a.RetryAfter, 0), limit)
		switch o.Result {
		case event.Retry:
			if n > len(p.Retry) {
				t.Fatalf("retry after attempt %d of %d", n, len(p.Retry)+1)
			}
			wait, table := o.RetryAt.Sub(t0), p.Retry[n-1]
			low, high := time.Duration(float64(table)*(1-p.Jitter)), time.Duration(float64(table)*(1+p.Jitter))
			if wait < low-1 {
				t.Fatalf("wait %s below the table's %s", wait, low)
			}
			if a.HasRetryAfter && wait < wish {
				t.Fatalf("wait %s, though asked for %s", wait, wish)
			}
			if wait > high+1 && (!a.HasRetryAfter || wait != wish) {
				t.Fatalf("wait %s above the table's %s for no reason", wait, high)
			}
		case event.Released:
			if a.Kind != KindCancelled && a.Status != 410 {
				t.Fatalf("released for %+v", a)
			}
			if o.RetryAt.Before(t0) {
				t.Fatalf("released into the past")
			}
		case event.Delivered:
			if a.Kind != KindOK && (a.Status < 200 || a.Status > 299) {
				t.Fatalf("delivered for %+v", a)
			}
		case event.Dead:
			if !o.RetryAt.IsZero() {
				t.Fatal("dead with a retry")
			}
		default:
			t.Fatalf("result %q", o.Result)
		}
		if !o.HoldUntil.IsZero() && (o.HoldUntil.Before(t0) || o.HoldUntil.After(t0.Add(limit))) {
			t.Fatalf("held until %s", o.HoldUntil)
		}
		if (o.Suspend != "") != (a.Kind == KindHTTP && a.Status == 410) {
			t.Fatalf("suspend %q for %+v", o.Suspend, a)
		}
	})
}

// TestJitterIsMonotone: a greater random number never makes a shorter wait.
func TestJitterIsMonotone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		wait := time.Duration(rapid.Int64Range(1, int64(100*day)).Draw(t, "wait"))
		share := rapid.Float64Range(0, 1).Draw(t, "share")
		x, y := rapid.Float64Range(0, 0.999).Draw(t, "x"), rapid.Float64Range(0, 0.999).Draw(t, "y")
		if x > y {
			x, y = y, x
		}
		lo, hi := jittered(wait, share, func() float64 { return x }), jittered(wait, share, func() float64 { return y })
		if lo > hi || lo < 0 {
			t.Fatalf("jittered: %s for %g, %s for %g", lo, x, hi, y)
		}
	})
}

// BenchmarkDecide is what an answer means, from its status to the outcome.
func BenchmarkDecide(b *testing.B) {
	d := delivery(1, time.Time{})
	for name, a := range map[string]Answer{"delivered": {Kind: KindOK, Status: 204, Start: t0, Duration: time.Millisecond}, "failed": answered(503)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if o := Decide(Policy{}, d, a, t0, middle); o.Attempt.Status != a.Status {
					b.Fatalf("%+v", o)
				}
			}
		})
	}
}

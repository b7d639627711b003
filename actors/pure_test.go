package actors

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func fail(at time.Time) (event.Outcome, time.Time) {
	return event.Outcome{Result: event.Retry, Attempt: event.Attempt{Status: 500, Error: "status 500"}}, at
}

// failures runs the breaker through n failures, every apart.
func failures(b breaker, n int, from time.Time, every time.Duration) (breaker, []breakerEffects) {
	var all []breakerEffects
	for i := range n {
		var e breakerEffects
		o, at := fail(from.Add(time.Duration(i) * every))
		b, e = decideBreaker(b, o, at, 0)
		all = append(all, e)
	}
	return b, all
}

func TestBreakerTripsAfterTenFailuresOverAMinute(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		n     int
		every time.Duration
		trips int
	}{
		{"nine over two minutes", 9, 14 * time.Second, 0},
		{"ten within a minute", 10, 6 * time.Second, 0},
		{"ten over a minute", 10, 7 * time.Second, 1},
		{"many at once", 100, time.Millisecond, 0},
	} {
		b, all := failures(breaker{}, c.n, t0, c.every)
		last := all[len(all)-1]
		if b.Trips != c.trips || last.persist != (c.trips > 0) {
			t.Errorf("%s: %d trips, persist %v, want %d", c.name, b.Trips, last.persist, c.trips)
		}
		if c.trips > 0 && !last.holdUntil.Equal(t0.Add(9*c.every).Add(30*time.Second)) {
			t.Errorf("%s: held until %s", c.name, last.holdUntil)
		}
	}
}

func TestBreakerDoublesToAQuarterOfAnHourAndTellsOnce(t *testing.T) {
	t.Parallel()
	b, _ := failures(breaker{}, 10, t0, 7*time.Second)
	now := t0.Add(63 * time.Second)
	want := []int{60, 120, 240, 480, 900, 900, 900, 900}
	downs := 0
	for i, secs := range want {
		now = b.until
		var e breakerEffects
		o, _ := fail(now)
		// One that was in flight when the channel was held says nothing new.
		before := b
		if early, _ := decideBreaker(b, o, now.Add(-time.Second), 0); early.Trips != before.Trips || !early.until.Equal(before.until) {
			t.Fatal("a failure during the hold lengthened it")
		}
		b, e = decideBreaker(b, o, now, 0)
		if got := b.until.Sub(now); got.Seconds() != float64(secs) || !e.persist {
			t.Errorf("hold %d: %s (persist %v), want %ds", i+2, got, e.persist, secs)
		}
		if e.down {
			downs++
			if now.Sub(b.HeldSince) < time.Hour {
				t.Errorf("told after %s", now.Sub(b.HeldSince))
			}
		}
		if b.limit(8) != 1 {
			t.Error("more than one probe")
		}
	}
	if downs != 1 {
		t.Errorf("told %d times that it is down", downs)
	}
	b, e := decideBreaker(b, event.Outcome{Result: event.Delivered}, now, 0)
	if b != (breaker{}) || !e.persist || !e.holdUntil.IsZero() || !e.recovered || b.limit(8) != 8 {
		t.Errorf("a success did not close it: %+v %+v", b, e)
	}
	if _, e = decideBreaker(b, event.Outcome{Result: event.Delivered}, now, 0); e != (breakerEffects{}) {
		t.Errorf("a success on a closed breaker does something: %+v", e)
	}
}

func TestBreakerSuspendsAfterFiveDaysOfNothingButFailure(t *testing.T) {
	t.Parallel()
	b, all := failures(breaker{}, 19, t0, 8*time.Hour) // 6 days
	for i, e := range all {
		if e.suspend != "" {
			t.Fatalf("suspended after %d attempts", i+1)
		}
	}
	b, all = failures(b, 1, t0.Add(19*8*time.Hour), 0)
	if all[0].suspend == "" || b.Trips != 0 || !all[0].persist || !all[0].holdUntil.IsZero() {
		t.Errorf("not suspended after 20 failures over 6 days: %+v %+v", b, all[0])
	}
	b, _ = failures(breaker{}, 15, t0, 8*time.Hour)
	b, _ = decideBreaker(b, event.Outcome{Result: event.Delivered}, t0.Add(121*time.Hour), 0)
	if _, all = failures(b, 12, t0.Add(121*time.Hour), 3*time.Hour); all[11].suspend != "" {
		t.Error("a success in between does not count")
	}
}

func TestBreakerIgnoresWhatWasNoAttempt(t *testing.T) {
	t.Parallel()
	b, _ := failures(breaker{}, 9, t0, 10*time.Second)
	for _, r := range []event.Result{event.Cancelled, event.Released} {
		if got, e := decideBreaker(b, event.Outcome{Result: r, TimedOut: true}, t0.Add(time.Hour), 0); got != b || e != (breakerEffects{}) {
			t.Errorf("%s changed it", r)
		}
	}
	slow, e := decideBreaker(breaker{}, event.Outcome{Result: event.Retry, TimedOut: true}, t0, 0)
	if !slow.Slow || !e.persist {
		t.Error("a timeout is not kept")
	}
	if fast, e := decideBreaker(slow, event.Outcome{Result: event.Delivered}, t0, 0); fast.Slow || !e.persist {
		t.Error("an attempt that did not time out does not end slowness")
	}
	noted := breaker{Breaker: event.Breaker{Failures: 9, FirstFailure: t0}, written: event.Breaker{Failures: 9, FirstFailure: t0}}
	if got, e := decideBreaker(noted, event.Outcome{Result: event.Delivered}, t0, 0); got != (breaker{}) || !e.persist {
		t.Error("a success does not take back a row of failures that was written")
	}
}

func TestBucketNeverGivesMoreThanRateAndBurst(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(0.5, 50).Draw(t, "rate")
		burst := rapid.Float64Range(1, 50).Draw(t, "burst")
		b := newBucket(rate, burst, t0)
		now := t0
		var given []time.Time
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond)
			ok, wait := b.take(now)
			if !ok {
				if again, _ := b.take(now.Add(wait)); !again {
					t.Fatalf("nothing after the wait of %s", wait)
				}
				now = now.Add(wait)
			}
			given = append(given, now)
		}
		for i := range given {
			for j := i; j < len(given); j++ {
				if n, most := float64(j-i+1), rate*given[j].Sub(given[i]).Seconds()+burst+1e-6; n > most {
					t.Fatalf("%v tokens in %s, at most %v", n, given[j].Sub(given[i]), most)
				}
			}
		}
	})
}

func TestPaceHalvesOnceForRequestsOnTheirWay(t *testing.T) {
	t.Parallel()
	p := pace{}
	p.setFull(20, t0)
	p.strain(t0, t0.Add(time.Second), 0)
	p.strain(t0, t0.Add(2*time.Second), 30*time.Second) // sent before the first cut
	if p.now != 10 || !p.notBefore.Equal(t0.Add(32*time.Second)) {
		t.Errorf("rate %v, not before %s", p.now, p.notBefore)
	}
	for i := range 10 {
		at := t0.Add(time.Duration(10+i) * time.Second)
		p.strain(at, at, 0)
	}
	if p.now != 20.0/paceFloor {
		t.Errorf("floor is %v", p.now)
	}
	at, steps := t0.Add(time.Minute), 0
	for ; p.now < 20; steps++ {
		at = at.Add(paceEvery)
		if !p.ease(at) || p.ease(at.Add(time.Second)) {
			t.Fatal("not one step at a time")
		}
	}
	if steps < 15 || steps > 25 {
		t.Errorf("%d steps back to the full rate", steps)
	}
	if strains(orcid.Unavailable, 500) || !strains(orcid.Unavailable, 503) || !strains(orcid.RateLimited, 429) || strains(orcid.Created, 201) {
		t.Error("what strains is wrong")
	}
}

func TestLanes(t *testing.T) {
	t.Parallel()
	l := newLanes()
	add := func(n uint64, express bool) bool { return l.add(ticket{serial: n, express: express}, 3) }
	if !add(1, false) || !add(2, false) || !add(3, false) || add(4, false) {
		t.Error("the sweep lane holds 3")
	}
	if !add(10, true) || !add(11, true) || !add(2, true) || !add(1, false) {
		t.Error("no room in the express lane")
	}
	l.remove(ticketKey{serial: 11})
	var order []uint64
	for n := range l.all() {
		_ = n
	}
	add(1, false)
	for i := range uint64(20) {
		l.add(ticket{serial: 100 + i, express: true}, 3)
	}
	for tk := l.next(anybody); tk != nil; tk = l.next(anybody) {
		order = append(order, tk.serial)
	}
	if len(order) != 21 || order[0] != 100 && order[0] != 1 {
		t.Fatalf("order %v", order)
	}
	at := 0
	for i, n := range order {
		if n == 1 {
			at = i
		}
	}
	if at > expressRow {
		t.Errorf("the sweep waits behind %d single changes", at)
	}
}

func TestLanesServeMovedTicketsFirst(t *testing.T) {
	t.Parallel()
	l := newLanes()
	for i := range uint64(5) {
		l.add(ticket{serial: i + 1}, 10)
	}
	l.add(ticket{serial: 4, express: true}, 10)
	var order []uint64
	for _, tk := range l.all() {
		order = append(order, tk.serial)
	}
	want := []uint64{4, 1, 2, 3, 5}
	for i := range want {
		if len(order) != 5 || order[i] != want[i] {
			t.Fatalf("order %v, want %v", order, want)
		}
	}
	if l.nExpress != 0 || l.len() != 0 {
		t.Error("the books do not balance")
	}
}

func TestBookingSpreadsWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	var b booking
	for i := range 10 {
		if got, want := b.book(t0, 2, 0, 3*time.Second).Sub(t0), 3*time.Second+time.Duration(i+1)*500*time.Millisecond; got != want {
			t.Errorf("booking %d after %s, want %s", i, got, want)
		}
	}
	for range 100_000 {
		if at := b.book(t0, 2, 0.99, 3*time.Second); at.After(t0.Add(maxBooking + 3*time.Second)) {
			t.Fatalf("booked %s ahead", at.Sub(t0))
		}
	}
}

package actors

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

func TestPlacesFollowTheLatency(t *testing.T) {
	t.Parallel()
	steady := func(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }
	for name, tc := range map[string]struct {
		rate  float64
		took  func(i int) time.Duration
		n     int
		least int // at the end
		most  int // at any time
	}{
		"unknown":             {rate: 20, took: steady(0), n: 0, least: 1, most: 1},
		"fast":                {rate: 24, took: steady(8 * time.Millisecond), n: 1000, least: 1, most: 1},
		"one at a time fits":  {rate: 20, took: steady(45 * time.Millisecond), n: 1000, least: 1, most: 1},
		"just not":            {rate: 20, took: steady(50 * time.Millisecond), n: 1000, least: 2, most: 2},
		"slow":                {rate: 20, took: steady(300 * time.Millisecond), n: 60, least: 7, most: 7},
		"very slow":           {rate: 20, took: steady(time.Minute), n: 100, least: 8, most: 8},
		"low rate":            {rate: 0.5, took: steady(time.Second), n: 100, least: 1, most: 1},
		"stalls of a machine": {rate: 24, took: everyTenth(5*time.Millisecond, 2*time.Second), n: 1000, least: 1, most: 1},
		"three stalls at once": {rate: 24, n: 500, least: 1, most: 1, took: func(i int) time.Duration {
			if i >= 100 && i < 103 {
				return 5 * time.Second
			}
			return 5 * time.Millisecond
		}},
		"slow, then fast": {rate: 20, n: 400, least: 1, most: 7, took: func(i int) time.Duration {
			if i < 200 {
				return 300 * time.Millisecond
			}
			return 5 * time.Millisecond
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var p places
			for i := range tc.n {
				p.sample(tc.took(i), tc.rate)
				if got := p.number(tc.rate); got > tc.most {
					t.Fatalf("%d places after %d answers, want at most %d", got, i+1, tc.most)
				}
			}
			if got := p.number(tc.rate); got < tc.least || tc.least == 1 && got != 1 {
				t.Errorf("%d places in the end, want %d", got, tc.least)
			}
		})
	}
}

// everyTenth draws one answer of ten as the other, on average.
func everyTenth(usual, other time.Duration) func(int) time.Duration {
	rng := rand.New(rand.NewPCG(1, 2))
	last := false
	return func(int) time.Duration {
		last = !last && rng.IntN(9) == 0
		if last {
			return other
		}
		return usual
	}
}

// What a kill repeats is what was sent and is not in the record as answered.
func TestASweepHasNoMoreOnTheWayThanTheRateNeeds(t *testing.T) {
	for _, tc := range []struct {
		answer time.Duration
		open   int64
	}{
		{5 * time.Millisecond, 1}, {300 * time.Millisecond, 8}, {2 * time.Second, 8},
	} {
		t.Run(fmt.Sprint(tc.answer), func(t *testing.T) {
			bubble(t, func(b *bundle) {
				const n, rate = 2400, 20
				var most atomic.Int64
				b.orcid.took = tc.answer
				b.orcid.reply = func(string, orcid.ID, int) (orcid.Answer, error) {
					most.Store(max(most.Load(), int64(len(b.orcid.list())-b.users.countState(event.RegAlive))))
					return orcid.Answer{}, nil
				}
				b.users.onSave = func(event.User) { time.Sleep(3 * time.Millisecond) }
				b.start(deliverFunc(delivered))
				for i := range n {
					b.users.affiliate(id(uint64(i+1)), false, "uni-a")
				}
				began := time.Now()
				for b.users.countState(event.RegAlive) < n && time.Since(began) < time.Hour {
					sleep(100 * time.Millisecond)
				}
				took := time.Since(began)
				possible := min(rate, 8/tc.answer.Seconds()) // a second
				if limit := time.Duration(n / possible / 0.95 * float64(time.Second)); took > limit {
					b.Errorf("%d requests took %s, want at most %s", n, took, limit)
				}
				if most.Load() > tc.open || most.Load() < min(tc.open, 6) {
					b.Errorf("%d requests were open at once, want at most %d", most.Load(), tc.open)
				}
				if len(b.orcid.list()) != n {
					b.Errorf("%d requests for %d users", len(b.orcid.list()), n)
				}
				b.Logf("%d requests in %s, at most %d open", n, took, most.Load())
			})
		})
	}
}

// With one place for the sweep, taken by an ORCID that has begun to hang, a single
// change goes all the same.
func TestASingleChangeDoesNotWaitForTheSweepsAnswer(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		for i := range 200 {
			b.users.affiliate(id(uint64(i+1)), false, "uni-a")
		}
		sleep(2 * time.Second)
		b.orcid.takes(30 * time.Second)
		sleep(2 * time.Second)
		before := len(b.orcid.list())
		sleep(5 * time.Second)
		if n := len(b.orcid.list()); n != before {
			b.Fatalf("%d requests went beside one that hangs", n-before)
		}
		b.orcid.takes(0)
		b.users.affiliate(id(9999), true, "uni-a")
		b.sys.HintUser(id(9999), true)
		sleep(time.Second)
		if got := b.users.rows(id(9999)); len(got) != 1 || got[0] != "main/1 alive" {
			b.Errorf("the single change waits: %v", got)
		}
	})
}

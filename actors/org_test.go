package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

func TestNewsAreDelivered(t *testing.T) {
	bubble(t, func(b *bundle) {
		var mails []string
		var mu sync.Mutex
		b.start(deliverFunc(func(_ context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
			mu.Lock()
			defer mu.Unlock()
			mails = append(mails, who.Email)
			if o.ID != d.Org {
				b.Error("another organisation's settings")
			}
			return event.Outcome{Result: event.Delivered}
		}))
		b.news(hook, 1, 20)
		sleep(time.Millisecond)
		if got := b.slots.results()[event.Delivered]; got != 20 || slices.Contains(mails, "") {
			b.Errorf("%d delivered, to %v", got, mails)
		}
		// What is due later is found when it is due, with and without a hint.
		for _, hinted := range []bool{true, false} {
			b.slots.put(hook, time.Now().Add(40*time.Second), id(1))
			if hinted {
				b.sys.HintChannel(hook, time.Now().Add(40*time.Second))
			}
			sleep(39 * time.Second)
			if b.slots.waiting(hook) != 1 {
				b.Fatal("delivered too early")
			}
			sleep(1300 * time.Millisecond)
			if b.slots.waiting(hook) != 0 {
				b.Errorf("hinted %v: not delivered when due", hinted)
			}
		}
	})
}

// What cannot be read of what is due holds up nothing else, and is said once.
func TestPartOfWhatIsDueCannotBeFound(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		partly := fmt.Errorf("read: %w: a key of another type", event.ErrIncomplete)
		b.slots.set(func() { b.slots.partly = partly })
		b.users.setPartly(partly)
		b.news(hook, 1, 1)
		for range 3 {
			sleep(time.Minute)
			b.slots.put(hook, time.Now().Add(40*time.Second), id(1))
			sleep(41300 * time.Millisecond)
			if b.slots.waiting(hook) != 0 {
				b.Error("not delivered when due")
			}
		}
		b.users.affiliate(id(7), false, "uni-a")
		sleep(2 * time.Second)
		if got := fmt.Sprint(b.users.rows(id(7))); got != "[main/1 alive]" {
			b.Errorf("rows of a user with work: %s", got)
		}
		b.slots.set(func() { b.slots.partly = nil })
		b.users.setPartly(nil)
		sleep(time.Minute)
		for _, line := range []string{"part of what is due cannot be found", "all of what is due can be found again"} {
			if n := b.log.count(line); n != 2 {
				b.Errorf("%d lines %q, want one for deliveries and one for users", n, line)
			}
		}
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	bubble(t, func(b *bundle) {
		var now, most, places atomic.Int64
		b.start(deliverFunc(func(ctx context.Context, _ *org.Organisation, d event.Delivery, _ event.Affiliation) event.Outcome {
			for n := now.Add(1); ; {
				m := most.Load()
				if n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			defer now.Add(-1)
			pause(ctx, time.Second)
			places.Store(max(places.Load(), int64(b.sys.Status().Places)))
			return event.Outcome{Result: event.Delivered}
		}), func(o *Options) { o.Limits = Limits{Concurrency: 3, MaxInFlight: 100} })
		b.news(hook, 1, 9)
		for _, want := range []int{1, 3, 3} { // one until the first answer
			sleep(500 * time.Millisecond)
			if st := b.sys.Status(); st.InFlight[event.Webhook] != want || st.Places != want {
				b.Errorf("in flight %v, places %d, want %d", st.InFlight, st.Places, want)
			}
			sleep(500 * time.Millisecond)
		}
		sleep(time.Second)
		if most.Load() != 3 || b.slots.results()[event.Delivered] != 9 {
			b.Errorf("most %d, results %v", most.Load(), b.slots.results())
		}
		// While everything is busy, a hint costs no call.
		b.news(hook, 20, 3)
		sleep(500 * time.Millisecond)
		claims := b.slots.count("claim")
		for range 1000 {
			b.sys.HintChannel(hook, time.Time{})
		}
		synctest.Wait()
		if got := b.slots.count("claim"); got != claims {
			b.Errorf("1000 hints to a busy channel made %d claims", got-claims)
		}
		if err := b.sys.SetLimits(Limits{Concurrency: 5, MaxInFlight: 2}); err != nil {
			b.Fatal(err)
		}
		most.Store(0)
		sleep(2 * time.Second)
		b.news(hook, 40, 6)
		sleep(10 * time.Second)
		if most.Load() != 2 || b.slots.waiting(hook) != 0 {
			b.Errorf("with max_in_flight 2: most %d, %d waiting", most.Load(), b.slots.waiting(hook))
		}
	})
}

func TestManyHungReceiversHoldUpNobody(t *testing.T) {
	bubble(t, func(b *bundle) {
		for i := range 60 {
			b.enable(fmt.Sprint("hung-", i), "main")
		}
		b.start(deliverFunc(func(ctx context.Context, o *org.Organisation, _ event.Delivery, _ event.Affiliation) event.Outcome {
			if o.ID == "uni-a" {
				return event.Outcome{Result: event.Delivered}
			}
			pause(ctx, 15*time.Second)
			return event.Outcome{Result: event.Retry, RetryAt: time.Now().Add(time.Minute), TimedOut: true}
		}), func(o *Options) { o.Limits = Limits{MaxInFlight: 32} })
		for i := range 60 {
			b.news(event.ChannelKey{Org: fmt.Sprint("hung-", i), Channel: event.Webhook}, 1000*(i+1), 20)
		}
		// Each has one place until its first answer; all of them, three quarters,
		// and half as soon as they are known to be slow.
		sleep(time.Minute)
		began := time.Now()
		b.news(hook, 1, 100)
		for b.slots.waiting(hook) > 0 {
			sleep(10 * time.Millisecond)
			if time.Since(began) > 5*time.Second {
				b.Fatalf("%d of 100 are still waiting: %+v", b.slots.waiting(hook), b.sys.Status())
			}
		}
		if st := b.sys.Status(); st.InFlight[event.Webhook] > 16 {
			b.Errorf("slow organisations have %d of 32 places", st.InFlight[event.Webhook])
		}
	})
}

// TestReceiversThatBeginToHangHoldUpNobody: they were well, so that each might
// have all its places, and nobody knows of a timeout yet.
func TestReceiversThatBeginToHangHoldUpNobody(t *testing.T) {
	bubble(t, func(b *bundle) {
		const ill = 24
		key := func(i int) event.ChannelKey {
			return event.ChannelKey{Org: fmt.Sprint("ill-", i), Channel: event.Webhook}
		}
		for i := range ill {
			b.enable(key(i).Org, "main")
		}
		var hang atomic.Bool
		b.start(deliverFunc(func(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
			if o.ID == "uni-a" || !hang.Load() {
				return delivered(ctx, o, d, who)
			}
			pause(ctx, 15*time.Second)
			return event.Outcome{Result: event.Retry, RetryAt: time.Now().Add(time.Minute), TimedOut: true}
		}), func(o *Options) { o.Limits = Limits{MaxInFlight: 64} })
		for i := range ill {
			b.news(key(i), 1000*(i+1), 20)
		}
		b.news(hook, 1, 20)
		sleep(time.Second)
		hang.Store(true)
		for i := range ill {
			b.news(key(i), 1000*(i+1)+500, 20)
		}
		sleep(time.Second)
		b.news(hook, 100, 200)
		sleep(100 * time.Millisecond)
		if n := b.slots.waiting(hook); n != 0 {
			b.Errorf("%d of 200 wait for receivers that hang: %+v", n, b.sys.Status())
		}
	})
}

func TestWhoIsNotAffiliatedIsCancelledAndAFailedLookUpIsNot(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		b.users.affiliate(id(1), false, "uni-a")
		b.users.affiliate(id(2), false, "uni-b")
		b.users.setAway(true)
		b.slots.put(hook, time.Now(), id(1), id(2), id(3))
		b.sys.HintChannel(hook, time.Time{})
		sleep(4 * time.Second) // claims of one place and then of two, each look-up tried four times
		if got := b.slots.results(); got[event.Released] != 3 || len(got) != 1 {
			b.Fatalf("with Redis away: %v", got)
		}
		b.users.setAway(false)
		sleep(10 * time.Second)
		if got := b.slots.results(); got[event.Delivered] != 1 || got[event.Cancelled] != 2 {
			b.Errorf("after it came back: %v", got)
		}
	})
}

func TestABrokenConnectionAtTheLookUpCostsNoSeconds(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		b.users.affiliate(id(1), false, "uni-a")
		b.users.setAway(true)
		b.slots.put(hook, time.Now(), id(1))
		b.sys.HintChannel(hook, time.Time{})
		sleep(20 * time.Millisecond)
		b.users.setAway(false)
		sleep(200 * time.Millisecond)
		if got := b.slots.results(); got[event.Delivered] != 1 || len(got) != 1 {
			b.Errorf("a look-up that failed once: %v", got)
		}
	})
}

func TestWhatMayNotBeClaimedIsNot(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.dir.set(org.Organisation{ID: "off"})
		forgot := errors.New("forgot")
		b.guard.err.Store(&forgot) // before recovery looks for the first time
		b.start(deliverFunc(delivered))
		for _, o := range []string{"off", "nobody", "uni-a"} {
			b.news(event.ChannelKey{Org: o, Channel: event.Webhook}, 1, 1)
		}
		b.news(event.ChannelKey{Org: "uni-a", Channel: "pigeon"}, 1, 1)
		sleep(time.Minute)
		if n := b.slots.count("claim") + b.slots.count("ready"); n != 0 {
			b.Errorf("%d calls while Redis is not trusted", n)
		}
		b.guard.err.Store(nil)
		sleep(time.Minute)
		if n := b.slots.count("claim"); n != 1 {
			b.Errorf("%d claims, want that of uni-a only", n)
		}
	})
}

func TestAnOutcomeIsWrittenOverAnOutage(t *testing.T) {
	bubble(t, func(b *bundle) {
		var n atomic.Int64
		b.start(deliverFunc(func(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
			n.Add(1)
			return delivered(ctx, o, d, who)
		}))
		b.slots.set(func() { b.slots.awayFor["finish"] = true })
		b.news(hook, 1, 1)
		sleep(20 * time.Second)
		b.slots.set(func() { b.slots.awayFor["finish"] = false })
		sleep(10 * time.Second)
		if b.slots.results()[event.Delivered] != 1 || n.Load() != 1 {
			b.Errorf("results %v after %d attempts", b.slots.results(), n.Load())
		}
		// Redis away altogether: one line, and work goes on when it is back.
		b.slots.set(func() { b.slots.away = true })
		b.news(hook, 2, 1)
		sleep(time.Minute)
		b.slots.set(func() { b.slots.away = false })
		sleep(11 * time.Second)
		if b.slots.waiting(hook) != 0 {
			b.Error("not delivered after the outage")
		}
		for _, line := range []string{"due deliveries cannot be looked for; trying again", "an organisation's slots cannot be claimed; trying again"} {
			if got := b.log.count(line); got > 1 {
				b.Errorf("%d lines %q", got, line)
			}
		}
	})
}

func TestStopGivesBackWhatIsInFlight(t *testing.T) {
	bubble(t, func(b *bundle) {
		var cut atomic.Int64
		b.start(deliverFunc(func(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
			took := time.Second
			switch {
			case d.ORCID.Base() > 100:
				took = 0
			case d.ORCID.Base()%2 == 0:
				took = 14 * time.Second
			}
			if pause(ctx, took); ctx.Err() != nil {
				cut.Add(1)
				return event.Outcome{Result: event.Released, RetryAt: time.Now()}
			}
			return delivered(ctx, o, d, who)
		}))
		b.news(hook, 101, 20)
		sleep(100 * time.Millisecond)
		b.news(hook, 1, 30)
		sleep(500 * time.Millisecond)
		began := time.Now()
		b.stop()
		if took := time.Since(began); took != stopGrace {
			b.Errorf("stopping took %s", took)
		}
		got := b.slots.results()
		if cut.Load() != 4 || got[event.Released] != 4 || got[event.Delivered] != 24 || b.slots.waiting(hook) != 26 {
			b.Errorf("cut %d, results %v, waiting %d", cut.Load(), got, b.slots.waiting(hook))
		}
		if _, _, claimed := b.slots.state(hook); claimed != 0 {
			b.Errorf("%d slots are still claimed", claimed)
		}
		if b.sys.Alive(b.Context()) == nil {
			b.Error("stopped actors say that they are alive")
		}
		b.sys.HintChannel(hook, time.Time{})
		b.sys.HintUser(id(1), true)
	})
}

func TestAPanicInADeliveryIsContained(t *testing.T) {
	bubble(t, func(b *bundle) {
		var n atomic.Int64
		b.start(deliverFunc(func(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
			if n.Add(1) == 1 {
				panic("as the test wants")
			}
			return delivered(ctx, o, d, who)
		}))
		b.panics = 1
		b.news(hook, 1, 3)
		sleep(time.Minute + 5*time.Second) // the slot comes back with its lease
		if b.slots.waiting(hook) != 0 || b.sys.Status().Places != 0 {
			b.Errorf("%d waiting, %d places in use", b.slots.waiting(hook), b.sys.Status().Places)
		}
	})
}

func TestEverybodyIsAliveAndComesBackAfterPanics(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		if err := b.sys.Alive(b.Context()); err != nil {
			b.Fatal(err)
		}
		// A message that its handler cannot bear, 11 times: it stops for good
		// and the guardian starts another.
		for range 11 {
			b.sys.send(b.sys.recovery.Load(), pulse{closedAnswer()})
			b.sys.send(b.sys.orgs[shard("uni-a", orgShards)].Load(), pulse{closedAnswer()})
			b.sys.send(b.sys.credentials.Load(), pulse{closedAnswer()})
		}
		b.panics = 33
		ctx, cancel := context.WithTimeout(b.Context(), 500*time.Millisecond)
		if b.sys.Alive(ctx) == nil {
			b.Error("stopped actors say that they are alive")
		}
		cancel()
		sleep(2 * time.Second)
		if err := b.sys.Alive(b.Context()); err != nil {
			b.Error(err)
		}
		b.news(hook, 1, 10)
		b.users.affiliate(id(99), false, "uni-a")
		sleep(time.Minute)
		if b.slots.waiting(hook) != 0 || len(b.orcid.list()) != 1 {
			b.Errorf("%d waiting, requests %v", b.slots.waiting(hook), b.orcid.list())
		}
	})
}

func closedAnswer() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// TestStopWritesWhatTheLastOutcomeDecided: nobody is told of a suspension whose
// hold is in Redis already when the next process starts.
func TestStopWritesWhatTheLastOutcomeDecided(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(func(ctx context.Context, _ *org.Organisation, _ event.Delivery, _ event.Affiliation) event.Outcome {
			pause(ctx, time.Second)
			return event.Outcome{
				Result: event.Released, RetryAt: time.Now().Add(time.Minute), Suspend: "410", TimedOut: true,
				HoldUntil: time.Now().Add(time.Hour),
			}
		}))
		b.news(hook, 1, 1)
		sleep(500 * time.Millisecond)
		b.stop()
		b.slots.mu.Lock()
		holds := len(b.slots.channel(hook).holds)
		b.slots.mu.Unlock()
		if got := b.notices.list(); holds != 2 || len(got) != 1 {
			b.Errorf("%d holds, notices %q", holds, got)
		}
	})
}

// TestStopDuringABurstOfHints stops while registries are spawning: a child that
// was spawned after the others were told to stop would hang it for ever.
func TestStopDuringABurstOfHints(t *testing.T) {
	t.Parallel()
	for range 30 {
		t.Run("", func(t *testing.T) {
			bubble(t, func(b *bundle) { // which stops at its end
				b.start(deliverFunc(delivered))
				for i := range 200 {
					b.sys.HintUser(id(uint64(i+1)), true)
					b.sys.HintChannel(event.ChannelKey{Org: fmt.Sprint("org-", i), Channel: event.Webhook}, time.Time{})
				}
			})
		})
	}
}

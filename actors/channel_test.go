package actors

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

func TestBreakerHoldsProbesAndTells(t *testing.T) {
	bubble(t, func(b *bundle) {
		var attempts []time.Time
		var mu sync.Mutex
		var works atomic.Bool
		b.start(deliverFunc(func(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
			mu.Lock()
			attempts = append(attempts, time.Now())
			mu.Unlock()
			if works.Load() {
				return delivered(ctx, o, d, who)
			}
			out := failing(ctx, o, d, who)
			out.RetryAt = time.Now().Add(7 * time.Second)
			return out
		}), rarely)
		b.news(hook, 1, 50)
		sleep(2 * time.Minute)
		mu.Lock()
		n := len(attempts)
		mu.Unlock()
		sleep(2 * time.Hour)
		mu.Lock()
		probes := len(attempts) - n
		mu.Unlock()
		// 30 s doubling to 15 min, with a jitter of a tenth: about 13 in 2 hours.
		if probes < 8 || probes > 16 {
			b.Errorf("%d probes in two hours", probes)
		}
		if got := b.notices.list(); len(got) != 1 || got[0] != "down uni-a webhook: 500 status 500" {
			b.Errorf("notices: %q", got)
		}
		works.Store(true)
		sleep(20 * time.Minute)
		if got := b.notices.list(); len(got) != 2 || got[1] != "recovered uni-a webhook" {
			b.Errorf("notices: %q", got)
		}
		if breaker, _, _ := b.slots.state(hook); b.slots.waiting(hook) != 0 || breaker != (event.Breaker{}) {
			b.Errorf("%d waiting, breaker %+v", b.slots.waiting(hook), breaker)
		}
		writes := b.slots.count("set breaker")
		b.news(hook, 100, 50)
		sleep(time.Minute)
		if b.slots.count("set breaker") != writes {
			b.Error("success on a closed breaker is written")
		}
	})
}

func TestARestartDoesNotHammerADeadReceiver(t *testing.T) {
	bubble(t, func(b *bundle) {
		var n atomic.Int64
		d := deliverFunc(func(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
			n.Add(1)
			pause(ctx, time.Second)
			return failing(ctx, o, d, who)
		})
		b.slots.put(hook, time.Now()) // makes the channel
		b.slots.channel(hook).breaker = event.Breaker{Failures: 30, FirstFailure: time.Now().Add(-time.Hour), Trips: 3, HeldSince: time.Now().Add(-30 * time.Minute)}
		b.start(d)
		b.news(hook, 1, 50)
		sleep(90 * time.Second)
		if n.Load() != 1 {
			b.Errorf("%d attempts after the restart, want one probe", n.Load())
		}
	})
}

// rarely makes hours of virtual time cheap: recovery polls once a minute.
func rarely(o *Options) {
	o.tuning = tuning{pollEvery: time.Minute, sweepEvery: 10 * time.Minute}
}

func TestFiveDaysOfFailureSuspendOnce(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(func(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
			out := failing(ctx, o, d, who)
			out.RetryAt = time.Now().Add(time.Hour)
			return out
		}), rarely)
		b.news(hook, 1, 3)
		sleep(6 * 24 * time.Hour)
		said := b.notices.list()
		if len(said) != 2 || !strings.HasPrefix(said[1], "suspended uni-a webhook: every one of ") {
			b.Errorf("notices: %q", said)
		}
		if _, holds, _ := b.slots.state(hook); holds[event.HoldSuspend] != event.Forever || b.slots.waiting(hook) != 3 {
			b.Error("the channel is not held, or its news are gone")
		}
	})
}

func TestGoneSuspendsOnceAndRetryAfterHolds(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.enable("uni-b", "main")
		var n, tries atomic.Int64
		var fine atomic.Bool
		b.start(deliverFunc(func(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
			if fine.Load() {
				return delivered(ctx, o, d, who)
			}
			if o.ID == "uni-b" {
				if tries.Add(1) > 8 {
					return delivered(ctx, o, d, who)
				}
				return event.Outcome{Result: event.Retry, RetryAt: time.Now().Add(time.Second), HoldUntil: time.Now().Add(time.Minute)}
			}
			n.Add(1)
			pause(ctx, time.Duration(n.Load())*100*time.Millisecond)
			return event.Outcome{Result: event.Released, RetryAt: time.Now(), Suspend: "gone"}
		}))
		uniB := event.ChannelKey{Org: "uni-b", Channel: event.Webhook}
		fine.Store(true)
		b.news(hook, 1, 20)
		b.news(uniB, 200, 20)
		sleep(time.Second)
		fine.Store(false)
		b.news(hook, 1, 100)
		b.news(uniB, 200, 100)
		sleep(50 * time.Second)
		if n.Load() != 8 || tries.Load() != 8 {
			b.Errorf("%d POSTs to a receiver that is gone, %d to one that asked to wait, want 8 each (in flight)", n.Load(), tries.Load())
		}
		if got := b.notices.list(); len(got) != 1 || got[0] != "suspended uni-a webhook: gone" || b.slots.count("hold suspend") != 1 {
			b.Errorf("notices %q, %d holds", got, b.slots.count("hold suspend"))
		}
		sleep(20 * time.Second)
		if tries.Load() != 108 {
			b.Errorf("%d POSTs after the wait", tries.Load())
		}
		// A person resumes: the next 410 suspends, and tells, again.
		b.slots.set(func() { b.slots.channel(hook).holds[event.HoldSuspend] = time.Time{} })
		b.sys.HintChannel(hook, time.Time{})
		sleep(10 * time.Second)
		if got := b.notices.list(); len(got) != 2 {
			b.Errorf("notices after resume: %q", got)
		}
	})
}

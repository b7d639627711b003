package store

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/event"
)

func TestNewsIsClaimedOnceAfterTheQuietPeriod(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		next := b.enqueue(b.target("uni-a", event.Webhook, 7, event.Updated))
		b.at("next ready", next[event.ChannelKey{Org: "uni-a", Channel: event.Webhook}], quiet)
		b.clock.advance(30*time.Second + 7*time.Microsecond)
		b.ping(7) // coalesces, and does not move the due time
		b.sizes(1, 0, 0)
		b.clock.advance(30*time.Second - 8*time.Microsecond)
		b.at("next", b.none(), quiet)
		b.clock.advance(time.Microsecond)
		c := b.claim(10)
		if len(c.Deliveries) != 1 {
			b.Fatalf("claimed %d, want 1", len(c.Deliveries))
		}
		d := c.Deliveries[0]
		want := event.Delivery{
			Org: "uni-a", Channel: event.Webhook, ORCID: testID(b.T, 7), Type: event.Updated,
			Generation: begin.Add(30*time.Second + 7*time.Microsecond).UnixMicro(), Token: d.Token, Attempt: 1,
			FirstAt: begin, LatestAt: begin.Add(30*time.Second + 7*time.Microsecond), LeaseEnd: begin.Add(quiet + lease),
		}
		if d != want || d.Token == "" {
			b.Errorf("claimed %+v, want %+v", d, want)
		}
		b.at("the end of the lease as next", c.Next, quiet+lease)
		b.at("again", b.none(), quiet+lease)
		b.sizes(0, 1, 0)
		if f := b.finish(d, event.Outcome{Result: event.Delivered}); f.Stale || !f.Next.IsZero() {
			b.Errorf("finish: %+v", f)
		}
		b.sizes(0, 0, 0)
		if f := b.finish(d, event.Outcome{Result: event.Delivered}); !f.Stale {
			b.Error("a second finish is not stale")
		}
		l := b.audit()
		if l.Opened != 1 || l.Coalesced != 1 || l.Targets != 2 || l.Delivered != 1 || l.Pending != 0 {
			b.Errorf("ledger %+v", l)
		}
	})
}

func TestRepeatedEntriesAreAppliedOnce(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		a, c := b.target("uni-a", event.Webhook, 1, event.Updated), b.target("uni-a", event.Webhook, 2, event.Updated)
		a.Entry, c.Entry = "1000-0", "1000-1"
		for range 3 { // reordered and repeated
			_, err := b.s.Enqueue(ctx, 1, []Target{c}, quiet)
			b.must(err)
			_, err = b.s.Enqueue(ctx, 1, []Target{a, c}, quiet)
			b.must(err)
		}
		if l := b.audit(); l.Targets != 2 || l.Opened != 2 || l.Coalesced != 0 {
			b.Errorf("ledger %+v", l)
		}
		_, err := b.s.Enqueue(ctx, 0, []Target{a}, quiet) // another lane's entry
		b.must(err)
		if l := b.audit(); l.Coalesced != 1 {
			b.Errorf("the same id of another lane was skipped: %+v", l)
		}
		b.must(b.s.TrimApplied(ctx, 1, time.UnixMilli(1001)))
		_, err = b.s.Enqueue(ctx, 1, []Target{a, c}, quiet)
		b.must(err)
		if l := b.audit(); l.Coalesced != 3 {
			b.Errorf("trimming did not forget: %+v", l)
		}
	})
}

func TestNewsDuringTheAttemptMakesExactlyOneMore(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7)
		b.clock.advance(quiet)
		d := b.claimOne()
		b.clock.advance(time.Second)
		b.ping(7)
		b.clock.advance(time.Second)
		b.ping(7)
		f := b.finish(d, event.Outcome{Result: event.Delivered})
		b.at("due again", f.Next, quiet+time.Second+quiet)
		b.none()
		b.clock.advance(quiet)
		again := b.claimOne()
		if again.Generation <= d.Generation || again.ID() == d.ID() || again.Attempt != 1 {
			b.Errorf("second delivery %+v after %+v", again, d)
		}
		b.at("first accepted of the second", again.FirstAt, quiet+time.Second)
		b.finish(again, event.Outcome{Result: event.Delivered})
		b.clock.advance(24 * time.Hour)
		b.none()
		if l := b.audit(); l.Delivered != 2 || l.Requeued != 1 || l.Opened != 2 {
			b.Errorf("ledger %+v", l)
		}
	})
}

func TestOnePostCarriesOneTypeAndCreatedComesFirst(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7)
		b.clock.advance(time.Second)
		b.ping(7, event.Created, event.Locked)
		b.clock.advance(quiet)
		var got []event.Type
		for range 3 {
			d := b.claimOne()
			got = append(got, d.Type)
			if d.Type == event.Created {
				b.at("affiliated", d.CreatedAt, time.Second)
			} else if !d.CreatedAt.IsZero() {
				b.Errorf("%s carries CreatedAt", d.Type)
			}
			b.finish(d, event.Outcome{Result: event.Delivered})
		}
		if want := []event.Type{event.Created, event.Updated, event.Locked}; !slices.Equal(got, want) {
			b.Errorf("order %v, want %v", got, want)
		}
		b.none()
		if l := b.audit(); l.Delivered != 3 || l.Opened != 3 || l.Requeued != 2 || l.Created != 1 || l.Targets != 2 {
			b.Errorf("ledger %+v", l)
		}
	})
}

func TestRetriesCountAttemptsAndNewsResetsThem(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7)
		b.clock.advance(quiet)
		for n := 1; n <= 3; n++ {
			d := b.claimOne()
			if d.Attempt != n || (n > 1) != d.FirstAttemptAt.Equal(begin.Add(quiet)) {
				b.Fatalf("attempt %d claimed as %+v", n, d)
			}
			o := b.failed(event.Retry, 503)
			if n == 3 {
				o.RetryAt = b.clock.now().Add(24 * time.Hour)
			}
			f := b.finish(d, o)
			if !f.Next.Equal(o.RetryAt) {
				b.Fatalf("next %s, want %s", f.Next, o.RetryAt)
			}
			if n < 3 {
				b.clock.advance(30 * time.Second)
			}
		}
		b.ping(7) // resets, due within the hour
		at := b.none()
		if want := b.clock.now().Add(time.Hour); !at.Equal(want) {
			b.Fatalf("due at %s, want %s", at, want)
		}
		b.clock.advance(time.Hour)
		d := b.claimOne()
		if d.Attempt != 1 || !d.FirstAttemptAt.IsZero() {
			b.Fatalf("news did not reset the attempts: %+v", d)
		}
		b.ping(7) // during an attempt that fails
		o := b.failed(event.Retry, 503)
		o.RetryAt = b.clock.now().Add(12 * time.Hour)
		if f := b.finish(d, o); !f.Next.Equal(b.clock.now().Add(time.Hour)) {
			b.Fatalf("next %s", f.Next)
		}
		b.clock.advance(time.Hour)
		if d := b.claimOne(); d.Attempt != 1 {
			b.Fatalf("attempt %d, want 1", d.Attempt)
		}
	})
}

func TestReleasedGivesTheSlotBackUntouched(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7)
		b.clock.advance(quiet)
		b.finish(b.claimOne(), b.failed(event.Retry, 500))
		b.clock.advance(30 * time.Second)
		d := b.claimOne()
		f := b.finish(d, event.Outcome{Result: event.Released, RetryAt: b.clock.now().Add(time.Second)})
		if f.Stale || !f.Next.Equal(b.clock.now().Add(time.Second)) {
			b.Fatalf("released: %+v", f)
		}
		b.clock.advance(time.Second)
		if again := b.claimOne(); again.Attempt != 2 || again.ID() != d.ID() || again.Token == d.Token {
			b.Errorf("claimed again %+v, before %+v", again, d)
		}
	})
}

func TestExpiredLeasesComeBackAndTheFifthCrashIsDead(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7)
		b.clock.advance(quiet)
		var tokens []string
		for range 5 {
			d := b.claimOne()
			if slices.Contains(tokens, d.Token) || d.Attempt != 1 {
				b.Fatalf("claimed %+v after %v", d, tokens)
			}
			tokens = append(tokens, d.Token)
			b.clock.advance(lease)
		}
		b.none()
		b.sizes(0, 0, 1)
		list, _, err := b.s.DeadLetters(context.Background(), "uni-a", event.Webhook, "", 10)
		b.must(err)
		if len(list) != 1 || list[0].Reason != "crashed 5 times" || list[0].Attempts != 0 {
			b.Errorf("dead letters %+v", list)
		}
	})
}

func TestAStaleTokenFinishesNothingButADelivery(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7)
		b.clock.advance(quiet)
		old := b.claimOne()
		b.clock.advance(lease)
		current := b.claimOne()
		for _, r := range []event.Result{event.Retry, event.Dead, event.Cancelled, event.Released} {
			if f := b.finish(old, b.failed(r, 500)); !f.Stale {
				b.Errorf("%s with the token of an ended lease is not stale", r)
			}
		}
		b.sizes(0, 1, 0)
		b.clock.advance(time.Second)
		b.ping(7) // another generation: the old POST did not tell this
		if f := b.finish(old, event.Outcome{Result: event.Delivered}); !f.Stale {
			b.Error("a delivery of an older generation cleared newer news")
		}
		b.finish(current, event.Outcome{Result: event.Delivered})
		b.sizes(1, 0, 0)

		b.clock.advance(quiet)
		old = b.claimOne()
		b.ping(7, event.Locked)
		b.clock.advance(lease)
		current = b.claimOne()
		if f := b.finish(old, event.Outcome{Result: event.Delivered}); f.Stale {
			b.Error("the POST of an ended lease did happen and was not counted")
		}
		b.sizes(0, 1, 0) // the other claim still flies, LOCKED waits behind it
		if f := b.finish(current, b.failed(event.Dead, 400)); f.Stale {
			b.Error("the current claim is called stale")
		}
		b.sizes(1, 0, 0) // what it carried was told: not dead
		if d := b.claimOne(); d.Type != event.Locked || d.Attempt != 1 {
			b.Errorf("claimed %+v", d)
		}
	})
}

func TestALateDeliveryTakesItsDeadLetterAway(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7, event.Updated, event.Locked)
		b.clock.advance(quiet)
		d := b.claimOne()
		for range 5 {
			b.clock.advance(lease)
			b.claim(1)
		}
		b.sizes(0, 0, 1)
		if f := b.finish(d, event.Outcome{Result: event.Delivered}); f.Stale {
			b.Error("a delivery that did happen is called stale")
		}
		list, _, err := b.s.DeadLetters(context.Background(), "uni-a", event.Webhook, "", 10)
		b.must(err)
		if len(list) != 1 || !slices.Equal(list[0].Types, []event.Type{event.Locked}) {
			b.Fatalf("dead letters %+v", list)
		}
		b.audit()
		d.Type, d.Generation = event.Locked, d.Generation+1
		b.finish(d, event.Outcome{Result: event.Delivered})
		b.sizes(0, 0, 0)
	})
}

func TestCancelledEndsTheSlotUnlessNewsCame(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7, event.Updated, event.Locked)
		b.clock.advance(quiet)
		b.finish(b.claimOne(), event.Outcome{Result: event.Cancelled})
		b.sizes(0, 0, 0)
		b.ping(7)
		b.clock.advance(quiet)
		d := b.claimOne()
		b.ping(7, event.Created) // affiliated again while the verdict was on its way
		b.finish(d, event.Outcome{Result: event.Cancelled})
		b.sizes(1, 0, 0)
		b.clock.advance(quiet)
		if d := b.claimOne(); d.Type != event.Created {
			b.Errorf("claimed %+v", d)
		}
		if l := b.audit(); l.Cancelled != 1 {
			b.Errorf("ledger %+v", l)
		}
	})
}

func TestConcurrentClaimsNeverShareASlot(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		const users = 300
		var targets []Target
		for _, o := range []string{"uni-a", "uni-b", "uni-c"} {
			b.enable(o, event.Channels[:]...)
			for u := range uint64(users) {
				targets = append(targets, b.target(o, event.Webhook, u+1, event.Updated), b.target(o, event.Email, u+1, event.Updated))
			}
		}
		b.enqueue(targets...)
		b.clock.advance(quiet)
		var mu sync.Mutex
		seen := map[string]bool{}
		var wg sync.WaitGroup
		for _, o := range []string{"uni-a", "uni-b", "uni-c"} {
			for _, ch := range event.Channels {
				for range 4 {
					wg.Go(func() {
						for {
							c, err := b.s.Claim(ctx, o, ch, 7, lease)
							if err != nil || len(c.Deliveries) == 0 {
								if err != nil {
									b.Error(err)
								}
								return
							}
							for _, d := range c.Deliveries {
								key := o + string(ch) + d.ORCID.String()
								mu.Lock()
								if seen[key] || seen[d.Token] {
									b.Errorf("%s or its token was claimed twice", key)
								}
								seen[key], seen[d.Token] = true, true
								mu.Unlock()
								if f, err := b.s.Finish(ctx, d, event.Outcome{Result: event.Delivered}); err != nil || f.Stale {
									b.Errorf("finish: %+v, %v", f, err)
								}
							}
						}
					})
				}
			}
		}
		wg.Wait()
		if l := b.audit(); l.Delivered != 6*users || l.Pending != 0 || len(seen) != 12*users {
			b.Errorf("ledger %+v, seen %d", l, len(seen))
		}
	})
}

// A generation that was given once is never given again, or a late finish of
// the first would clear the second, and receivers would take it for a repeat.
func TestLateNewsNeverGetsAGenerationAgain(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		late := func(typ event.Type, by time.Duration) {
			b.Helper()
			x := b.target("uni-a", event.Webhook, 7, typ)
			x.At = x.At.Add(-by)
			b.enqueue(x)
		}
		b.clock.advance(time.Minute)
		b.ping(7)
		late(event.Created, 10*time.Second) // from the spool, say
		b.clock.advance(quiet)
		first := b.claimOne()
		b.finish(first, event.Outcome{Result: event.Delivered})
		late(event.Created, 69*time.Second)
		second := b.claimOne()
		if second.Type != first.Type || second.ID() == first.ID() {
			b.Fatalf("claimed %+v after %+v", second, first)
		}
		if f := b.finish(first, event.Outcome{Result: event.Delivered}); !f.Stale {
			b.Error("a repeated finish cleared newer news")
		}
		// The same through a dead letter.
		b.finish(second, event.Outcome{Result: event.Delivered})
		b.finish(b.claimOne(), b.failed(event.Dead, 400))
		late(event.Created, 68*time.Second)
		b.clock.advance(quiet)
		if third := b.claimOne(); third.Type != first.Type || third.ID() == second.ID() || third.ID() == first.ID() {
			b.Errorf("claimed %+v after %+v", third, second)
		}
	})
}

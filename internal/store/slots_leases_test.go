package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"dispatchd/internal/event"
)

func (b *slotBundle) endLeases(want int) {
	b.Helper()
	n, err := b.s.EndLeases(context.Background())
	b.must(err)
	if n != want {
		b.Fatalf("ended %d leases, want %d", n, want)
	}
}

// What was in flight when a daemon died is due as soon as the next one is there.
func TestEndLeases(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(1)
		b.ping(2, event.Created, event.Updated)
		b.clock.advance(quiet)
		b.ping(3) // waits, and is due before those in flight would be
		if n := len(b.claim(10).Deliveries); n != 2 {
			b.Fatalf("claimed %d", n)
		}
		b.clock.advance(time.Second)
		b.none()
		b.endLeases(2)
		b.endLeases(0)
		again := b.claim(10).Deliveries
		if len(again) != 2 || again[0].Attempt != 1 || again[1].Attempt != 1 {
			b.Fatalf("claimed %+v, want both of them again for their first attempt", again)
		}
		b.sizes(1, 2, 0)
		for _, d := range again {
			b.finish(d, event.Outcome{Result: event.Delivered})
		}
		b.clock.advance(quiet)
		for _, d := range b.claim(10).Deliveries {
			b.finish(d, event.Outcome{Result: event.Delivered})
		}
		b.sizes(0, 0, 0)
	})
}

// A daemon that dies over and over, for whatever reason, claims the same ones
// first each time: they must not be called deadly within seconds.
func TestEndLeasesOfTheSecondCrashWait(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(1)
		b.clock.advance(quiet)
		b.claimOne()
		b.endLeases(1)
		d := b.claimOne()
		b.endLeases(0)
		b.at("the next claim", b.none(), quiet+lease)
		// One that proves not to be deadly starts over.
		b.finish(d, b.failed(event.Retry, 500))
		b.clock.advance(30 * time.Second)
		b.claimOne()
		b.endLeases(1)
		b.finish(b.claimOne(), event.Outcome{Result: event.Delivered})
	})
}

func TestEndLeasesAmongManyThatWait(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		const many, flying = 2*leasesRead + 100, 3
		var list []Target
		for u := range uint64(many) {
			x := b.target("uni-a", event.Webhook, u+1, event.Updated)
			if u < flying {
				x.Due = b.clock.now()
			} else {
				x.Due = b.clock.now().Add(time.Duration(u) * time.Millisecond) // before the leases end
			}
			list = append(list, x)
		}
		b.enqueue(list...)
		if n := len(b.claim(flying).Deliveries); n != flying {
			b.Fatalf("claimed %d", n)
		}
		b.endLeases(flying)
		if n := len(b.claim(many).Deliveries); n != flying {
			b.Fatalf("claimed %d, want those that flew and none that waits", n)
		}
	})
}

// Neither a hold nor who else is held is touched.
func TestEndLeasesLeavesHoldsAlone(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(1)
		b.clock.advance(quiet)
		b.claimOne()
		till := b.clock.now().Add(time.Hour)
		b.hold(event.HoldBreaker, till, "it refuses")
		b.endLeases(1)
		if next := b.none(); !next.Equal(till) {
			b.Fatalf("next at %s, want %s", next, till)
		}
	})
}

func TestEndLeasesOfADigest(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.enable("uni-a", event.Email)
		b.mailTo(1, 2)
		b.clock.advance(tomorrow)
		first := b.mustOpen()
		if o := b.open(DigestUsers); o.Digest != nil {
			b.Fatal("opened twice")
		}
		b.endLeases(1)
		second := b.mustOpen()
		if second.ID != first.ID {
			b.Fatalf("the digest is %s, was %s", second.ID, first.ID)
		}
		b.endLeases(0) // it was taken up after a crash, and waits now
		b.close(second, b.failed(event.Retry, 0))
		b.endLeases(0) // it waits to be tried again, and is not in flight
		if o := b.open(DigestUsers); o.Digest != nil {
			b.Fatal("tried again too early")
		}
		b.clock.advance(30 * time.Second)
		b.close(b.mustOpen(), event.Outcome{Result: event.Delivered})
		b.mailSizes(0, 0)
	})
}

// Each partition is on a server of its own there.
func TestEndLeasesOnEach(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, now := t.Context(), s.Now()
		const orgs = 20
		var list []Target
		for i := range uint64(orgs) {
			org := fmt.Sprintf("uni-%d", i)
			if err := s.SetChannel(ctx, org, event.Webhook, true); err != nil {
				t.Fatal(err)
			}
			list = append(list, Target{
				Org: org, Channel: event.Webhook, ORCID: testID(t, i+1), Type: event.Updated, At: now, Due: now,
				Entry: fmt.Sprintf("%d-0", now.UnixMilli()),
			})
		}
		if _, err := s.Enqueue(ctx, 0, list, 0); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{orgs, 0} { // the second crash waits
			for _, x := range list {
				c, err := s.Claim(ctx, x.Org, event.Webhook, 1, 10*time.Minute)
				if err != nil || len(c.Deliveries) != 1 {
					t.Fatalf("claimed %+v of %s: %v", c, x.Org, err)
				}
			}
			if n, err := s.EndLeases(ctx); err != nil || n != want {
				t.Fatalf("ended %d leases, want %d: %v", n, want, err)
			}
		}
	})
}

package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/redistest"
)

// A frozen Redis takes a claim in and does it when it goes on, long after who
// asked has given up. What it gave to nobody is due again with the next claim,
// and that is no crash.
func TestAClaimWhoseAnswerIsLostGivesItsSlotsBack(t *testing.T) {
	t.Parallel()
	srv, clock := redistest.Start(t), newFakeClock()
	s := attached(t, srv.URL(), func(o *Options) { o.Now, o.Timeout = clock.now, 300*time.Millisecond })
	b := &slotBundle{T: t, s: s, clock: clock}
	b.enable("uni-a", event.Webhook)
	const users = 3
	for u := range uint64(users) {
		b.ping(u + 1)
	}
	b.claim(0) // so that Redis knows the script
	clock.advance(quiet)
	for lost := range 6 { // more often than a slot may crash
		b.must(s.Ping(context.Background())) // there is a connection that the claim can be sent on
		b.must(srv.Freeze())
		_, err := s.Claim(context.Background(), "uni-a", event.Webhook, users, lease)
		b.must(srv.Thaw())
		if !errors.Is(err, ErrAway) {
			t.Fatalf("a claim of a frozen redis: %v", err)
		}
		b.flying(users)
		clock.advance(time.Second)
		c := b.claim(users)
		if lost == 0 && len(c.Deliveries) == 0 { // Redis did not know the script and got it after the claim
			c = b.claim(users)
		}
		if len(c.Deliveries) != users {
			t.Fatalf("after %d lost claims %d of %d slots are given", lost+1, len(c.Deliveries), users)
		}
		b.sizes(0, users, 0)
		for _, d := range c.Deliveries {
			if d.Attempt != 1 {
				t.Errorf("attempt %d, want 1", d.Attempt)
			}
			b.finish(d, event.Outcome{Result: event.Released, RetryAt: clock.now()})
		}
	}
	for _, d := range b.claim(users).Deliveries {
		b.finish(d, event.Outcome{Result: event.Delivered})
	}
	b.sizes(0, 0, 0)
	b.audit()
}

// flying waits until so many slots of uni-a are in flight: what a frozen Redis
// was sent is done once it goes on.
func (b *slotBundle) flying(want int) {
	b.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		states, err := b.s.Channels(context.Background(), []event.ChannelKey{{Org: "uni-a", Channel: event.Webhook}})
		if err == nil && states[0].InFlight == want {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%+v in flight, want %d (%v)", states, want, err)
		}
	}
}

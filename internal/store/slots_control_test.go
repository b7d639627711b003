package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/redistest"
)

func (b *slotBundle) hold(h event.Hold, until time.Time, reason string) time.Time {
	b.Helper()
	next, err := b.s.SetHold(context.Background(), "uni-a", event.Webhook, h, until, reason)
	b.must(err)
	return next
}

func TestHoldsAreSeparateAndTheLatestCounts(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		if next := b.hold(event.HoldPause, event.Forever, "an operator's; with ; in it"); !next.IsZero() {
			b.Errorf("an empty channel is next ready at %s", next)
		}
		next := b.enqueue(b.target("uni-a", event.Webhook, 7, event.Updated), b.target("uni-a", event.Webhook, 8, event.Updated))
		if got := next[event.ChannelKey{Org: "uni-a", Channel: event.Webhook}]; !got.Equal(event.Forever) {
			b.Errorf("a paused channel is next ready at %s", got)
		}
		b.clock.advance(quiet)
		if c := b.claim(10); len(c.Deliveries) != 0 || !c.HeldUntil.Equal(event.Forever) || !c.Next.Equal(event.Forever) {
			b.Fatalf("claimed while paused: %+v", c)
		}
		began := b.clock.now()
		b.hold(event.HoldRetryAfter, began.Add(time.Minute), "429")
		b.clock.advance(30 * time.Second)
		b.hold(event.HoldRetryAfter, began.Add(2*time.Minute), "429 again")
		st := b.state("uni-a", event.Webhook)
		want := map[event.Hold]HoldInfo{
			event.HoldPause:      {Until: event.Forever, Reason: "an operator's; with ; in it", Since: begin},
			event.HoldRetryAfter: {Until: began.Add(2 * time.Minute), Reason: "429 again", Since: began},
		}
		if !maps.Equal(st.Holds, want) {
			b.Errorf("holds %+v, want %+v", st.Holds, want)
		}
		if next := b.hold(event.HoldPause, time.Time{}, ""); !next.Equal(began.Add(2 * time.Minute)) {
			b.Errorf("clearing the pause also cleared the other hold: next %s", next)
		}
		b.clock.advance(90 * time.Second)
		if st := b.state("uni-a", event.Webhook); len(st.Holds) != 0 || st.Waiting != 2 || !st.OldestFirst.Equal(begin) {
			b.Errorf("an ended hold is shown: %+v", st)
		}
		if c := b.claim(1); len(c.Deliveries) != 1 {
			b.Errorf("nothing claimed after the hold: %+v", c)
		}
	})
}

func TestTheBreakerIsKeptWithItsHold(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.ping(7)
		want := event.Breaker{Failures: 12, FirstFailure: begin, Trips: 2, HeldSince: begin, NotifiedDown: true, Slow: true}
		until := begin.Add(10 * time.Minute)
		next, err := b.s.SetBreaker(ctx, "uni-a", event.Webhook, want, until)
		b.must(err)
		st := b.state("uni-a", event.Webhook)
		if st.Breaker != want || !next.Equal(until) || !st.Holds[event.HoldBreaker].Until.Equal(until) || !st.Next.Equal(until) {
			b.Errorf("next %s, state %+v", next, st)
		}
		if _, err := b.s.SetHold(ctx, "uni-a", event.Webhook, event.HoldBreaker, time.Time{}, ""); err != nil {
			b.Fatal(err)
		}
		if st := b.state("uni-a", event.Webhook); st.Breaker != want {
			b.Errorf("clearing the hold cleared the state: %+v", st)
		}
		next, err = b.s.SetBreaker(ctx, "uni-a", event.Webhook, event.Breaker{}, time.Time{})
		b.must(err)
		if st := b.state("uni-a", event.Webhook); st.Breaker != (event.Breaker{}) || len(st.Holds) != 0 || !next.Equal(begin.Add(quiet)) {
			b.Errorf("next %s, state %+v", next, st)
		}
	})
}

func TestADisabledChannelIgnoresNewsAndIsNotClaimed(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		next := b.enqueue(b.target("uni-a", event.Email, 7, event.Updated), b.target("uni-x", event.Webhook, 7, event.Created))
		if len(next) != 2 || !next[event.ChannelKey{Org: "uni-x", Channel: event.Webhook}].IsZero() {
			b.Errorf("touched %v", next)
		}
		b.ping(7)
		b.ping(8)
		b.clock.advance(quiet)
		d := b.claim(1).Deliveries[0]
		b.must(b.s.SetChannel(ctx, "uni-a", event.Webhook, false))
		if c := b.claim(10); len(c.Deliveries) != 0 || !c.Next.IsZero() {
			b.Errorf("claimed from a disabled channel: %+v", c)
		}
		ready, later, err := b.s.Ready(ctx, b.clock.now().Add(time.Hour), 10)
		if err != nil || len(ready) != 0 || !later.IsZero() {
			b.Errorf("a disabled channel is ready: %v, %s, %v", ready, later, err)
		}
		n, more, err := b.s.CancelSlots(ctx, "uni-a", event.Webhook, 1)
		if err != nil || n != 1 || !more {
			b.Errorf("cancelled %d, more %v, %v", n, more, err)
		}
		n, more, err = b.s.CancelSlots(ctx, "uni-a", event.Webhook, 100)
		if err != nil || n != 1 || more {
			b.Errorf("cancelled %d, more %v, %v", n, more, err)
		}
		if f := b.finish(d, event.Outcome{Result: event.Delivered}); !f.Stale {
			b.Error("finishing a cancelled slot is not stale")
		}
		if l := b.audit(); l.Ignored["disabled"] != 2 || l.Cancelled != 2 || l.Pending != 0 {
			b.Errorf("ledger %+v", l)
		}
		b.enable("uni-a", event.Webhook)
		b.ping(7)
		b.sizes(1, 0, 0)
	})
}

func TestReadyListsTheLongestReadyFirst(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		var want []event.ChannelKey
		for i := range 150 {
			org := fmt.Sprintf("org-%03d", i)
			b.enable(org, event.Email)
			b.enqueue(b.target(org, event.Email, 7, event.Updated))
			want = append(want, event.ChannelKey{Org: org, Channel: event.Email})
			b.clock.advance(time.Second)
		}
		at := begin.Add(quiet + 99*time.Second) // 100 of them are due
		ready, next, err := b.s.Ready(ctx, at, 1000)
		if err != nil || !slices.Equal(ready, want[:100]) || !next.Equal(at.Add(time.Second)) {
			b.Errorf("%d ready, next %s, %v", len(ready), next, err)
		}
		if ready, _, err = b.s.Ready(ctx, at, 5); err != nil || !slices.Equal(ready, want[:5]) {
			b.Errorf("limited: %v, %v", ready, err)
		}
		if ready, next, err = b.s.Ready(ctx, begin, 5); err != nil || len(ready) != 0 || !next.Equal(begin.Add(quiet)) {
			b.Errorf("early: %v, %s, %v", ready, next, err)
		}
		states, err := b.s.Channels(ctx, want)
		b.must(err)
		for i, st := range states {
			if first := begin.Add(time.Duration(i) * time.Second); st.Waiting != 1 || !st.Enabled || !st.OldestFirst.Equal(first) || !st.Next.Equal(first.Add(quiet)) {
				b.Fatalf("channel %d: %+v", i, st)
			}
		}
	})
}

func TestLeavingRemovesOneUserOnly(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.enable("uni-a", event.Email)
		b.enqueue(b.target("uni-a", event.Webhook, 7, event.Updated), b.target("uni-a", event.Email, 7, event.Updated))
		b.clock.advance(quiet)
		b.finish(b.claimOne(), b.failed(event.Dead, 400))
		b.ping(8)
		n, err := b.s.CancelUser(context.Background(), "uni-a", testID(b.T, 7))
		if err != nil || n != 2 {
			b.Fatalf("cancelled %d, %v", n, err)
		}
		b.sizes(1, 0, 0)
		if l := b.audit(); l.Cancelled != 1 || l.Purged != 1 {
			b.Errorf("ledger %+v", l)
		}
	})
}

func TestDroppingAnOrganisationLeavesNoKey(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	clock := newFakeClock()
	b := &slotBundle{T: t, s: attached(t, srv.URL(), func(o *Options) { o.Now = clock.now }), clock: clock}
	b.enable("uni-a", event.Channels[:]...)
	b.enable("uni-b", event.Webhook)
	for u := range uint64(5) {
		b.ping(u + 1)
		b.enqueue(b.target("uni-a", event.Email, u+1, event.Updated), b.target("uni-b", event.Webhook, u+1, event.Updated))
	}
	clock.advance(quiet)
	for _, d := range b.claim(3).Deliveries {
		b.finish(d, b.failed(event.Dead, 400))
	}
	b.claim(1)
	b.hold(event.HoldSuspend, event.Forever, "410")
	for range 2 {
		b.must(b.s.DropOrganisation(context.Background(), "uni-a"))
	}
	left, err := srv.Client(t).Keys(context.Background(), "*o:uni-a:*").Result()
	b.must(err)
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if l := b.audit(); l.Pending != 5 || l.Cancelled != 7 || l.Purged != 3 {
		t.Errorf("ledger %+v", l)
	}
	ready, _, err := b.s.Ready(context.Background(), event.Forever, 10)
	if err != nil || len(ready) != 1 || ready[0].Org != "uni-b" {
		t.Errorf("ready %v, %v", ready, err)
	}
}

func TestTheAttemptLogIsCappedByCountAgeAndExcerpts(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.ping(7)
		try := func(i int, r event.Result) {
			b.Helper()
			b.clock.advance(time.Hour)
			d := b.claimOne()
			o := b.failed(r, 500)
			o.Attempt.DeliveryID, o.Attempt.Number = d.ID(), i
			o.Attempt.ORCID, o.Attempt.Channel, o.Attempt.Type = d.ORCID, d.Channel, d.Type
			o.Attempt.Duration, o.Attempt.Excerpt = time.Duration(i), fmt.Sprintf("line 1 of %d\nline 2", i)
			b.finish(d, o)
		}
		for i := range 80 {
			try(i, event.Retry)
		}
		list, err := b.s.Attempts(ctx, "uni-a", event.Webhook, 100)
		b.must(err)
		if len(list) != 70 {
			b.Fatalf("%d attempts kept, want 70", len(list))
		}
		for i, a := range list {
			want := 79 - i
			excerpt := ""
			if i < 50 {
				excerpt = fmt.Sprintf("line 1 of %d\nline 2", want)
			}
			if a.Number != want || a.Excerpt != excerpt || a.Result != event.Retry || a.ORCID != testID(b.T, 7) || a.Status != 500 || a.Error != "status 500" {
				b.Fatalf("attempt %d: %+v", i, a)
			}
		}
		if list, err = b.s.Attempts(ctx, "uni-a", event.Webhook, 3); err != nil || len(list) != 3 || list[0].Number != 79 {
			b.Errorf("latest 3: %+v, %v", list, err)
		}
		d := event.Delivery{Org: "uni-a", Channel: event.Webhook, ORCID: testID(b.T, 7), Type: event.Updated, Token: "none"}
		for _, r := range []event.Result{event.Released, event.Cancelled} {
			b.finish(d, b.failed(r, 0)) // no attempt was made
		}
		if f := b.finish(d, b.failed(event.Delivered, 200)); !f.Stale { // logged though stale
			b.Error("a delivery without slot is not stale")
		}
		if list, err = b.s.Attempts(ctx, "uni-a", event.Webhook, 2); err != nil || list[0].Result != event.Delivered || list[1].Number != 79 {
			b.Errorf("latest: %+v, %v", list, err)
		}
		b.clock.advance(attemptAge + time.Minute)
		if list, err = b.s.Attempts(ctx, "uni-a", event.Webhook, 100); err != nil || len(list) != 0 {
			b.Errorf("%d attempts older than 90 days are shown, %v", len(list), err)
		}
		for range 7 {
			try(0, event.Retry)
		}
		n, err := b.s.rdb.LLen(ctx, b.s.keys.attempts(orgPartition("uni-a"), "uni-a", event.Webhook)).Result()
		if err != nil || n != 7 {
			b.Errorf("%d attempts kept, %v: old ones are not trimmed", n, err)
		}
	}, func(o *Options) { o.AttemptLog = 70 })
}

// everyVerb calls each verb over slots once.
func everyVerb(ctx context.Context, s *Store, target Target) map[string]error {
	key := event.ChannelKey{Org: target.Org, Channel: target.Channel}
	d := event.Delivery{Org: key.Org, Channel: key.Channel, ORCID: target.ORCID, Type: event.Updated, Token: "t", Generation: 1}
	return map[string]error{
		"enqueue":      second(s.Enqueue(ctx, 0, []Target{target}, 0)),
		"claim":        second(s.Claim(ctx, key.Org, key.Channel, 1, lease)),
		"finish":       second(s.Finish(ctx, d, event.Outcome{Result: event.Delivered})),
		"channel":      s.SetChannel(ctx, key.Org, key.Channel, true),
		"hold":         second(s.SetHold(ctx, key.Org, key.Channel, event.HoldPause, event.Forever, "")),
		"breaker":      second(s.SetBreaker(ctx, key.Org, key.Channel, event.Breaker{}, time.Time{})),
		"channels":     second(s.Channels(ctx, []event.ChannelKey{key})),
		"ready":        third(s.Ready(ctx, begin, 1)),
		"dead letters": third(s.DeadLetters(ctx, key.Org, key.Channel, "", 1)),
		"replay":       third(s.Replay(ctx, key.Org, key.Channel, Selection{}, 1)),
		"purge":        third(s.Purge(ctx, key.Org, key.Channel, Selection{}, 1)),
		"cancel":       third(s.CancelSlots(ctx, key.Org, key.Channel, 1)),
		"cancel user":  second(s.CancelUser(ctx, key.Org, target.ORCID)),
		"attempts":     second(s.Attempts(ctx, key.Org, key.Channel, 1)),
		"ledger":       second(s.Ledger(ctx, []string{key.Org})),
		"totals":       third(s.SlotTotals(ctx)),
		"drop":         s.DropOrganisation(ctx, key.Org),
	}
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

func TestEveryVerbFindsAForgottenRedis(t *testing.T) {
	t.Parallel()
	srv, ctx := redistest.Start(t), context.Background()
	s := attached(t, srv.URL())
	target := Target{Org: "uni-a", Channel: event.Webhook, ORCID: testID(t, 7), Type: event.Updated, At: begin, Entry: "1-1"}
	for name := range everyVerb(ctx, s, target) {
		if err := srv.Client(t).FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		// Not the guard but the verb itself has to find it.
		if err := s.Recover(ctx); err != nil {
			t.Fatal(err)
		}
		if err := srv.Client(t).FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		only := map[string]func() error{
			"enqueue": func() error { return second(s.Enqueue(ctx, 0, []Target{target}, 0)) },
			"claim":   func() error { return second(s.Claim(ctx, "uni-a", event.Webhook, 1, lease)) },
			"finish": func() error {
				d := event.Delivery{Org: "uni-a", Channel: event.Webhook, ORCID: target.ORCID, Type: event.Updated, Token: "t"}
				return second(s.Finish(ctx, d, event.Outcome{Result: event.Delivered}))
			},
			"channel": func() error { return s.SetChannel(ctx, "uni-a", event.Webhook, true) },
			"hold":    func() error { return second(s.SetHold(ctx, "uni-a", event.Webhook, event.HoldPause, begin, "")) },
			"breaker": func() error { return second(s.SetBreaker(ctx, "uni-a", event.Webhook, event.Breaker{}, begin)) },
			"channels": func() error {
				return second(s.Channels(ctx, []event.ChannelKey{{Org: "uni-a", Channel: event.Webhook}}))
			},
			"ready":        func() error { return third(s.Ready(ctx, begin, 1)) },
			"dead letters": func() error { return third(s.DeadLetters(ctx, "uni-a", event.Webhook, "", 1)) },
			"replay":       func() error { return third(s.Replay(ctx, "uni-a", event.Webhook, Selection{}, 1)) },
			"purge":        func() error { return third(s.Purge(ctx, "uni-a", event.Webhook, Selection{}, 1)) },
			"cancel":       func() error { return third(s.CancelSlots(ctx, "uni-a", event.Webhook, 1)) },
			"cancel user":  func() error { return second(s.CancelUser(ctx, "uni-a", target.ORCID)) },
			"attempts":     func() error { return second(s.Attempts(ctx, "uni-a", event.Webhook, 1)) },
			"ledger":       func() error { return second(s.Ledger(ctx, []string{"uni-a"})) },
			"totals":       func() error { return third(s.SlotTotals(ctx)) },
			"drop":         func() error { return s.DropOrganisation(ctx, "uni-a") },
		}[name]
		if err := only(); !errors.Is(err, ErrForgot) {
			t.Errorf("%s on an emptied redis: %v, want ErrForgot", name, err)
		}
	}
}

func TestAFullRedisTakesNoNewsButDrains(t *testing.T) {
	t.Parallel()
	srv, ctx := redistest.Start(t), context.Background()
	clock := newFakeClock()
	b := &slotBundle{T: t, s: attached(t, srv.URL(), func(o *Options) { o.Now = clock.now }), clock: clock}
	b.enable("uni-a", event.Webhook)
	for u := range uint64(8) {
		b.ping(u + 1)
	}
	clock.advance(quiet)
	dead := b.claim(1).Deliveries[0]
	b.finish(dead, b.failed(event.Dead, 400))
	b.must(srv.Client(t).ConfigSet(ctx, "maxmemory", "1").Err())
	full := b.target("uni-a", event.Webhook, 99, event.Updated)
	full.Entry = "77-1"
	if _, err := b.s.Enqueue(ctx, 0, []Target{full}, quiet); !errors.Is(err, ErrAway) {
		t.Fatalf("enqueue on a full redis: %v, want ErrAway", err)
	}
	b.sizes(7, 0, 1)
	b.audit()
	results := []event.Result{event.Delivered, event.Retry, event.Dead, event.Cancelled, event.Released}
	c := b.claim(len(results))
	for i, d := range c.Deliveries {
		if f := b.finish(d, b.failed(results[i], 500)); f.Stale {
			t.Errorf("%s is stale", results[i])
		}
	}
	for name, err := range everyVerb(ctx, b.s, full) {
		if err != nil && name != "enqueue" {
			t.Errorf("%s on a full redis: %v", name, err)
		}
	}
	b.audit()
	b.must(srv.Client(t).ConfigSet(ctx, "maxmemory", "0").Err())
	b.enable("uni-a", event.Webhook)
	if _, err := b.s.Enqueue(ctx, 0, []Target{full}, quiet); err != nil {
		t.Fatal(err)
	}
	b.sizes(1, 0, 0) // the refused entry had not been noted as applied
	b.audit()
}

func TestVerbsSurviveScriptFlush(t *testing.T) {
	t.Parallel()
	srv, ctx := redistest.Start(t), context.Background()
	s := attached(t, srv.URL())
	for range 2 {
		if err := srv.Client(t).ScriptFlush(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		target := Target{Org: "uni-a", Channel: event.Webhook, ORCID: testID(t, 7), Type: event.Updated, At: begin, Entry: "1-1"}
		for name, err := range everyVerb(ctx, s, target) {
			if err != nil && !errors.Is(err, ErrDisabled) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestOurOwnDamageIsToldAgainNotLost(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7)
		p := orgPartition("uni-a")
		b.must(b.s.rdb.HSet(context.Background(), b.s.keys.slots(p, "uni-a", event.Webhook), slotField(testID(b.T, 7)), "rubbish").Err())
		b.clock.advance(quiet)
		if d := b.claimOne(); d.Type != event.Updated || !strings.Contains(d.Token, ".") {
			b.Errorf("claimed %+v", d)
		}
	})
}

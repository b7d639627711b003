package store

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
)

// everyVerb has each verb over slots.
func everyVerb(ctx context.Context, s *Store, target Target) map[string]func() error {
	org, ch := target.Org, target.Channel
	d := event.Delivery{Org: org, Channel: ch, ORCID: target.ORCID, Type: event.Updated, Token: "t", Generation: 1}
	return map[string]func() error{
		"enqueue":      func() error { return second(s.Enqueue(ctx, 0, []Target{target}, 0)) },
		"claim":        func() error { return second(s.Claim(ctx, org, ch, 1, lease)) },
		"finish":       func() error { return second(s.Finish(ctx, d, event.Outcome{Result: event.Delivered})) },
		"channel":      func() error { return s.SetChannel(ctx, org, ch, true) },
		"hold":         func() error { return second(s.SetHold(ctx, org, ch, event.HoldPause, event.Forever, "")) },
		"breaker":      func() error { return second(s.SetBreaker(ctx, org, ch, event.Breaker{}, time.Time{})) },
		"channels":     func() error { return second(s.Channels(ctx, []event.ChannelKey{{Org: org, Channel: ch}})) },
		"ready":        func() error { return third(s.Ready(ctx, begin, 1)) },
		"dead letters": func() error { return third(s.DeadLetters(ctx, org, ch, "", 1)) },
		"replay": func() error {
			err := third(s.Replay(ctx, org, ch, Selection{}, 1))
			if errors.Is(err, ErrDisabled) {
				return nil // it depends on what ran before
			}
			return err
		},
		"purge":       func() error { return third(s.Purge(ctx, org, ch, Selection{}, 1)) },
		"cancel":      func() error { return third(s.CancelSlots(ctx, org, ch, 1)) },
		"cancel user": func() error { return second(s.CancelUser(ctx, org, target.ORCID)) },
		"attempts":    func() error { return second(s.Attempts(ctx, org, ch, 1)) },
		"ledger":      func() error { return second(s.Ledger(ctx, []string{org})) },
		"totals":      func() error { return third(s.SlotTotals(ctx)) },
		"drop":        func() error { return s.DropOrganisation(ctx, org) },
	}
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

func TestEveryVerbFindsAForgottenRedis(t *testing.T) {
	t.Parallel()
	srv, ctx := redistest.Start(t), context.Background()
	s := attached(t, srv.URL())
	target := Target{Org: "uni-a", Channel: event.Webhook, ORCID: testID(t, 7), Type: event.Updated, At: begin, Entry: "1-1"}
	for name, verb := range everyVerb(ctx, s, target) {
		// Not the guard, which knows it from the verb before, but the verb
		// itself has to find it.
		if err := s.Recover(ctx); err != nil {
			t.Fatal(err)
		}
		if err := srv.Client(t).FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		if err := verb(); !errors.Is(err, ErrForgot) {
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
	for name, verb := range everyVerb(ctx, b.s, full) {
		if err := verb(); err != nil && name != "enqueue" {
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
		for name, verb := range everyVerb(ctx, s, target) {
			if err := verb(); err != nil {
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

func TestBadInputIsRefusedBeforeAnythingHappens(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		good := b.target("uni-a", event.Webhook, 7, event.Updated)
		good.Entry = "1-1"
		for name, change := range map[string]func(*Target){
			"type": func(t *Target) { t.Type = event.Test }, "user": func(t *Target) { t.ORCID = orcid.ID{} },
			"time": func(t *Target) { t.At = time.Time{} }, "entry": func(t *Target) { t.Entry = "x" },
			"channel": func(t *Target) { t.Channel = "fax" }, "org": func(t *Target) { t.Org = "" },
		} {
			bad := good
			change(&bad)
			if _, err := b.s.Enqueue(ctx, 0, []Target{good, bad}, quiet); err == nil {
				b.Errorf("a target with a bad %s was taken", name)
			}
		}
		b.sizes(0, 0, 0)
		if _, err := b.s.Claim(ctx, "uni-a", event.Webhook, 1, 0); err == nil {
			b.Error("a claim without lease was taken")
		}
		if _, err := b.s.Finish(ctx, event.Delivery{Org: "uni-a", Channel: event.Webhook, Type: event.Updated}, event.Outcome{Result: event.Delivered}); err == nil {
			b.Error("a finish without token was taken")
		}
		if _, err := b.s.SetHold(ctx, "uni-a", event.Webhook, "nap", begin, ""); err == nil {
			b.Error("an unknown hold was taken")
		}
		if _, err := b.s.SetHold(ctx, "uni-a", "fax", event.HoldPause, begin, ""); err == nil {
			b.Error("an unknown channel was taken")
		}
	})
}

// TestAnEntryThatFailsHalfwayIsNotApplied: a script is not undone when a command
// in it fails, as on a key of another type. Nothing must have been done then, or
// it would be done again with every try; and the entry must be applied whole when
// it comes again.
func TestAnEntryThatFailsHalfwayIsNotApplied(t *testing.T) {
	t.Parallel()
	for _, broken := range []string{"slots", "due", "control", "dead"} {
		for _, entries := range [][]string{{"1-1", "1-1"}, {"1-1", "1-2"}} {
			t.Run(broken+" "+strings.Join(entries, " "), func(t *testing.T) {
				t.Parallel()
				ctx := context.Background()
				srv := redistest.Start(t)
				s, rdb := attached(t, srv.URL()), srv.Client(t)
				ok := Target{Org: "uni-a", Channel: event.Webhook, ORCID: testID(t, 7), Type: event.Updated, At: begin, Entry: entries[0]}
				hit := ok
				hit.Channel, hit.ORCID, hit.Entry = event.Email, testID(t, 8), entries[1]
				for _, ch := range event.Channels {
					if err := s.SetChannel(ctx, "uni-a", ch, true); err != nil {
						t.Fatal(err)
					}
				}
				key := s.keys.channel(orgPartition("uni-a"), "uni-a", event.Email) + broken
				mend := breakKey(t, rdb, key)
				for range 2 {
					_, err := s.Enqueue(ctx, 0, []Target{ok, hit}, 0)
					wantWrongType(t, err, key)
				}
				if c, err := s.Claim(ctx, "uni-a", event.Webhook, 10, lease); err != nil || len(c.Deliveries) != 0 {
					t.Errorf("claimed %+v, %v of news that was not applied", c.Deliveries, err)
				}
				mend()
				for range 2 { // the second time it is known
					if _, err := s.Enqueue(ctx, 0, []Target{ok, hit}, 0); err != nil {
						t.Fatal(err)
					}
				}
				for _, want := range []Target{ok, hit} {
					c, err := s.Claim(ctx, "uni-a", want.Channel, 10, lease)
					if err != nil || len(c.Deliveries) != 1 || c.Deliveries[0].ORCID != want.ORCID {
						t.Errorf("%s: claimed %+v, %v, want one of %s", want.Channel, c.Deliveries, err, want.ORCID)
					}
				}
				l, err := s.Ledger(ctx, []string{"uni-a"})
				if err != nil {
					t.Fatal(err)
				}
				if d := l.Differences(); len(d) != 0 {
					t.Errorf("the books do not balance: %v", d)
				}
			})
		}
	}
}

package fanout

import (
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// TestOnlyORCIDsPingsCountAsPings: what a search found is told like a ping but
// must not make a registration look alive.
func TestOnlyORCIDsPingsCountAsPings(t *testing.T) {
	t.Parallel()
	b := setup(t, 0, time.Hour)
	ctx := t.Context()
	id, err := orcid.FromBase(15_000_777)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Affiliate(ctx, id, event.Affiliation{Org: "uni-a"}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	pass := func(p event.Ping) event.User {
		t.Helper()
		if err := b.store.Append(ctx, []event.Ping{p}); err != nil {
			t.Fatal(err)
		}
		for lane := range b.rd.wake {
			if _, err := b.rd.pass(ctx, newLane(lane)); err != nil {
				t.Fatal(err)
			}
		}
		u, err := b.store.User(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return *u
	}
	at := time.Now().Truncate(time.Second)
	if u := pass(event.Ping{Credential: "main", ORCID: id, AcceptedAt: at, CaughtUp: true}); !u.LastPing.IsZero() {
		t.Errorf("a change that was caught up counts as a ping of %s", u.LastPing)
	}
	if pending, _, err := b.store.SlotTotals(ctx); err != nil || pending != 1 {
		t.Errorf("%d slots, %v; want the one of the change that was caught up", pending, err)
	}
	if u := pass(event.Ping{Credential: "main", ORCID: id, AcceptedAt: at}); !u.LastPing.Equal(at) {
		t.Errorf("the latest ping is %s, want %s", u.LastPing, at)
	}
}

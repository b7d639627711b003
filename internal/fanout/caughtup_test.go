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
			if _, err := b.rd.pass(ctx, b.rd.newLane(lane)); err != nil {
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

// TestPingsOfSharedUsersAreKeptByCredential, those of all others are not.
func TestPingsOfSharedUsersAreKeptByCredential(t *testing.T) {
	t.Parallel()
	b := setup(t, 0, time.Hour)
	ctx := t.Context()
	row := func(credential string, state event.RegState) event.Registration {
		return event.Registration{Credential: credential, State: state, Epoch: 1}
	}
	users := map[orcid.ID]struct {
		rows []event.Registration
		kept bool
	}{
		testID(t, 15_000_801): {[]event.Registration{row("main", event.RegAlive), row("other", event.RegAlive)}, true},
		testID(t, 15_000_802): {[]event.Registration{row("main", event.RegAlive)}, false},
		testID(t, 15_000_803): {[]event.Registration{row("main", event.RegAlive), row("other", event.RegDeleting)}, false},
		testID(t, 15_000_804): {[]event.Registration{row("main", event.RegAlive), row(event.HubCredential("main"), event.RegAlive)}, false},
	}
	at := time.Now().Truncate(time.Second)
	var ids []orcid.ID
	var pings []event.Ping
	for id, u := range users {
		record := event.User{ORCID: id, Affiliations: []event.Affiliation{{Org: "uni-a"}}, Registrations: u.rows}
		if _, err := b.store.SaveUser(ctx, record, time.Time{}); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		pings = append(pings, event.Ping{Credential: "main", ORCID: id, AcceptedAt: at},
			event.Ping{Credential: "other", ORCID: id, AcceptedAt: at.Add(time.Hour), CaughtUp: true})
	}
	for range 2 { // an entry may be applied again
		if err := b.store.Append(ctx, pings); err != nil {
			t.Fatal(err)
		}
		for lane := range b.rd.wake {
			if _, err := b.rd.pass(ctx, b.rd.newLane(lane)); err != nil {
				t.Fatal(err)
			}
		}
	}
	list, err := b.store.PingsOf(ctx, ids, []string{"main", "other"})
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		if users[id].kept != list[i][0].Equal(at) || !list[i][1].IsZero() {
			t.Errorf("%s with %+v: kept %v", id, users[id].rows, list[i])
		}
	}
}

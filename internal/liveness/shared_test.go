package liveness

import (
	"slices"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// registerBoth makes both credentials' registrations of the users stand as ORCID
// confirmed them now, and adds the organisation of the second.
func (w *world) registerBoth(ids ...orcid.ID) {
	w.t.Helper()
	w.affiliate("uni-other", ids)
	for _, id := range ids {
		u, err := w.store.User(w.t.Context(), id)
		w.must(err)
		at := w.sim.Now().Truncate(time.Second)
		u.Registrations = []event.Registration{
			{Credential: "main", State: event.RegAlive, Epoch: 1, Base: 1, Changed: at},
			{Credential: "other", State: event.RegAlive, Epoch: 1, Base: 2, Changed: at},
		}
		_, err = w.store.SaveUser(w.t.Context(), *u, time.Time{})
		w.must(err)
	}
}

// pingBy notes a ping of now by each of the credentials, as fan-out does.
func (w *world) pingBy(id orcid.ID, credentials ...string) {
	w.t.Helper()
	w.ping(id)
	for _, c := range credentials {
		w.must(w.store.NotePings(w.t.Context(), []event.Ping{{Credential: c, ORCID: id, AcceptedAt: w.sim.Now()}}))
	}
}

// plans says for which credentials a new registration of the user is planned.
func (w *world) plans(id orcid.ID) (out []string) {
	w.t.Helper()
	for _, r := range w.rows(id) {
		if r.Epoch > 1 {
			out = append(out, r.Credential)
		}
	}
	return out
}

// The row of one credential is dead, the other's pings go on: the silence of the
// first is seen, its organisations are told, and its row is made anew.
func TestADeadRowIsSeenWhileAnotherCredentialPings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5)
	broken, sound := w.users[0], w.users[1]
	w.registerBoth(broken, sound)
	w.sim.Advance(3 * time.Hour)
	w.change(broken, sound)
	w.pingBy(broken, "main", "other") // both rows live at first
	w.pingBy(sound, "main", "other")
	for day := range 2 {
		w.sim.Advance(5 * time.Hour)
		since := w.sim.Now()
		w.sim.Advance(2 * time.Hour)
		w.change(broken, sound)
		w.pingBy(broken, "other")
		w.pingBy(sound, "main", "other")
		w.lookBack(since)
		w.wantTold("a change that the row of main did not ping", broken)
		if got := w.plans(broken); (day == 1) != slices.Equal(got, []string{"main"}) || day == 0 && len(got) > 0 {
			t.Errorf("after %d such changes, registrations are made anew: %v", day+1, got)
		}
	}
	if got := w.plans(sound); len(got) > 0 {
		t.Errorf("a row that lives is made anew: %v", got)
	}
}

// After an outage in which ORCID may have given up, a ping by the other credential
// does not show that this one's row lives.
func TestARowAtRiskIsNotSavedByAnotherCredentialsPing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5)
	ctx := t.Context()
	broken, sound := w.users[0], w.users[1]
	w.registerBoth(broken, sound)
	w.sim.Advance(time.Hour)
	w.must(w.store.AddChecks(ctx, []event.Check{
		{Kind: event.CheckAtRisk, ORCID: broken, Credential: "main", At: w.sim.Now().Add(pingWait)},
		{Kind: event.CheckAtRisk, ORCID: sound, Credential: "main", At: w.sim.Now().Add(pingWait)},
	}))
	w.sim.Advance(time.Hour)
	w.pingBy(broken, "other")
	w.pingBy(sound, "main", "other")
	w.sim.Advance(pingWait)
	w.must(w.watch.runChecks(ctx))
	if got := w.plans(broken); !slices.Equal(got, []string{"main"}) {
		t.Errorf("made anew: %v, want that of main", got)
	}
	if got := w.plans(sound); len(got) > 0 {
		t.Errorf("a row that pinged is made anew: %v", got)
	}
}

// What is kept by credential goes when one of the credentials leaves.
func TestPingsByCredentialGoWithTheRegistration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5)
	ctx, id := t.Context(), w.users[0]
	w.registerBoth(id)
	w.pingBy(id, "main", "other")
	kept := func() (n int) {
		t.Helper()
		list, err := w.store.PingsOf(ctx, []orcid.ID{id}, []string{"main", "other"})
		w.must(err)
		for _, at := range list[0] {
			if !at.IsZero() {
				n++
			}
		}
		return n
	}
	u, err := w.store.User(ctx, id)
	w.must(err)
	again := *u
	again.Registrations = append(slices.Clone(u.Registrations), event.Registration{Credential: "main", State: event.RegAlive, Epoch: 2, Changed: w.sim.Now()})
	again.Registrations[0].State = event.RegDeleting
	w.must(w.watch.Registered(ctx, &again))
	if n := kept(); n != 2 {
		t.Errorf("%d pings are kept when only an old row goes, want 2", n)
	}
	u.Registrations[1].State = event.RegDeleting
	w.must(w.watch.Registered(ctx, u))
	if n := kept(); n != 0 {
		t.Errorf("%d pings are kept of a user of one credential", n)
	}
}

package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/sim"
)

// unregistered waits until ORCID has no row of the client for the user.
func (w *world) unregistered(client string, id orcid.ID) {
	w.t.Helper()
	equally(w, "rows of "+id.String(), 0, func() int { return w.rows(client)[id] })
}

// settled waits until no registration is on its way: ORCID has a row before the
// daemon has noted that it lives, and only from then on counts how long. So this
// comes between a row at ORCID and a jump of the clock.
func (w *world) settled(alive int) {
	w.t.Helper()
	w.eventually("no registration is on its way", func() bool {
		r := w.status().Registrations
		return r["alive"] == int64(alive) && r["putting"]+r["deleting"]+r["none"] == 0
	})
}

// ORCID has exactly the rows that enabled organisations want, under the
// credential that serves them, whatever changes.
func TestRowsAtORCIDFollowTheOrganisations(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 12})
	main, other := w.users[:8], w.users[8:]
	w.organisation("uni-a", nil)
	w.organisation("uni-b", nil)
	w.organisation("uni-c", object{"credential": "other"})
	w.affiliate("uni-a", main[:6]...)
	w.affiliate("uni-b", main[4:]...) // two of them in both
	w.affiliate("uni-c", other...)
	w.registered(clientMain, main...)
	w.registered(clientOther, other...)
	w.settled(len(w.users))

	// Each ping goes to whom that credential serves, and to nobody else.
	w.edit(w.users...)
	w.everyoneTaken("uni-a", main[:6]...)
	w.everyoneTaken("uni-b", main[4:]...)
	w.everyoneTaken("uni-c", other...)
	w.idle()
	for org, n := range map[string]int{"uni-a": 6, "uni-b": 4, "uni-c": 4} {
		if got := len(w.taken(org)); got != n {
			t.Errorf("%s was told of %d users, want %d", org, got, n)
		}
	}

	// One of two organisations of a credential lets a user go: the row stays.
	both := main[4]
	w.ask("DELETE", "/v1/organisations/uni-a/users/"+both.String(), nil, nil)
	w.ask("DELETE", "/v1/organisations/uni-a/users/"+main[0].String(), nil, nil)
	w.unregistered(clientMain, main[0])
	if w.rows(clientMain)[both] != 1 {
		t.Error("the row of a user who is still wanted is gone")
	}
	w.ask("DELETE", "/v1/organisations/uni-b/users/"+both.String(), nil, nil)
	w.unregistered(clientMain, both)

	// Disabling unregisters whom nobody else wants, enabling brings them back.
	w.ask("POST", "/v1/organisations/uni-a/disable", object{}, nil)
	w.registered(clientMain, main[5:]...)
	w.ask("POST", "/v1/organisations/uni-a/enable", object{"channel": "webhook"}, nil)
	w.registered(clientMain, append(append([]orcid.ID{}, main[1:4]...), main[5:]...)...)

	// An organisation moves to another credential: its users have rows there and
	// none where nobody wants them any more.
	w.ask("PATCH", "/v1/organisations/uni-b", object{"credential": "other"}, nil)
	w.registered(clientOther, append(append([]orcid.ID{}, main[5:]...), other...)...)
	w.settled(6 + 3 + len(other))
	w.skip(11 * time.Minute) // the old rows go on that long
	w.registered(clientMain, main[1], main[2], main[3], main[5])
	w.settled(4 + 3 + len(other))
	w.recv.Forget()
	w.edit(main[5:]...)
	w.everyoneTaken("uni-b", main[5:]...)
	w.everyoneTaken("uni-a", main[5])
	w.idle()
	if n := w.recv.Count(); n != 4 {
		t.Errorf("%d notifications of 3 users, one of whom two organisations have", n)
	}

	// An organisation goes with everything it has.
	w.ask("DELETE", "/v1/organisations/uni-c", nil, nil)
	w.registered(clientOther, main[5:]...)
	w.eventually("the organisation is gone", func() bool { return w.api("GET", "/v1/organisations/uni-c", nil, nil) == http.StatusNotFound })
}

// ORCID may go on calling for somebody who left while we cannot say so: that is
// answered well, nobody is told, and the row goes when ORCID lets it.
func TestAPingOfSomebodyWhoLeftIsAnsweredAndDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 4})
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	w.settled(len(w.users))
	fault, err := w.orcid.InjectFault(sim.Fault{Operation: "delete", Kind: sim.FaultStatus, Status: http.StatusServiceUnavailable})
	w.must(err)
	gone, stays := w.users[0], w.users[1]
	w.ask("DELETE", "/v1/organisations/uni-a/users/"+gone.String(), nil, nil)
	w.eventually("a DELETE was tried", func() bool { return w.deletes() > 0 })
	w.edit(gone, stays)
	if n := w.orcid.Counters().Posts[http.StatusNoContent]; n != 2 {
		t.Errorf("%d pings were answered 204, want 2", n)
	}
	w.everyoneTaken("uni-a", stays)
	w.idle()
	if n := w.taken("uni-a")[gone]; n != 0 {
		t.Errorf("told %d times of somebody who left", n)
	}
	if n := w.balanced().NotWanted; n != 1 {
		t.Errorf("%d pings are counted as not wanted, want 1", n)
	}
	w.orcid.ClearFault(fault)
	w.skip(10 * time.Minute)
	w.registered(clientMain, w.users[1:]...)
	w.settled(len(w.users) - 1)
	// Nothing is known of that user any more; that alone deletes nothing.
	before := w.deletes()
	if a := w.ping(gone); a.status != http.StatusNoContent {
		t.Errorf("the ping was answered %+v", a)
	}
	w.idle()
	if n := w.balanced().Unknown; n != 1 || w.deletes() != before {
		t.Errorf("%d pings are counted as unknown, want 1; %d DELETEs, want %d", n, w.deletes(), before)
	}
}

// ORCID refuses for a while: everybody is registered in the end, and never more
// is asked than ORCID allows.
func TestRegistrationSurvivesORCIDsBadHours(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 60, sim: sim.Options{RateLimit: 24, RateBurst: 40}})
	w.organisation("uni-a", nil)
	w.affiliate("uni-a", w.users[:50]...)
	w.registered(clientMain, w.users[:50]...)
	const refusals = 6 // each may halve the pace, which grows again slowly
	_, err := w.orcid.InjectFault(sim.Fault{Operation: "put", Kind: sim.FaultStatus, Status: http.StatusServiceUnavailable, Count: refusals})
	w.must(err)
	w.affiliate("uni-a", w.users[50:]...)
	equally(w, "refusals", refusals, func() int64 { return w.orcid.Counters().Requests["put"][http.StatusServiceUnavailable] })
	// ORCID counts a refusal before the daemon has noted when to try again.
	equally(w, "refusals noted", refusals, func() int { return strings.Count(w.log.String(), "a request to ORCID is tried again") })
	w.skip(2 * time.Minute)
	w.registered(clientMain, w.users...)
	w.settled(len(w.users))
	c := w.orcid.Counters()
	if c.Limited != 0 || c.PeakPerSecond > 48 {
		t.Errorf("%d requests were above ORCID's limit, at most %d came in a second", c.Limited, c.PeakPerSecond)
	}
	var puts int64
	for _, n := range c.Requests["put"] {
		puts += n
	}
	if puts != int64(refusals+len(w.users)) {
		t.Errorf("%d PUTs for %d users and %d refusals", puts, len(w.users), refusals)
	}
	if n := c.Requests["token"][http.StatusOK]; n > 2 {
		t.Errorf("%d tokens were asked for, one for each scope is enough", n)
	}
}

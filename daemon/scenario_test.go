package main

import (
	"net/http"
	"testing"
	"time"

	"dispatchd/internal/sim"
)

// TestAMassReindexTellsEveryoneOnce: ORCID touches every record; nobody is
// registered again for it, and catch-up finds nothing that was not pinged.
func TestAMassReindexTellsEveryoneOnce(t *testing.T) {
	t.Parallel()
	w := aged(t, 60)
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	w.settled(len(w.users))
	w.pass(2 * time.Hour)
	puts := w.requests("put")
	w.orcid.MassReindex(len(w.users), true)
	// Not longer than ORCID's pings take: they are fanned out in real time.
	w.pass(8 * time.Minute)
	w.everyoneTaken("uni-a", w.users...)
	w.noted("uni-a")
	w.pass(25 * time.Hour)
	w.eventually("a round was made", func() bool { return w.metric("dispatchd_catch_up_rounds_total", whyTimer) >= 1 })
	for id, n := range w.taken("uni-a") {
		if n != 1 {
			t.Errorf("%s was told %d times", id, n)
		}
	}
	if made := w.requests("put") - puts; made != 0 {
		t.Errorf("%d PUTs for a re-index", made)
	}
	t.Logf("%d users: %d searches, %d records read", len(w.users), w.requests("search"), w.requests("record"))
}

// whyTimer is the label of rounds of the timer.
const whyTimer = "timer"

// TestADayWithoutORCIDsAPIEndsWithEverybodyRegistered, and pings go on in it.
func TestADayWithoutORCIDsAPIEndsWithEverybodyRegistered(t *testing.T) {
	t.Parallel()
	w := aged(t, 20)
	w.organisation("uni-a", nil)
	w.affiliate("uni-a", w.users[:10]...)
	w.registered(clientMain, w.users[:10]...)
	w.settled(10)
	w.pass(2 * time.Hour)
	var faults []int
	for _, operation := range []string{"put", "delete", "search", "record", "token"} {
		id, err := w.orcid.InjectFault(sim.Fault{Operation: operation, Kind: sim.FaultStatus, Status: http.StatusBadGateway, Body: "<html>502</html>"})
		w.must(err)
		faults = append(faults, id)
	}
	w.affiliate("uni-a", w.users[10:]...)
	w.eventually("ORCID refused something", func() bool { return w.orcid.Counters().Requests["put"][http.StatusBadGateway] > 0 })
	w.must(w.orcid.Change(w.users[0], "works", sim.Edit))
	w.pass(24 * time.Hour)
	w.everyoneTaken("uni-a", w.users[0])
	for _, id := range faults {
		w.orcid.ClearFault(id)
	}
	w.pass(2 * time.Hour)
	w.eventually("everybody is registered", func() bool { w.skip(time.Minute); return len(w.rows(clientMain)) == len(w.users) })
	t.Logf("%d PUTs answered 502, %d rows", w.orcid.Counters().Requests["put"][http.StatusBadGateway], len(w.orcid.Webhooks()))
}

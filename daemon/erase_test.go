package main

import (
	"strings"
	"testing"

	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
)

// An erased researcher is unregistered at ORCID by each credential that had a
// row, told about to nobody any more, and taken by no import; everybody else is
// told as ever.
func TestAnErasureReachesORCID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 4})
	gone, stays := w.users[0], w.users[1]
	w.organisation("uni-a", nil)
	w.organisation("uni-b", object{"credential": "other"})
	w.affiliate("uni-a", w.users...)
	w.affiliate("uni-b", gone)
	w.registered(clientMain, w.users...)
	w.registered(clientOther, gone)
	w.settled(len(w.users) + 1)
	late := w.url(gone) // ORCID may still have a ping in hand
	w.edit(gone, stays)
	w.everyoneTaken("uni-a", gone, stays)
	before := len(w.told("uni-a"))

	var e service.Erasure
	w.ask("DELETE", "/v1/users/"+gone.String(), nil, &e)
	w.unregistered(clientMain, gone)
	w.unregistered(clientOther, gone)
	job := e.Job.ID
	w.eventually("the erasure is done", func() bool {
		e = service.Erasure{}
		w.ask("GET", "/v1/erasures/"+job, nil, &e)
		return e.Job.State == "done"
	})
	if e.Removed["affiliations"] != 2 || e.Removed["registrations"] != 2 || e.Removed["attempts"] == 0 {
		t.Errorf("%+v", e)
	}
	for _, text := range e.Job.Args {
		if strings.Contains(text, gone.String()) {
			t.Errorf("the job still names the researcher: %+v", e.Job)
		}
	}
	if a, err := w.post(late); err != nil || a.status != 204 {
		t.Errorf("a late ping: %+v, %v", a, err)
	}
	w.edit(stays)
	w.eventually("the other is told", func() bool { return len(w.told("uni-a")) > before })
	w.idle()
	for _, n := range w.told("uni-a")[before:] {
		if n.ORCID == gone {
			t.Errorf("told about the erased researcher: %+v", n)
		}
	}
	var report service.ImportReport
	w.ask("POST", "/v1/organisations/uni-a/users", "orcid\n"+gone.String()+"\n", &report)
	if report.Suppressed != 1 || report.Added != 0 {
		t.Errorf("%+v", report)
	}
	var list struct{ Users []struct{ ORCID orcid.ID } }
	w.ask("GET", "/v1/organisations/uni-a/users", nil, &list)
	if len(list.Users) != len(w.users)-1 {
		t.Errorf("%+v", list)
	}
}

package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/register"
	"dispatchd/internal/service"
	"dispatchd/internal/sim"
)

// TestAnOrganisationMovesToAnotherCredentialWithoutAGap: while ORCID takes no
// registration of the new one, the old one goes on telling the organisation; it
// goes, by its owner's DELETE, ten minutes after the new one lives.
func TestAnOrganisationMovesToAnotherCredentialWithoutAGap(t *testing.T) {
	t.Parallel()
	w := aged(t, 12)
	w.organisation("uni-a", nil)
	w.organisation("uni-b", nil)
	both, moves := w.users[:4], w.users[4:]
	w.affiliate("uni-a", both...)
	w.affiliate("uni-b", w.users...)
	w.registered(clientMain, w.users...)
	w.settled(12)

	fault, err := w.orcid.InjectFault(sim.Fault{Operation: "put", Kind: sim.FaultStatus, Status: http.StatusServiceUnavailable})
	w.must(err)
	var v service.View
	w.ask("POST", "/v1/organisations/uni-b/move", object{"credential": "other"}, &v)
	if v.Credential != "other" {
		t.Fatalf("moved to %q", v.Credential)
	}
	w.eventually("a PUT of the new credential is refused", func() bool { return w.orcid.Counters().Requests["put"][http.StatusServiceUnavailable] > 0 })
	w.edit(w.users...)
	w.everyoneTaken("uni-b", w.users...)
	w.everyoneTaken("uni-a", both...)
	if n := w.deletes(); n != 0 {
		t.Fatalf("%d DELETEs before the new credential has a row", n)
	}

	w.orcid.ClearFault(fault)
	w.skip(2 * time.Minute)
	w.registered(clientOther, w.users...)
	w.settled(24)
	if n := w.deletes(); n != 0 {
		t.Fatalf("%d DELETEs before the new rows have lived for ten minutes", n)
	}
	w.pass(15 * time.Minute)
	w.registered(clientMain, both...) // uni-a still wants them
	w.settled(12 + len(both))
	if n := w.orcid.Counters().Requests["delete"]; len(n) != 1 || n[http.StatusNoContent] != int64(len(moves)) {
		t.Errorf("DELETEs were answered %v, want %d times 204: each by its owner", n, len(moves))
	}
	w.idle()
	w.recv.Forget()
	w.edit(w.users...)
	w.everyoneTaken("uni-b", w.users...)
	w.everyoneTaken("uni-a", both...)
	w.idle()
	if n := w.recv.Count(); n != len(w.users)+len(both) {
		t.Errorf("%d notifications, want %d", n, len(w.users)+len(both))
	}
	if status := w.api("POST", "/v1/organisations/uni-b/move", object{"credential": "other"}, nil); status != http.StatusConflict {
		t.Errorf("moving to where it is was answered %d", status)
	}
	if status := w.api("POST", "/v1/organisations/uni-b/move", object{"credential": "nobody's"}, nil); status != http.StatusUnprocessableEntity && status != http.StatusBadRequest {
		t.Errorf("moving to a credential that is not configured was answered %d", status)
	}
}

// newURLs waits until ORCID has a row with the URL that the configuration of now
// makes for each user.
func (w *world) newURLs(public, client string, epoch int, users ...orcid.ID) {
	w.t.Helper()
	for _, id := range users {
		url, err := w.d.app.keys.Load().URL(public, client, id, epoch, "")
		w.must(err)
		w.eventually("a new row", func() bool {
			list, err := w.orcid.WebhooksOf(id)
			w.must(err)
			for _, h := range list {
				if h.URI == url && h.Client == client {
					return true
				}
			}
			return false
		})
	}
}

// edited writes the configuration file anew with old replaced, and reloads it.
func (w *world) edited(old, new string) {
	w.t.Helper()
	raw, err := os.ReadFile(w.configPath())
	w.must(err)
	if !strings.Contains(string(raw), old) {
		w.t.Fatalf("the configuration has no %q", old)
	}
	w.must(os.WriteFile(w.configPath(), []byte(strings.ReplaceAll(string(raw), old, new)), 0o600))
	w.must(ignoreChanges(w.d.app.reload(w.t.Context())))
}

// TestAChangedPublicURLRegistersEverybodyAnew: the old rows go on until the new
// ones have lived for ten minutes, and go by the URL they were made with.
func TestAChangedPublicURLRegistersEverybodyAnew(t *testing.T) {
	t.Parallel()
	w := aged(t, 5)
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	w.settled(5)
	w.edited(`public_url = "http://`+w.addr[0]+`"`, `public_url = "http://`+w.addr[0]+`/orcid"`)
	w.newURLs("http://"+w.addr[0]+"/orcid", clientMain, 2, w.users...)
	w.settled(10)
	if n := w.deletes(); n != 0 {
		t.Errorf("%d DELETEs at once", n)
	}
	w.edit(w.users...) // both rows ping; the news is one
	w.everyoneTaken("uni-a", w.users...)
	w.pass(15 * time.Minute)
	equally(w, "rows at ORCID", 5, func() int { return len(w.orcid.Webhooks()) })
	if n := w.orcid.Counters().Requests["delete"]; n[http.StatusNoContent] != 5 || len(n) != 1 {
		t.Errorf("DELETEs were answered %v", n)
	}
	if n := w.metric("dispatchd_pings_received_total", "not_found"); n != 0 {
		t.Errorf("%v pings were answered 404", n)
	}
}

// TestAChangedClientIDLosesNoPing: until the new client has everybody, pings of
// the old one are told. Its rows are not ours to delete any more, and nobody
// tries.
func TestAChangedClientIDLosesNoPing(t *testing.T) {
	t.Parallel()
	w := aged(t, 5)
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	w.settled(5)
	const fresh = "APP-ACCEPT0000000003"
	w.must(w.orcid.AddClient(sim.Client{ID: fresh, Secret: secretMain}))
	fault, err := w.orcid.InjectFault(sim.Fault{Operation: "put", Kind: sim.FaultStatus, Status: http.StatusServiceUnavailable})
	w.must(err)
	w.edited(clientMain, fresh)
	w.edit(w.users[:2]...)
	w.everyoneTaken("uni-a", w.users[:2]...)
	w.stop()
	w.start()
	w.edit(w.users[2:]...)
	w.everyoneTaken("uni-a", w.users...)
	w.orcid.ClearFault(fault)
	w.skip(2 * time.Minute)
	w.newURLs("http://"+w.addr[0], fresh, 2, w.users...)
	w.settled(10)
	w.pass(15 * time.Minute)
	w.settled(5)
	if n := w.deletes(); n != 0 {
		t.Errorf("%d DELETEs of rows of another client", n)
	}
	for _, drift := range []register.Drift{register.RowMissing, register.RowForeign, register.RowExisted} {
		// row_made_late may come: the stop may fall before a PUT's first try.
		if n := w.metric("dispatchd_registration_drift_total", string(drift)); n != 0 {
			t.Errorf("%v rows are called %s", n, drift)
		}
	}
	if n := w.metric("dispatchd_pings_received_total", "unknown_credential"); n != 0 {
		t.Errorf("%v pings were dropped", n)
	}
}

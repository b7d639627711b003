package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/hub"
	"dispatchd/internal/orcid"
	"dispatchd/internal/secret"
	"dispatchd/internal/sim"
)

// hubRow is what the Hub registered: its user id, whose record, and with which
// credential.
type hubRow struct {
	userID     int
	id         orcid.ID
	credential string
}

func (w *world) hubURL(userID int) string { return hub.CallbackURL("http://"+w.addr[0], userID) }

// asHub registers the rows at ORCID as the Hub did, and returns the [hub] table
// and writes the map that tell of them.
func (w *world) asHub(rows []hubRow) (table string) {
	w.t.Helper()
	var csv strings.Builder
	csv.WriteString("user_id,orcid,credential\n")
	for _, r := range rows {
		client, pass := clientMain, secretMain
		if r.credential == "other" {
			client, pass = clientOther, secretOther
		}
		c, err := orcid.NewClient(orcid.ClientOptions{
			APIURL: w.orcidURL, TokenURL: w.orcidURL + "/oauth/token", ClientID: client, ClientSecret: secret.Text(pass), UserAgent: "hub",
		})
		w.must(err)
		a, err := c.PutWebhook(w.t.Context(), r.id, w.hubURL(r.userID))
		c.Close()
		if err != nil || a.Kind != orcid.Created {
			w.t.Fatalf("register %+v as the Hub: %+v %v", r, a, err)
		}
		fmt.Fprintf(&csv, "%d,%s,%s\n", r.userID, r.id, r.credential)
	}
	path := filepath.Join(filepath.Dir(w.dir), "legacy.csv")
	w.must(os.WriteFile(path, []byte(csv.String()), 0o600))
	return fmt.Sprintf("\n[hub]\nlegacy_map = %q\nlegacy_base_url = \"http://%s\"\nlegacy_until = %q\n",
		path, w.addr[0], time.Now().AddDate(0, 3, 0).Format(time.DateOnly))
}

// atORCID reports whether ORCID has the row of the Hub.
func (w *world) atORCID(userID int) bool {
	for _, h := range w.orcid.Webhooks() {
		if h.URI == w.hubURL(userID) {
			return true
		}
	}
	return false
}

// The Hub's callbacks go on working, for every organisation of the user, until a
// registration of ours has lived for ten minutes with each credential; then their
// owner unregisters them. Nothing is done twice, also over a restart.
func TestTheHubsCallbacksAreTakenOver(t *testing.T) {
	t.Parallel()
	w := aged(t, 6)
	a, both, stranger, later := w.users[0], w.users[1], w.users[2], w.users[3]
	rows := []hubRow{
		{7, a, "main"},
		{8, both, "main"},
		{9, stranger, "main"},
		{10, later, "main"},
		{11, w.users[4], "other"}, // registered by an organisation that the user has left
		{12, w.users[4], "main"},  // the same researcher, twice a user of the Hub
	}
	table := w.asHub(rows)
	w.ask("POST", "/v1/registrations/pause", nil, nil)
	w.organisation("uni-a", nil)
	w.organisation("uni-b", object{"credential": "other"})
	w.affiliate("uni-a", a, both, w.users[4])
	w.affiliate("uni-b", both)

	// Off by default.
	if got, err := w.post(w.hubURL(7)); err != nil || got.status != http.StatusNotFound {
		t.Errorf("without [hub] a ping is answered %+v %v", got, err)
	}
	w.writeConfig(table)
	if status, changes, problems := w.reload(); status != http.StatusOK || !mentions(changes, "hub.legacy_map") {
		t.Fatalf("the reload was answered %d %q %q", status, changes, problems)
	}
	w.eventually("the rows are taken over", func() bool { p, _ := w.d.app.taker.Progress(); return p.Waiting == 4 && p.NoUser == 2 })
	for _, userID := range []int{7, 8, 9} {
		if got, err := w.post(w.hubURL(userID)); err != nil || got.status != http.StatusNoContent {
			t.Errorf("the ping of %d is answered %+v %v", userID, got, err)
		}
	}
	for _, url := range []string{w.hubURL(6), w.hubURL(0), w.hubURL(7) + "/", w.hubURL(700)} {
		if got, err := w.post(url); err != nil || got.status != http.StatusNotFound {
			t.Errorf("%s is answered %+v %v", url, got, err)
		}
	}
	w.everyoneTaken("uni-a", a, both)
	w.everyoneTaken("uni-b", both)
	if got := w.metric("dispatchd_pings_received_total", "unauthenticated"); got != 3 {
		t.Errorf("%v pings are counted as unauthenticated, want 3", got)
	}
	w.pass(time.Hour)
	for _, r := range rows {
		if !w.atORCID(r.userID) {
			t.Errorf("the Hub's row %d is gone although nothing could replace it", r.userID)
		}
	}

	// Now ours are made; the Hub's go ten minutes later.
	deletes := w.requests("delete")
	w.ask("POST", "/v1/registrations/resume", nil, nil)
	w.eventually("ours are made", func() bool {
		return w.hasOwn(clientMain, a) && w.hasOwn(clientMain, both) && w.hasOwn(clientOther, both) && w.hasOwn(clientMain, w.users[4])
	})
	w.settled(4 + 4) // the Hub's live on
	w.pass(9 * time.Minute)
	if n := w.requests("delete"); n != deletes {
		t.Errorf("%d DELETEs within nine minutes", n-deletes)
	}
	w.pass(5 * time.Minute)
	w.eventually("the Hub's rows are gone", func() bool { return !w.atORCID(7) && !w.atORCID(8) && !w.atORCID(11) && !w.atORCID(12) })
	if !w.atORCID(9) || !w.atORCID(10) {
		t.Error("a row of somebody who is not ours was unregistered")
	}
	for _, id := range []orcid.ID{a, both, w.users[4]} {
		if !w.hasOwn(clientMain, id) {
			t.Errorf("%s has no registration of ours", id)
		}
	}

	// Who comes later is taken over then; nothing else is done again.
	w.settled(4)
	puts, deletes := w.requests("put"), w.requests("delete")
	w.stop()
	w.affiliateLater("uni-a", later)
	w.eventually("who came later is taken over", func() bool {
		w.d.app.taker.Set(w.d.app.hub.Load()) // now, instead of in five minutes
		p, _ := w.d.app.taker.Progress()
		return p.NoUser == 1 && p.Waiting == 1 && p.Gone == 4
	})
	w.eventually("who came later has one of ours", func() bool { return w.hasOwn(clientMain, later) })
	w.settled(5 + 1)
	w.pass(15 * time.Minute)
	w.eventually("the row of who came later is gone", func() bool { return !w.atORCID(10) })
	if n, m := w.requests("put")-puts, w.requests("delete")-deletes; n != 1 || m != 1 {
		t.Errorf("%d PUTs and %d DELETEs after the restart, want one each", n, m)
	}

	// Without [hub] what is gone stays gone and what is left is answered 404.
	w.writeConfig("")
	if status, _, _ := w.reload(); status != http.StatusOK {
		t.Fatalf("the reload was answered %d", status)
	}
	if got, err := w.post(w.hubURL(9)); err != nil || got.status != http.StatusNotFound {
		t.Errorf("afterwards a ping is answered %+v %v", got, err)
	}
	w.idle()
	w.balanced()
}

// hasOwn reports whether ORCID has a row of ours for the user and client.
func (w *world) hasOwn(client string, id orcid.ID) bool {
	return slices.ContainsFunc(w.orcid.Webhooks(), func(h sim.Webhook) bool {
		return h.Client == client && h.ORCID == id && strings.Contains(h.URI, "/hooks/")
	})
}

// affiliateLater starts the daemon again and adds a user.
func (w *world) affiliateLater(org string, id orcid.ID) {
	w.t.Helper()
	w.start()
	w.affiliate(org, id)
}

// A callback of the Hub can be guessed, so each has a limit; while Redis is away
// its pings are spooled like any other.
func TestTheHubsCallbacksAreLimitedAndSpooled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 3})
	table := w.asHub([]hubRow{{7, w.users[0], "main"}, {8, w.users[1], "main"}})
	w.simple("uni-a")
	w.writeConfig(table)
	if status, _, problems := w.reload(); status != http.StatusOK {
		t.Fatalf("the reload was answered %d %q", status, problems)
	}
	answers := map[int]int{}
	for range 30 {
		got, err := w.post(w.hubURL(7))
		w.must(err)
		answers[got.status]++
	}
	if answers[http.StatusNoContent] != 10 || answers[http.StatusTooManyRequests] != 20 {
		t.Errorf("30 pings at once are answered %v, want 10 times 204 and 20 times 429", answers)
	}
	if n := w.metric("dispatchd_pings_received_total", "limited"); n != 20 {
		t.Errorf("%v are counted as limited", n)
	}
	w.redis.Stop()
	if got, err := w.post(w.hubURL(8)); err != nil || got.status != http.StatusNoContent {
		t.Errorf("while redis is away a ping is answered %+v %v", got, err)
	}
	w.must(w.redis.Restart())
	w.everyoneTaken("uni-a", w.users[0], w.users[1])
}

package main

import (
	"encoding/json"
	"testing"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/sim"
)

// row is the URL of the client's row of a user at ORCID.
func (w *world) row(client string, id orcid.ID) string {
	w.t.Helper()
	list, err := w.orcid.WebhooksOf(id)
	w.must(err)
	for _, h := range list {
		if h.Client == client {
			return h.URI
		}
	}
	w.t.Fatalf("%s has no row of %s", client, id)
	return ""
}

// changed lets a user edit and time go by until the next round of catch-up is over.
func (w *world) changed(id orcid.ID) {
	w.t.Helper()
	w.must(w.orcid.Change(id, "works", sim.Edit))
	w.pass(30 * time.Minute)
	w.idle()
	w.rounds()
}

// rounds lets time go by until every credential was caught up with once more, by a
// round that began after this.
func (w *world) rounds() {
	w.t.Helper()
	began := w.now()
	w.eventually("both credentials are caught up with", func() bool {
		w.pass(20 * time.Minute)
		for _, credential := range []string{"main", "other"} {
			text, err := w.d.app.store.Fact(w.t.Context(), "catch-up/"+credential)
			w.must(err)
			var progress struct{ Done time.Time }
			if text != "" {
				w.must(json.Unmarshal([]byte(text), &progress))
			}
			if !progress.Done.After(began) {
				return false
			}
		}
		return true
	})
}

// TestADeadRowOfOneOfTwoCredentialsIsMadeAnew: a user of organisations of two
// credentials has two rows at ORCID; the pings of one must not hide that the
// other is dead.
func TestADeadRowOfOneOfTwoCredentialsIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := aged(t, 3)
	w.edited("rate = 24\n", "rate = 24\ncatch_up = \"3h\"\n")
	w.organisation("uni-a", nil)
	w.organisation("uni-b", object{"credential": "other"})
	w.affiliate("uni-a", w.users...)
	w.affiliate("uni-b", w.users...)
	w.registered(clientMain, w.users...)
	w.registered(clientOther, w.users...)
	w.settled(2 * len(w.users))
	w.rounds()
	w.rounds() // what they ask for begins after the registration
	id := w.users[0]
	w.must(w.orcid.Change(id, "works", sim.Edit))
	w.pass(20 * time.Minute)
	w.everyoneTaken("uni-a", id)
	w.everyoneTaken("uni-b", id)

	dead := w.row(clientMain, id)
	w.must(w.orcid.EnableWebhook(id, dead, false))
	puts := w.requests("put")
	for n := range 2 {
		a, b := w.taken("uni-a")[id], w.taken("uni-b")[id]
		w.changed(id)
		equally(w, "news of a change for uni-a, whose row is dead", a+1, func() int { return w.taken("uni-a")[id] })
		if got := w.taken("uni-b")[id]; got != b+1 {
			t.Errorf("change %d: uni-b was told %d times, want once", n+1, got-b)
		}
	}
	equally(w, "PUTs of a new row", 1, func() int { return int(w.requests("put") - puts) })
	w.settled(2*len(w.users) + 1)
	w.pass(20 * time.Minute)
	equally(w, "rows at ORCID", 2*len(w.users), func() int { w.skip(time.Second); return len(w.orcid.Webhooks()) })
	if now := w.row(clientMain, id); now == dead {
		t.Error("the dead row is still there")
	}
	if made := w.requests("put") - puts; made != 1 {
		t.Errorf("%d rows were made anew, one was dead", made)
	}
	before := w.taken("uni-a")[id]
	w.must(w.orcid.Change(id, "works", sim.Edit))
	w.pass(20 * time.Minute)
	// Time goes on: ORCID's loops turn in real time, and after a jump over their
	// turn the ping needs another.
	equally(w, "news for uni-a by the new row", before+1, func() int { w.pass(5 * time.Second); return w.taken("uni-a")[id] })

	// What is kept of them is shown, and gone after an erasure.
	var story struct {
		Watched []struct {
			Credential string    `json:"credential"`
			LastPing   time.Time `json:"last_ping"`
		} `json:"watched"`
	}
	w.ask("GET", "/v1/users/"+id.String(), nil, &story)
	pings := map[string]bool{}
	for _, v := range story.Watched {
		pings[v.Credential] = !v.LastPing.IsZero()
	}
	if !pings["main"] || !pings["other"] {
		raw, err := json.Marshal(story)
		w.must(err)
		t.Errorf("the pings of both credentials are not shown: %s", raw)
	}
	w.ask("DELETE", "/v1/organisations/uni-b/users/"+id.String(), nil, nil)
	w.unregistered(clientOther, id)
	equally(w, "pings kept by credential", 0, func() int {
		n, err := w.rdb.HLen(t.Context(), "{g}:pinged").Result()
		w.must(err)
		return int(n)
	})
}

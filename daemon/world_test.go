package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"dispatchd/internal/admin"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
	"dispatchd/internal/sim"
)

// organisation makes an organisation that is told by the world's receiver,
// below /id; more replaces keys of its settings.
func (w *world) organisation(id string, more object) {
	w.t.Helper()
	in := object{
		"name": "Organisation " + id, "credential": "main", "technical_contact": "it@" + id + ".example",
		"webhook": object{"enabled": true, "url": w.recv.URL() + "/" + id},
	}
	for key, value := range more {
		in[key] = value
	}
	w.ask("PUT", "/v1/organisations/"+id, in, nil)
}

// affiliate imports users, without announcing them.
func (w *world) affiliate(org string, ids ...orcid.ID) {
	w.t.Helper()
	var csv strings.Builder
	csv.WriteString("orcid\n")
	for _, id := range ids {
		fmt.Fprintln(&csv, id)
	}
	var report service.ImportReport
	w.ask("POST", "/v1/organisations/"+org+"/users", csv.String(), &report)
	if report.Bad > 0 || report.Lines != len(ids) {
		w.t.Fatalf("the import of %d users: %+v", len(ids), report)
	}
}

// simple is a world's usual beginning: one organisation that has every user.
func (w *world) simple(id string) {
	w.t.Helper()
	w.organisation(id, nil)
	w.affiliate(id, w.users...)
}

// url is a user's callback URL of the main credential.
func (w *world) url(id orcid.ID) string {
	w.t.Helper()
	u, err := w.d.keys.URL("http://"+w.addr[0], clientMain, id, 1, "")
	w.must(err)
	return u
}

// answer is what a ping was answered.
type answer struct {
	status     int
	retryAfter string
	took       time.Duration
}

// ping is ORCID's ping, sent by hand.
func (w *world) ping(id orcid.ID) answer {
	w.t.Helper()
	a, err := w.post(w.url(id))
	w.must(err)
	return a
}

func (w *world) post(url string) (answer, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, nil)
	if err != nil {
		return answer{}, err
	}
	began := time.Now()
	res, err := w.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	return answer{res.StatusCode, res.Header.Get("Retry-After"), time.Since(began)}, nil
}

// pingAll pings n times, the users in turn, from 32 connections; every ping
// must be answered 204 and none take longer than longestPing.
func (w *world) pingAll(n int, users []orcid.ID) {
	w.t.Helper()
	urls := make([]string, len(users))
	for i, id := range users {
		urls[i] = w.url(id)
	}
	const connections = 32
	var wg sync.WaitGroup
	for c := range connections {
		wg.Go(func() {
			for i := c; i < n; i += connections {
				switch a, err := w.post(urls[i%len(urls)]); {
				case err != nil || a.status != http.StatusNoContent:
					w.t.Errorf("ping %d was answered %+v %v", i, a, err)
					return
				case a.took > longestPing:
					w.t.Errorf("ping %d took %s", i, a.took)
				}
			}
		})
	}
	wg.Wait()
	if w.t.Failed() {
		w.t.FailNow()
	}
}

// told is one notification as an organisation got it.
type told struct {
	ORCID  orcid.ID `json:"orcid"`
	Type   string   `json:"type"`
	ID     string   `json:"id"`
	status int
	at     time.Time
}

// told lists what an organisation was told, in the order it came.
func (w *world) told(org string) []told {
	w.t.Helper()
	var out []told
	for _, r := range w.recv.Requests() {
		if r.Path != "/"+org {
			continue
		}
		var n told
		w.must(json.Unmarshal(r.Body, &n))
		n.status, n.at = r.Status, r.At
		out = append(out, n)
	}
	slices.SortStableFunc(out, func(a, b told) int { return a.at.Compare(b.at) })
	return out
}

// taken counts what an organisation took (2xx) of each user.
func (w *world) taken(org string) map[orcid.ID]int {
	w.t.Helper()
	out := map[orcid.ID]int{}
	for _, n := range w.told(org) {
		if n.status/100 == 2 {
			out[n.ORCID]++
		}
	}
	return out
}

// everyoneTaken waits until an organisation took news of each of the users.
func (w *world) everyoneTaken(org string, users ...orcid.ID) {
	w.t.Helper()
	equally(w, "users that "+org+" was told of", len(users), func() int {
		taken, n := w.taken(org), 0
		for _, id := range users {
			if taken[id] > 0 {
				n++
			}
		}
		return n
	})
}

// status is what `dispatchd status` shows.
func (w *world) status() service.Status { return w.d.app.service.Status(context.Background()) }

// problem reports whether status names a problem with these words.
func (w *world) problem(words string) bool {
	return slices.ContainsFunc(w.status().Problems, func(p service.Problem) bool { return strings.Contains(p.What, words) })
}

// idle waits until nothing is on its way. The intake log keeps what was fanned
// out for 5 s; the clock is moved over that.
func (w *world) idle() {
	w.t.Helper()
	w.skip(6 * time.Second)
	w.eventually("nothing is on its way", func() bool {
		st := w.status()
		return st.Pending == 0 && st.Spool.Waiting == 0 && st.Log == 0
	})
}

// channel is the state of an organisation's webhook.
func (w *world) channel(org string) service.Channel {
	w.t.Helper()
	var v service.View
	var err error
	if !within(patience, func() bool { // a disk that stalls makes Redis late
		v, err = w.d.app.service.Organisation(context.Background(), org)
		return err == nil
	}) || len(v.Channels) == 0 {
		w.t.Fatalf("organisation %s: %v", org, err)
	}
	return v.Channels[0]
}

// noted waits until the daemon has written what became of every delivery that it
// sent: a receiver has counted it before. A jump of the clock over the lease of
// one that is not makes it be sent again.
func (w *world) noted(org string) {
	w.t.Helper()
	equally(w, "deliveries of "+org+" under way", 0, func() int { return w.channel(org).InFlight })
}

// held reports whether the organisation's webhook is held for this reason.
func (w *world) held(org, hold string) bool {
	w.t.Helper()
	return slices.ContainsFunc(w.channel(org).Holds, func(h service.HoldView) bool { return string(h.Hold) == hold })
}

// ready is what /readyz answers.
func (w *world) ready() (admin.Readiness, int) {
	w.t.Helper()
	var r admin.Readiness
	status := w.api("GET", "/readyz", nil, &r)
	return r, status
}

// degraded reports whether /readyz names the check as not fine.
func (w *world) degraded(name string) bool {
	w.t.Helper()
	r, _ := w.ready()
	return slices.ContainsFunc(r.Checks, func(c admin.Check) bool { return c.Name == name && !c.OK })
}

// metric sums the samples of a metric whose labels have these values.
func (w *world) metric(name string, labels ...string) float64 {
	w.t.Helper()
	families, err := w.d.app.reg.Gather()
	w.must(err)
	total := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	metrics:
		for _, m := range f.GetMetric() {
			for _, want := range labels {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetValue() == want
				}
				if !found {
					continue metrics
				}
			}
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return total
}

// rows lists the callback rows at ORCID of one client, by iD.
func (w *world) rows(client string) map[orcid.ID]int {
	out := map[orcid.ID]int{}
	for _, h := range w.orcid.Webhooks() {
		if h.Client == client {
			out[h.ORCID]++
		}
	}
	return out
}

// registered waits until ORCID has a row of the client for exactly these users.
func (w *world) registered(client string, users ...orcid.ID) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%d rows of %s at ORCID", len(users), client), func() bool {
		rows := w.rows(client)
		for _, id := range users {
			if rows[id] == 0 {
				return false
			}
		}
		return len(rows) == len(users)
	})
}

// deletes counts every DELETE that reached ORCID.
func (w *world) deletes() (n int64) {
	for _, count := range w.orcid.Counters().Requests["delete"] {
		n += count
	}
	return n
}

// edit lets researchers edit their records and ORCID send its pings, all of
// which must be answered.
func (w *world) edit(users ...orcid.ID) {
	w.t.Helper()
	for _, id := range users {
		w.must(w.orcid.Change(id, "works", sim.Edit))
	}
	w.orcid.Advance(12 * time.Minute)
}

// marker tells an organisation of its own something and waits until it was
// told: whatever else was due before has been looked at by then.
func (w *world) marker(org string, id orcid.ID) {
	w.t.Helper()
	before := len(w.told(org))
	if a := w.ping(id); a.status != http.StatusNoContent {
		w.t.Fatalf("a ping was answered %+v", a)
	}
	w.eventually("the marker of "+org, func() bool { return len(w.told(org)) > before })
}

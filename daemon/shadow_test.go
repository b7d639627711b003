package main

import (
	"net/http"
	"strings"
	"testing"

	"dispatchd/internal/event"
)

// In shadow mode everything works and nothing leaves: what would have been sent
// stands in the log of attempts, the books balance, and everybody who asks is
// told. The reload that ends it lets news that wait go out.
func TestShadowMode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 3, later: true, delivery: []string{`mode = "shadow"`}})
	w.start()
	w.organisation("uni-a", object{"webhook": object{"enabled": true, "url": w.recv.URL() + "/uni-a", "payload": "hub"}})
	w.affiliate("uni-a", w.users...)
	w.pingAll(6, w.users)
	attempts := func() (list []event.Attempt) {
		var page struct {
			Attempts []event.Attempt `json:"attempts"`
		}
		w.ask("GET", "/v1/organisations/uni-a/attempts?channel=webhook", nil, &page)
		return page.Attempts
	}
	w.idle()
	list := attempts()
	seen := map[string]bool{}
	for _, a := range list {
		seen[a.ORCID.String()] = true
		if a.Result != event.Shadow || a.Type != event.Updated || a.Status != 0 || !strings.HasPrefix(a.Excerpt, `{"orcid":"`+a.ORCID.String()) {
			t.Errorf("recorded: %+v", a)
		}
	}
	if len(seen) != 3 || len(list) < 3 {
		t.Errorf("%d attempts of %d users are recorded", len(list), len(seen))
	}
	if n := w.recv.Count(); n != 0 {
		t.Errorf("the receiver got %d requests", n)
	}
	if got := w.metric("dispatchd_delivery_attempts_total", "shadow"); int(got) != len(list) {
		t.Errorf("%v attempts are counted as shadow, %d are recorded", got, len(list))
	}
	if w.metric("dispatchd_delivery_attempts_total", "delivered") != 0 {
		t.Error("attempts are counted as delivered")
	}
	if !w.problem("Shadow mode") || !w.degraded("delivery") {
		t.Error("status or readyz does not say so")
	}
	if _, status := w.ready(); status != http.StatusOK {
		t.Errorf("readyz answers %d", status)
	}
	w.balanced()

	// News that waits when it ends is told for real.
	w.ask("POST", "/v1/organisations/uni-a/pause", object{"reason": "looking at the log"}, nil)
	w.ping(w.users[0])
	w.eventually("the news waits", func() bool { return w.status().Pending == 1 })
	w.set.delivery = nil
	w.writeConfig("")
	if status, changes, _ := w.reload(); status != http.StatusOK || !mentions(changes, "delivery.mode") {
		t.Fatalf("the reload was answered %d %q", status, changes)
	}
	w.ask("POST", "/v1/organisations/uni-a/resume", nil, nil)
	w.everyoneTaken("uni-a", w.users[0])
	w.idle()
	if w.recv.Count() != 1 || w.problem("Shadow mode") || w.degraded("delivery") {
		t.Errorf("after the reload: %d requests, problems %+v", w.recv.Count(), w.status().Problems)
	}
	w.balanced()
}

package main

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"dispatchd/internal/browsertest"
	"dispatchd/internal/event"
	"dispatchd/internal/sim/receiver"
	"dispatchd/internal/sim/smtpsink"
)

// TestATechnicalContactDoesItAll drives the real daemon from a real browser: the
// link comes by real mail, Save registers the users with (a simulated) ORCID, a
// change of a record reaches the receiver and the page, and what the receiver
// refused is replayed.
func TestATechnicalContactDoesItAll(t *testing.T) {
	t.Parallel()
	browser := browsertest.For(t)
	mail, smtp := mailServer(t, smtpsink.Options{})
	w := newWorld(t, setting{users: 5, more: smtp, delivery: []string{`retry = ["50ms"]`}})
	w.ask(http.MethodPut, "/v1/organisations/uni-a", object{"name": "University A", "credential": "main", "technical_contact": "it@a.example"}, nil)
	w.affiliate("uni-a", w.users...)
	home := "http://" + w.addr[2]
	p := browser.Page(t, browsertest.Look{})
	p.Open(home)
	p.Fill("#address", "it@a.example")
	p.Press("main button")
	w.eventually("the link is mailed", func() bool { return mail.Count() > 0 })
	text := string(mail.Mails()[0].Data)
	link := regexp.MustCompile(`/sign-in/[A-Za-z0-9_-]+`).FindString(strings.ReplaceAll(text, "=\r\n", ""))
	if link == "" {
		t.Fatalf("the mail has no link:\n%s", text)
	}
	p.Open(home + link)
	p.Press("main button")
	p.Fill("#webhook_url", w.recv.URL()+"/uni-a")
	p.Tick("#webhook_enabled", true)
	p.Press("main form button")
	if !strings.Contains(p.Text("main"), "Saved.") {
		t.Fatalf("after Save:\n%s", p.Text("main"))
	}
	w.registered(clientMain, w.users...)
	p.Until("the bar reaches its end", "document.querySelector('progress').value == 5")
	p.Press("#test-title ~ form button")
	if text := p.Text("#test"); !strings.Contains(text, "The receiver took the test event") {
		t.Errorf("the test event: %q", text)
	}
	w.ping(w.users[0])
	w.everyoneTaken("uni-a", w.users[0]) // and not only the test event
	w.recv.BehaveFor("/uni-a", receiver.Status(http.StatusUnprocessableEntity, "we do not like it"))
	w.ping(w.users[1])
	w.eventually("it is given up", func() bool {
		v, err := w.d.app.service.Organisation(t.Context(), "uni-a")
		return err == nil && v.Channels[0].Channel == event.Webhook && v.Channels[0].Dead == 1
	})
	p.Open(home + "/state")
	if text := p.Text("main"); !strings.Contains(text, "5 of 5") || !strings.Contains(text, "delivered") || !strings.Contains(text, "422") || !strings.Contains(text, "Replay all") {
		t.Errorf("the state:\n%s", text)
	}
	p.Audit()
	p.Shot("daemon-state")
	before := len(w.told("uni-a"))
	w.recv.BehaveFor("/uni-a", receiver.OK())
	p.Press("#dead-title ~ form button")
	w.eventually("the replay is delivered", func() bool { return len(w.told("uni-a")) > before })
	if log := w.log.String(); strings.Contains(log, strings.TrimPrefix(link, "/sign-in/")) {
		t.Error("the log has the link")
	}
}

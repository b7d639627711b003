package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/sim/smtpsink"
)

// TestADigestAndItsUnsubscribeLink: what came in a day is one mail, over kill and
// restart, and the link in it ends the mail for good.
func TestADigestAndItsUnsubscribeLink(t *testing.T) {
	t.Parallel()
	mail, smtp := mailServer(t, smtpsink.Options{})
	w := newWorld(t, setting{users: 13, more: smtp})
	w.organisation("healthy", nil)
	w.organisation("uni-d", object{
		"webhook": object{"enabled": false}, "email": object{"enabled": true, "mode": "daily", "monthly": true}, "technical_contact": "it@uni-d.example",
	})
	marker, users := w.users[0], w.users[1:]
	w.affiliate("healthy", marker)
	w.affiliate("uni-d", users...)
	w.registered(clientMain, w.users...)
	w.pingAll(3*len(users), users)
	w.marker("healthy", marker)
	if n := mail.Count(); n != 0 {
		t.Fatalf("%d mails before the digest", n)
	}
	w.stop()
	w.start()
	w.skip(25 * time.Hour)
	w.eventually("the digest comes", func() bool { return mail.Count() == 1 })
	m, err := mail.Mails()[0].Message()
	w.must(err)
	if s := m.Header.Get("Subject"); s != "ORCID Profile Updates (12 researchers)" {
		t.Errorf("subject %q", s)
	}
	link := strings.Trim(m.Header.Get("List-Unsubscribe"), "<>")
	if !strings.HasPrefix(link, "http://"+w.addr[2]+"/u/unsubscribe/") || m.Header.Get("List-Unsubscribe-Post") != "List-Unsubscribe=One-Click" {
		t.Fatalf("headers %v", m.Header)
	}
	w.pingAll(len(users), users)
	resp, err := http.PostForm(link, url.Values{"List-Unsubscribe": {"One-Click"}})
	w.must(err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the link answers %d", resp.StatusCode)
	}
	w.eventually("the contact is told", func() bool { return mail.Count() == 2 })
	if s := subjects(t, mail, "it@uni-d.example"); !strings.Contains(s[len(s)-1], "e-mail was stopped") {
		t.Errorf("subjects %q", s)
	}
	w.skip(49 * time.Hour)
	w.marker("healthy", marker)
	if n := mail.Count(); n != 2 {
		t.Errorf("%d mails after it was stopped", n)
	}
}

package unsubscribe

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/browsertest"
	"dispatchd/internal/org"
	"dispatchd/internal/service"
)

// TestInABrowser opens and presses what a person does, on a desktop, on a phone,
// in the dark and without JavaScript, and looks at every page. Neither a page
// nor the log has a link's token in it.
func TestInABrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	browser := browsertest.For(t)
	long, contact := "Te Whare Wānanga o Waitaha University of Canterbury Library and Research Infrastructure Services Directorate", "research.information.systems.and.services@library.infrastructure.canterbury.example"
	_, _, err := w.svc.PutOrganisation(t.Context(), service.By{Who: "admin"}, "long", service.Settings{Name: &long, TechnicalContact: &contact, Email: &service.EmailSettings{Enabled: ptr(true)}})
	w.must(err)
	links := map[string]string{"uni-a": w.link("uni-a"), "filed": w.link("filed"), "long": w.link("long")}
	p := browser.Page(t, browsertest.Look{})
	look := func(name, title string) {
		t.Helper()
		for suffix, l := range map[string]browsertest.Look{"": {}, "-dark": {Dark: true}, "-phone": {Phone: true}, "-noscript": {NoScript: true}} {
			p.Look(l)
			if got := p.Text("h1"); got != title {
				t.Errorf("%s%s: %q, want %q", name, suffix, got, title)
			}
			p.Audit()
			p.Shot("unsubscribe-" + name + suffix)
		}
		page := p.HTML()
		for id, link := range links {
			if token := link[strings.LastIndexByte(link, '/')+1:]; strings.Contains(page, token) {
				t.Errorf("%s: the token of %s stands on the page", name, id)
			}
		}
	}
	for _, id := range []string{"uni-a", "filed", "long"} {
		if status := p.Open(links[id]); status != http.StatusOK {
			t.Fatalf("%s: %d", id, status)
		}
		look(id+"-1-ask", "Stop these e-mails?")
		if status := p.Press("main button"); status != http.StatusOK {
			t.Fatalf("%s pressed: %d", id, status)
		}
		look(id+"-2-done", "No more e-mail")
		<-w.box.came
	}
	if status := p.Open(links["uni-a"][:len(links["uni-a"])-3]); status != http.StatusNotFound {
		t.Errorf("a cut link: %d", status)
	}
	look("cut", "This link is not complete")
	w.must(w.svc.RemoveOrganisation(context.Background(), service.By{Who: "admin"}, "long"))
	for end := time.Now().Add(30 * time.Second); p.Open(links["long"]) != http.StatusGone; {
		if time.Now().After(end) {
			t.Fatal("the organisation did not leave")
		}
	}
	look("gone", "This organisation is not here any more")
	for name, want := range map[string]string{"Referrer-Policy": "same-origin", "Cache-Control": "no-store"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, links["uni-a"], nil)
		w.must(err)
		resp, err := w.srv.Client().Do(req)
		w.must(err)
		resp.Body.Close()
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for id, link := range links {
		if token := link[strings.LastIndexByte(link, '/')+1:]; strings.Contains(w.log.String(), token[:20]) || strings.Contains(w.log.String(), token[len(token)-20:]) {
			t.Errorf("the token of %s stands in the log", id)
		}
	}
	if o, ok := w.dir.Organisation("filed"); !ok || o.Owner != org.OwnedByFile {
		t.Error("the file's organisation is not the file's")
	}
}

func ptr[T any](v T) *T { return &v }

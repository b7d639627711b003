package web

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"

	"dispatchd/internal/browsertest"
	"dispatchd/internal/event"
	"dispatchd/internal/service"
)

// visit signs a tab in for an organisation, by an operator's link.
func (w *world) visit(id string, l browsertest.Look) *browsertest.Page {
	w.Helper()
	p := browser.Page(w.T, l)
	link, _, err := w.svc.OrgLink(w.Context(), byTest, id)
	w.must(err)
	p.Open(link)
	p.Press("main button")
	return p
}

// looks audits a page and takes its picture, in daylight, in the dark and on a
// phone; without JavaScript it looks the same and is only audited.
func looks(p *browsertest.Page, name string, noScript bool) {
	if noScript {
		p.Audit()
		return
	}
	for suffix, l := range map[string]browsertest.Look{"": {}, "-dark": {Dark: true}, "-phone": {Phone: true}} {
		p.Look(l)
		p.Audit()
		p.Shot(name + suffix)
	}
	p.Look(browsertest.Look{})
}

// TestTheWholeWay is what a technical contact does, once with JavaScript and
// once without: signs in by the mailed link, fills in the form with mistakes and
// without, sends a test event, gets a secret, signs out.
func TestTheWholeWay(t *testing.T) {
	t.Parallel()
	for name, noScript := range map[string]bool{"script": false, "noscript": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			w.org("uni-a", "University of Applied Notifications and Sciences at Aotearoa", "it@a.example")
			w.people("uni-a", 100_000_000, 3)
			p := browser.Page(t, browsertest.Look{NoScript: noScript})
			p.Open(w.url)
			if p.Path() != "/sign-in" {
				t.Fatalf("the first page is %s", p.Path())
			}
			looks(p, name+"-1-sign-in", noScript)
			p.Fill("#address", "nonsense")
			if got := p.Press("main button"); got != http.StatusBadRequest || !strings.Contains(p.Text("#address-problem"), "Enter an e-mail address") {
				t.Errorf("nonsense as address: %d %q", got, p.Text("main"))
			}
			p.Audit()
			p.Fill("#address", "it@a.example")
			p.Press("main button")
			looks(p, name+"-2-asked", noScript)
			w.eventually("the mail", func() bool { return len(w.mail.to("it@a.example")) == 1 })
			p.Open(w.mail.to("it@a.example")[0].Link)
			looks(p, name+"-3-link", noScript)
			p.Press("main button")
			if p.Path() != "/settings/webhook" {
				t.Fatalf("after signing in: %s", p.Path())
			}
			looks(p, name+"-4-settings", noScript)
			// Settings → Set Webhooks, by mouse.
			p.Click("summary")
			if p.Text(".menu a") != "Set Webhooks" {
				t.Errorf("the menu has %q", p.Text(".menu"))
			}
			p.Shot(name + "-4-menu")
			p.Press(".menu a")

			p.Press("main form button")
			if got := p.Text("#webhook_url-problem"); got != "Provide a handler URL or enable email notifications" {
				t.Errorf("neither URL nor e-mail: %q", got)
			}
			p.Fill("#webhook_url", "ftp://a.example/orcid")
			p.Tick("#webhook_enabled", true)
			p.Fill("#webhook_apikey", "hunter2-key")
			p.Tick("#email_notifications_enabled", true)
			p.Fill("#notification_email", "nobody")
			p.Press("main form button")
			looks(p, name+"-5-problems", noScript)
			if got := browsertest.Eval[string](p, "document.activeElement.id"); got != "summary" {
				t.Errorf("the focus is on %q, not on the summary of problems", got)
			}
			if n := p.Count("#summary li"); n != 2 || p.Value("#webhook_url") != "ftp://a.example/orcid" || p.Value("#webhook_apikey") != "" {
				t.Errorf("%d problems, URL %q", n, p.Value("#webhook_url"))
			}
			for _, field := range []string{"webhook_url", "notification_email"} {
				if p.Count("#"+field+"[aria-invalid=true][aria-describedby~="+field+"-problem]") != 1 || p.Text("#"+field+"-problem") == "" {
					t.Errorf("the problem of %s does not stand beside it", field)
				}
			}
			p.Click(`#summary a[href="#notification_email"]`)
			if got := browsertest.Eval[string](p, "document.activeElement.id + document.querySelector(':target').id"); !strings.Contains(got, "notification_email") {
				t.Errorf("the link of a problem leads to %q", got)
			}
			p.Fill("#webhook_url", "https://a.example/orcid")
			p.Tick("#webhook_append_orcid", true)
			p.Fill("#webhook_apikey", "hunter2-key")
			p.Fill("#notification_email", "news@a.example")
			p.Tick("#notification_cc", true)
			p.Tick("#mode-daily", true)
			p.Tick("#email_monthly", false)
			p.Tick("#event-CREATED", false)
			p.Press("main form button")
			if text := p.Text("main"); !strings.Contains(text, "Saved.") || !strings.Contains(text, "Now registering 3 users") || !strings.Contains(text, "has not confirmed yet") {
				t.Errorf("after Save:\n%s", text)
			}
			looks(p, name+"-6-saved", noScript)
			v := w.view("uni-a")
			if x := v.Webhook; x.URL != "https://a.example/orcid" || !x.Enabled || !x.AppendORCID || !x.APIKeySet || len(x.Events) != 1 || x.Events[0] != event.Updated {
				t.Errorf("the webhook: %+v", x)
			}
			if x := v.Email; !x.Enabled || x.Pending != "news@a.example" || !x.CC || x.Mode != "daily" || x.Monthly {
				t.Errorf("e-mail: %+v", x)
			}
			w.eventually("the address is asked", func() bool { return len(w.mail.to("news@a.example")) == 1 })
			p.Press("form[action='/settings/webhook/ask-again'] button")
			w.eventually("the address is asked again", func() bool { return len(w.mail.to("news@a.example")) == 2 })
			stranger := browser.Page(t, browsertest.Look{NoScript: noScript})
			stranger.Open(w.mail.to("news@a.example")[0].Link)
			looks(stranger, name+"-7-confirm", noScript)
			stranger.Press("main button")
			stranger.Audit()
			if w.view("uni-a").Email.Address != "news@a.example" {
				t.Error("the address is not confirmed")
			}
			p.Open(w.url + "/settings/webhook")
			p.Tick("#webhook_apikey_remove", true)
			p.Tick("#webhook_append_orcid", false)
			p.Tick("#event-CREATED", true)
			p.Tick("#event-UPDATED", false)
			p.Tick("#notification_cc", false)
			p.Tick("#mode-weekly", true)
			p.Tick("#email_monthly", true)
			p.Press("main form button")
			v = w.view("uni-a")
			if x := v.Webhook; !x.Enabled || x.AppendORCID || x.APIKeySet || len(x.Events) != 1 || x.Events[0] != event.Created {
				t.Errorf("the webhook, otherwise: %+v", x)
			}
			if x := v.Email; !x.Enabled || x.Address != "news@a.example" || x.CC || x.Mode != "weekly" || !x.Monthly {
				t.Errorf("e-mail, otherwise: %+v", x)
			}
			p.Tick("#webhook_enabled", false)
			p.Tick("#mode-each", true)
			p.Fill("#notification_email", "")
			p.Press("main form button")
			if v = w.view("uni-a"); v.Webhook.Enabled || v.Email.Mode != "each" || v.Email.Address != "" {
				t.Errorf("only e-mail, to the contact: %+v %+v", v.Webhook, v.Email)
			}
			w.recv.answer.Store(&refused)
			p.Open(w.url + "/settings/webhook")
			p.Press("#test-title ~ form button")
			if text := p.Text("#test"); !strings.Contains(text, evil) || !strings.Contains(text, "It answered 500") {
				t.Errorf("the answer to the test event: %q", text)
			}
			looks(p, name+"-8-test", noScript)
			p.Open(w.url + "/settings/secret")
			p.Press("main form button")
			if !strings.HasPrefix(p.Text("#signing-secret"), "whsec_") {
				t.Errorf("the secret is %q", p.Text("#signing-secret"))
			}
			looks(p, name+"-9-secret", noScript)
			if html := p.HTML(); strings.Contains(html, "hunter2") {
				t.Error("the API key is on the page")
			}
			p.Press(".who button")
			if p.Open(w.url + "/settings/webhook"); p.Path() != "/sign-in" {
				t.Errorf("after signing out: %s", p.Path())
			}
		})
	}
}

// TestProgressMovesAndReplayWorks watches the state page: with JavaScript in
// place, without it by loading itself anew.
func TestProgressMovesAndReplayWorks(t *testing.T) {
	t.Parallel()
	for name, noScript := range map[string]bool{"script": false, "noscript": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			w.org("uni-a", "University A", "it@a.example")
			w.enable("uni-a")
			u := w.people("uni-a", 200_000_000, 6)
			p := w.visit("uni-a", browsertest.Look{NoScript: noScript})
			p.Open(w.url + "/state")
			value := func() float64 { return browsertest.Eval[float64](p, "document.querySelector('progress').value") }
			if value() != 0 {
				t.Fatalf("the bar is at %v", value())
			}
			if !noScript {
				browsertest.Eval[bool](p, "window.kept = true")
			}
			for _, id := range u[:4] {
				w.register(id, event.RegAlive)
			}
			p.Until("the bar moves", "document.querySelector('progress').value == 4")
			if !noScript && !browsertest.Eval[bool](p, "window.kept === true") {
				t.Error("the page was loaded anew although JavaScript runs")
			}
			w.attempt("uni-a", u[0], event.Delivered, 204, "", "")
			w.attempt("uni-a", u[1], event.Dead, 500, "status 500", "<h1>Internal Server Error</h1>\n"+evil)
			w.attempt("uni-a", u[2], event.Dead, 0, "no answer within 15 s", "")
			w.attempt("uni-a", u[3], event.Retry, 503, "status 503", strings.Repeat("long ", 90))
			p.Open(w.url + "/state")
			looks(p, name+"-state", noScript)
			if p.Count(".picture rect.good") != 1 || p.Count(".picture rect.poor") != 1 || p.Count("#attempts tbody tr") != 4 {
				t.Errorf("%d %d %d", p.Count(".picture rect.good"), p.Count(".picture rect.poor"), p.Count("#attempts tbody tr"))
			}
			p.Press(`td form button`)
			w.eventually("one dead letter is replayed", func() bool { return w.view("uni-a").Channels[0].Dead == 1 })
			if !strings.Contains(p.Text("main"), "are being tried again") {
				t.Errorf("after Replay:\n%s", p.Text("main"))
			}
			p.Open(w.url + "/state")
			p.Press("form.actions[action='/state/replay'] button")
			w.eventually("all are replayed", func() bool { return w.view("uni-a").Channels[0].Dead == 0 })
			p.Open(w.url + "/state")
			p.Press("#channels button")
			if !strings.Contains(p.Text("#channels"), "paused") {
				t.Errorf("after Pause:\n%s", p.Text("#channels"))
			}
			looks(p, name+"-paused", noScript)
			p.Press("#channels button")
			if strings.Contains(p.Text("#channels"), "paused") {
				t.Errorf("after Resume:\n%s", p.Text("#channels"))
			}
		})
	}
}

func TestUsersPageInABrowser(t *testing.T) {
	t.Parallel()
	for name, noScript := range map[string]bool{"users": false, "users-noscript": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			usersPage(t, name, noScript)
		})
	}
}

func usersPage(t *testing.T, name string, noScript bool) {
	t.Helper()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	w.enable("uni-a")
	p := w.visit("uni-a", browsertest.Look{NoScript: noScript})
	p.Open(w.url + "/users")
	looks(p, name+"-0", noScript)
	p.Fill("#orcid", "0000-0002-1825-0098")
	p.Press("form[action='/users'] button")
	if !strings.Contains(p.Text("#orcid-problem"), "ORCID iD") {
		t.Errorf("a wrong iD: %q", p.Text("main"))
	}
	looks(p, name+"-problem", noScript)
	p.Fill("#orcid", "0000-0002-1825-0097")
	p.Fill("#name", "Josiah Stinkney Carberry, Professor of Psychoceramics at a University with a Very Long Name")
	p.Fill("#email", "josiah.stinkney.carberry@psychoceramics.department.university.example")
	p.Press("form[action='/users'] button")
	looks(p, name+"-1", noScript)
	list := filepath.Join(t.TempDir(), "users.csv")
	var b strings.Builder
	b.WriteString("orcid,name\nnonsense,x\n")
	for i, id := range w.people("uni-a", 500_000_000, 3) {
		fmt.Fprintf(&b, "%s,\"%s %d\"\n", id, strings.ReplaceAll(evil, `"`, `""`), i)
	}
	b.WriteString("0000-0001-5109-3700,Ada\n")
	w.must(os.WriteFile(list, []byte(b.String()), 0o600))
	p.Upload("#list", list)
	p.Press("form[action='/users/upload'] button")
	looks(p, name+"-uploaded", noScript)
	if text := p.Text("main"); !strings.Contains(text, "Bad lines") || p.Count("tbody tr") != 1 {
		t.Errorf("after the upload:\n%s", text)
	}
	w.people("uni-a", 600_000_000, 60)
	p.Open(w.url + "/users")
	looks(p, name+"-many", noScript)
	if strings.Contains(p.HTML(), "<img") {
		t.Error("a name became HTML")
	}
	before := w.view("uni-a").Users
	p.Press("tbody a")
	looks(p, name+"-remove", noScript)
	p.Press("main form button")
	if n := w.view("uni-a").Users; n != before-1 || !strings.Contains(p.Text("main"), "The user was removed.") {
		t.Errorf("%d users of %d:\n%s", n, before, p.Text("main"))
	}
}

func TestReadOnlyAndChoosingInABrowser(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.fileOrg("uni-f", "University F", "it@x.example")
	w.org("uni-g", "University G", "it@x.example")
	p := browser.Page(t, browsertest.Look{})
	p.Open(w.url + w.link(w.client(), "it@x.example"))
	p.Press("main button")
	looks(p, "choose", false)
	p.Tick("#org-0", true)
	p.Press("main button")
	looks(p, "read-only", false)
	if p.Count("main fieldset:disabled input") == 0 || p.Count("main fieldset:enabled input") != 0 || !strings.Contains(p.Text("main"), "configuration file") {
		t.Errorf("the form can be changed:\n%s", p.Text("main"))
	}
	p.Open(w.url + "/nothing")
	looks(p, "sorry", false)
	w.must(w.svc.Pause(t.Context(), byTest, "uni-f", event.Webhook, ""))
	_, err := w.store.SetHold(t.Context(), "uni-f", event.Email, event.HoldBreaker, w.store.Now().Add(9*time.Minute), "status 500: database is on holiday")
	w.must(err)
	_, err = w.svc.PatchOrganisation(t.Context(), byTest, "uni-g", service.Settings{Name: ptr("G")})
	w.must(err)
	p.Open(w.url + "/state")
	looks(p, "state-held", false)
}

// TestByKeyboard: the skip link comes first and everything that can be used
// shows that it has the focus.
func TestByKeyboard(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	p := w.visit("uni-a", browsertest.Look{})
	p.Open(w.url + "/settings/webhook")
	want := browsertest.Eval[int](p, `[...document.querySelectorAll("a[href],button,input:not([type=hidden]):not([type=radio]),select,summary")].filter((e) => !e.closest("details:not([open]) > ul")).length`)
	seen := map[string]bool{}
	for i := range want + 5 {
		p.Keys(kb.Tab)
		at := browsertest.Eval[string](p, `(() => { const e = document.activeElement, s = getComputedStyle(e);
			return e.tagName + " " + (e.id || e.getAttribute("href") || e.textContent.trim()) + "|" + (s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2); })()`)
		what, ring, _ := strings.Cut(at, "|")
		if i == 0 && what != "A #main" {
			t.Errorf("the first stop is %s", what)
		}
		if strings.HasPrefix(what, "BODY") {
			break
		}
		seen[what] = true
		if ring != "true" {
			t.Errorf("%s does not show its focus", what)
		}
	}
	for _, must := range []string{"SUMMARY Settings", "INPUT webhook_url", "INPUT webhook_enabled", "INPUT notification_email", "BUTTON Save", "BUTTON Send a test event"} {
		if !seen[must] {
			t.Errorf("%s cannot be reached by keyboard (%v)", must, seen)
		}
	}
	p.Open(w.url + "/settings/webhook")
	for range 3 {
		p.Keys(kb.Tab)
	}
	p.Keys(kb.Enter) // the menu opens by keyboard
	if p.Count("details[open]") != 1 {
		t.Error("the menu does not open by keyboard")
	}
}

// TestAnotherSiteInTheSameBrowser sends our form from a page of another origin,
// with the session's cookie in the same browser.
func TestAnotherSiteInTheSameBrowser(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	p := w.visit("uni-a", browsertest.Look{})
	evilSite := foreign(t, `<form method="post" action="`+w.url+`/settings/secret"><button>Win</button></form>`)
	before := must(w.svc.Secrets(t.Context(), byTest, "uni-a"))
	p.Open(evilSite)
	if got := p.Press("button"); got != http.StatusForbidden && p.Path() != "/sign-in" {
		t.Errorf("another site's form: %d %s\n%s", got, p.Path(), p.Text("main"))
	}
	if after := must(w.svc.Secrets(t.Context(), byTest, "uni-a")); after["signing_secret"] != before["signing_secret"] {
		t.Error("another site made a new secret")
	}
}

// TestFoldedListsAndApologiesInABrowser: the rest of a list opens without
// JavaScript, and the menu stays where something cannot be done.
func TestFoldedListsAndApologiesInABrowser(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	w.enable("uni-a")
	for _, id := range w.people("uni-a", 700_000_000, unfolded+2) {
		w.attempt("uni-a", id, event.Dead, 500, "the receiver answered 500 Internal Server Error", "out of disk")
	}
	p := w.visit("uni-a", browsertest.Look{})
	p.Open(w.url + "/state")
	looks(p, "folded", false)
	p.Click("#more-dead summary")
	p.Until("the rest is shown", `document.querySelector("#more-dead").open`)
	p.Open(w.url + "/users/nobody/remove")
	if !strings.Contains(p.Text("header"), "State") || !strings.Contains(p.Text("main"), "There is no such page") {
		t.Errorf("%q\n%q", p.Text("header"), p.Text("main"))
	}
	looks(p, "apology", false)
	list := filepath.Join(t.TempDir(), "users.csv")
	w.must(os.WriteFile(list, []byte("surname\nx\n"), 0o600))
	p.Open(w.url + "/users")
	p.Upload("#list", list)
	p.Press("form[action='/users/upload'] button")
	looks(p, "refused", false)
}

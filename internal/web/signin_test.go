package web

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/service"
)

// The limits of package service.
const (
	linkLife       = 15 * time.Minute
	linksByAddress = 3
	linksByAll     = 500
)

func TestSignInByLink(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "IT@a.example")
	c := w.client()
	c.get("/").wants(t, http.StatusSeeOther, "/sign-in")
	c.get("/settings/webhook").wants(t, http.StatusSeeOther, "/sign-in")
	link := w.link(c, "it@a.example")
	if !strings.HasPrefix(link, "/sign-in/") {
		t.Fatalf("the link is %s", link)
	}
	for range 3 { // mail scanners open it, and change nothing
		w.client().get(link).wants(t, http.StatusOK, "Press the button", `action="`+link+`"`)
	}
	a := c.post(link, nil).wants(t, http.StatusSeeOther, "/settings/webhook")
	cookie := a.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || cookie.Secure || len(cookie.Value) < 40 {
		t.Errorf("cookie %+v", cookie)
	}
	c.get("/settings/webhook").wants(t, http.StatusOK, "University A", "it@a.example")
	c.get("/sign-in").wants(t, http.StatusOK)
	for _, again := range []answer{w.client().get(link), w.client().post(link, nil)} {
		again.wants(t, http.StatusGone, "This link has been used")
	}
	c.post("/sign-out", nil).wants(t, http.StatusSeeOther, "/sign-in")
	c.get("/settings/webhook").wants(t, http.StatusSeeOther, "/sign-in")
	// The cookie of before is worth nothing: the session itself is gone.
	late := w.client()
	u, err := url.Parse(w.url)
	w.must(err)
	late.http.Jar.SetCookies(u, []*http.Cookie{cookie})
	late.get("/settings/webhook").wants(t, http.StatusSeeOther, "/sign-in")
	for _, want := range []string{"sign-in link asked for", "who=it@a.example", "signed in", "signed out", "from=127.0.0.1"} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("the log has no %q", want)
		}
	}
	if token := strings.TrimPrefix(link, "/sign-in/"); strings.Contains(w.log.String(), token) || strings.Contains(w.log.String(), cookie.Value) {
		t.Error("the log has the link or the session")
	}
}

// TestALinkWorksOnceHoweverItIsWritten: base64 may have line breaks inside, and
// blanks around a token are forgiven.
func TestALinkWorksOnceHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	link := w.link(w.client(), "it@a.example")
	token := strings.TrimPrefix(link, "/sign-in/")
	// Used first in another form: it is the same link.
	w.client().post("/sign-in/"+token[:9]+"%0A"+token[9:], nil).wants(t, http.StatusSeeOther, "/settings/webhook")
	for _, form := range []string{token, token[:9] + "%0A" + token[9:], token[:20] + "%0D%0A" + token[20:], "%0A" + token, token + "%0A", "%20" + token, token + "%20%20"} {
		for _, a := range []answer{w.client().get("/sign-in/" + form), w.client().post("/sign-in/"+form, nil)} {
			a.wants(t, http.StatusGone, "This link has been used")
			if len(a.Cookies()) > 0 {
				t.Errorf("%q gave a second session", form)
			}
		}
	}
}

// TestNobodyLearnsWhoIsAContact: the answer and what is kept are the same.
func TestNobodyLearnsWhoIsAContact(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	c := w.client()
	known := c.post("/sign-in", url.Values{"address": {"it@a.example"}})
	w.eventually("the mail", func() bool { return len(w.mail.to("it@a.example")) == 1 })
	unknown := c.post("/sign-in", url.Values{"address": {"it@b.example"}})
	if known.StatusCode != unknown.StatusCode || strings.ReplaceAll(known.body, "it@a.example", "X") != strings.ReplaceAll(unknown.body, "it@b.example", "X") {
		t.Errorf("%d\n%s\n%d\n%s", known.StatusCode, known.body, unknown.StatusCode, unknown.body)
	}
	w.eventually("the jobs are gone", func() bool {
		jobs, err := w.svc.Jobs(t.Context())
		w.must(err)
		for _, j := range jobs {
			if strings.Contains(fmt.Sprint(j), "b.example") {
				return false
			}
		}
		return true
	})
	if n := len(w.mail.to("it@b.example")); n != 0 {
		t.Errorf("%d mails to who is no contact", n)
	}
}

// TestNobodyIsKeptFromSigningIn: whoever asks for somebody else's links, from
// wherever and as often as they like, neither floods her nor locks her out.
func TestNobodyIsKeptFromSigningIn(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "It@a.example")
	stranger := w.client()
	flood := func(from string) {
		t.Helper()
		for i := range 10 {
			stranger.from = fmt.Sprintf(from, i)
			stranger.post("/sign-in", url.Values{"address": {"it@A.example"}}).wants(t, http.StatusOK, "Look into your mailbox")
		}
	}
	flood("198.51.100.%d")
	mails := func() []service.Letter { return w.mail.to("it@a.example") }
	w.eventually("the mails", func() bool { return len(mails()) == linksByAddress })
	// At the end of the window, when she is refused a link of her own, those that
	// the stranger made her get still work.
	w.ahead.Add(int64(linkLife - time.Minute))
	c := w.client()
	c.from = "203.0.113.9"
	c.post("/sign-in", url.Values{"address": {"it@a.example"}}).wants(t, http.StatusOK, "use the newest one in your mailbox")
	c.post(strings.TrimPrefix(mails()[linksByAddress-1].Link, w.url), nil).wants(t, http.StatusSeeOther, "/settings/webhook")
	if n := len(mails()); n != linksByAddress {
		t.Errorf("%d mails", n)
	}
}

// TestAFloodOfStrangersKeepsNoContactOut: beyond what is noted for all, who is
// no contact leaves nothing behind, and who is gets her link.
func TestAFloodOfStrangersKeepsNoContactOut(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	for range linksByAll + 1 {
		_, err := w.store.Count(t.Context(), "links", linkLife)
		w.must(err)
	}
	c := w.client()
	c.post("/sign-in", url.Values{"address": {"it@b.example"}}).wants(t, http.StatusOK, "Look into your mailbox")
	c.post(w.link(c, "it@a.example"), nil).wants(t, http.StatusSeeOther, "/settings/webhook")
	if n := strings.Count(w.log.String(), "sign-in link asked for"); n != 1 {
		t.Errorf("%d requests are noted", n)
	}
}

func TestAskingForLinksIsLimited(t *testing.T) {
	t.Parallel()
	w := setup(t)
	c := w.client()
	ask := func(address string) int { return c.post("/sign-in", url.Values{"address": {address}}).StatusCode }
	c.from = "2001:db8:1:2::1"
	for i := range 20 {
		if got := ask(fmt.Sprintf("x%d@a.example", i)); got != http.StatusOK {
			t.Fatalf("link %d: %d", i, got)
		}
	}
	c.from = "2001:db8:1:2:ffff::9" // the same customer
	c.post("/sign-in", url.Values{"address": {"y@a.example"}}).wants(t, http.StatusTooManyRequests, "Too many links", `value="y@a.example"`)
	for _, bad := range []string{"", "a", "a@", "A <a@b.example>", "a@b.example, c@b.example", "a@b.example\r\nBcc: x@y.example", "<script>alert(1)</script>"} {
		a := c.post("/sign-in", url.Values{"address": {bad}}).wants(t, http.StatusBadRequest, `id="address-problem"`, `aria-invalid="true"`)
		if strings.Contains(a.body, "<script>") {
			t.Error("a script came back")
		}
	}
}

func TestLinksThatDoNotWork(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	c := w.client()
	link := w.link(c, "it@a.example")
	for _, damaged := range []string{link[:len(link)-3], link + "A", "/sign-in/x", "/sign-in/" + strings.Repeat("A", 5000)} {
		c.get(damaged).wants(t, http.StatusNotFound, "This link is not complete")
		c.post(damaged, nil).wants(t, http.StatusNotFound)
	}
	w.ahead.Add(int64(16 * time.Minute))
	c.get(link).wants(t, http.StatusGone, "This link has expired")
	c.post(link, nil).wants(t, http.StatusGone, "This link has expired")
	fresh := w.link(c, "it@a.example")
	other := "new@a.example"
	_, err := w.svc.PatchOrganisation(t.Context(), byTest, "uni-a", service.Settings{TechnicalContact: &other})
	w.must(err)
	c.post(fresh, nil).wants(t, http.StatusGone, "not here any more")
	if len(c.http.Jar.Cookies(must(url.Parse(w.url)))) != 0 {
		t.Error("a cookie was set")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestOneLinkSignsInOnce(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	link := w.link(w.client(), "it@a.example")
	var in atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		c := w.client()
		wg.Go(func() {
			if c.post(link, nil).StatusCode == http.StatusSeeOther {
				in.Add(1)
			}
		})
	}
	wg.Wait()
	if in.Load() != 1 {
		t.Errorf("%d got in", in.Load())
	}
}

func TestChoosingAmongSeveral(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@x.example")
	w.org("uni-b", "University B <b>", "it@x.example")
	w.org("uni-c", "University C", "it@c.example")
	c := w.client()
	c.post(w.link(c, "it@x.example"), nil).wants(t, http.StatusSeeOther, "/choose")
	c.get("/settings/webhook").wants(t, http.StatusSeeOther, "/choose")
	if a := c.get("/choose").wants(t, http.StatusOK, "University A", "University B &lt;b&gt;"); strings.Contains(a.body, "uni-c") {
		t.Error("an organisation of somebody else is offered")
	}
	for _, other := range []string{"uni-c", "uni-z", ""} {
		c.post("/choose", url.Values{"org": {other}}).wants(t, http.StatusNotFound)
	}
	c.post("/choose", url.Values{"org": {"uni-b"}}).wants(t, http.StatusSeeOther, "/settings/webhook")
	c.get("/settings/webhook").wants(t, http.StatusOK, "University B &lt;b&gt;")
	// Who is not the contact any more is out of it at once.
	other := "new@x.example"
	_, err := w.svc.PatchOrganisation(t.Context(), byTest, "uni-b", service.Settings{TechnicalContact: &other})
	w.must(err)
	c.get("/settings/webhook").wants(t, http.StatusSeeOther, "/choose")
	_, err = w.svc.PatchOrganisation(t.Context(), byTest, "uni-a", service.Settings{TechnicalContact: &other})
	w.must(err)
	c.get("/settings/webhook").wants(t, http.StatusSeeOther, "/sign-in")
	w.client().post("/choose", url.Values{"org": {"uni-a"}}).wants(t, http.StatusUnauthorized, "You are signed out")
}

func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	c := w.signedInTo("uni-a")
	c.get("/settings/webhook").wants(t, http.StatusOK)
	w.ahead.Add(int64(12*time.Hour + time.Minute))
	c.get("/settings/webhook").wants(t, http.StatusSeeOther, "/sign-in")
	w.ahead.Store(0)
	w.must(w.svc.RemoveOrganisation(t.Context(), byTest, "uni-a"))
	c.get("/settings/webhook").wants(t, http.StatusSeeOther, "/sign-in")
}

func TestOtherSitesCannotSendForms(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	c := w.signedInTo("uni-a")
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
	} {
		c.post("/sign-out", nil, header...).wants(t, http.StatusForbidden, "did not come from our own page")
	}
	c.get("/settings/webhook").wants(t, http.StatusOK)
}

func TestRedisAway(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	c := w.signedInTo("uni-a")
	w.must(w.store.Close())
	c.get("/settings/webhook").wants(t, http.StatusServiceUnavailable, "This does not work right now")
	c.post("/sign-in", url.Values{"address": {"it@a.example"}}).wants(t, http.StatusServiceUnavailable)
}

func TestPagesWithoutSigningIn(t *testing.T) {
	t.Parallel()
	w := setup(t)
	c := w.client()
	c.get("/nothing").wants(t, http.StatusNotFound, "There is no such page")
	c.get("/look/look.css").wants(t, http.StatusOK, "--page")
	c.post("/sign-in", url.Values{"address": {strings.Repeat("x", maxForm+1)}}).wants(t, http.StatusBadRequest, "could not be read")
	if a := c.get("/sign-in"); !strings.Contains(a.Header.Get("Content-Security-Policy"), "default-src 'none'") || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", a.Header)
	}
	if _, err := New(Options{}); err == nil {
		t.Error("no options are taken")
	}
	pages, err := New(Options{Service: w.svc, Logger: slog.New(slog.DiscardHandler), Secure: true, Mail: func() bool { return false }})
	w.must(err)
	rec := httptest.NewRecorder()
	pages.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/sign-in", nil))
	if !strings.Contains(rec.Body.String(), "no mail server") || strings.Contains(rec.Body.String(), "<form") {
		t.Errorf("without a mail server:\n%s", rec.Body)
	}
	if k := pages.cookie("x", time.Now()); !k.Secure || k.Name != "__Host-dispatchd" {
		t.Errorf("over TLS: %+v", k)
	}
}

// TestAWrongMethodIsNoMissingPage: a program that asks in the wrong way hears
// that, and how to ask.
func TestAWrongMethodIsNoMissingPage(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	c := w.signedInTo("uni-a")
	for _, x := range []struct{ method, path, allow string }{
		{http.MethodPost, "/", "GET, HEAD"},
		{http.MethodPut, "/sign-in", "GET, HEAD, POST"},
		{http.MethodGet, "/sign-out", "POST"},
		{http.MethodDelete, "/settings/webhook", "GET, HEAD, POST"},
		{http.MethodGet, "/state/replay", "POST"},
		{http.MethodPatch, "/users/0000-0002-1825-0097/remove", "GET, HEAD, POST"},
		{http.MethodPost, "/look/look.css", "GET, HEAD"},
		{http.MethodPost, "/nothing", ""},
		{http.MethodGet, "/users/0000-0002-1825-0097", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), x.method, w.url+x.path, nil)
		w.must(err)
		a := c.send(req)
		want, says := http.StatusMethodNotAllowed, "This address does not work like that"
		if x.allow == "" {
			want, says = http.StatusNotFound, "There is no such page"
		}
		if a.wants(t, want, says); a.Header.Get("Allow") != x.allow {
			t.Errorf("%s %s allows %q, want %q", x.method, x.path, a.Header.Get("Allow"), x.allow)
		}
	}
}

package page

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dispatchd/internal/browsertest"
	"dispatchd/internal/directory"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
	"dispatchd/internal/servicetest"
	"dispatchd/internal/signed"
	"dispatchd/internal/store"
)

var browser *browsertest.Browser

func TestMain(m *testing.M) {
	var err error
	if browser, err = browsertest.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // TestMain has to
	}
	code := m.Run()
	if err := browser.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code) //nolint:forbidigo // TestMain has to
}

const josiah = "0000-0002-1825-0097"

type receiver struct{}

func (receiver) Test(context.Context, *org.Organisation) service.TestAnswer {
	return service.TestAnswer{Status: 500, Error: "the receiver answered 500 Internal Server Error", Excerpt: "<b>Oops</b>", Duration: 12 * time.Millisecond}
}

type bundle struct {
	testing.TB
	redis *redistest.Server
	store *store.Store
	svc   *service.Service
	token atomic.Pointer[secret.Text]
	now   atomic.Int64 // of sessions, s
	url   string
	spool service.SpoolState
	creds []service.CredentialState
}

func setup(t testing.TB) *bundle {
	t.Helper()
	b := &bundle{TB: t, creds: []service.CredentialState{{Name: "main", State: "ok", Rate: 20, Waiting: 3}}}
	token := secret.Text("the-admin-token-0123456789")
	b.token.Store(&token)
	b.now.Store(time.Now().Unix())
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	b.must(err)
	log := slog.New(slog.DiscardHandler)
	b.redis = redistest.Start(t)
	b.store, err = store.New(store.Options{URL: b.redis.URL(), DataDir: t.TempDir(), Box: box, Logger: log})
	b.must(err)
	t.Cleanup(func() { b.store.Close() })
	b.must(b.store.Attach(context.Background()))
	signer, err := signed.New([]byte(strings.Repeat("m", 32)))
	b.must(err)
	b.svc, err = service.New(service.Options{
		Signer: signer, WebURL: func() string { return "https://hub.example" },
		Store: b.store, Directory: directory.New(), Hints: servicetest.NoHints{}, Tester: receiver{}, Credentials: func() []string { return []string{"main"} },
		Logger: log, Panics: func(c string) { t.Errorf("%s panicked", c) }, Probe: service.Probe{
			Actors: func() service.ActorState {
				return service.ActorState{Credentials: b.creds, InFlight: map[event.Channel]int{event.Webhook: 2}}
			},
			Spool: func() service.SpoolState { return b.spool },
		},
	})
	b.must(err)
	b.must(b.svc.Load(context.Background()))
	p, err := New(Options{
		Service: b.svc, Token: func() secret.Text { return *b.token.Load() }, Logger: log, Version: "v1.2.3",
		Now: func() time.Time { return time.Unix(b.now.Load(), 0) },
	})
	b.must(err)
	srv := httptest.NewServer(p.Handler())
	t.Cleanup(srv.Close)
	b.url = srv.URL
	return b
}

func (b *bundle) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// organisations makes n of them, the first with a name that is too long.
func (b *bundle) organisations(n int) {
	b.Helper()
	ctx := context.Background()
	for i := range n {
		o := org.Organisation{
			ID: fmt.Sprintf("uni-%03d", i), Name: fmt.Sprintf("University of the Number %d", i), Credential: "main", Owner: org.OwnedByAPI, TechnicalContact: "it@uni.example",
			Webhook: org.Webhook{Enabled: true, URL: fmt.Sprintf("https://uni-%03d.example/orcid", i), Events: []event.Type{event.Created, event.Updated}}, Email: org.Email{Mode: org.Each},
		}
		if i == 0 {
			o.Name = "Te Whare Wānanga o te Ūpoko o te Ika a Māui <b>" + strings.Repeat("Llanfairpwllgwyngyll", 6)
			o.Webhook.URL += strings.Repeat("/very-long-path", 20)
		}
		b.must(b.store.SaveOrganisation(ctx, o))
		b.must(b.store.SetChannel(ctx, o.ID, event.Webhook, true))
	}
	b.must(b.svc.Load(ctx))
}

// busy gives the first organisation every kind of thing to show.
func (b *bundle) busy() {
	b.Helper()
	ctx := context.Background()
	id, err := orcid.Parse(josiah)
	b.must(err)
	by := service.By{Who: "test"}
	_, err = b.svc.AddUser(ctx, by, "uni-000", id, service.Person{Name: "Josiah <i>Carberry</i>", Email: "jc@uni.example", EPPN: "jc@uni"})
	b.must(err)
	u, err := b.store.User(ctx, id)
	b.must(err)
	u.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 2, Base: 1, Changed: b.store.Now()}}
	_, err = b.store.SaveUser(ctx, *u, time.Time{})
	b.must(err)
	for i, r := range []event.Result{event.Delivered, event.Dead, event.Retry} {
		target := store.Target{Org: "uni-000", Channel: event.Webhook, ORCID: id, Type: event.Updated, At: b.store.Now().Add(-time.Minute), Entry: fmt.Sprintf("%d-1", i+1)}
		_, err := b.store.Enqueue(ctx, 0, []store.Target{target}, 0)
		b.must(err)
		c, err := b.store.Claim(ctx, "uni-000", event.Webhook, 1, time.Minute)
		b.must(err)
		d := c.Deliveries[0]
		a := event.Attempt{DeliveryID: d.ID(), ORCID: id, Channel: event.Webhook, Type: d.Type, Number: 1, Start: b.store.Now(), Duration: 312 * time.Millisecond, Status: 204, Result: r}
		if r != event.Delivered {
			a.Status, a.Error, a.Excerpt = 400, "the receiver answered 400 Bad Request", "<script>alert(1)</script> no such person"
		}
		_, err = b.store.Finish(ctx, d, event.Outcome{Result: r, RetryAt: b.store.Now().Add(time.Hour), Attempt: a})
		b.must(err)
		if r == event.Dead {
			id, err = orcid.FromBase(id.Base() + 1)
			b.must(err)
		}
	}
}

// client is a browser's without the browser.
func (b *bundle) client() *http.Client {
	jar, err := cookiejar.New(nil)
	b.must(err)
	transport := &http.Transport{}
	b.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (b *bundle) do(c *http.Client, method, path string, form url.Values, header ...string) (*http.Response, string) {
	b.Helper()
	req, err := http.NewRequest(method, b.url+path, strings.NewReader(form.Encode()))
	b.must(err)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	b.must(err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	b.must(err)
	if t := b.token.Load(); res.Header.Get("Content-Security-Policy") == "" || t.IsSet() && strings.Contains(string(raw), t.Reveal()) {
		b.Errorf("%s %s: no policy, or the token is shown", method, path)
	}
	return res, string(raw)
}

func (b *bundle) signIn(c *http.Client) *http.Response {
	b.Helper()
	res, _ := b.do(c, "POST", "/sign-in", url.Values{"token": {b.token.Load().Reveal()}})
	if res.StatusCode != http.StatusSeeOther {
		b.Fatalf("sign in: %d", res.StatusCode)
	}
	return res
}

func TestOnlyTheTokenLetsIn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.organisations(1)
	c := b.client()
	paths := []string{"/", "/researcher?orcid=" + josiah, "/organisations/uni-000"}
	for _, path := range paths {
		if res, body := b.do(c, "GET", path, nil); res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(res.Header.Get("Location"), "/sign-in") || strings.Contains(body, "uni-000.example") {
			t.Errorf("%s: %d to %s: %s", path, res.StatusCode, res.Header.Get("Location"), body)
		}
	}
	for _, path := range []string{"/organisations/uni-000/pause", "/registrations/pause", "/sign-out"} {
		if res, _ := b.do(c, "POST", path, url.Values{}); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	for _, token := range []string{"", "wrong", b.token.Load().Reveal() + "x"} {
		if res, body := b.do(c, "POST", "/sign-in", url.Values{"token": {token}}); res.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "not the admin token") || len(res.Cookies()) > 0 {
			t.Errorf("%q: %d", token, res.StatusCode)
		}
	}
	res, _ := b.do(c, "POST", "/sign-in", url.Values{"token": {" " + b.token.Load().Reveal() + "\n"}, "to": {"/organisations/uni-000"}})
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/organisations/uni-000" {
		t.Fatalf("%d to %s", res.StatusCode, res.Header.Get("Location"))
	}
	if k := res.Cookies()[0]; !k.HttpOnly || k.SameSite != http.SameSiteStrictMode || k.Secure || k.MaxAge <= 0 || len(k.Value) < 40 {
		t.Errorf("%+v", k)
	}
	for _, path := range paths[:1] {
		if res, body := b.do(c, "GET", path, nil); res.StatusCode != http.StatusOK || !strings.Contains(body, "uni-000") {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	in := func() bool {
		res, _ := b.do(c, "GET", "/", nil)
		return res.StatusCode == http.StatusOK
	}
	b.now.Add(50 * 60)
	if !in() {
		t.Error("signed out although it was used 50 minutes ago")
	}
	b.now.Add(61 * 60)
	if in() {
		t.Error("still signed in after an hour without a request")
	}
	b.signIn(c)
	for range 13 {
		b.now.Add(55 * 60)
		in()
	}
	b.now.Add(55 * 60)
	if in() {
		t.Error("still signed in after 12 hours")
	}
	b.signIn(c)
	other := secret.Text("another-token-0123456789")
	b.token.Store(&other)
	if in() {
		t.Error("a new token does not end old sessions")
	}
	b.signIn(c)
	if !in() {
		t.Error("not signed in")
	}
	if res, _ := b.do(c, "POST", "/sign-out", url.Values{}); res.StatusCode != http.StatusSeeOther || in() {
		t.Error("signing out does not")
	}
	if res, _ := b.do(c, "POST", "/sign-in", url.Values{"token": {other.Reveal()}}, "X-Forwarded-Proto", "https"); !res.Cookies()[0].Secure {
		t.Error("the cookie is not secure behind TLS")
	}
	none := secret.Text("")
	b.token.Store(&none)
	for range 20 {
		if res, _ := b.do(c, "POST", "/sign-in", url.Values{"token": {""}}); res.StatusCode == http.StatusTooManyRequests {
			return
		} else if res.StatusCode != http.StatusUnauthorized {
			t.Fatalf("signed in without any token: %d", res.StatusCode)
		}
	}
	t.Error("tries are not bounded")
}

func TestForeignNamesAndSitesGetNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.organisations(1)
	c := b.client()
	b.signIn(c)
	port := b.url[strings.LastIndex(b.url, ":"):]
	for host, want := range map[string]int{
		"evil.example": 421, "evil.example" + port: 421, "127.0.0.1.evil.example": 421, "203.0.113.7": 421, "": 400,
		"localhost" + port: 200, "LOCALHOST": 200, "127.0.0.1": 200, "127.1.2.3" + port: 200, "[::1]" + port: 200,
	} {
		if host == "" {
			continue
		}
		cookies := c.Jar.Cookies(must(url.Parse(b.url)))
		if res, body := b.do(b.client(), "GET", "/", nil, "Host", host, "Cookie", cookies[0].Name+"="+cookies[0].Value); res.StatusCode != want || want != 200 && strings.Contains(body, "uni-000") {
			t.Errorf("%s: %d, want %d", host, res.StatusCode, want)
		}
	}
	for header, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"} {
		if res, _ := b.do(c, "POST", "/organisations/uni-000/pause", url.Values{}, header, value); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d", header, res.StatusCode)
		}
	}
	v, err := b.svc.Organisation(context.Background(), "uni-000")
	if err != nil || len(v.Channels[0].Holds) > 0 {
		t.Errorf("it was done: %+v, %v", v.Channels, err)
	}
	for _, to := range []string{"//evil.example/", "https://evil.example/", "/\\evil.example", "/v1/status", "javascript:alert(1)", "/organisations/../v1"} {
		if got := local(to); strings.Contains(got, "evil") || strings.HasPrefix(got, "/v1") || strings.Contains(got, "script") {
			t.Errorf("%s leads to %s", to, got)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// looks are how every page is looked at.
var looks = map[string]browsertest.Look{"light": {}, "dark": {Dark: true}, "phone": {Phone: true}}

func (b *bundle) shoot(p *browsertest.Page, name string) {
	b.Helper()
	for look, l := range looks {
		p.Look(l)
		p.Audit()
		p.Shot("operator-" + name + "-" + look)
	}
	p.Look(browsertest.Look{})
}

func TestAnOperatorsDayInABrowser(t *testing.T) {
	t.Parallel()
	b := setup(t)
	p := browser.Page(t, browsertest.Look{NoScript: true})
	p.Open(b.url + "/")
	b.shoot(p, "sign-in")
	p.Fill("#token", "wrong")
	if p.Press("form button"); !strings.Contains(p.Text("main"), "not the admin token") {
		t.Error(p.Text("main"))
	}
	b.shoot(p, "sign-in-wrong")
	p.Fill("#token", b.token.Load().Reveal())
	p.Press("main form button")
	if !strings.Contains(p.Text("main"), "There is no organisation yet") {
		t.Error(p.Text("main"))
	}
	b.shoot(p, "none")

	b.organisations(1)
	b.busy()
	p.Open(b.url + "/")
	text := p.Text("main")
	for _, want := range []string{"1 problem", "Te Whare", "1 of 3", "main"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not on the page: %s", want, text)
		}
	}
	if p.Count("main b") > 0 {
		t.Error("a name became HTML")
	}
	b.shoot(p, "one")
	p.Press(`a[href="/organisations/uni-000"]`)
	if text := p.Text("main"); !strings.Contains(text, "Latest attempts") || !strings.Contains(text, "<script>alert(1)</script>") || p.Count("main script") > 0 {
		t.Errorf("%s", text)
	}
	b.shoot(p, "organisation")
	if p.Count(`form[action$="/resume"]`) > 0 {
		t.Error("there is a button that resumes what nobody stopped")
	}
	_, err := b.store.SetHold(t.Context(), "uni-000", event.Webhook, event.HoldBreaker, b.store.Now().Add(time.Hour), "10 failures in a row")
	b.must(err)
	p.Open(b.url + "/organisations/uni-000")
	if p.Count(`form[action$="/resume"]`) > 0 || !strings.Contains(p.Text("main"), "10 failures in a row") {
		t.Errorf("what ends by itself has a button to resume it: %s", p.Text("main"))
	}
	_, err = b.store.SetHold(t.Context(), "uni-000", event.Webhook, event.HoldBreaker, time.Time{}, "")
	b.must(err)
	p.Fill("#reason", "they move house")
	p.Press(`form[action$="/pause"] button`)
	if text := p.Text("main"); !strings.Contains(text, "Paused: deliveries wait") || !strings.Contains(text, "they move house") {
		t.Error(text)
	}
	b.shoot(p, "paused")
	p.Press(`form[action$="/resume"] button`)
	if text := p.Text("main"); !strings.Contains(text, "Resumed") || strings.Contains(text, "they move house") {
		t.Error(text)
	}
	p.Press(`form[action$="/test"] button`)
	if text := p.Text("main"); !strings.Contains(text, "the receiver answered 500") || !strings.Contains(text, "<b>Oops</b>") {
		t.Error(text)
	}
	if status := p.Press(`form[action$="/link"] button`); status != http.StatusOK || !strings.Contains(p.Text("main .notice a"), "https://hub.example/") {
		t.Errorf("%d %s", status, p.Text("main"))
	}
	b.shoot(p, "link")
	p.Press(`form[action$="/replay"] button`)
	if text := p.Text("main"); !strings.Contains(text, "being tried again") {
		t.Error(text)
	}
	p.Press(`nav a[href="/researcher"]`)
	p.Fill("#orcid", "https://orcid.org/"+josiah)
	p.Press("main form button")
	if text := p.Text("main"); !strings.Contains(text, josiah) || !strings.Contains(text, "Josiah <i>Carberry</i>") || !strings.Contains(text, "given up") {
		t.Error(text)
	}
	b.shoot(p, "researcher")
	p.Fill("#orcid", "nonsense")
	if status := p.Press("main form button"); status != http.StatusBadRequest || !strings.Contains(p.Text("main"), "not an ORCID iD") {
		t.Errorf("%d %s", status, p.Text("main"))
	}
	b.shoot(p, "researcher-bad")
	if status := p.Open(b.url + "/organisations/nobody"); status != http.StatusNotFound || !strings.Contains(p.Text("main"), "There is no organisation") {
		t.Errorf("%d %s", status, p.Text("main"))
	}
	b.shoot(p, "not-found")
}

func TestFiveHundredOrganisations(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.organisations(500)
	b.creds = append(b.creds, service.CredentialState{Name: "other", State: "refused", Detail: "ORCID refuses the client secret (invalid_client)", Rate: 20, Since: time.Now().Add(-time.Hour)})
	b.spool = service.SpoolState{Waiting: 17, Received: 17, Oldest: time.Now().Add(-time.Minute)}
	ctx := context.Background()
	for i := range 20 {
		b.must(b.svc.Pause(ctx, service.By{Who: "test"}, fmt.Sprintf("uni-%03d", 25*i), "", "they move house"))
	}
	c := b.client()
	b.signIn(c)
	began := time.Now()
	res, body := b.do(c, "GET", "/", nil)
	t.Logf("500 organisations: %s for %d bytes", time.Since(began).Round(time.Millisecond), len(body))
	if res.StatusCode != http.StatusOK || strings.Count(body, `href="/organisations/`) != 500 || !strings.Contains(body, "more problems") {
		t.Errorf("%d, %d organisations", res.StatusCode, strings.Count(body, `href="/organisations/`))
	}
	p := browser.Page(t, browsertest.Look{})
	p.Open(b.url + "/")
	p.Fill("#token", b.token.Load().Reveal())
	p.Press("main form button")
	p.Audit()
	// Enough of it to be looked at.
	browsertest.Eval[int](p, `document.querySelectorAll("tbody tr:nth-child(n+31)").forEach(e => e.remove()), 0`)
	b.shoot(p, "many")
}

// TestWithoutRedisNothingIsSaidToBeNone: that there is no organisation, or nobody
// registered, would be a fright.
func TestWithoutRedisNothingIsSaidToBeNone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.organisations(1)
	b.redis.Kill()
	p := browser.Page(t, browsertest.Look{})
	p.Open(b.url + "/")
	p.Fill("#token", b.token.Load().Reveal())
	p.Press("main form button")
	text := p.Text("main")
	if strings.Count(strings.ToLower(text), "unknown") != 8 || strings.Contains(text, "no organisation") || strings.Contains(text, "Nobody") {
		t.Error(text)
	}
	p.Audit()
	b.shoot(p, "without-redis")
}

// BenchmarkFiveHundredOrganisations: one operation is the overview.
func BenchmarkFiveHundredOrganisations(b *testing.B) {
	s := setup(b)
	s.organisations(500)
	c := s.client()
	s.signIn(c)
	b.ResetTimer()
	for b.Loop() {
		if res, _ := s.do(c, "GET", "/", nil); res.StatusCode != http.StatusOK {
			b.Fatal(res.StatusCode)
		}
	}
}

func TestAWrongMethodIsNoMissingPage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.client()
	for path, allow := range map[string]string{"/sign-out": "POST", "/organisations/uni-a/pause": "POST", "/organisations/uni-a/b/c": ""} {
		want := http.StatusMethodNotAllowed
		if allow == "" {
			want = http.StatusNotFound
		}
		if res, _ := b.do(c, http.MethodGet, path, nil); res.StatusCode != want || res.Header.Get("Allow") != allow {
			t.Errorf("%s: %d, allows %q; want %d, %q", path, res.StatusCode, res.Header.Get("Allow"), want, allow)
		}
	}
}

package hubapi

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/directory"
	"dispatchd/internal/event"
	"dispatchd/internal/guest"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
	"dispatchd/internal/servicetest"
	"dispatchd/internal/store"
)

const (
	josiah  = "0000-0002-1825-0097"
	maria   = "0000-0001-5109-3700"
	sofia   = "0000-0002-1694-233X"
	secretA = "kX9_secret-of-uni-a-0123456789-abcdefghijklm"
	secretB = "pQ7-secret-of-uni-b-9876543210-zyxwvutsrqpo"
	apikey  = "apikey-of-uni-a-0123456789"
)

// bundle is the API on a real socket over a real service and Redis, with two
// organisations.
type bundle struct {
	testing.TB
	redis  *redistest.Server
	store  *store.Store
	svc    *service.Service
	api    *API
	url    string
	log    *servicetest.Log
	client *http.Client
	now    atomic.Int64 // of the rate limits, ms
	// settle is what becomes of a user's registration at the hint; RegNone: nothing.
	settle atomic.Int32
	keeper *guest.Keeper
	rows   sync.Map // at ORCID: credential, iD and URL
	refuse atomic.Pointer[orcid.Answer]
	tested atomic.Int32

	mu       sync.Mutex
	answered []string // every answer but those that make a token
	secrets  []string
}

// HintChannel implements service.Hints.
func (b *bundle) HintChannel(event.ChannelKey, time.Time) {}

// HintUser implements service.Hints: it does at once what a user's actor does.
func (b *bundle) HintUser(id orcid.ID, _ bool) {
	state := event.RegState(b.settle.Load())
	if state == event.RegNone {
		return
	}
	ctx := context.Background()
	u, err := b.store.User(ctx, id)
	if err != nil || u == nil {
		return
	}
	u.Registrations = nil
	if slices.ContainsFunc(u.Affiliations, func(a event.Affiliation) bool { return !a.Muted }) {
		u.Registrations = []event.Registration{{Credential: "main", State: state, Epoch: 1, Base: 1, Changed: time.Now().Truncate(time.Second)}}
	}
	if _, err := b.store.SaveUser(ctx, *u, time.Time{}); err != nil {
		b.Error(err)
	}
}

// Put implements guest.ORCID.
func (b *bundle) Put(_ context.Context, credential string, id orcid.ID, url string) (orcid.Answer, error) {
	if a := b.refuse.Load(); a != nil {
		return *a, nil
	}
	if _, there := b.rows.LoadOrStore(id.String()+" "+url, credential); there {
		return orcid.Answer{Kind: orcid.Exists, Status: 204}, nil
	}
	return orcid.Answer{Kind: orcid.Created, Status: 201}, nil
}

// Delete implements guest.ORCID.
func (b *bundle) Delete(_ context.Context, credential string, id orcid.ID, url string) (orcid.Answer, error) {
	if a := b.refuse.Load(); a != nil {
		return *a, nil
	}
	switch owner, there := b.rows.Load(id.String() + " " + url); {
	case !there:
		return orcid.Answer{Kind: orcid.NoSuchWebhook, Status: 404, Detail: "no webhook found"}, nil
	case owner != credential:
		return orcid.Answer{Kind: orcid.NotOurs, Status: 403, Detail: "only the client that registered it"}, nil
	}
	b.rows.Delete(id.String() + " " + url)
	return orcid.Answer{Kind: orcid.Deleted, Status: 204}, nil
}

// Test implements service.Tester.
func (b *bundle) Test(context.Context, *org.Organisation) service.TestAnswer {
	b.tested.Add(1)
	return service.TestAnswer{OK: true, Status: 204, Duration: 3 * time.Millisecond}
}

func setup(t testing.TB, change ...func(*Options)) *bundle {
	t.Helper()
	b := &bundle{TB: t, redis: redistest.Start(t), log: &servicetest.Log{}, secrets: []string{secretA, secretB, apikey, "whsec_"}}
	b.now.Store(time.Date(2026, 11, 26, 2, 0, 0, 0, time.UTC).UnixMilli())
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	b.must(err)
	log := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.store, err = store.New(store.Options{URL: b.redis.URL(), DataDir: t.TempDir(), Box: box, Logger: log, Timeout: 2 * time.Second})
	b.must(err)
	t.Cleanup(func() { b.store.Close() })
	ctx := context.Background()
	b.must(b.store.Attach(ctx))
	_, err = b.store.BaseID(ctx, store.Base{PublicURL: "http://hub.example", ClientID: "APP-1", KeyID: "k"})
	b.must(err)
	dir := directory.New()
	b.keeper, err = guest.New(guest.Options{
		Store: b.store, Directory: dir, ORCID: b, Configured: func(c string) bool { return c == "main" }, Guard: func() error { return nil }, Now: b.store.Now, Logger: log,
		Due:    func(context.Context, time.Time, int) ([]guest.Key, error) { return nil, nil },
		Panics: func(c string) { t.Errorf("%s panicked", c) },
	})
	b.must(err)
	b.svc, err = service.New(service.Options{
		Store: b.store, Directory: dir, Hints: b, Tester: b, Credentials: func() []string { return []string{"main"} },
		Callbacks: b.keeper, OwnURLs: func() []string { return []string{"https://hub.example", "https://orcidhub.example", ""} },
		Logger: log, Panics: func(c string) { t.Errorf("%s panicked", c) },
	})
	b.must(err)
	b.must(b.svc.Load(ctx))
	o := Options{
		Service: b.svc, Logger: log, Panics: func(c string) { t.Errorf("%s panicked", c) }, Wait: 3 * time.Second,
		Now: func() time.Time { return time.UnixMilli(b.now.Load()) },
	}
	o.Location = func(id orcid.ID, callback string) string {
		return orcid.WebhookURL("https://api.orcid.example", id, callback)
	}
	for _, c := range change {
		c(&o)
	}
	b.api, err = New(o)
	b.must(err)
	// Behind a mux, as in the daemon.
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	srv := httptest.NewServer(b.api.Or(mux))
	b.url = srv.URL
	b.client = &http.Client{
		Transport: &http.Transport{}, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		b.client.CloseIdleConnections()
		srv.Close()
		b.noSecrets()
	})
	b.organisation("uni-a", secretA)
	b.organisation("uni-b", secretB)
	return b
}

func (b *bundle) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// noSecrets fails when a secret came out where none is to.
func (b *bundle) noSecrets() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.secrets {
		for _, a := range append(b.answered, b.log.String()) {
			if strings.Contains(a, s) {
				b.Errorf("the secret %q stands in %s", s, a)
			}
		}
	}
}

var operator = service.By{Who: "test", From: "test"}

func (b *bundle) organisation(id, clientSecret string) {
	b.Helper()
	in, err := service.ReadSettings(strings.NewReader(`{"name":"` + id + `","credential":"main","technical_contact":"it@` + id + `.example",
		"api":{"client_id":"client-` + id + `","client_secret":"` + clientSecret + `"}}`))
	b.must(err)
	_, _, err = b.svc.PutOrganisation(context.Background(), operator, id, in)
	b.must(err)
}

func (b *bundle) user(orgID, id string) {
	b.Helper()
	parsed, err := orcid.Parse(id)
	b.must(err)
	_, err = b.svc.AddUser(context.Background(), operator, orgID, parsed, service.Person{Email: "x@" + orgID + ".example"})
	b.must(err)
}

// answer is an answer that was read.
type answer struct {
	*http.Response
	code int
	body string
}

// send sends a request; header pairs come last.
func (b *bundle) send(method, path, body string, header ...string) answer {
	b.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, b.url+path, in)
	b.must(err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := b.client.Do(req)
	b.must(err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	b.must(err)
	if !strings.Contains(string(raw), "access_token") {
		b.mu.Lock()
		b.answered = append(b.answered, string(raw))
		b.mu.Unlock()
	}
	out := answer{res, res.StatusCode, string(raw)}
	spec.check(b, method, path, body, out)
	return out
}

// token gets an access token.
func (b *bundle) token(orgID, clientSecret string) string {
	b.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"client-" + orgID}, "client_secret": {clientSecret}}
	a := b.send("POST", "/oauth/token", form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	var out tokenBody
	if err := json.Unmarshal([]byte(a.body), &out); err != nil || a.code != 200 || out.AccessToken == "" {
		b.Fatalf("no token: %d %s %v", a.code, a.body, err)
	}
	b.mu.Lock()
	b.secrets = append(b.secrets, out.AccessToken)
	b.mu.Unlock()
	return out.AccessToken
}

// client is one organisation's program.
type client struct {
	*bundle
	token string
}

func (b *bundle) as(orgID string) client {
	b.Helper()
	return client{b, b.token(orgID, map[string]string{"uni-a": secretA, "uni-b": secretB}[orgID])}
}

// want sends a request and wants this answer: a status and, unless it is "-",
// exactly this body.
func (c client) want(status int, body, method, path, in string, header ...string) answer {
	c.Helper()
	a := c.send(method, path, in, append([]string{"Authorization", "Bearer " + c.token}, header...)...)
	if a.code != status || body != "-" && strings.TrimSpace(a.body) != body {
		c.Errorf("%s %s %s: %d %s, want %d %s", method, path, in, a.code, a.body, status, body)
	}
	return a
}

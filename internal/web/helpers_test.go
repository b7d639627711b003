package web

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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dispatchd/internal/browsertest"
	"dispatchd/internal/directory"
	"dispatchd/internal/org"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
	"dispatchd/internal/servicetest"
	"dispatchd/internal/signed"
	"dispatchd/internal/store"
)

// One browser and one redis-server serve all tests; each has a prefix of its own
// in Redis and a tab of its own.
var (
	browser *browsertest.Browser
	rds     *redistest.Server
	worlds  atomic.Int64
)

func TestMain(m *testing.M) { os.Exit(run(m)) } //nolint:forbidigo // TestMain has to

func run(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "web-test-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	if rds, err = redistest.New(dir); err != nil {
		return fail(err)
	}
	defer rds.Kill()
	if browser, err = browsertest.Start(); err != nil {
		return fail(err)
	}
	code := m.Run()
	if err := browser.Stop(); err != nil {
		return fail(err)
	}
	rds.Kill()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			return fail(err)
		}
	}
	return code
}

// outbox is a mail server that keeps what it is handed.
type outbox struct {
	mu   sync.Mutex
	list []service.Letter
	none bool
}

func (o *outbox) Mail(_ context.Context, l service.Letter) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.none {
		return service.ErrNoMail
	}
	o.list = append(o.list, l)
	return nil
}

func (o *outbox) to(address string) []service.Letter {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []service.Letter
	for _, l := range o.list {
		if l.To == address {
			out = append(out, l)
		}
	}
	return out
}

// receiver answers test events as a test wants.
type receiver struct {
	answer atomic.Pointer[service.TestAnswer]
}

func (r *receiver) Test(context.Context, *org.Organisation) service.TestAnswer {
	if a := r.answer.Load(); a != nil {
		return *a
	}
	return service.TestAnswer{OK: true, Status: http.StatusNoContent, Duration: 42 * time.Millisecond}
}

// world is the pages over a real service and a real Redis.
type world struct {
	*testing.T
	url     string
	svc     *service.Service
	store   *store.Store
	mail    *outbox
	recv    *receiver
	log     *servicetest.Log
	actor   service.ActorState
	entries atomic.Int64
	ahead   atomic.Int64 // how far the clock is ahead, ns
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func setup(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, mail: &outbox{}, recv: &receiver{}, log: &servicetest.Log{}}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	master := []byte(strings.Repeat("m", 32))
	box, err := secret.NewBox(master)
	w.must(err)
	signer, err := signed.New(master)
	w.must(err)
	w.store, err = store.New(store.Options{
		URL: rds.URL(), DataDir: t.TempDir(), Box: box, Logger: log, Prefix: fmt.Sprintf("w%d:", worlds.Add(1)),
		Now: func() time.Time {
			return time.Now().Add(time.Duration(w.ahead.Load())).UTC().Truncate(time.Microsecond)
		},
	})
	w.must(err)
	t.Cleanup(func() { _ = w.store.Close() }) // a test may have done it
	w.must(w.store.Attach(t.Context()))
	srv := httptest.NewUnstartedServer(nil)
	w.url = "http://" + srv.Listener.Addr().String()
	w.actor = service.ActorState{Credentials: []service.CredentialState{{Name: "main", State: "ok", Rate: 20}}}
	w.svc, err = service.New(service.Options{
		Store: w.store, Directory: directory.New(), Hints: servicetest.NoHints{}, Tester: w.recv, Mailer: w.mail, Signer: signer,
		WebURL: func() string { return w.url }, Credentials: func() []string { return []string{"main"} },
		Probe:  service.Probe{Actors: func() service.ActorState { return w.actor }},
		Logger: log, Panics: func(c string) { t.Errorf("%s panicked", c) },
	})
	w.must(err)
	w.must(w.svc.Load(t.Context()))
	pages, err := New(Options{Service: w.svc, Logger: log, Version: "test"})
	w.must(err)
	srv.Config.Handler = pages.Handler()
	srv.Start()
	t.Cleanup(srv.Close)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.svc.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		w.must(<-done)
		if t.Failed() {
			t.Logf("the log:\n%s", w.log)
		}
	})
	return w
}

var byTest = service.By{Who: "test"}

// org makes an organisation with a contact.
func (w *world) org(id, name, contact string) {
	w.Helper()
	_, _, err := w.svc.PutOrganisation(w.Context(), byTest, id, service.Settings{Name: &name, TechnicalContact: &contact})
	w.must(err)
}

// eventually polls until ok.
func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	end := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			w.Fatalf("it did not happen: %s", what)
		}
	}
}

// client is a browser without a window: it keeps cookies and follows nothing.
type client struct {
	w    *world
	http *http.Client
	from string // X-Forwarded-For
}

func (w *world) client() *client {
	w.Helper()
	jar, err := cookiejar.New(nil)
	w.must(err)
	c := &client{w: w, http: &http.Client{Jar: jar, Timeout: time.Minute, Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
	w.Cleanup(c.http.CloseIdleConnections)
	return c
}

type answer struct {
	*http.Response
	body string
}

func (c *client) send(req *http.Request) answer {
	c.w.Helper()
	if c.from != "" {
		req.Header.Set("X-Forwarded-For", c.from)
	}
	res, err := c.http.Do(req)
	c.w.must(err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	c.w.must(err)
	return answer{res, string(raw)}
}

func (c *client) get(path string) answer {
	c.w.Helper()
	req, err := http.NewRequestWithContext(c.w.Context(), http.MethodGet, c.w.url+path, nil)
	c.w.must(err)
	return c.send(req)
}

// post sends a form as a page of ours does; more headers come in pairs.
func (c *client) post(path string, form url.Values, header ...string) answer {
	c.w.Helper()
	req, err := http.NewRequestWithContext(c.w.Context(), http.MethodPost, c.w.url+path, strings.NewReader(form.Encode()))
	c.w.must(err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", c.w.url)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return c.send(req)
}

// wants fails the test unless the answer has this status and these texts.
func (a answer) wants(t testing.TB, status int, texts ...string) answer {
	t.Helper()
	if a.StatusCode != status {
		t.Fatalf("%s %s: %d, want %d\n%s", a.Request.Method, a.Request.URL.Path, a.StatusCode, status, a.body)
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) && !strings.Contains(a.Header.Get("Location"), text) {
			t.Errorf("%s %s: no %q in %s\n%s", a.Request.Method, a.Request.URL.Path, text, a.Header.Get("Location"), a.body)
		}
	}
	return a
}

// link asks for a sign-in link and takes it out of the mail.
func (w *world) link(c *client, contact string) string {
	w.Helper()
	before := len(w.mail.to(contact))
	c.post("/sign-in", url.Values{"address": {contact}}).wants(w, http.StatusOK, "Look into your mailbox")
	w.eventually("a link is mailed to "+contact, func() bool { return len(w.mail.to(contact)) > before })
	list := w.mail.to(contact)
	return strings.TrimPrefix(list[len(list)-1].Link, w.url)
}

// signedInTo returns a client that acts for one organisation.
func (w *world) signedInTo(id string) *client {
	w.Helper()
	c := w.client()
	link, _, err := w.svc.OrgLink(w.Context(), byTest, id)
	w.must(err)
	c.post(strings.TrimPrefix(link, w.url), nil).wants(w, http.StatusSeeOther, "/settings/webhook")
	return c
}

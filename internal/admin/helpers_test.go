package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"dispatchd/internal/directory"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
	"dispatchd/internal/servicetest"
	"dispatchd/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token  = "token-for-operators-0123456789"
	apikey = "apikey-of-uni-a-0123456789"
	josiah = "0000-0002-1825-0097"
	maria  = "0000-0001-5109-3700"
)

type receiver struct{}

func (receiver) Test(context.Context, *org.Organisation) service.TestAnswer {
	return service.TestAnswer{OK: true, Status: 204, Duration: 3 * time.Millisecond}
}

// bundle is an admin listener on a real socket over a real service and Redis.
type bundle struct {
	testing.TB
	redis  *redistest.Server
	store  *store.Store
	svc    *service.Service
	srv    *Server
	url    string
	log    *servicetest.Log
	clock  atomic.Int64 // ms
	panics atomic.Int32
	client *http.Client

	mu       sync.Mutex
	answered []string // every body but of the answers made for secrets
	secrets  []string // what must not stand in them
}

func setup(t testing.TB, change ...func(*Options)) *bundle {
	t.Helper()
	b := &bundle{TB: t, redis: redistest.Start(t), log: &servicetest.Log{}, secrets: []string{token, apikey, "whsec_"}}
	b.clock.Store(time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC).UnixMilli())
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	b.must(err)
	log := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.store, err = store.New(store.Options{
		URL: b.redis.URL(), DataDir: t.TempDir(), Box: box, Logger: log, Timeout: 2 * time.Second,
		Now: func() time.Time { return time.UnixMilli(b.clock.Load()).UTC() },
	})
	b.must(err)
	t.Cleanup(func() { b.store.Close() })
	b.must(b.store.Attach(context.Background()))
	b.svc, err = service.New(service.Options{
		Store: b.store, Directory: directory.New(), Hints: servicetest.NoHints{}, Tester: receiver{}, Credentials: func() []string { return []string{"main", "other"} },
		Logger: log, Panics: func(string) { b.panics.Add(1) }, ListPatience: time.Millisecond,
		Probe: service.Probe{Actors: func() service.ActorState {
			return service.ActorState{Credentials: []service.CredentialState{{Name: "main", State: "ok", Rate: 20}}}
		}},
	})
	b.must(err)
	b.must(b.svc.Load(context.Background()))
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "dispatchd_test"}, func() float64 { return 42 }))
	o := Options{
		Service: b.svc, Token: func() secret.Text { return token }, Gatherer: reg, Version: "v1.2.3", Logger: log,
		Ready:  func() Readiness { return Readiness{OK: true, Checks: []Check{{Name: "redis", OK: true}}} },
		Panics: func(string) { b.panics.Add(1) },
	}
	for _, c := range change {
		c(&o)
	}
	b.srv, err = New(o)
	b.must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	b.must(err)
	done := make(chan error, 1)
	go func() { done <- b.srv.Serve(ln) }()
	b.url = "http://" + ln.Addr().String()
	transport := &http.Transport{}
	b.client = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := b.srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.noSecrets()
	})
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

// answer is an answer that was read.
type answer struct {
	*http.Response
	body string
}

// send sends a request with the token; header pairs come last.
func (b *bundle) send(method, path, body string, header ...string) answer {
	b.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, b.url+path, in)
	b.must(err)
	req.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	res, err := b.client.Do(req)
	b.must(err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	b.must(err)
	if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
		b.Errorf("%s %s: headers %v", method, path, res.Header)
	}
	if res.StatusCode != http.StatusOK || !strings.HasSuffix(path, "/secrets") && !strings.HasSuffix(path, "/rotate-secret") {
		b.mu.Lock()
		b.answered = append(b.answered, string(raw))
		b.mu.Unlock()
	}
	return answer{res, string(raw)}
}

// want sends a request, wants this status and decodes the answer.
func (b *bundle) want(status int, out any, method, path, body string, header ...string) answer {
	b.Helper()
	a := b.send(method, path, body, header...)
	if a.StatusCode != status {
		b.Fatalf("%s %s: %d, want %d: %s", method, path, a.StatusCode, status, a.body)
	}
	if out != nil {
		if err := json.Unmarshal([]byte(a.body), out); err != nil {
			b.Fatalf("%s %s: %v: %s", method, path, err, a.body)
		}
	}
	return a
}

// problem wants a problem document with this status and code.
func (a answer) problem(t *testing.T, status int, code string) problem {
	t.Helper()
	var p problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Errorf("%d is no problem document: %v: %s", a.StatusCode, err, a.body)
		return p
	}
	if a.StatusCode != status || p.Status != status || p.Code != code {
		t.Errorf("status %d, document %d %s, want %d %s: %s", a.StatusCode, p.Status, p.Code, status, code, a.body)
	}
	if a.Header.Get("Content-Type") != "application/problem+json" || p.Type == "" || p.Title == "" || p.Detail == "" || p.ID == "" || p.ID != a.Header.Get("X-Request-Id") {
		t.Errorf("the problem document is not complete: %s (%s)", a.body, a.Header.Get("Content-Type"))
	}
	return p
}

// uniA makes an organisation with secrets.
func (b *bundle) uniA() {
	b.Helper()
	b.want(http.StatusCreated, nil, "PUT", "/v1/organisations/uni-a",
		`{"name":"University A","credential":"main","technical_contact":"it@a.example","webhook":{"enabled":true,"url":"https://a.example/orcid","apikey":"`+apikey+`"}}`)
}

// runJobs runs every job to its end.
func (b *bundle) runJobs() {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.svc.Run(ctx) }()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		jobs, err := b.svc.Jobs(ctx)
		b.must(err)
		if !slices.ContainsFunc(jobs, func(j store.Job) bool { return j.State == store.JobRunning }) {
			break
		}
		select {
		case <-deadline:
			b.Fatalf("jobs do not end: %+v", jobs)
		case <-tick.C:
		}
	}
	cancel()
	b.must(<-done)
}

// attempt has a delivery to uni-a's webhook made for a user, a minute after the
// one before, with this result.
func (b *bundle) attempt(base uint64, r event.Result, status int, excerpt string) {
	b.Helper()
	ctx := context.Background()
	id, err := orcid.FromBase(base)
	b.must(err)
	ms := b.clock.Add(60_000)
	now := time.UnixMilli(ms).UTC()
	_, err = b.store.Enqueue(ctx, 0, []store.Target{{Org: "uni-a", Channel: event.Webhook, ORCID: id, Type: event.Updated, At: now, Entry: fmt.Sprintf("%d-1", ms)}}, 0)
	b.must(err)
	c, err := b.store.Claim(ctx, "uni-a", event.Webhook, 1, time.Minute)
	b.must(err)
	if len(c.Deliveries) != 1 {
		b.Fatalf("claimed %d", len(c.Deliveries))
	}
	d := c.Deliveries[0]
	o := event.Outcome{Result: r, Attempt: event.Attempt{
		DeliveryID: d.ID(), ORCID: id, Channel: event.Webhook, Type: d.Type, Number: d.Attempt, Start: now,
		Duration: 12 * time.Millisecond, Status: status, Excerpt: excerpt, Result: r,
	}}
	if r != event.Delivered {
		o.Attempt.Error = fmt.Sprintf("the receiver answered %d", status)
	}
	f, err := b.store.Finish(ctx, d, o)
	b.must(err)
	if f.Stale {
		b.Fatal("stale")
	}
}

var errBoom = errors.New("boom in the engine room")

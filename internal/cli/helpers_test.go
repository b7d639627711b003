package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/term"

	"dispatchd/internal/admin"
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

var update = flag.Bool("update", false, "write testdata anew")

// TestMain lets the test binary be the program itself for a shell.
func TestMain(m *testing.M) {
	if os.Getenv("DISPATCHD_TEST_IS_CLI") == "1" {
		os.Exit(Run(context.Background(), os.Args[1:], Env{ //nolint:forbidigo // here the test binary is the program
			Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
			IsTerminal: func(stream any) bool { return wide(stream) > 0 }, Columns: wide,
		}))
	}
	goleak.VerifyTestMain(m)
}

// wide is how wide the terminal of a stream is; 0 when it is none.
func wide(stream any) int {
	f, ok := stream.(*os.File)
	if !ok {
		return 0
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return n
}

const (
	token  = "token-for-operators-0123456789"
	josiah = "0000-0002-1825-0097"
	maria  = "0000-0001-5109-3700"
)

var begin = time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)

type receiver struct{}

func (receiver) Test(_ context.Context, o *org.Organisation) service.TestAnswer {
	if o.ID == "uni-a" {
		return service.TestAnswer{OK: true, Status: 204, Duration: 31 * time.Millisecond}
	}
	return service.TestAnswer{Status: 500, Error: "the receiver answered 500", Excerpt: "<h1>Oops</h1> \x1b[31mred\x1b[0m " + strings.Repeat("very ", 30) + "long", Duration: 1500 * time.Millisecond}
}

// bundle is a daemon's admin listener on a real socket, over a real service and
// Redis, in a time that stands still.
type bundle struct {
	*testing.T
	store *store.Store
	redis *redistest.Server
	svc   *service.Service
	addr  string
	sock  string
	clock atomic.Int64 // ms
	// refused is what ORCID says to a credential that is tested.
	refused error
	actors  service.ActorState
	spool   service.SpoolState
	worse   []service.Problem
	ready   admin.Readiness
	reload  error
	forgot  bool
	// other says that a credential of that name is configured too.
	other bool
}

func (b *bundle) credentials() []string {
	if b.other {
		return []string{"main", "other"}
	}
	return []string{"main"}
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{T: t, ready: admin.Readiness{OK: true, Checks: []admin.Check{{Name: "redis", OK: true, Detail: "answers and is ours"}}}}
	b.clock.Store(begin.UnixMilli())
	b.actors = service.ActorState{
		InFlight:    map[event.Channel]int{event.Webhook: 2},
		Credentials: []service.CredentialState{{Name: "main", State: "ok", Rate: 20, Waiting: 3, Since: begin.Add(-time.Hour)}},
	}
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	b.must(err)
	log := slog.New(slog.DiscardHandler)
	b.redis = redistest.Start(t)
	b.store, err = store.New(store.Options{URL: b.redis.URL(), DataDir: t.TempDir(), Box: box, Logger: log, Now: b.now})
	b.must(err)
	t.Cleanup(func() { b.store.Close() })
	b.must(b.store.Attach(context.Background()))
	panics := func(c string) { t.Errorf("%s panicked", c) }
	signer, err := signed.New([]byte(strings.Repeat("m", 32)))
	b.must(err)
	b.svc, err = service.New(service.Options{
		Store: b.store, Directory: directory.New(), Hints: servicetest.NoHints{}, Tester: receiver{}, Credentials: b.credentials,
		CheckCredential: func(context.Context, string) error { return b.refused },
		Signer:          signer, WebURL: func() string { return "https://hub.example" },
		Logger: log, Panics: panics, Probe: service.Probe{
			Actors: func() service.ActorState { return b.actors }, Spool: func() service.SpoolState { return b.spool },
			Degraded: func() []service.Problem { return b.worse },
		},
	})
	b.must(err)
	b.must(b.svc.Load(context.Background()))
	srv, err := admin.New(admin.Options{
		Service: b.svc, Token: func() secret.Text { return token }, Gatherer: prometheus.NewRegistry(), Logger: log, Panics: panics,
		Ready: func() admin.Readiness { return b.ready },
		Reload: func(context.Context) ([]string, error) {
			return []string{"log.level changed", "uni-f: webhook.url changed; nothing removed"}, b.reload
		},
		LogLevel: new(slog.LevelVar),
		Recover: func(context.Context) error {
			if !b.forgot {
				return &service.Error{Code: service.CodeConflict, What: "Redis is the one this installation knows; there is nothing to recover."}
			}
			return nil
		},
	})
	b.must(err)
	b.sock = filepath.Join(t.TempDir(), "admin.sock")
	done := make(chan error, 2)
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", b.sock}} {
		ln, err := net.Listen(at[0], at[1])
		b.must(err)
		if at[0] == "tcp" {
			b.addr = ln.Addr().String()
		}
		go func() { done <- srv.Serve(ln) }()
	}
	t.Cleanup(func() {
		if err := errors.Join(srv.Shutdown(context.Background()), <-done, <-done); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bundle) now() time.Time { return time.UnixMilli(b.clock.Load()).UTC() }

func (b *bundle) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// result is what a command did.
type result struct {
	code     int
	out, err string
}

// env is a surrounding in which --config names the bundle's daemon.
func (b *bundle) env(stdin string, out, errs *bytes.Buffer) Env {
	return Env{
		Stdin: strings.NewReader(stdin), Stdout: out, Stderr: errs, Now: b.now, Build: Build{Version: "v1.2.3"},
		AdminFromConfig: func(path string) (string, secret.Text, error) {
			if path != "c.toml" {
				return "", "", fmt.Errorf("%s:1: public_url: must be set", path)
			}
			return b.addr, token, nil
		},
	}
}

// run runs a command against the daemon.
func (b *bundle) run(stdin string, args ...string) result {
	b.Helper()
	var out, errs bytes.Buffer
	code := Run(context.Background(), append([]string{"--config", "c.toml"}, args...), b.env(stdin, &out, &errs))
	return result{code, out.String(), errs.String()}
}

// fine runs a command that must work.
func (b *bundle) fine(args ...string) string {
	b.Helper()
	r := b.run("", args...)
	if r.code != 0 {
		b.Fatalf("dispatchd %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// transcript collects what commands print, to be compared with a file.
type transcript struct {
	*bundle
	text strings.Builder
}

var (
	madeSecret = regexp.MustCompile(`whsec_[A-Za-z0-9+/=]+`)
	jobName    = regexp.MustCompile(`\b(apply|remove|replay|erase|retime)-[A-Za-z0-9_-]{8}`)
)

// do runs a command and notes it with its exit code.
func (tr *transcript) do(stdin string, args ...string) result {
	tr.Helper()
	tr.clock.Add(1000) // so that nothing has the same age by chance
	r := tr.run(stdin, args...)
	words := make([]string, len(args))
	for i, a := range args {
		if words[i] = a; a == "" || strings.ContainsAny(a, " \n") {
			words[i] = "'" + a + "'"
		}
	}
	made := func(s string) string { return "whsec_" + strings.Repeat("M", len(s)-6) }
	text := jobName.ReplaceAllString(madeSecret.ReplaceAllStringFunc(r.out, made), "$1-MADEMADE")
	errs := strings.ReplaceAll(r.err, tr.addr, "HOST:PORT")
	for line := range strings.Lines(r.out + errs) {
		if n := textWidth(strings.TrimSuffix(line, "\n")); n > width && !strings.Contains(line, "  dispatchd ") && !strings.Contains(line, "next: dispatchd ") {
			tr.Errorf("dispatchd %s: a line has %d columns: %s", strings.Join(args, " "), n, line)
		}
		if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			tr.Errorf("dispatchd %s: control characters: %q", strings.Join(args, " "), line)
		}
	}
	fmt.Fprintf(&tr.text, "$ dispatchd %s\n%s", strings.Join(words, " "), text)
	for line := range strings.Lines(errs) {
		fmt.Fprintf(&tr.text, "stderr: %s", line)
	}
	fmt.Fprintf(&tr.text, "exit %d\n\n", r.code)
	return r
}

// compare compares everything noted with testdata/NAME.golden.
func (tr *transcript) compare(name string) {
	tr.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		tr.must(os.WriteFile(path, []byte(tr.text.String()), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	tr.must(err)
	if got := tr.text.String(); got != string(want) {
		a, c := strings.Split(got, "\n"), strings.Split(string(want), "\n")
		i := 0
		for i < min(len(a), len(c)) && a[i] == c[i] {
			i++
		}
		tr.Errorf("%s, line %d (go test -update writes it anew)\ngot:\n%s\nwant:\n%s", path, i+1,
			strings.Join(a[i:min(i+12, len(a))], "\n"), strings.Join(c[i:min(i+12, len(c))], "\n"))
	}
}

// file writes a file and returns its path.
func (b *bundle) file(name, text string) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), name)
	b.must(os.WriteFile(path, []byte(text), 0o600))
	return path
}

// addOrg makes an organisation.
func (b *bundle) addOrg(id string) {
	b.Helper()
	b.fine("org", "add", id, "--name", "University "+strings.ToUpper(id[len(id)-1:]), "--url", "https://"+id+".example/orcid", "--contact", "it@"+id+".example")
}

// attempt has a delivery to an organisation's webhook made for a user, a minute
// after the one before, with this result.
func (b *bundle) attempt(orgID string, base uint64, r event.Result, status int, why, excerpt string) {
	b.Helper()
	ctx := context.Background()
	id, err := orcid.FromBase(base)
	b.must(err)
	ms := b.clock.Add(60_000)
	_, err = b.store.Enqueue(ctx, 0, []store.Target{{Org: orgID, Channel: event.Webhook, ORCID: id, Type: event.Updated, At: b.now(), Entry: fmt.Sprintf("%d-1", ms)}}, 0)
	b.must(err)
	c, err := b.store.Claim(ctx, orgID, event.Webhook, 1, time.Minute)
	b.must(err)
	if len(c.Deliveries) != 1 {
		b.Fatalf("claimed %d", len(c.Deliveries))
	}
	d := c.Deliveries[0]
	_, err = b.store.Finish(ctx, d, event.Outcome{Result: r, RetryAt: b.now().Add(10 * time.Minute), Attempt: event.Attempt{
		DeliveryID: d.ID(), ORCID: id, Channel: event.Webhook, Type: d.Type, Number: d.Attempt, Start: b.now(),
		Duration: 312 * time.Millisecond, Status: status, Error: why, Excerpt: excerpt, Result: r,
	}})
	b.must(err)
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
		if !slices.ContainsFunc(jobs, func(j store.Job) bool {
			return j.State == store.JobRunning && j.Args["again"] == "" // that one waits for its second pass
		}) {
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

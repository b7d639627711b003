package intake

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"dispatchd/internal/callback"
	"dispatchd/internal/event"
	"dispatchd/internal/intake/spool"
	"dispatchd/internal/orcid"
	"dispatchd/internal/secret"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// fasthttp: one for the process, and one that ends within 10 s of its server.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

const (
	testKey = secret.Text("0123456789abcdef0123456789abcdef")
	client  = "APP-1234567890ABCDEF"
	patient = time.Minute // for what must happen
)

// fakeLog is an intake log whose answers a test decides. The real one is tried
// by package store, both together by daemon.
type fakeLog struct {
	do    func(ctx context.Context, pings []event.Ping) error // nil answers nil
	calls atomic.Int64

	mu      sync.Mutex
	entries [][]event.Ping
}

func (l *fakeLog) Append(ctx context.Context, pings []event.Ping) error {
	l.calls.Add(1)
	if l.do != nil {
		if err := l.do(ctx, pings); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.entries = append(l.entries, append([]event.Ping(nil), pings...))
	l.mu.Unlock()
	return nil
}

// users returns how often each user's ping is in the log.
func (l *fakeLog) users() map[uint64]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[uint64]int{}
	for _, e := range l.entries {
		for _, p := range e {
			out[p.ORCID.Base()]++
		}
	}
	return out
}

// badSpool is a disk that does not write.
type badSpool struct{ err error }

func (b badSpool) Put(context.Context, []event.Ping) error       { return b.err }
func (b badSpool) PutUnsure(context.Context, []event.Ping) error { return b.err }

// clock is the time as the test wants it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
}

// words is a log that may be read while it is written.
type words struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

type testBundle struct {
	*Server
	addr  string
	keys  *callback.Keys
	log   *fakeLog
	spool *spool.Spool
	clock *clock
	words *words
	reg   *prometheus.Registry
}

// setup starts a Server on a loopback port, with a real spool.
func setup(tb testing.TB, change ...func(*Options)) *testBundle {
	tb.Helper()
	keys, err := callback.NewKeys([]secret.Text{testKey})
	if err != nil {
		tb.Fatal(err)
	}
	b := &testBundle{
		keys: keys, log: &fakeLog{}, words: &words{}, reg: prometheus.NewRegistry(),
		clock: &clock{now: time.Unix(1_800_000_000, 123_456_789)},
	}
	b.spool, err = spool.Open(filepath.Join(tb.TempDir(), "spool.db"), spool.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.spool.Close() })
	o := Options{
		Keys: func() *callback.Keys { return keys },
		Credential: func(id string) (string, bool) {
			if id == client {
				return "main", true
			}
			return "", false
		},
		Log:        b.log,
		Spool:      b.spool,
		Now:        b.clock.Now,
		Logger:     slog.New(slog.NewTextHandler(b.words, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Registerer: b.reg,
		Linger:     -1,
	}
	for _, f := range change {
		f(&o)
	}
	if b.Server, err = New(o); err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	b.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- b.Serve(ln) }()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			tb.Error(err)
		}
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	return b
}

func userID(n int) orcid.ID {
	id, err := orcid.FromBase(uint64(n) + 1)
	if err != nil {
		panic(err)
	}
	return id
}

// path is the callback path of the n-th user.
func (b *testBundle) path(n int) string { return b.pathOf(client, n) }

func (b *testBundle) pathOf(clientID string, n int) string {
	u, err := b.keys.URL("http://a.example", clientID, userID(n), 0, "")
	if err != nil {
		panic(err)
	}
	return strings.TrimPrefix(u, "http://a.example")
}

// ping is a request as ORCID sends it (ORCID.md §1.1), byte for byte.
func rawPing(path string) string {
	return "POST " + path + " HTTP/1.1\r\nContent-Length: 0\r\nHost: 127.0.0.1:18099\r\nUser-Agent: Java-http-client/17.0.21.1\r\n\r\n"
}

// conn1 is one connection of a client that sends bytes.
type conn1 struct {
	net.Conn
	r *bufio.Reader
}

func (b *testBundle) dial(tb testing.TB) *conn1 {
	tb.Helper()
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patient))
	return &conn1{c, bufio.NewReader(c)}
}

func (c *conn1) send(tb testing.TB, raw string) {
	tb.Helper()
	if _, err := c.Write([]byte(raw)); err != nil {
		tb.Fatal(err)
	}
}

// answer reads one answer; method is that of the request.
func (c *conn1) answer(tb testing.TB, method string) *http.Response {
	tb.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		tb.Fatalf("read the answer: %v", err)
	}
	return res
}

// post pings the n-th user over a connection of its own.
func (b *testBundle) post(tb testing.TB, n int) *http.Response {
	tb.Helper()
	c := b.dial(tb)
	defer c.Close()
	c.send(tb, rawPing(b.path(n)))
	return c.answer(tb, http.MethodPost)
}

func (b *testBundle) wantPost(tb testing.TB, n, status int) {
	tb.Helper()
	if res := b.post(tb, n); res.StatusCode != status {
		tb.Errorf("ping of user %d: %s, want %d", n, res.Status, status)
	}
}

// wantResults compares pings_received_total; results not named must be 0.
func (b *testBundle) wantResults(tb testing.TB, want map[string]int) {
	tb.Helper()
	var text strings.Builder
	// The help text is words for people: whatever it says is taken.
	fmt.Fprintln(&text, "# HELP dispatchd_pings_received_total "+helpOf(tb, b.reg, "dispatchd_pings_received_total"))
	fmt.Fprintln(&text, "# TYPE dispatchd_pings_received_total counter")
	for _, r := range []string{"accepted", "forged", "limited", "malformed", "method", "not_found", "refused", "spooled", "unauthenticated", "unknown_credential"} {
		fmt.Fprintf(&text, "dispatchd_pings_received_total{result=%q} %d\n", r, want[r])
	}
	if err := testutil.GatherAndCompare(b.reg, strings.NewReader(text.String()), "dispatchd_pings_received_total"); err != nil {
		tb.Error(err)
	}
}

// helpOf returns the help text of a metric.
func helpOf(tb testing.TB, reg prometheus.Gatherer, name string) string {
	tb.Helper()
	families, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetHelp()
		}
	}
	tb.Fatalf("there is no metric %s", name)
	return ""
}

// eventually waits for a condition that another goroutine brings about.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patient)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("did not happen: %s", what)
		}
	}
}

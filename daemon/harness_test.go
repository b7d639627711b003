package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"dispatchd/config"
	"dispatchd/internal/callback"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
	"dispatchd/internal/service"
	"dispatchd/internal/servicetest"
	"dispatchd/internal/sim"
	"dispatchd/internal/sim/receiver"
)

func TestMain(m *testing.M) {
	redis.SetLogger(quietRedis{})
	goleak.VerifyTestMain(m,
		// fasthttp never ends the goroutine of its Date header, and its workers'
		// cleaner only at its next round, 10 s later.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

const (
	clientMain, clientOther = "APP-ACCEPT0000000001", "APP-ACCEPT0000000002"
	secretMain, secretOther = "main-client-s3cret-7f21", "other-client-s3cret-9c44"
	patience                = 2 * time.Minute  // nothing of ours takes so long, a loaded machine may
	longestPing             = 20 * time.Second // then ORCID gives up; disks stall under load, and bench has the claims
	slowRedis               = 4 * time.Second  // a ping that gives Redis up may be told of twice
	pollEvery               = 5 * time.Millisecond
)

// setting says what a world is like; zero values are good for most tests.
type setting struct {
	delivery  []string // lines of [delivery], instead of the defaults of the same key
	more      string   // more TOML, after everything else
	redis     []string // arguments of redis-server
	redisURL  func(w *world) string
	sim       sim.Options
	behaviour receiver.Behaviour
	users     int
	dataDir   string        // default: a new one
	later     bool          // do not start the daemon yet
	look      time.Duration // pause between looks of catch-up; 0: the usual
	redisWait time.Duration // how long a ping waits for Redis; 0: longer than a loaded machine is slow
	notify    func(string)  // the service manager; nil: there is none
	watchdog  time.Duration // of the service manager; 0: none
	logTo     func(slog.Handler) slog.Handler
	panics    bool // are part of the test
}

// world is everything around one daemon, which runs in this process: a real
// redis-server, a simulated ORCID whose clock stands, and a receiver.
type world struct {
	t        *testing.T
	set      setting
	dir      string
	redis    *redistest.Server
	rdb      *redis.Client
	orcid    *sim.Registry
	orcidURL string
	recv     *receiver.Receiver
	users    []orcid.ID
	log      servicetest.Log
	jump     atomic.Int64 // how far the daemon's clock is ahead, ns
	sockets  [3]*os.File  // callback, admin and web: they listen over restarts
	addr     [3]string
	http     *http.Client
	answers  servicetest.Log // every answer of the admin listener
	d        *running
}

// running is one start of the daemon.
type running struct {
	app    *app
	keys   *callback.Keys
	token  string
	cancel context.CancelFunc
	done   chan error
}

func newWorld(t *testing.T, set setting) *world {
	t.Helper()
	w := &world{t: t, set: set, dir: set.dataDir, http: &http.Client{
		Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 32},
	}}
	t.Cleanup(w.http.CloseIdleConnections)
	if w.dir == "" {
		w.dir = filepath.Join(t.TempDir(), "data")
		w.must(os.Mkdir(w.dir, 0o700))
	}
	w.redis = redistest.Start(t, set.redis...)
	w.rdb = w.redis.Client(t)
	w.startORCID()
	var err error
	w.recv, err = receiver.Start(receiver.Options{Behaviour: set.behaviour, Keep: 50_000})
	w.must(err)
	t.Cleanup(w.recv.Close)
	for i := range w.sockets {
		w.sockets[i], w.addr[i] = socket(t)
	}
	t.Cleanup(func() {
		w.end()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", w.log.String())
		}
	})
	w.writeConfig(set.more)
	if !set.later {
		w.start()
	}
	return w
}

// socket listens on a free port for as long as the test runs, so that a daemon
// that is started again has the port of the one before.
func socket(t *testing.T) (*os.File, string) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, ln.Addr().String()
}

func (w *world) startORCID() {
	w.t.Helper()
	o := w.set.sim
	o.Manual = true
	// Long ago, so that catching up after a jump of the daemon's clock finds
	// nothing that changed.
	if o.Start.IsZero() {
		o.Start = time.Now().AddDate(-1, 0, 0)
	}
	if o.RateLimit == 0 {
		o.RateLimit = -1
	}
	o.Clients = []sim.Client{{ID: clientMain, Secret: secretMain}, {ID: clientOther, Secret: secretOther}}
	r, err := sim.New(o)
	w.must(err)
	ln, err := listen("127.0.0.1:0")
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sim.Serve(ctx, ln, r) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("the simulated ORCID: %v", err)
		}
	})
	w.orcid, w.orcidURL = r, "http://"+ln.Addr().String()
	w.users = r.AddProfiles(max(w.set.users, 3))
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) configPath() string { return filepath.Join(filepath.Dir(w.dir), "config.toml") }

// writeConfig writes the daemon's configuration file, with more TOML at its end.
func (w *world) writeConfig(more string) {
	w.t.Helper()
	redisURL := w.redis.URL()
	if w.set.redisURL != nil {
		redisURL = w.set.redisURL(w)
	}
	delivery := map[string]string{
		"timeout": `"10s"`, "retry": `["50ms","50ms","100ms","100ms","100ms","100ms","100ms"]`, "quiet_period": `"0s"`,
		"allow_private": `["127.0.0.0/8"]`,
	}
	for _, line := range w.set.delivery {
		key, value, ok := strings.Cut(line, " = ")
		if !ok {
			w.t.Fatalf("not a line of [delivery]: %q", line)
		}
		delivery[key] = value
	}
	var b strings.Builder
	fmt.Fprintf(&b, "public_url = \"http://%s\"\nweb_url = \"http://%s\"\ndata_dir = %q\n", w.addr[0], w.addr[2], w.dir)
	fmt.Fprintf(&b, "[listen]\ncallback = %q\nadmin = %q\nweb = %q\n[redis]\nurl = %q\n", w.addr[0], w.addr[1], w.addr[2], redisURL)
	fmt.Fprintf(&b, "[orcid]\nenvironment = \"sandbox\"\napi_url = %q\ntoken_url = %q\nrate = 24\n", w.orcidURL, w.orcidURL+"/oauth/token")
	fmt.Fprintf(&b, "[orcid.credential.main]\nclient_id = %q\nclient_secret = %q\n", clientMain, secretMain)
	fmt.Fprintf(&b, "[orcid.credential.other]\nclient_id = %q\nclient_secret = %q\n[delivery]\n", clientOther, secretOther)
	for key, value := range delivery {
		fmt.Fprintf(&b, "%s = %s\n", key, value)
	}
	b.WriteString(more)
	w.must(os.WriteFile(w.configPath(), []byte(b.String()), 0o600))
}

// boot starts the daemon without waiting for Redis.
func (w *world) boot() {
	w.t.Helper()
	c, err := config.Load(w.configPath())
	w.must(err)
	_, err = config.EnsureKeys(c)
	w.must(err)
	keys, err := callback.NewKeys(c.CallbackKeys)
	w.must(err)
	var lns [3]net.Listener
	for i, f := range w.sockets {
		lns[i], err = net.FileListener(f)
		w.must(err)
	}
	level := new(slog.LevelVar)
	level.Set(slog.LevelDebug)
	var handler slog.Handler = slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: level})
	if w.set.logTo != nil {
		handler = w.set.logTo(handler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a, err := newApp(ctx, options{
		Config: c, ConfigPath: w.configPath(), Version: "test", Level: level, Callback: lns[0], Admin: lns[1], Web: lns[2],
		Logger: slog.New(handler), now: w.now, lookEvery: w.set.look, redisWait: cmp.Or(w.set.redisWait, slowRedis), diskWait: patience,
		Notify: w.set.notify, WatchdogTime: w.set.watchdog,
	})
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	d := &running{app: a, keys: keys, token: c.Admin.Token.Reveal(), cancel: cancel, done: make(chan error, 1)}
	go func() { d.done <- a.run(ctx) }()
	w.d = d
}

// start starts the daemon and waits until it works with Redis.
func (w *world) start() {
	w.t.Helper()
	w.boot()
	w.eventually("the daemon works with Redis", w.d.app.attached.isStarted)
}

// now is the daemon's clock.
func (w *world) now() time.Time {
	return time.Now().Add(time.Duration(w.jump.Load())).UTC().Truncate(time.Microsecond)
}

// skip moves the daemon's clock forward.
func (w *world) skip(d time.Duration) { w.jump.Add(int64(d)) }

// stop ends the daemon as SIGTERM does and returns how long it took. No start
// of it may have had a panic.
func (w *world) stop() time.Duration {
	w.t.Helper()
	if w.d == nil {
		return 0
	}
	d := w.d
	w.d = nil
	w.noPanics(d)
	// fasthttp gives a connection that has not sent a request 5 s for it.
	w.http.CloseIdleConnections()
	began := time.Now()
	d.cancel()
	if err := <-d.done; err != nil {
		w.t.Errorf("the daemon ended with: %v", err)
	}
	return time.Since(began)
}

func (w *world) noPanics(d *running) {
	w.t.Helper()
	if w.set.panics {
		return
	}
	families, err := d.app.reg.Gather()
	if err != nil {
		w.t.Errorf("gather the metrics: %v", err)
	}
	for _, f := range families {
		if f.GetName() != "dispatchd_panics_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetCounter().GetValue() != 0 {
				w.t.Errorf("panics: %v", m)
			}
		}
	}
}

// end is the end of every test: the books balance, nothing panicked, the daemon
// stops without an error.
func (w *world) end() {
	if w.d == nil {
		return
	}
	if !w.t.Failed() {
		w.balanced()
	}
	w.stop()
}

// balanced waits until the books balance.
func (w *world) balanced() service.LedgerReport {
	w.t.Helper()
	var l service.LedgerReport
	var err error
	if !within(10*time.Second, func() bool {
		l, err = w.d.app.service.Ledger(context.Background())
		return err == nil && l.Balanced
	}) {
		w.t.Errorf("the books do not balance: %v %q\n%+v", err, l.Differences, l)
	}
	return l
}

// eventually polls until ok; the test fails when that takes too long.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	if !within(patience, ok) {
		w.t.Fatalf("it did not happen: %s", what)
	}
}

func within(d time.Duration, ok func() bool) bool {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	end := time.After(d)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			return ok()
		}
	}
	return true
}

// equally is eventually for a number, and says which one it was instead. While
// the number changes it is waited for longer.
func equally[T comparable](w *world, what string, want T, got func() T) {
	w.t.Helper()
	last := got()
	for range 3 {
		before := last
		if within(patience, func() bool { last = got(); return last == want }) {
			return
		}
		if last == before {
			break
		}
	}
	w.t.Fatalf("%s: %v, want %v", what, last, want)
}

// api sends one request to the admin listener; it returns the status and
// decodes the answer into out unless that is nil.
func (w *world) api(method, path string, body, out any) int {
	w.t.Helper()
	status, raw := w.raw(method, path, body)
	if out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			w.t.Fatalf("%s %s answered %d %s: %v", method, path, status, raw, err)
		}
	}
	return status
}

func (w *world) raw(method, path string, body any) (int, []byte) {
	w.t.Helper()
	var r io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case string:
		r, kind = strings.NewReader(b), "text/csv"
	default:
		raw, err := json.Marshal(b)
		w.must(err)
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+w.addr[1]+path, r)
	w.must(err)
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	if strings.HasPrefix(path, "/v1/") {
		req.Header.Set("Authorization", "Bearer "+w.d.token)
	}
	res, err := w.http.Do(req)
	w.must(err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	w.must(err)
	fmt.Fprintf(&w.answers, "%s %s %d %v\n%s\n", method, path, res.StatusCode, res.Header, raw)
	return res.StatusCode, raw
}

// ask is api for a request that must succeed.
func (w *world) ask(method, path string, body, out any) {
	w.t.Helper()
	status, raw := w.raw(method, path, body)
	if status >= 300 {
		w.t.Fatalf("%s %s answered %d %s", method, path, status, raw)
	}
	if out != nil {
		w.must(json.Unmarshal(raw, out))
	}
}

type object = map[string]any

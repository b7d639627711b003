package chaos

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"dispatchd/internal/callback"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
	"dispatchd/internal/sim"
	"dispatchd/internal/sim/receiver"
)

// setting says what a world is like; zero values are good for most tests.
type setting struct {
	orgs  []string
	users int
	// belongs reports whether user u is affiliated with organisation o; nil
	// means everybody with everything.
	belongs func(u, o int) bool
	// timeout of one delivery; "" means 10s, so that a busy machine makes no
	// second attempt.
	timeout string
	// smallDisk puts data_dir on a small file system, when that is possible.
	smallDisk bool
	// clock lets a test move Redis's clock, when that is possible.
	clock     bool
	paused    bool   // the organisations' deliveries wait from the start
	orcidURL  string // of an ORCID to register with instead of the simulator
	activated bool   // the callback listener is held over restarts, as dispatchd.socket does
	behaviour receiver.Behaviour
	onRequest func(receiver.Request) // sees every POST; nil for none
}

// world is everything around the daemon, and the daemon. The generator of pings
// and the receivers live in the test's process: killing the daemon leaves them
// alive.
type world struct {
	t       *testing.T
	set     setting
	dir     string // data_dir
	redis   *redistest.Server
	rdb     *redis.Client // the test's own eyes
	sim     *sim.Registry
	recv    *receiver.Receiver
	daemon  *daemon
	api     *client
	users   []orcid.ID
	index   map[orcid.ID]int
	urls    []string // callback URL of each user
	keys    *callback.Keys
	books   *books
	pinger  *http.Client
	diskWhy string // why there is no small disk; empty when there is one
	// clockWhy is why Redis's clock cannot be moved; empty when it can.
	clockWhy string
	jumped   time.Duration // how far ahead that was last
	probe    int           // the user who was probed last

	backup   string // copy of Redis's append-only file
	backedUp time.Time
}

const (
	clientID     = "APP-CHAOS00000000001"
	clientSecret = "chaos-secret"
)

// newWorld starts everything, makes the organisations and imports the users.
func newWorld(t *testing.T, set setting) *world {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, set: set, dir: filepath.Join(t.TempDir(), "data"), pinger: newPinger()}
	t.Cleanup(w.pinger.CloseIdleConnections)
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.mountDisk()
	w.startRedis()
	w.rdb = w.redis.Client(t)
	w.startSim()
	w.books = newBooks(set)
	w.books.know(w.index)
	w.recv, err = receiver.Start(receiver.Options{Keep: -1, Behaviour: set.behaviour, OnRequest: func(r receiver.Request) {
		w.books.received(r)
		if set.onRequest != nil {
			set.onRequest(r)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.recv.Close)
	w.daemon = w.configure(bin)
	w.api = newClient(w.daemon.admin, w.dir)
	if err := w.daemon.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.daemon.kill()
		if t.Failed() || opts.keep {
			t.Logf("the daemon's log:\n%s", w.daemon.tail(120))
		}
	})
	w.must(w.ready())
	w.readKeys()
	w.must(w.makeOrganisations())
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) startRedis() {
	w.clockWhy = "not asked for"
	if w.set.clock {
		w.clockWhy = ""
		if err := redistest.CanJump(); err != nil {
			if os.Getenv("CI") != "" {
				w.t.Error(err)
			}
			w.clockWhy = err.Error()
		}
	}
	if w.clockWhy != "" {
		w.redis = redistest.Start(w.t)
		return
	}
	w.redis = redistest.StartWithClock(w.t)
}

func (w *world) mountDisk() {
	w.diskWhy = "not asked for"
	if !w.set.smallDisk {
		return
	}
	undo, err := mountSmall(w.dir, diskSize)
	if err != nil {
		w.diskWhy = err.Error()
		return
	}
	w.diskWhy = ""
	w.t.Cleanup(func() {
		if err := undo(); err != nil {
			w.t.Errorf("unmount the small disk: %v", err)
		}
	})
}

// startSim runs the simulated ORCID with the researchers, without its rate
// limit; its sender is idle, since the generator plays that part.
func (w *world) startSim() {
	r, err := sim.New(sim.Options{RateLimit: -1, Clients: []sim.Client{{ID: clientID, Secret: clientSecret}}})
	w.must(err)
	r.PauseSender(true)
	w.sim, w.users = r, r.AddProfiles(w.set.users)
	w.index = make(map[orcid.ID]int, len(w.users))
	for i, id := range w.users {
		w.index[id] = i
	}
}

// configure writes config.toml and prepares the process.
func (w *world) configure(bin string) *daemon {
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := sim.Serve(ctx, ln, w.sim); err != nil {
			w.t.Errorf("the simulator: %v", err)
		}
	})
	w.t.Cleanup(func() { cancel(); serving.Wait() })
	p := redistest.FreeAddresses(w.t, 3)
	orcidURL := "http://" + ln.Addr().String()
	if w.set.orcidURL != "" {
		orcidURL = w.set.orcidURL
	}
	timeout := w.set.timeout
	if timeout == "" {
		timeout = "10s"
	}
	conf := filepath.Join(w.t.TempDir(), "config.toml")
	w.must(os.WriteFile(filepath.Join(filepath.Dir(conf), "orcid.secret"), []byte(clientSecret+"\n"), 0o600))
	w.must(os.WriteFile(conf, fmt.Appendf(nil, `
public_url = "http://%[1]s"
data_dir = %[2]q
[listen]
callback = %[1]q
web = %[3]q
admin = %[4]q
[redis]
url = %[5]q
[orcid]
environment = "sandbox"
api_url = %[6]q
token_url = "%[6]s/oauth/token"
catch_up = "0s"
rate = 24
[orcid.credential.main]
client_id = %[7]q
client_secret_file = "orcid.secret"
[delivery]
timeout = %[8]q
retry = ["300ms", "500ms", "1s", "1s", "2s", "2s", "2s", "5s", "5s", "5s", "5s"]
concurrency = %[9]d
quiet_period = "30ms"
allow_private = ["127.0.0.0/8"]
[log]
level = "info"
format = "text"
`, p[0], w.dir, p[1], p[2], w.redis.URL(), orcidURL, clientID, timeout, concurrency), 0o600))
	var socket *os.File
	if w.set.activated {
		held, err := net.Listen("tcp", p[0])
		w.must(err)
		socket, err = held.(*net.TCPListener).File()
		w.must(err)
		w.must(held.Close())
		w.t.Cleanup(func() { socket.Close() })
	}
	return &daemon{socket: socket, bin: bin, config: conf, logPath: filepath.Join(filepath.Dir(conf), "daemon.log"), callback: p[0], admin: p[2]}
}

// concurrency is how many deliveries run at once per organisation.
const concurrency = 8

// ready waits until the daemon listens and everything it needs works.
func (w *world) ready() error {
	if err := w.daemon.listening(patience); err != nil {
		return err
	}
	return within(patience, 10*time.Millisecond, w.api.ready)
}

// readKeys builds each user's callback URL as the daemon gives it to ORCID.
func (w *world) readKeys() {
	raw, err := os.ReadFile(filepath.Join(w.dir, "callback.key"))
	w.must(err)
	var keys []secret.Text
	for _, line := range strings.Fields(string(raw)) {
		keys = append(keys, secret.Text(line))
	}
	w.keys, err = callback.NewKeys(keys)
	w.must(err)
	w.urls = make([]string, len(w.users))
	for i, id := range w.users {
		w.urls[i] = w.url(id)
	}
}

// url is the callback URL of the first registration of an iD.
func (w *world) url(id orcid.ID) string {
	u, err := w.keys.URL("http://"+w.daemon.callback, clientID, id, 1, "")
	w.must(err)
	return u
}

// makeOrganisations makes them through the admin API and imports their users.
// It may be repeated.
func (w *world) makeOrganisations() error {
	for o, name := range w.set.orgs {
		settings := map[string]any{
			"name": "Organisation " + name, "technical_contact": "it@" + name + ".example",
			"webhook": map[string]any{"enabled": true, "url": w.recv.URL() + "/" + name},
		}
		if err := w.api.do(http.MethodPut, "/v1/organisations/"+name, "", settings, nil); err != nil {
			return err
		}
		if w.set.paused {
			if err := w.api.do(http.MethodPost, "/v1/organisations/"+name+"/pause", "", nil, nil); err != nil {
				return err
			}
		}
		var csv strings.Builder
		csv.WriteString("orcid,email,name\n")
		want := 0
		for u, id := range w.users {
			if w.set.belongs == nil || w.set.belongs(u, o) {
				fmt.Fprintf(&csv, "%s,u%d@%s.example,User %d\n", id, u, name, u)
				want++
			}
		}
		if want == 0 {
			continue
		}
		path := "/v1/organisations/" + name + "/users"
		var report struct{ Added, Known, Bad int }
		if err := w.api.do(http.MethodPost, path, "text/csv", strings.NewReader(csv.String()), &report); err != nil {
			return err
		}
		if report.Bad != 0 || report.Added+report.Known != want {
			return fmt.Errorf("import of %s: %+v, want %d", name, report, want)
		}
	}
	return nil
}

// newPinger is how ORCID calls: a bare POST without body, on kept connections.
func newPinger() *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, DisableCompression: true, ResponseHeaderTimeout: 20 * time.Second,
	}, Timeout: 21 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// post sends one ping and returns the status.
func (w *world) post(url string) (int, error) {
	req, err := http.NewRequest(http.MethodPost, url, http.NoBody)
	if err != nil {
		return 0, err
	}
	res, err := w.pinger.Do(req)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// ping pings user u and books it when it was acknowledged.
func (w *world) ping(u int) (int, error) {
	sent := time.Now()
	status, err := w.post(w.urls[u])
	w.books.pinged(u, sent, status)
	return status, err
}

// waits reports whether the slot of a user waits or flies, or is a dead letter,
// by the keys that the store's key table names.
func (w *world) waits(org string, id orcid.ID) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for kind, test := range map[string]func(key string) (bool, error){
		"due":  func(k string) (bool, error) { return found(w.rdb.ZScore(ctx, k, fmt.Sprint(id.Base())).Err()) },
		"dead": func(k string) (bool, error) { return w.rdb.HExists(ctx, k, fmt.Sprint(id.Base())).Result() },
	} {
		for p := range 64 {
			ok, err := test(fmt.Sprintf("{p%d}:o:%s:w:%s", p, org, kind))
			if ok || err != nil {
				return ok, err
			}
		}
	}
	return false, nil
}

func found(err error) (bool, error) {
	if err == redis.Nil { //nolint:errorlint // a sentinel that is never wrapped
		return false, nil
	}
	return err == nil, err
}

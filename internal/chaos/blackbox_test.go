package chaos

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/sim"
	"dispatchd/internal/sim/receiver"
)

// inspector checks every POST by itself, with nothing of the daemon's own.
type inspector struct {
	mu      sync.Mutex
	secrets map[string][]byte // signing key by path
	bad     []string
	seen    int
}

var (
	bodyForm = regexp.MustCompile(`^\{"id":"[^"]+","orcid":"[0-9X-]{19}","url":"https://sandbox\.orcid\.org/[0-9X-]{19}","type":"UPDATED",` +
		`"updated-at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00","email":"u\d+@[a-z-]+\.example","name":"User \d+"\}$`)
	agentForm = regexp.MustCompile(`^dispatchd/\S+$`)
)

func (i *inspector) check(r receiver.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.seen++
	fail := func(format string, args ...any) { i.bad = append(i.bad, fmt.Sprintf(format, args...)) }
	if !bodyForm.Match(r.Body) {
		fail("body %s", r.Body)
	}
	var body struct{ ID, ORCID, URL, Email string }
	if err := json.Unmarshal(r.Body, &body); err != nil {
		fail("body %s: %v", r.Body, err)
	}
	if body.URL != "https://sandbox.orcid.org/"+body.ORCID || !strings.HasSuffix(body.Email, "@"+strings.TrimPrefix(r.Path, "/")+".example") {
		fail("%s was sent %s", r.Path, r.Body)
	}
	for name, form := range map[string]string{
		"Content-Type": `^application/json$`, "User-Agent": agentForm.String(), "Webhook-Id": "^" + regexp.QuoteMeta(body.ID) + "$",
		"Webhook-Timestamp": `^\d{10}$`, "Webhook-Signature": `^v1,[A-Za-z0-9+/]{43}=$`, "Apikey": "^key-of-" + strings.TrimPrefix(r.Path, "/") + "$",
	} {
		if v := r.Header.Values(name); len(v) != 1 || !regexp.MustCompile(form).MatchString(v[0]) {
			fail("header %s: %q is not %s", name, v, form)
		}
	}
	stamp := r.Header.Get("webhook-timestamp")
	if n, err := strconv.ParseInt(stamp, 10, 64); err != nil || time.Since(time.Unix(n, 0)).Abs() > 10*time.Second {
		fail("webhook-timestamp %q is not now", stamp)
	}
	mac := hmac.New(sha256.New, i.secrets[r.Path])
	fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), stamp, r.Body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("webhook-signature") != want {
		fail("signature %q, want %q", r.Header.Get("webhook-signature"), want)
	}
}

// learn reads the signing secrets as an operator would and sets an API key.
func (i *inspector) learn(w *world) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, name := range w.set.orgs {
		key := map[string]any{"webhook": map[string]any{"apikey": "key-of-" + name}}
		if err := w.api.do(http.MethodPatch, "/v1/organisations/"+name, "", key, nil); err != nil {
			return err
		}
		var s struct {
			SigningSecret string `json:"signing_secret"`
		}
		if err := w.api.get("/v1/organisations/"+name+"/secrets", &s); err != nil {
			return err
		}
		raw, ok := strings.CutPrefix(s.SigningSecret, "whsec_")
		secret, err := base64.StdEncoding.DecodeString(raw)
		if !ok || err != nil || len(secret) < 24 {
			return fmt.Errorf("signing secret of %s is not whsec_ and base64 of 24 bytes", name)
		}
		i.secrets["/"+name] = secret
	}
	return nil
}

// TestBlackBox: when nothing fails, every organisation is told of every ping
// exactly once, in the documented form.
func TestBlackBox(t *testing.T) {
	t.Parallel()
	look := &inspector{secrets: map[string][]byte{}}
	belongs := func(u, o int) bool {
		return o == 0 && u%3 != 2 || o == 1 && u%2 == 0 || o == 2 && (u%5 == 0 || u%6 == 5)
	}
	w := newWorld(t, setting{orgs: []string{"uni-a", "uni-b", "uni-c"}, users: 1000, belongs: belongs, onRequest: look.check})
	w.must(look.learn(w))
	pairs := 0
	for u := range w.users {
		for o := range w.set.orgs {
			if belongs(u, o) {
				pairs++
			}
		}
	}
	const rounds = 3
	for round := 1; round <= rounds; round++ {
		w.must(w.pingAll())
		w.must(within(patience, 20*time.Millisecond, func() error {
			if n := len(w.books.missing()); n > 0 {
				return fmt.Errorf("%d deliveries are missing", n)
			}
			book, err := w.api.ledger()
			if err != nil {
				return err
			}
			if book.Pending != 0 || !book.Balanced {
				return fmt.Errorf("%d slots pending, differences %q", book.Pending, book.Differences)
			}
			return nil
		}))
		_, posts, dups, wrong := w.books.numbers()
		if posts != round*pairs || dups != 0 || len(wrong) != 0 {
			t.Fatalf("round %d: %d POSTs, %d duplicates, wrong %q; want %d POSTs", round, posts, dups, wrong, round*pairs)
		}
	}
	for k, n := range w.books.perPair() {
		if n != rounds {
			t.Errorf("%s was told %d times of %s, want %d", w.set.orgs[k.org], n, w.users[k.user], rounds)
		}
	}
	look.mu.Lock()
	defer look.mu.Unlock()
	if len(look.bad) > 0 || look.seen != rounds*pairs {
		t.Errorf("%d of %d POSTs are not as documented, such as: %s", len(look.bad), look.seen, strings.Join(look.bad[:min(3, len(look.bad))], "\n"))
	}
	if n := sum(w.sim.Counters().Requests["delete"]); n != 0 {
		t.Errorf("%d DELETEs at ORCID", n)
	}
}

// pingAll pings every user once, several at a time; each must be answered 204.
func (w *world) pingAll() error {
	var workers sync.WaitGroup
	errs := make([]error, loadWorkers)
	for k := range loadWorkers {
		workers.Go(func() {
			for u := k; u < len(w.users); u += loadWorkers {
				if status, err := w.ping(u); err != nil || status != http.StatusNoContent {
					errs[k] = fmt.Errorf("ping of user %d: %d, %w", u, status, err)
					return
				}
			}
		})
	}
	workers.Wait()
	return errors.Join(errs...)
}

// TestForged: what is not a callback URL of ours is answered 404 and costs Redis
// nothing.
func TestForged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{orgs: []string{"uni-a"}, users: 2})
	good := w.urls[0]
	base := "http://" + w.daemon.callback
	path := strings.TrimPrefix(good, base)
	part := strings.Split(path, "/") // "", hooks, client, iD, epoch, token
	with := func(i int, s string) string {
		p := append([]string{}, part...)
		p[i] = s
		return base + strings.Join(p, "/")
	}
	flipped := []byte(part[5])
	flipped[3] ^= 1
	forged := map[string]string{
		"token":            with(5, string(flipped)),
		"token of another": with(3, w.users[1].String()),
		"short token":      with(5, part[5][:21]),
		"long token":       with(5, part[5]+"A"),
		"no token":         with(5, ""),
		"epoch":            with(4, "2"),
		"epoch spelling":   with(4, "01"),
		"negative epoch":   with(4, "-1"),
		"client":           with(2, "APP-OTHER"),
		"no client":        with(2, ""),
		"check digit":      with(3, "0000-0002-1825-0098"),
		"iD spelling":      with(3, strings.ReplaceAll(part[3], "-", "")),
		"no iD":            with(3, ""),
		"escape":           with(3, "%zz"),
		"slash at end":     good + "/",
		"two slashes":      base + "/" + path,
		"dots":             base + "/x/.." + path,
		"root":             base + "/",
		"hooks":            base + "/hooks",
		"other":            base + "/metrics",
		"admin":            base + "/v1/status",
		"nul":              with(5, "%00"),
		"long":             base + "/hooks/" + strings.Repeat("A", 4000),
	}
	for name, url := range forged {
		if status, err := w.raw(http.MethodPost, url); err != nil || status != http.StatusNotFound {
			t.Errorf("%s: %d, %v; want 404", name, status, err)
		}
	}
	for _, verb := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodPatch} {
		if status, err := w.raw(verb, good); err != nil || status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d, %v; want 405", verb, status, err)
		}
	}

	// A burst of them against the same time without: the daemon's own beats
	// and polls go on meanwhile.
	const burst = 3000
	began, before := time.Now(), w.commands()
	var workers sync.WaitGroup
	for range loadWorkers {
		workers.Go(func() {
			for range burst / loadWorkers {
				if status, err := w.post(forged["token"]); err != nil || status != http.StatusNotFound {
					t.Errorf("forged: %d, %v", status, err)
					return
				}
			}
		})
	}
	workers.Wait()
	took, loud := time.Since(began), w.commands()-before
	before = w.commands()
	rest(took)
	quiet := w.commands() - before
	t.Logf("%d forged pings in %s: Redis ran %d commands, %d in the same time without", burst, took.Round(time.Millisecond), loud, quiet)
	if loud > 2*quiet+burst/20 {
		t.Errorf("%d commands in Redis during %d forged pings, %d without any", loud, burst, quiet)
	}
	if acked, posts, _, _ := w.books.numbers(); acked != 0 || posts != 0 {
		t.Errorf("%d pings, %d POSTs", acked, posts)
	}
	// It still takes what is ours.
	if status, err := w.ping(0); err != nil || status != http.StatusNoContent {
		t.Errorf("a good ping: %d, %v", status, err)
	}
}

// raw sends a request as it is spelled.
func (w *world) raw(method, url string) (int, error) {
	req, err := http.NewRequest(method, "http://"+w.daemon.callback, http.NoBody)
	if err != nil {
		return 0, err
	}
	req.URL.Opaque = strings.TrimPrefix(url, "http://"+w.daemon.callback)
	res, err := w.pinger.Do(req)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// commands is how many commands Redis has run.
func (w *world) commands() int64 {
	w.t.Helper()
	info, err := w.rdb.Info(context.Background(), "stats").Result()
	w.must(err)
	for line := range strings.Lines(info) {
		if n, ok := strings.CutPrefix(line, "total_commands_processed:"); ok {
			v, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			w.must(err)
			return v
		}
	}
	w.t.Fatal("INFO has no total_commands_processed")
	return 0
}

// TestUnwanted: a ping for somebody who is not wanted any more is answered 204
// and told to nobody, and the row goes; a stranger's row, of whom nothing is
// known, is left alone.
func TestUnwanted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{orgs: []string{"uni-a"}, users: 2})
	w.must(within(patience, 20*time.Millisecond, func() error {
		if n := w.sim.Counters().Webhooks; n != 2 {
			return fmt.Errorf("%d of 2 users are registered", n)
		}
		return nil
	}))
	for u, id := range w.users {
		rows, err := w.sim.WebhooksOf(id)
		if err != nil || len(rows) != 1 || rows[0].URI != w.urls[u] {
			t.Fatalf("ORCID's row of user %d is not the URL that the test pings (%d rows, %v)", u, len(rows), err)
		}
	}
	stranger := w.sim.AddProfiles(1)[0]
	if _, err := w.sim.RegisterAll(clientID, w.url); err != nil {
		t.Fatal(err)
	}
	// The row stays for two seconds after the DELETE was sent: time to ping.
	if _, err := w.sim.InjectFault(sim.Fault{Operation: "delete", Kind: sim.FaultSlow, Delay: 2 * time.Second}); err != nil {
		t.Fatal(err)
	}
	gone := w.users[1]
	w.must(w.api.do(http.MethodDelete, "/v1/organisations/uni-a/users/"+gone.String(), "", nil, nil))
	for _, url := range []string{w.urls[1], w.url(stranger)} {
		if status, err := w.post(url); err != nil || status != http.StatusNoContent {
			t.Errorf("a ping of somebody unwanted: %d, %v", status, err)
		}
	}
	// The one who stayed is told, so the pings before were looked at too.
	if _, err := w.ping(0); err != nil {
		t.Fatal(err)
	}
	w.must(within(patience, 20*time.Millisecond, func() error {
		rows, err := w.sim.WebhooksOf(gone)
		if err != nil {
			return err
		}
		if len(rows) != 0 {
			return errors.New("the row is still there")
		}
		if !w.books.told(0) {
			return errors.New("the user who stayed is not told")
		}
		var l struct {
			LogEntries, Processed, Unknown, NotWanted int64
		}
		if err := w.api.get("/v1/ledger", &struct {
			LogEntries *int64 `json:"log_entries"`
			Processed  *int64 `json:"processed"`
			Unknown    *int64 `json:"unknown"`
			NotWanted  *int64 `json:"not_wanted"`
		}{&l.LogEntries, &l.Processed, &l.Unknown, &l.NotWanted}); err != nil {
			return err
		}
		if l.Processed != 3 || l.Unknown+l.NotWanted != 2 {
			return fmt.Errorf("of 3 pings %d are processed, %d unknown, %d not wanted", l.Processed, l.Unknown, l.NotWanted)
		}
		return nil
	}))
	// A ping of the old URL, now that all is gone, changes nothing either.
	if status, err := w.post(w.urls[1]); err != nil || status != http.StatusNoContent {
		t.Errorf("a ping of somebody gone: %d, %v", status, err)
	}
	rest(500 * time.Millisecond)
	if rows, err := w.sim.WebhooksOf(stranger); err != nil || len(rows) != 1 {
		t.Errorf("the stranger has %d rows (%v)", len(rows), err)
	}
	if n := w.sim.Counters().Requests["delete"]; sum(n) != 1 {
		t.Errorf("DELETEs at ORCID: %v, want one", n)
	}
	if _, posts, _, wrong := w.books.numbers(); posts != 1 || len(wrong) > 0 {
		t.Errorf("%d POSTs, wrong %q; want one", posts, wrong)
	}
}

// perPair counts what arrived by user and organisation.
func (b *books) perPair() map[pair]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[pair]int{}
	for k, list := range b.posts {
		out[k] = len(list)
	}
	return out
}

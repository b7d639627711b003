package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/sim"
	"dispatchd/internal/sim/receiver"
)

// inFile is an organisation in the configuration file, told at path of the
// receiver.
func (w *world) inFile(id, path string) string {
	return fmt.Sprintf("\n[[organisation]]\nid = %q\nname = \"Organisation %s\"\ncredential = \"main\"\ntechnical_contact = \"it@%s.example\"\nwebhook = { url = %q }\n",
		id, id, id, w.recv.URL()+path)
}

// reload asks for a reload; it returns the status and what was said.
func (w *world) reload() (status int, changes []string, problems []string) {
	w.t.Helper()
	var answer struct {
		Changes  []string
		Problems []struct{ Why string }
	}
	status = w.api("POST", "/v1/reload", nil, &answer)
	for _, p := range answer.Problems {
		problems = append(problems, p.Why)
	}
	return status, answer.Changes, problems
}

func mentions(list []string, words ...string) bool {
	return slices.ContainsFunc(list, func(s string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(s, w) })
	})
}

// SIGHUP and `dispatchd reload` change what runs without interrupting it, all
// or nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 20, later: true, delivery: []string{`timeout = "30s"`, "concurrency = 2", "max_in_flight = 20"}})
	w.writeConfig(w.inFile("uni-a", "/old") + w.inFile("uni-b", "/b"))
	w.start()
	w.affiliate("uni-a", w.users...)
	w.affiliate("uni-b", w.users[:2]...)
	open := make(chan struct{})
	w.recv.BehaveFor("/old", receiver.Gate(open, receiver.OK()))
	w.ping(w.users[0])
	equally(w, "deliveries under way", 1, func() int { return w.channel("uni-a").InFlight })

	// A changed URL and limit, while a delivery is under way.
	w.set.delivery = []string{`timeout = "30s"`, "concurrency = 5", "max_in_flight = 20"}
	w.writeConfig(w.inFile("uni-a", "/new") + w.inFile("uni-b", "/b"))
	status, changes, _ := w.reload()
	if status != http.StatusOK || !mentions(changes, "uni-a", "webhook.url") || !mentions(changes, "delivery.concurrency") {
		t.Errorf("the reload was answered %d and says %q", status, changes)
	}
	if n := w.channel("uni-a").InFlight; n != 1 {
		t.Errorf("%d deliveries under way after the reload, want 1", n)
	}
	held := make(chan struct{})
	w.recv.BehaveFor("/new", receiver.Gate(held, receiver.OK()))
	close(open)
	w.eventually("the delivery that was under way was taken", func() bool { return w.taken("old")[w.users[0]] == 1 })
	w.recv.BehaveFor("/new", nil)
	w.pingAll(len(w.users), w.users)
	w.everyoneTaken("new", w.users...)
	w.idle()
	w.recv.BehaveFor("/new", receiver.Gate(held, receiver.OK()))
	w.pingAll(len(w.users), w.users)
	equally(w, "deliveries at once", 5, func() int { return w.channel("uni-a").InFlight })
	close(held)
	w.idle()
	if n := len(w.told("old")); n != 1 {
		t.Errorf("%d deliveries to the old URL, want 1", n)
	}
	reloaded := func() float64 { return w.metric("dispatchd_config_last_reload_successful") }
	if reloaded() != 1 {
		t.Error("the metric says that the reload failed")
	}

	// A bad file changes nothing, and every mistake is told at once.
	good, err := os.ReadFile(w.configPath())
	w.must(err)
	bad := strings.Replace(string(good), `quiet_period = "0s"`, `quiet_period = "soon"`, 1) + "\ncolour = \"red\"\n"
	bad = strings.Replace(bad, "concurrency = 5", "concurrency = -1", 1)
	w.must(os.WriteFile(w.configPath(), []byte(bad), 0o600))
	status, _, problems := w.reload()
	if status != http.StatusUnprocessableEntity || !mentions(problems, "delivery.quiet_period") || !mentions(problems, "delivery.concurrency") || !mentions(problems, "colour") {
		t.Errorf("a bad file was answered %d %q", status, problems)
	}
	if reloaded() != 0 {
		t.Error("the metric says that the reload succeeded")
	}
	w.recv.Forget()
	w.ping(w.users[0])
	w.everyoneTaken("new", w.users[0])

	// An organisation that is taken out of the file is suspended: its
	// registrations and its news stay. One that comes back goes on.
	w.registered(clientMain, w.users...)
	w.writeConfig(w.inFile("uni-a", "/new"))
	if status, changes, _ := w.reload(); status != http.StatusOK || !mentions(changes, "uni-b", "suspended") {
		t.Errorf("the reload was answered %d and says %q", status, changes)
	}
	if reloaded() != 1 {
		t.Error("the metric still says that the reload failed")
	}
	if !w.held("uni-b", "suspend") {
		t.Error("the organisation that is gone from the file is not suspended")
	}
	w.idle()
	w.recv.Forget()
	w.pingAll(2, w.users[:2])
	w.everyoneTaken("new", w.users[:2]...)
	if n := len(w.told("b")); n != 0 {
		t.Errorf("%d notifications while suspended", n)
	}
	w.registered(clientMain, w.users...)
	w.stop() // also a restart leaves it suspended, and knows it
	w.start()
	if !w.held("uni-b", "suspend") {
		t.Error("after a restart it is not suspended any more")
	}
	w.writeConfig(w.inFile("uni-a", "/new") + w.inFile("uni-b", "/b"))
	if status, changes, _ := w.reload(); status != http.StatusOK || !mentions(changes, "uni-b", "back in the file") {
		t.Errorf("the reload was answered %d and says %q", status, changes)
	}
	w.everyoneTaken("b", w.users[:2]...)
	if n := w.deletes(); n != 0 {
		t.Errorf("%d DELETEs at ORCID", n)
	}
	// What the file owns is changed there only.
	if status := w.api("PATCH", "/v1/organisations/uni-a", object{"name": "X"}, nil); status != http.StatusConflict {
		t.Errorf("changing an organisation of the file was answered %d", status)
	}
}

// A new ORCID secret is tried before the old one is given up; one that ORCID
// refuses is not taken, and nothing else of that file is.
func TestAReloadTriesANewSecretFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 6})
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	good, err := os.ReadFile(w.configPath())
	w.must(err)
	const wrong, next = "wrong-s3cret-0b17", "next-s3cret-5d20"
	write := func(secret, level string) {
		text := strings.Replace(string(good), secretMain, secret, 1) + "\n[log]\nlevel = \"" + level + "\"\n"
		w.must(os.WriteFile(w.configPath(), []byte(text), 0o600))
	}
	write(wrong, "warn")
	status, _, problems := w.reload()
	if status != http.StatusUnprocessableEntity || !mentions(problems, "orcid.credential.main", "refused") || mentions(problems, wrong) {
		t.Errorf("a secret that ORCID refuses was answered %d %q", status, problems)
	}
	if level := w.d.app.o.Level.Level(); level != slog.LevelDebug {
		t.Errorf("the log level of the refused file is used: %s", level)
	}
	if got := w.d.app.orcid.byName["main"].settings.ClientSecret.Reveal(); got != secretMain {
		t.Error("the refused secret is used")
	}

	// ORCID cannot be asked: that is said, and it is used.
	w.must(w.orcid.RotateSecret(sim.Client{ID: clientMain, Secret: next}))
	_, err = w.orcid.InjectFault(sim.Fault{Operation: "token", Kind: sim.FaultStatus, Status: http.StatusServiceUnavailable, Count: 1})
	w.must(err)
	write(next, "debug")
	status, changes, problems := w.reload()
	if status != http.StatusOK || !mentions(changes, "orcid.credential.main.client_secret changed") || !mentions(changes, "used untried") {
		t.Fatalf("the new secret was answered %d %q %q", status, changes, problems)
	}
	_, err = w.orcid.RevokeTokens(clientMain)
	w.must(err)
	w.affiliate("uni-a", w.orcid.AddProfiles(2)...)
	w.eventually("registrations go on with the new secret", func() bool { return len(w.orcid.Webhooks()) == 8 })
	write(next, "debug")
	if status, changes, _ := w.reload(); status != http.StatusOK || len(changes) != 0 {
		t.Errorf("a reload of the same file was answered %d %q", status, changes)
	}
}

// What needs a restart is said at every reload until there was one.
func TestAReloadSaysWhatNeedsARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{})
	good, err := os.ReadFile(w.configPath())
	w.must(err)
	changed := regexp.MustCompile(`(?m)^web_url = .*$`).ReplaceAllString(string(good), `web_url = "http://new.example"`)
	w.must(os.WriteFile(w.configPath(), []byte(changed), 0o600))
	for range 2 {
		if status, changes, _ := w.reload(); status != http.StatusOK || !slices.Equal(changes, []string{"restart needed: web_url"}) {
			t.Errorf("the reload was answered %d %q", status, changes)
		}
	}
	w.must(os.WriteFile(w.configPath(), good, 0o600))
	if status, changes, _ := w.reload(); status != http.StatusOK || len(changes) != 0 {
		t.Errorf("the reload back was answered %d %q", status, changes)
	}
}

// What needs a restart is not used before: half of another ORCID would be asked
// with what is known of this one.
func TestAReloadUsesNothingThatNeedsARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{})
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	good, err := os.ReadFile(w.configPath())
	w.must(err)
	changed := regexp.MustCompile(`(?m)^(api_url|token_url|web_url) = .*$`).ReplaceAllString(string(good), `$1 = "http://127.0.0.1:9/elsewhere"`)
	changed = strings.ReplaceAll(changed, `web_url = "http://127.0.0.1:9/elsewhere"`, `web_url = "http://new.example"`)
	w.must(os.WriteFile(w.configPath(), []byte(changed), 0o600))
	if status, changes, problems := w.reload(); status != http.StatusOK || len(changes) != 3 {
		t.Fatalf("the reload was answered %d %q %q", status, changes, problems)
	}
	_, err = w.orcid.RevokeTokens(clientMain)
	w.must(err)
	w.affiliate("uni-a", w.orcid.AddProfiles(2)...)
	w.eventually("registrations go on where they were", func() bool { return len(w.orcid.Webhooks()) == len(w.users)+2 })
	var link struct{ Link string }
	w.ask("POST", "/v1/organisations/uni-a/link", object{}, &link)
	if !strings.HasPrefix(link.Link, "http://"+w.addr[2]) {
		t.Errorf("a link leads to %s", link.Link)
	}
}

// Reloads under load cut off no delivery and lose none: each ping is told once.
func TestReloadsUnderLoadInterruptNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 200, later: true, delivery: []string{`timeout = "30s"`, "concurrency = 8"}, behaviour: receiver.Slow(50*time.Millisecond, receiver.OK())})
	w.writeConfig(w.inFile("uni-a", "/a"))
	w.start()
	w.affiliate("uni-a", w.users...)
	w.pingAll(len(w.users), w.users)
	reloads, busy := 0, 0
	for w.channel("uni-a").Waiting+w.channel("uni-a").InFlight > 0 && reloads < 1000 {
		reloads++
		w.set.delivery = []string{`timeout = "30s"`, fmt.Sprintf("concurrency = %d", 5+reloads%4)}
		w.writeConfig(w.inFile("uni-a", fmt.Sprintf("/a?reload=%d", reloads)))
		if w.channel("uni-a").InFlight > 0 {
			busy++
		}
		if _, err := w.d.app.reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.everyoneTaken("a", w.users...)
	w.idle()
	for id, n := range w.taken("a") {
		if n != 1 {
			t.Errorf("%s was told %d times", id, n)
		}
	}
	if busy < 3 {
		t.Errorf("%d reloads, %d with deliveries under way: the test shows nothing", reloads, busy)
	}
	var attempts struct {
		Attempts []struct {
			Status int
			Error  string
		}
	}
	w.ask("GET", "/v1/organisations/uni-a/attempts?limit=1000", nil, &attempts)
	for _, a := range attempts.Attempts {
		if a.Status != http.StatusNoContent {
			t.Errorf("an attempt ended with %d %s", a.Status, a.Error)
		}
	}
	t.Logf("%d reloads, %d with deliveries under way, while %d were made", reloads, busy, len(attempts.Attempts))
}

// POST /-/reload is the same, and needs the token too.
func TestReloadByItsOtherName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{})
	for token, want := range map[string]int{"": http.StatusUnauthorized, "wrong-token-wrong-token": http.StatusUnauthorized, w.d.token: http.StatusOK} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+w.addr[1]+"/-/reload", http.NoBody)
		w.must(err)
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := w.http.Do(req)
		w.must(err)
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("answered %d, want %d", res.StatusCode, want)
		}
	}
	if w.metric("dispatchd_config_last_reload_success_timestamp_seconds") < 1e9 {
		t.Error("the metric has no time")
	}
}

// Another data_dir needs a restart: until then no keys are made in it, let alone
// used, also when nobody is registered yet and nothing would be locked.
func TestAReloadMakesNoKeysInAnotherDataDir(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 2})
	good, err := os.ReadFile(w.configPath())
	w.must(err)
	other := filepath.Join(t.TempDir(), "moved")
	changed := regexp.MustCompile(`(?m)^data_dir = .*$`).ReplaceAllString(string(good), "data_dir = \""+other+"\"")
	w.must(os.WriteFile(w.configPath(), []byte(changed), 0o600))
	keys := w.d.app.keys.Load().SigningID()
	for range 2 {
		if status, changes, problems := w.reload(); status != http.StatusOK || !slices.Equal(changes, []string{"restart needed: data_dir"}) {
			t.Errorf("the reload was answered %d %q %q", status, changes, problems)
		}
	}
	if w.d.app.keys.Load().SigningID() != keys {
		t.Error("another callback key is used")
	}
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made in the new data_dir: %v", err)
	}
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	if status, changes, problems := w.reload(); status != http.StatusOK || !slices.Equal(changes, []string{"restart needed: data_dir"}) {
		t.Errorf("with registrations the reload was answered %d %q %q", status, changes, problems)
	}
}

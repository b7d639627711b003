package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
	"dispatchd/internal/sim"
)

// aged is a world in which the daemon's clock and ORCID's go together.
func aged(t *testing.T, users int) *world {
	t.Helper()
	w := newWorld(t, setting{
		users: users, look: 10 * time.Millisecond,
		sim: sim.Options{Start: time.Now(), Threads: 16},
	})
	w.pass(2 * time.Hour) // the records were made before anybody was affiliated
	return w
}

// pass lets time go by for both. A daemon that runs notes meanwhile, as it does
// every 15 s, that it takes pings.
func (w *world) pass(d time.Duration) {
	for d > 0 {
		step := d
		if w.d != nil {
			step = min(d, 55*time.Second)
			w.d.app.gaps.Beat()
		}
		// Ours first: a ping that comes at once, of a change that has just been
		// made, would be too early to tell of it, and catch-up tell of it again.
		w.skip(step)
		w.orcid.Advance(step)
		d -= step
	}
}

// requests sums what ORCID was asked of one operation.
func (w *world) requests(operation string) (n int64) {
	for _, count := range w.orcid.Counters().Requests[operation] {
		n += count
	}
	return n
}

// dead lists whose every row at ORCID is dead, or who has none.
func (w *world) dead(users []orcid.ID) (out []orcid.ID) {
	alive := map[orcid.ID]bool{}
	for _, h := range w.orcid.Webhooks() {
		if !h.Dead && h.Client == clientMain {
			alive[h.ORCID] = true
		}
	}
	for _, id := range users {
		if !alive[id] {
			out = append(out, id)
		}
	}
	return out
}

// hangUp breaks off every connection to the callback port until the returned
// function is called: the port stays bound, and what the kernel would keep for
// later must not look like pings that were taken.
func (w *world) hangUp() (back func()) {
	w.t.Helper()
	ln, err := net.FileListener(w.sockets[0])
	w.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	return func() {
		w.must(ln.Close())
		<-done
	}
}

// outage lets the daemon be down for d, with edits going on, and starts it again.
func (w *world) outage(d time.Duration, edited []orcid.ID) {
	w.t.Helper()
	w.stop()
	back := w.hangUp()
	w.pass(time.Hour)
	for _, id := range edited {
		w.must(w.orcid.Change(id, "works", sim.Edit))
	}
	w.pass(d - time.Hour)
	back()
	w.start()
	w.eventually("both credentials are caught up with", func() bool { return w.metric("dispatchd_catch_up_rounds_total") >= 2 })
}

// TestAfterAnOutageEverybodyIsToldAndEveryRegistrationLives: 30 hours are more
// than ORCID's patience, 72 all the more.
func TestAfterAnOutageEverybodyIsToldAndEveryRegistrationLives(t *testing.T) {
	t.Parallel()
	for _, hours := range []int{3, 30, 72} {
		t.Run(fmt.Sprintf("%dh", hours), func(t *testing.T) {
			t.Parallel()
			w := aged(t, 40)
			w.simple("uni-a")
			w.registered(clientMain, w.users...)
			w.settled(len(w.users))
			w.pass(2 * time.Hour)
			edited := w.users[:8]
			puts := w.requests("put")
			w.outage(time.Duration(hours)*time.Hour, edited)
			dead := w.dead(w.users)
			if want := hours >= 30; (len(dead) == len(edited)) != want {
				t.Fatalf("ORCID gave up on %d registrations after %d h", len(dead), hours)
			}
			w.everyoneTaken("uni-a", edited...)
			w.noted("uni-a")
			w.pass(7 * time.Hour)
			equally(w, "dead registrations", 0, func() int { return len(w.dead(w.users)) })
			w.pass(15 * time.Minute)
			equally(w, "rows at ORCID", len(w.users), func() int { w.skip(time.Second); return len(w.orcid.Webhooks()) })
			made := w.requests("put") - puts
			if made != int64(len(dead)) {
				t.Errorf("%d registrations were made anew, %d had died", made, len(dead))
			}
			for id, n := range w.taken("uni-a") {
				if n > 2 {
					t.Errorf("%s was told %d times of one change", id, n)
				}
			}
			// Everybody pings again.
			before := len(w.told("uni-a"))
			w.edit(w.users...)
			w.skip(12 * time.Minute)
			w.eventually("everybody's next change is told", func() bool { return len(w.told("uni-a")) >= before+len(w.users) })
			t.Logf("%d h down, %d of %d changed: %d died, %d PUT, %d DELETE, %d searches, %d records read", hours, len(edited), len(w.users),
				len(dead), made, w.requests("delete"), w.requests("search"), w.requests("record"))
		})
	}
}

// TestALostCallbackKeyRegistersNobody until a person says so.
func TestALostCallbackKeyRegistersNobody(t *testing.T) {
	t.Parallel()
	w := aged(t, 12)
	w.organisation("uni-a", nil)
	w.affiliate("uni-a", w.users[:10]...)
	w.registered(clientMain, w.users[:10]...)
	w.settled(10)
	old, rows := w.url(w.users[0]), len(w.orcid.Webhooks())
	path := filepath.Join(w.dir, "callback.key")
	first, err := os.ReadFile(path)
	w.must(err)

	// A reload with a strange key is refused as a whole.
	lost := []byte(secret.NewKey(32).Reveal() + "\n")
	w.must(os.WriteFile(path, lost, 0o600))
	if _, err := w.d.app.reload(t.Context()); err == nil || !strings.Contains(err.Error(), "callback_key_file") {
		t.Fatalf("a reload that loses the key: %v", err)
	}
	if a, err := w.post(old); err != nil || a.status != http.StatusNoContent {
		t.Fatalf("after the reload was refused a ping is answered %+v, %v", a, err)
	}

	w.stop()
	puts, deletes := w.requests("put"), w.requests("delete")
	w.start()
	w.eventually("status names the lost key", func() bool { return w.problem("none of the keys") })
	if a, err := w.post(old); err != nil || a.status != http.StatusNotFound {
		t.Errorf("a ping of the lost key is answered %+v, %v; want 404", a, err)
	}
	state := w.d.app.service.Credentials()[0]
	if state.Name != "main" || state.State != "refused" || !strings.Contains(state.Detail, "rearm --all") {
		t.Errorf("the credential is shown as %+v", state)
	}
	w.affiliate("uni-a", w.users[10:]...)
	w.must(w.d.app.service.RemoveUser(t.Context(), service.By{Who: "test"}, "uni-a", w.users[9]))
	w.pass(3 * time.Hour)
	// What ORCID cannot tell any more is found by its search.
	w.must(w.orcid.Change(w.users[1], "works", sim.Edit))
	w.pass(25 * time.Hour)
	w.everyoneTaken("uni-a", w.users[1])
	if p, d := w.requests("put")-puts, w.requests("delete")-deletes; p != 0 || d != 0 || len(w.orcid.Webhooks()) != rows {
		t.Fatalf("%d PUTs and %d DELETEs with a key that nobody knows", p, d)
	}

	// The old key as a further line ends it without a request for those who
	// were registered.
	w.must(os.WriteFile(path, append(append([]byte{}, lost...), first...), 0o600))
	w.must(ignoreChanges(w.d.app.reload(t.Context())))
	w.eventually("the old key is not missed any more", func() bool { return !w.problem("none of the keys") })
	if a, err := w.post(old); err != nil || a.status != http.StatusNoContent {
		t.Errorf("with the old key back a ping is answered %+v, %v", a, err)
	}
}

// TestGivingUpALostKeyRegistersEverybodyAnew, on a person's word.
func TestGivingUpALostKeyRegistersEverybodyAnew(t *testing.T) {
	t.Parallel()
	w := aged(t, 10)
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	w.settled(10)
	w.stop()
	path := filepath.Join(w.dir, "callback.key")
	w.must(os.WriteFile(path, []byte(secret.NewKey(32).Reveal()+"\n"), 0o600))
	w.start()
	w.eventually("status names the lost key", func() bool { return w.problem("none of the keys") })
	if status := w.api("POST", "/v1/registrations/rearm", object{"all": true}, nil); status != http.StatusAccepted {
		t.Fatalf("rearm was answered %d", status)
	}
	w.eventually("the lost key is not missed any more", func() bool { return !w.problem("none of the keys") })
	w.newURLs("http://"+w.addr[0], clientMain, 2, w.users...)
	w.settled(20)
	w.stop()
	w.start()
	if w.problem("none of the keys") {
		t.Error("after a restart the lost key is missed again")
	}
	w.pass(15 * time.Minute)
	w.settled(10)
	w.edit(w.users...)
	w.everyoneTaken("uni-a", w.users...)
}

// TestTheDaemonProbesItself through its own public URL.
func TestTheDaemonProbesItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{})
	w.must(w.d.app.prober.Probe(t.Context()))
	if n := w.metric("dispatchd_pings_received_total"); n != 0 {
		t.Errorf("%v pings are counted: a probe is none", n)
	}
	if up := w.metric("dispatchd_self_probe_up"); up != 1 {
		t.Errorf("dispatchd_self_probe_up is %v", up)
	}
	if w.problem("cannot reach us") {
		t.Error("a probe that worked is a problem")
	}
	c := *w.d.app.config.Load()
	c.PublicURL = "http://127.0.0.1:1"
	w.d.app.config.Store(&c)
	if err := w.d.app.prober.Probe(t.Context()); err == nil || !w.problem("ORCID cannot reach us: public_url cannot be connected to") {
		t.Errorf("nobody listens at public_url: %v, %v", err, w.status().Problems)
	}
}

// TestAPauseOfRegistrationsOutlivesARestart.
func TestAPauseOfRegistrationsOutlivesARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{})
	if status := w.api("POST", "/v1/registrations/pause", nil, nil); status != http.StatusOK {
		t.Fatalf("pause was answered %d", status)
	}
	w.stop()
	w.start()
	w.simple("uni-a")
	w.eventually("status says that registrations are paused", func() bool { return w.status().Actors.Paused })
	if n := w.requests("put"); n != 0 {
		t.Errorf("%d PUTs during a pause", n)
	}
	w.api("POST", "/v1/registrations/resume", nil, nil)
	w.skip(10 * time.Minute)
	w.registered(clientMain, w.users...)
}

func ignoreChanges(_ []string, err error) error { return err }

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/sim"
)

// copyRedis stops Redis, runs f on its directory and starts it again.
func (w *world) copyRedis(f func(dir string) error) {
	w.t.Helper()
	w.redis.Stop()
	w.must(f(w.redis.Dir))
	w.must(w.redis.Restart())
}

// TestARedisOfADayAgoIsFoundAndMadeGood: the backup of yesterday is put back under
// the running daemon. It stops and shouts; when a person accepts the loss and
// imports again whom it lost, everybody who changed since is told, and every
// registration lives.
func TestARedisOfADayAgoIsFoundAndMadeGood(t *testing.T) {
	t.Parallel()
	w := aged(t, 30)
	old := w.users[:25]
	w.organisation("uni-a", nil)
	w.affiliate("uni-a", old...)
	w.registered(clientMain, old...)
	w.settled(25)
	w.pass(2 * time.Hour)
	backup := filepath.Join(t.TempDir(), "backup")
	w.copyRedis(func(dir string) error { return os.CopyFS(backup, os.DirFS(dir)) })
	w.eventually("the daemon works with Redis again", func() bool { return !w.degraded("redis") })

	w.edit(w.users[:5]...)
	w.everyoneTaken("uni-a", w.users[:5]...)
	w.pass(12 * time.Hour)
	w.affiliate("uni-a", w.users[25:]...)
	w.registered(clientMain, w.users...)
	w.settled(30)
	w.pass(12 * time.Hour)
	w.edit(w.users[5:8]...)
	w.everyoneTaken("uni-a", w.users[:8]...)
	rows, began := len(w.orcid.Webhooks()), w.now()
	puts, searches := w.requests("put"), w.requests("search")

	w.copyRedis(func(dir string) error {
		return errors.Join(os.RemoveAll(filepath.Join(dir, "appendonlydir")), os.CopyFS(filepath.Join(dir, "appendonlydir"), os.DirFS(filepath.Join(backup, "appendonlydir"))))
	})
	w.eventually("the daemon says that Redis forgot", func() bool { return w.problem("Redis forgot: it was rolled back by at least ") })
	w.recv.Forget()
	w.edit(w.users[8:11]...) // their pings go to the spool
	w.pass(time.Hour)
	if n := w.requests("delete"); n != 0 || len(w.orcid.Webhooks()) != rows || w.requests("put") != puts {
		t.Fatalf("%d DELETEs, %d rows of %d, %d PUTs while Redis is not trusted", n, len(w.orcid.Webhooks()), rows, w.requests("put")-puts)
	}
	if n := w.recv.Count(); n != 0 {
		t.Fatalf("%d notifications while Redis is not trusted", n)
	}

	w.ask("POST", "/v1/recover", object{"accept_loss": true}, nil)
	w.affiliate("uni-a", w.users...) // the operator's list has everybody
	w.everyoneTaken("uni-a", w.users[:11]...)
	w.registered(clientMain, w.users...)
	w.settled(30)
	w.pass(30 * time.Minute)
	equally(w, "dead registrations", 0, func() int { return len(w.dead(w.users)) })
	equally(w, "rows at ORCID", 30, func() int { return len(w.orcid.Webhooks()) })
	if n := w.requests("delete"); n != 0 {
		t.Errorf("%d DELETEs", n)
	}
	if n := w.metric("dispatchd_registration_drift_total", "row_existed"); n != 5 {
		t.Errorf("%v rows are said to have been there, want 5", n)
	}
	w.recv.Forget()
	w.edit(w.users...)
	w.everyoneTaken("uni-a", w.users...)
	t.Logf("30 users, 11 changed, 5 lost with the backup: all told and alive %s after the restore (virtual), %d PUT (all answered 204), 0 DELETE, %d searches",
		w.now().Sub(began).Round(time.Minute), w.requests("put")-puts, w.requests("search")-searches)
}

// TestADeactivatedClientWaitsForAPerson: ORCID deactivates the API client for 30 h
// and pings nobody. That is one line in status, and when ORCID takes the client
// again everybody who changed is told and everybody is registered.
func TestADeactivatedClientWaitsForAPerson(t *testing.T) {
	t.Parallel()
	w := aged(t, 20)
	w.organisation("uni-a", nil)
	w.affiliate("uni-a", w.users[:15]...)
	w.registered(clientMain, w.users[:15]...)
	w.settled(15)
	w.pass(2 * time.Hour)
	puts, searches, began := w.requests("put"), w.requests("search"), w.now()
	w.must(w.orcid.DeactivateClient(clientMain, true))
	// A token that was given out before still registers.
	_, err := w.orcid.RevokeTokens(clientMain)
	w.must(err)
	w.affiliate("uni-a", w.users[15:]...)
	w.eventually("status names the credential", func() bool { return w.problem("credential main: ") })
	for _, id := range w.users[:4] {
		w.must(w.orcid.Change(id, "works", sim.Edit))
	}
	w.pass(30 * time.Hour)
	lines := 0
	for _, p := range w.status().Problems {
		if strings.HasPrefix(p.What, "credential main: ") {
			lines++
		}
	}
	if refused := w.requests("put") - puts; lines != 1 || refused > 8 {
		t.Errorf("%d lines and %d PUTs for one refused credential: %+v", lines, refused, w.status().Problems)
	}
	if n := w.recv.Count(); n != 0 {
		t.Fatalf("%d notifications, although ORCID pings nobody", n)
	}
	w.must(w.orcid.DeactivateClient(clientMain, false))
	w.stop() // or a reload; what failed is tried again in real time otherwise
	w.start()
	w.everyoneTaken("uni-a", w.users[:4]...)
	w.pass(time.Hour)
	w.registered(clientMain, w.users...)
	w.settled(20)
	equally(w, "dead registrations", 0, func() int { return len(w.dead(w.users)) })
	if w.problem("credential main") {
		t.Errorf("the problem stays: %+v", w.status().Problems)
	}
	t.Logf("20 users, 4 changed, 5 waiting: all told and alive %s after the deactivation (virtual; 30 h of it), %d PUT, %d DELETE, %d searches",
		w.now().Sub(began).Round(time.Minute), w.requests("put")-puts, w.requests("delete"), w.requests("search")-searches)
}

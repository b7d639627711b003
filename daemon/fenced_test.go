package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dispatchd/internal/secret"
	"dispatchd/internal/store"
)

// takeOver does to our Redis what a second daemon does that is started with a
// copy of data_dir.
func (w *world) takeOver() {
	w.t.Helper()
	dir := w.t.TempDir()
	canary, err := os.ReadFile(filepath.Join(w.dir, "canary.json"))
	w.must(err)
	w.must(os.WriteFile(filepath.Join(dir, "canary.json"), canary, 0o600))
	box, err := secret.NewBox([]byte(strings.Repeat("k", 32)))
	w.must(err)
	st, err := store.New(store.Options{URL: w.redis.URL(), DataDir: dir, Box: box, Logger: slog.New(slog.DiscardHandler)})
	w.must(err)
	w.must(st.Attach(context.Background()))
	w.must(st.Close())
}

// A daemon whose Redis another one took over delivers nothing any more: it says
// so, and goes on after a restart.
func TestADaemonThatWasTakenOverSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 4})
	w.organisation("uni-a", nil)
	w.affiliate("uni-a", w.users...)
	w.takeOver()
	w.eventually("status names the other daemon", func() bool { return w.problem("another dispatchd has taken this Redis over") })
	if !w.degraded("redis") {
		t.Error("/readyz says nothing of the other daemon")
	}
	if n := strings.Count(w.log.String(), "ANOTHER DISPATCHD HAS TAKEN THIS REDIS OVER"); n != 1 {
		t.Errorf("the log says it %d times, want once", n)
	}
	w.pingAll(len(w.users), w.users)
	w.stop()
	w.start()
	w.everyoneTaken("uni-a", w.users...)
	if w.problem("another dispatchd") {
		t.Errorf("status still names the other daemon: %+v", w.status().Problems)
	}
}

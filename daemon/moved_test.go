package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dispatchd/internal/secret"
)

// A new signing key makes every callback URL another one: everybody is
// registered anew, also when the change was made while the daemon was down, and
// the old rows go when the new ones have lived for ten minutes.
func TestChangedCallbackURLsRegisterEverybodyAnew(t *testing.T) {
	t.Parallel()
	w := aged(t, 6)
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	w.settled(6)
	path := filepath.Join(w.dir, "callback.key")
	anew := func(epoch int, how func()) {
		t.Helper()
		old, err := os.ReadFile(path)
		w.must(err)
		w.must(os.WriteFile(path, append([]byte(secret.NewKey(32).Reveal()+"\n"), bytes.TrimSpace(old)...), 0o600))
		how()
		w.newURLs("http://"+w.addr[0], clientMain, epoch, w.users...)
		w.settled(12)
		w.pass(15 * time.Minute)
		w.registered(clientMain, w.users...) // exactly one row each: the old ones are gone
		w.settled(6)
	}
	anew(2, func() { w.must(ignoreChanges(w.d.app.reload(t.Context()))) })
	anew(3, func() {
		w.stop()
		w.start()
	})
	puts := w.requests("put")
	w.stop()
	w.start()
	w.pass(time.Hour)
	if n := w.requests("put") - puts; n != 0 {
		t.Errorf("%d PUTs after a restart that changed nothing", n)
	}
	w.edit(w.users...)
	w.everyoneTaken("uni-a", w.users...)
}

package main

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"
)

// channelKey is a key of an organisation's webhook in Redis.
func (w *world) channelKey(org, name string) string {
	w.t.Helper()
	keys, err := w.rdb.Keys(context.Background(), "*:o:"+org+":w:control").Result()
	w.must(err)
	if len(keys) != 1 {
		w.t.Fatalf("the webhook of %s has %q", org, keys)
	}
	return strings.TrimSuffix(keys[0], "control") + name
}

// A key of one organisation that was made another type stops neither another's
// news, nor the next start; the operator reads which key it is, and when it is
// mended what waited is told.
func TestAKeyOfAnotherTypeStopsNobodyElse(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"control", "due", "slots", "dead"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			w := newWorld(t, setting{users: 4})
			w.simple("uni-a")
			w.simple("uni-b")
			key := w.channelKey("uni-a", name)
			was := w.rdb.Exists(ctx, key).Val() == 1
			if was {
				w.command("RENAME", key, "kept")
			}
			w.command("SET", key, "x")
			words := "key " + key + " is a string, not a "
			for _, when := range []string{"now", "after a restart"} {
				if when != "now" {
					w.stop()
					w.start()
				}
				w.recv.Forget()
				w.pingAll(len(w.users), w.users)
				w.everyoneTaken("uni-b", w.users...)
				if n := len(w.told("uni-a")); n != 0 {
					t.Errorf("%s: uni-a was told %d times: the damage is none", when, n)
				}
				w.eventually("status names the key "+when, func() bool { return w.problem("in the intake log: in Redis, " + words) })
			}
			if n := len(w.told("uni-b")); n != len(w.users) {
				t.Errorf("uni-b was told %d times, want %d: what waits is tried again at its cost", n, len(w.users))
			}
			if status, body := w.raw("GET", "/v1/ledger", nil); status != http.StatusServiceUnavailable || !strings.Contains(string(body), words) {
				t.Errorf("the ledger is answered %d %s", status, body)
			}
			w.command("DEL", key)
			if was {
				w.command("RENAME", "kept", key)
			}
			w.recv.Forget()
			w.skip(time.Minute)
			w.everyoneTaken("uni-a", w.users...)
			w.eventually("status names nothing", func() bool { return !w.problem("intake log") })
			w.idle()
			if n := len(w.told("uni-b")); n != 0 {
				t.Errorf("uni-b was told %d times again", n)
			}
		})
	}
}

// News of an organisation whose channel a hand has taken from Redis would be
// ignored without a word; a start puts it right.
func TestAChannelThatWasDeletedInRedisIsPutRight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{})
	w.simple("uni-a")
	w.command("DEL", w.channelKey("uni-a", "control"))
	w.stop()
	w.start()
	if !strings.Contains(w.log.String(), "a channel was the other way in Redis and is put right") {
		t.Error("the log says nothing")
	}
	w.pingAll(len(w.users), w.users)
	w.everyoneTaken("uni-a", w.users...)
}

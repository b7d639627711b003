package main

import (
	"context"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
)

// redisFault is one way in which Redis is away.
type redisFault struct {
	begin, end func(w *world)
	args       []string      // of redis-server
	wait       time.Duration // of a ping for it, when it is not refused at once
}

func (w *world) command(args ...any) {
	w.t.Helper()
	w.must(w.rdb.Do(context.Background(), args...).Err())
}

// bury fills the append-only file, so that Redis takes long to load it.
func (w *world) bury() {
	w.t.Helper()
	pipe := w.rdb.Pipeline()
	for i := range 60_000 {
		pipe.Set(context.Background(), "filler", i, 0)
	}
	_, err := pipe.Exec(context.Background())
	w.must(err)
}

var redisFaults = map[string]redisFault{
	"down": {
		begin: func(w *world) { w.redis.Stop() },
		end:   func(w *world) { w.must(w.redis.Restart()) },
	},
	"frozen": {
		begin: func(w *world) { w.must(w.redis.Freeze()) },
		end:   func(w *world) { w.must(w.redis.Thaw()) },
		wait:  250 * time.Millisecond,
	},
	"out of memory": {
		begin: func(w *world) { w.command("CONFIG", "SET", "maxmemory", "1") },
		end:   func(w *world) { w.command("CONFIG", "SET", "maxmemory", "0") },
	},
	"read-only": {
		begin: func(w *world) { w.command("REPLICAOF", "127.0.0.1", "1") },
		end:   func(w *world) { w.command("REPLICAOF", "NO", "ONE") },
	},
	"loading": {
		// 100 µs a command, and an ear for clients every 1024 commands.
		args: []string{"--key-load-delay", "100"},
		begin: func(w *world) {
			w.bury()
			w.redis.Stop()
			restarted := make(chan error, 1)
			go func() { restarted <- w.redis.Restart() }()
			w.t.Cleanup(func() {
				if err := <-restarted; err != nil {
					w.t.Errorf("restart redis: %v", err)
				}
			})
			w.eventually("Redis answers LOADING", func() bool {
				err := w.rdb.Ping(context.Background()).Err()
				return err != nil && strings.HasPrefix(err.Error(), "LOADING")
			})
		},
		end: func(w *world) { w.command("CONFIG", "SET", "key-load-delay", "0") },
	},
}

// atStart makes of a fault one that the daemon starts into.
func (f redisFault) atStart() redisFault {
	begin := f.begin
	f.begin = func(w *world) {
		begin(w)
		if took := w.stop(); took > 20*time.Second { // systemd kills it after 45 s
			w.t.Errorf("stopping without Redis took %s", took)
		}
		w.boot()
	}
	return f
}

// Pings are taken whatever becomes of Redis, and everything is delivered when
// it is back.
func TestEveryPingIsTakenWhileRedisIs(t *testing.T) {
	t.Parallel()
	faults := maps.Clone(redisFaults)
	for name, fault := range redisFaults {
		if name != "read-only" { // a replica is refused at start, when the operator is looking
			faults[name+" at start"] = fault.atStart()
		}
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setting{users: 24, redis: fault.args, redisWait: fault.wait})
			w.simple("uni-a")
			w.pingAll(len(w.users), w.users)
			w.everyoneTaken("uni-a", w.users...)
			fault.begin(w)
			w.recv.Forget()

			w.pingAll(240, w.users)
			r, status := w.ready()
			if status != http.StatusOK || !r.OK {
				t.Errorf("/readyz answers %d %+v while pings are stored on disk", status, r)
			}
			if !w.degraded("intake") || !w.degraded("spool") {
				t.Errorf("/readyz does not say that pings go to the spool: %+v", r)
			}
			if !w.problem("wait in the spool") {
				t.Errorf("status does not name the spool: %+v", w.status().Problems)
			}
			if n := w.metric("dispatchd_spool_pings"); n != float64(len(w.users)) {
				t.Errorf("the spool holds %v pings for %d users", n, len(w.users))
			}
			if n := w.metric("dispatchd_pings_received_total", "refused"); n != 0 {
				t.Errorf("%v pings were refused", n)
			}
			// What cannot be done is said. A frozen Redis is given up after 5 s, which
			// is too long for a test.
			if !strings.Contains(name, "frozen") {
				var refusal struct{ Code string }
				status := w.api("PUT", "/v1/organisations/uni-b", object{"name": "B", "credential": "main"}, &refusal)
				if status != http.StatusServiceUnavailable || refusal.Code != string(service.CodeUnavailable) {
					t.Errorf("making an organisation was answered %d %+v", status, refusal)
				}
			}
			if n := len(w.told("uni-a")); n != 0 {
				t.Errorf("%d deliveries although Redis was away: the fault is none", n)
			}

			fault.end(w)
			w.everyoneTaken("uni-a", w.users...)
			equally(w, "pings in the spool", 0, func() int64 { return w.status().Spool.Waiting })
			w.idle()
			w.eventually("/readyz names nothing", func() bool {
				return !w.degraded("redis") && !w.degraded("intake") && !w.degraded("spool")
			})
			w.recv.Forget()
			w.pingAll(1, w.users[:1])
			w.everyoneTaken("uni-a", w.users[0])
		})
	}
}

// The spool drains the longest waiting first; what comes meanwhile is not lost
// between the two.
func TestAPingThatComesWhileTheSpoolDrainsIsDelivered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 2500})
	w.organisation("uni-a", nil)
	w.affiliate("uni-a", w.users[:8]...)
	w.redis.Stop()
	w.pingAll(len(w.users), w.users)
	w.must(w.redis.Restart())
	stats := w.d.app.spool.Stats
	w.eventually("the spool begins to drain", func() bool { return stats().Waiting < int64(len(w.users)) })
	if stats().Waiting == 0 {
		t.Fatal("the spool was drained before anything could come")
	}
	w.recv.Forget()
	w.pingAll(8, w.users[:8])
	w.everyoneTaken("uni-a", w.users[:8]...)
	equally(w, "pings in the spool", 0, func() int64 { return stats().Waiting })
}

// A ping that can be stored nowhere is refused, not lost; with a 429, which
// costs ORCID's patience least.
func TestPingsAreRefusedWhenTheDiskIsFullToo(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	w := newWorld(t, setting{users: 3000, dataDir: dir})
	w.organisation("uni-a", nil)
	w.affiliate("uni-a", w.users...)
	w.redis.Stop()
	w.pingAll(1, w.users) // the spool has begun
	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	taken, refused := []orcid.ID{}, 0
	var lost orcid.ID
	for _, id := range w.users {
		a := w.ping(id)
		switch a.status {
		case http.StatusNoContent:
			taken = append(taken, id)
			continue
		case http.StatusTooManyRequests:
		default:
			t.Fatalf("a ping was answered %+v", a)
		}
		if a.retryAfter == "" {
			t.Error("a 429 without Retry-After")
		}
		lost = id
		if refused++; refused == 5 {
			break
		}
	}
	if refused < 5 {
		t.Fatalf("%d pings were taken by a full disk and a Redis that is down", len(taken))
	}
	if n := w.metric("dispatchd_pings_received_total", "refused"); n != float64(refused) {
		t.Errorf("%v refused pings are counted, %d were", n, refused)
	}
	if r, status := w.ready(); status != http.StatusServiceUnavailable || r.OK {
		t.Errorf("/readyz answers %d while pings are refused", status)
	}
	if !w.problem("refused with 429") {
		t.Errorf("status does not say that pings are refused: %+v", w.status().Problems)
	}
	if n := strings.Count(w.log.String(), "pings are refused with 429"); n != 1 {
		t.Errorf("the log says it %d times", n)
	}

	w.must(os.Remove(filler))
	if a := w.ping(lost); a.status != http.StatusNoContent {
		t.Fatalf("with room again a ping is answered %+v", a)
	}
	if _, status := w.ready(); status != http.StatusOK {
		t.Errorf("/readyz answers %d although there is room again", status)
	}
	w.must(w.redis.Restart())
	w.everyoneTaken("uni-a", append(taken, lost)...)
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for range 1000 {
		if _, err := f.Write(block); err != nil {
			return
		}
	}
	t.Fatal("the disk does not get full")
}

// A Redis that was emptied under a running daemon is not an empty registry.
func TestAnEmptiedRedisCausesNoDeleteAtORCID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 6})
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	w.command("FLUSHALL")
	w.pingAll(60, w.users)
	w.eventually("the daemon says that Redis forgot", func() bool { return w.d.app.store.Guard().Forgot() })
	w.pingAll(60, w.users)
	if !w.degraded("redis") || !w.problem("Redis forgot") {
		t.Errorf("neither /readyz nor status say it: %+v", w.status().Problems)
	}
	if !strings.Contains(w.log.String(), "REDIS FORGOT") {
		t.Error("the log does not shout")
	}
	if n := w.status().Spool.Waiting; n != int64(len(w.users)) {
		t.Errorf("%d pings wait in the spool for %d users", n, len(w.users))
	}
	var refusal struct{ Code string }
	if status := w.api("DELETE", "/v1/organisations/uni-a/users/"+w.users[0].String(), nil, &refusal); status != http.StatusServiceUnavailable || refusal.Code != string(service.CodeForgot) {
		t.Errorf("removing a user was answered %d %+v", status, refusal)
	}
	// The way back needs a person, and the word.
	if status := w.api("POST", "/v1/recover", object{}, nil); status != http.StatusBadRequest {
		t.Errorf("recovering without accepting the loss was answered %d", status)
	}
	w.stop() // also a restart does not make it trust the empty one
	w.boot()
	w.eventually("the daemon says it after a restart too", func() bool { return w.problem("Redis forgot") })
	before := len(w.audits())
	w.ask("POST", "/v1/recover", object{"accept_loss": true}, nil)
	if lines := w.audits()[before:]; len(lines) != 1 || !strings.Contains(lines[0], `what="loss accepted"`) || !strings.Contains(lines[0], "who=admin from=127.0.0.1:") {
		t.Errorf("accepting the loss wrote %q", lines)
	}
	w.simple("uni-a")
	w.recv.Forget()
	w.pingAll(len(w.users), w.users)
	w.everyoneTaken("uni-a", w.users...)
	equally(w, "pings in the spool", 0, func() int64 { return w.status().Spool.Waiting })
	equally(w, "registrations alive", int64(len(w.users)), func() int64 { return w.status().Registrations["alive"] })
	if n := w.deletes(); n != 0 {
		t.Errorf("ORCID got %d DELETEs", n)
	}
	if status := w.api("POST", "/v1/recover", object{"accept_loss": true}, nil); status != http.StatusConflict {
		t.Errorf("recovering when nothing is lost was answered %d", status)
	}
	// What is meant to go still goes.
	w.ask("DELETE", "/v1/organisations/uni-a/users/"+w.users[0].String(), nil, nil)
	w.registered(clientMain, w.users[1:]...)
}

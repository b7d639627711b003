package intake

import (
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/intake/spool"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
	"dispatchd/internal/store"
)

// TestRealRedisFreezesAndDies runs the Server, the spool and the Drainer
// against package store and a redis-server that is frozen, thawed, killed and
// restarted under load. No ping may be refused, and every one that was
// acknowledged is in the log, at least once, when the spool is empty.
func TestRealRedisFreezesAndDies(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, "--appendfsync", "always")
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.New(store.Options{URL: redis.URL(), DataDir: t.TempDir(), Box: box, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	if err := st.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := setup(t, func(o *Options) {
		o.Log, o.Guard, o.Now, o.ProbeAfter = st, st.Guard().Err, time.Now, time.Hour
	})
	d, err := spool.NewDrainer(b.spool, spool.DrainerOptions{
		Log: st, Guard: st.Guard().Err, OnAppended: b.LogWorks, Rate: 100_000, Timeout: 300 * time.Millisecond, MaxBackoff: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)

	var sent atomic.Int64 // the user of the next ping: each user is pinged once
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 8 {
		c := b.dial(t)
		wg.Go(func() {
			for !stop.Load() {
				n := int(sent.Add(1)) - 1
				c.send(t, rawPing(b.path(n)))
				if res := c.answer(t, http.MethodPost); res.StatusCode != http.StatusNoContent {
					t.Errorf("ping %d: %s", n, res.Status)
				}
			}
		})
	}
	pinged := func(more int64) {
		from := sent.Load()
		eventually(t, "pings go on", func() bool { return sent.Load() > from+more })
	}
	mode := func(want Mode) {
		eventually(t, "mode "+string(want), func() bool { return b.State().Mode == want })
	}
	pinged(200)
	mode(ToLog)
	if err := redis.Freeze(); err != nil {
		t.Fatal(err)
	}
	mode(ToSpool)
	pinged(200)
	if err := redis.Thaw(); err != nil {
		t.Fatal(err)
	}
	mode(ToLog)
	pinged(200)
	redis.Kill()
	mode(ToSpool)
	pinged(200)
	if err := redis.Restart(); err != nil {
		t.Fatal(err)
	}
	mode(ToLog)
	pinged(200)
	stop.Store(true)
	wg.Wait()
	eventually(t, "the spool is drained", func() bool { return b.spool.Len() == 0 })
	d.Stop()

	there := map[uint64]int{}
	inLog := 0
	for lane := range store.Lanes {
		entries, err := st.ReadLog(t.Context(), lane, "", 1_000_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			for _, it := range e.Items {
				there[it.ORCID.Base()]++
				inLog++
			}
		}
	}
	n, books := int(sent.Load()), b.spool.Stats()
	if len(there) != n {
		t.Errorf("%d pings were acknowledged, %d users are in the log", n, len(there))
	}
	if extra := int64(inLog - n); extra > books.Unsure {
		t.Errorf("%d pings stand in the log twice, %d were counted as unsure", extra, books.Unsure)
	}
	t.Logf("%d pings; %d lines in the log; spool %+v", n, inLog, books)
}

package sim

import (
	"net/http"
	"testing"
	"time"

	"dispatchd/internal/sim/receiver"
)

func TestAChangeIsPingedAfterItWasIndexed(t *testing.T) {
	b := setup(t)
	id := b.hooked()
	b.change(id)
	b.r.Advance(50 * time.Second) // the run at :25 finds nothing: not indexed yet
	b.pings(0, "before the indexer")
	b.r.Advance(20 * time.Second) // the indexer's pass at 60 s
	b.pings(0, "indexed, no run yet")
	b.r.Advance(20 * time.Second) // the run at 85 s
	b.pings(1, "after the run")
	b.r.Advance(24 * time.Hour)
	b.pings(0, "without another change")
	h := b.hook(id)
	if want := begin.Add(85 * time.Second); !h.LastSent.Truncate(time.Millisecond).Equal(want) || h.Posts != 1 || h.OK != 1 || h.LastStatus != 204 {
		t.Errorf("row %+v, want it sent at %s", h, want)
	}
}

func TestARecordIsNotIndexedAgainWithinFiveMinutes(t *testing.T) {
	b := setup(t)
	id := b.hooked()
	b.change(id)
	b.r.Advance(89 * time.Second) // indexed at 60 s, sent at 85 s
	b.pings(1, "first change")
	b.change(id)                   // at 90 s
	b.r.Advance(270 * time.Second) // up to the pass at 360 s, which is exactly 5 min after: not yet
	b.r.Advance(59 * time.Second)
	b.pings(0, "within five minutes")
	b.r.Advance(30 * time.Second) // indexed at 420 s, sent at 445 s
	b.pings(1, "after five minutes")
}

// ORCID.md §1.4, first window: B comes after A was indexed and before its POST.
func TestALostPingBeforeThePost(t *testing.T) {
	b := setup(t)
	id := b.hooked()
	b.change(id)
	b.r.IndexOnce()
	b.r.Shift(10 * time.Second)
	b.change(id) // B
	b.r.Shift(10 * time.Second)
	b.send()
	b.pings(1, "A")
	b.r.Advance(2 * 24 * time.Hour)
	b.pings(0, "B is never pinged")
	b.change(id) // C
	b.r.Advance(10 * time.Minute)
	b.pings(1, "C")
}

// ORCID.md §1.4, second window: B comes during the POST for A.
func TestALostPingDuringThePost(t *testing.T) {
	b := setup(t)
	id := b.hooked()
	b.change(id)
	b.r.IndexOnce()
	arrived, answer := make(chan struct{}), make(chan struct{})
	b.recv.Behave(func(w http.ResponseWriter, _ *http.Request) int {
		close(arrived)
		<-answer
		return receiver.OK()(w, nil)
	})
	done := make(chan struct{})
	go func() { defer close(done); b.send() }()
	<-arrived
	b.r.Shift(time.Second)
	b.change(id) // B
	b.r.Shift(time.Second)
	close(answer)
	<-done
	b.recv.Behave(receiver.OK())
	b.pings(1, "A")
	b.r.Advance(2 * 24 * time.Hour)
	b.pings(0, "B is never pinged")
}

func TestAChangeAfterThePostIsPinged(t *testing.T) {
	b := setup(t)
	id := b.hooked()
	b.change(id)
	b.r.IndexOnce()
	b.send()
	b.change(id) // right after last_sent
	b.r.Advance(10 * time.Minute)
	b.pings(2, "both changes")
}

func TestRegisteringDoesNotReplay(t *testing.T) {
	b := setup(t)
	id := b.profile()
	b.change(id)
	b.r.Shift(time.Second)
	b.put(b.tok, id, b.uri(id), 201)
	b.r.Advance(time.Hour)
	b.pings(0, "a change before the registration, indexed after it")
	b.change(id)
	b.r.Advance(time.Hour)
	b.pings(1, "a change after the registration")
}

// The linear back-off: 15 min times the number of failures, and death with the
// 15th at 26 h 15 min.
func TestAWebhookDiesAfter26Hours15Minutes(t *testing.T) {
	b := setup(t)
	b.recv.Behave(receiver.Status(500, "no"))
	id := b.hooked()
	b.change(id)
	b.r.IndexOnce()
	first := b.r.Now()
	b.send()
	b.pings(1, "first attempt")
	for n := 1; n < 15; n++ {
		b.r.Shift(time.Duration(n) * 15 * time.Minute)
		b.send()
		b.pings(0, "exactly at the end of the delay")
		b.r.Shift(time.Microsecond)
		b.send()
		b.pings(1, "just after the end of the delay")
		if h := b.hook(id); h.Failed != n+1 || h.Dead != (n == 14) {
			t.Fatalf("after failure %d: %+v", n+1, h)
		}
	}
	if life := b.r.Now().Sub(first).Truncate(time.Minute); life != 26*time.Hour+15*time.Minute {
		t.Errorf("it lived for %s, want 26h15m", life)
	}
	b.recv.Behave(receiver.OK())
	b.change(id)
	b.r.Advance(4 * 24 * time.Hour)
	b.pings(0, "a dead webhook")
	b.put(b.tok, id, b.uri(id), 204) // does not revive
	b.change(id)
	b.r.Advance(24 * time.Hour)
	b.pings(0, "after PUT")
	if h := b.hook(id); !h.Dead {
		t.Fatalf("PUT revived it: %+v", h)
	}
	b.del(b.tok, id, b.uri(id), 204)
	b.put(b.tok, id, b.uri(id), 201)
	b.r.Advance(24 * time.Hour)
	b.pings(0, "re-armed: it waits for the next change")
	b.change(id)
	b.r.Advance(time.Hour)
	b.pings(1, "re-armed and changed")
	if got := b.r.Counters().Dead; got != 0 {
		t.Errorf("%d dead webhooks counted", got)
	}
}

func TestTheScheduledLifeOfAFailingWebhook(t *testing.T) {
	b := setup(t, func(o *Options) { o.MaxAttempts, o.RetryDelay = 25, 10*time.Minute })
	b.recv.Behave(receiver.Status(500, ""))
	id := b.hooked()
	b.change(id)
	b.r.Advance(4 * 24 * time.Hour)
	b.pings(25, "25 attempts")
	h := b.hook(id)
	// 50 h by the formula, and a minute of waiting for the next run per retry.
	if life := h.LastFailed.Sub(begin.Add(85 * time.Second)).Truncate(time.Second); !h.Dead || life != 50*time.Hour+24*time.Minute {
		t.Errorf("dead = %v after %s, want after 50h24m", h.Dead, life)
	}
}

func TestNewChangesDoNotAccelerateAndSuccessResets(t *testing.T) {
	b := setup(t)
	b.recv.Behave(receiver.Script(receiver.Status(500, ""), receiver.Status(500, ""), receiver.OK()))
	id := b.hooked()
	b.change(id)
	b.r.Advance(90 * time.Second)
	b.pings(1, "first failure")
	b.r.Advance(8 * time.Minute)
	b.change(id)
	b.r.Advance(6 * time.Minute) // 14 min after the failure
	b.pings(0, "a new change during the back-off")
	b.r.Advance(2 * time.Minute)
	b.pings(1, "second failure")
	b.r.Advance(29 * time.Minute)
	b.pings(0, "within 30 min")
	b.r.Advance(3 * time.Minute)
	b.pings(1, "success")
	if h := b.hook(id); h.Failed != 0 {
		t.Errorf("failed_attempt_count is %d after a success", h.Failed)
	}
}

func TestWhatCountsAsAFailure(t *testing.T) {
	b := setup(t, func(o *Options) { o.PostTimeout = 200 * time.Millisecond })
	other := b.receiver(receiver.Options{})
	for name, c := range map[string]struct {
		b      receiver.Behaviour
		failed int
		status int
	}{
		"200":         {receiver.Status(200, "ok"), 0, 200},
		"299":         {receiver.Status(299, ""), 0, 299},
		"301":         {receiver.Redirect(301, other.URL()), 1, 301},
		"307":         {receiver.Redirect(307, other.URL()), 1, 307},
		"400":         {receiver.Status(400, "bad"), 1, 400},
		"410":         {receiver.Gone(), 1, 410},
		"429":         {receiver.RetryAfter(429, "1"), 1, 429},
		"503":         {receiver.RetryAfter(503, "1"), 1, 503},
		"reset":       {receiver.Reset(), 1, 0},
		"no headers":  {receiver.Hang(), 1, 0},
		"cut body":    {receiver.Truncate(), 1, 0},
		"slow but ok": {receiver.Slow(20*time.Millisecond, receiver.OK()), 0, 204},
	} {
		b.recv.Behave(c.b)
		id := b.hooked()
		b.change(id)
		b.r.IndexOnce()
		b.send()
		if h := b.hook(id); h.Failed != c.failed || h.LastStatus != c.status || h.Posts != 1 {
			t.Errorf("%s: %+v, want %d failures and status %d", name, h, c.failed, c.status)
		}
		b.del(b.tok, id, b.uri(id), 204)
	}
	if other.Count() > 0 {
		t.Error("a redirect was followed")
	}
}

func TestURIsThatCannotBeSentToDieSilently(t *testing.T) {
	b := setup(t)
	for _, uri := range []string{"ftp://nowhere.invalid/x", "relative/path", "httpfoo://x/", "http://under_score/x", "http://127.0.0.1:1/"} {
		id := b.profile()
		b.put(b.tok, id, uri, 201)
		b.change(id)
		b.r.IndexOnce()
		b.send()
		if h := b.hook(id); h.Failed != 1 || h.LastStatus != 0 {
			t.Errorf("%s: %+v, want one failure without status", uri, h)
		}
	}
}

func TestA429BlacklistsTheClientForTheRun(t *testing.T) {
	b := setup(t, func(o *Options) { o.Threads = 1 })
	busy := b.receiver(receiver.Options{Behaviour: receiver.RetryAfter(429, "60")})
	ids := b.r.AddProfiles(5)
	two := b.token("two")
	for _, id := range ids {
		b.put(b.tok, id, busy.URL()+"/"+id.String(), 201)
		b.put(two, id, b.uri(id), 201)
	}
	b.r.Shift(time.Second)
	for _, id := range ids {
		b.change(id)
	}
	b.r.IndexOnce()
	b.send()
	if busy.Count() != 1 {
		t.Errorf("%d POSTs to the client that answered 429, want 1", busy.Count())
	}
	b.pings(5, "the other client")
	failed := 0
	for _, h := range b.r.Webhooks() {
		failed += h.Failed
	}
	if c := b.r.Counters(); failed != 1 || c.Skipped != 4 || c.Posts[429] != 1 {
		t.Errorf("failures %d, counters %+v; want one failure and four skipped", failed, c)
	}
	busy.Behave(receiver.OK())
	b.send()
	if got := busy.Count(); got != 5 {
		t.Errorf("%d POSTs after the next run, want the four that were skipped", got-1)
	}
}

func TestAReplicaThatLagsSendsThreeTimes(t *testing.T) {
	b := setup(t, func(o *Options) { o.ReplicaLag = 10 * time.Second })
	id := b.hooked()
	b.r.Shift(time.Minute)
	b.change(id)
	b.r.IndexOnce()
	b.send()
	b.pings(0, "the replica has not seen the change")
	b.r.Shift(10 * time.Second)
	b.send()
	b.pings(3, "three iterations see the row as not sent")
	b.r.Shift(10 * time.Second)
	b.send()
	b.pings(0, "the replica has seen it")

	b.recv.Behave(receiver.Status(500, ""))
	b.change(id)
	b.r.Shift(10 * time.Minute)
	b.r.IndexOnce()
	b.r.Shift(10 * time.Second)
	b.send()
	b.pings(3, "failing")
	if h := b.hook(id); h.Failed != 3 {
		t.Errorf("%d attempts burnt in one run, want 3", h.Failed)
	}
}

func TestARunHasAtMostThreeBatches(t *testing.T) {
	b := setup(t, func(o *Options) { o.BatchSize, o.Threads = 4, 3 })
	ids := b.r.AddProfiles(15)
	for _, id := range ids {
		b.put(b.tok, id, b.uri(id), 201)
	}
	b.r.Shift(time.Second)
	b.recv.Behave(receiver.Slow(5*time.Millisecond, receiver.OK()))
	for _, id := range ids {
		b.change(id)
		b.r.Shift(time.Millisecond)
	}
	b.r.IndexOnce()
	b.send()
	if peak := b.recv.Peak(); peak > 3 {
		t.Errorf("%d POSTs at once, want at most 3 threads", peak)
	}
	// The oldest changes go first; within a batch there is no order.
	seen := make(map[string]bool)
	for _, req := range b.recv.Requests() {
		seen[req.Path] = true
	}
	for i, id := range ids {
		if seen["/p/"+id.String()] != (i < 12) {
			t.Errorf("change %d was pinged: %v", i, i >= 12)
		}
	}
	b.pings(12, "one run")
	b.send()
	b.pings(3, "the rest")
}

func TestMassReindexPingsEverybodyOnce(t *testing.T) {
	b := setup(t)
	ids := b.r.AddProfiles(40)
	for _, id := range ids {
		b.put(b.tok, id, b.uri(id), 201)
	}
	b.r.Shift(time.Second)
	if n := b.r.MassReindex(0, true); n != 40 {
		t.Fatalf("re-indexed %d", n)
	}
	b.r.Advance(84 * time.Second)
	b.pings(0, "before the 90 s loop")
	b.r.Advance(time.Hour)
	b.pings(40, "mass re-index")
	if n := b.r.MassReindex(10, false); n != 10 {
		t.Fatalf("re-indexed %d", n)
	}
	b.r.Advance(time.Hour)
	b.pings(0, "without a newer last_modified")
	if n := b.r.MassReindex(15, true); n != 15 {
		t.Fatalf("re-indexed %d", n)
	}
	b.r.Advance(time.Hour)
	b.pings(15, "a part")
}

package sim

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/sim/receiver"
)

func TestWhatPingsAndWhatDoesNot(t *testing.T) {
	b := setup(t)
	id, primary := b.hooked(), b.hooked()
	step := func(name string, want int, f func() error) {
		t.Helper()
		must(t, f())
		b.r.Advance(20 * time.Minute)
		b.pings(want, name)
	}
	for _, section := range []string{"works", "employments", "peer-reviews", "emails", "addresses", "biography", "name", "locale"} {
		step(section, 1, func() error { return b.r.Change(id, section, Add) })
	}
	step("visibility", 1, func() error { return b.r.Change(id, "works", Visibility) })
	step("an edit of what is private", 1, func() error { return b.r.Change(id, "works", Edit) })
	step("order", 1, func() error { return b.r.Change(id, "works", Order) })
	step("delete", 1, func() error { return b.r.Change(id, "works", Delete) })
	step("touch", 0, func() error { return b.r.Touch(id) })
	step("lock", 1, func() error { return b.r.Lock(id) })
	step("unlock", 1, func() error { return b.r.Unlock(id) })
	step("deactivate", 1, func() error { return b.r.Deactivate(id) })
	step("reactivate", 1, func() error { return b.r.Reactivate(id) })
	step("deprecate, and the primary", 2, func() error { return b.r.Deprecate(id, primary) })
	for name, err := range map[string]error{
		"unknown section": b.r.Change(id, "hobbies", Add),
		"empty section":   b.r.Change(id, "fundings", Delete),
		"unknown op":      b.r.Change(id, "works", "burn"),
		"itself":          b.r.Deprecate(id, id),
	} {
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestClientsThatAreOff(t *testing.T) {
	b := setup(t)
	id := b.hooked()
	for name, off := range map[string]func(bool) error{
		"deactivated":  func(off bool) error { return b.r.DeactivateClient("one", off) },
		"webhooks off": func(off bool) error { return b.r.EnableWebhooks("one", !off) },
		"row disabled": func(off bool) error { return b.r.EnableWebhook(id, b.uri(id), !off) },
	} {
		must(t, off(true))
		b.change(id)
		b.r.Advance(time.Hour)
		b.pings(0, name)
		b.put(b.tok, b.profile(), b.uri(id), 201) // PUT still works
		must(t, off(false))
		b.r.Advance(2 * time.Minute)
		b.pings(1, "not any more "+name)
	}
	b.r.PauseSender(true)
	b.change(id)
	b.r.Advance(time.Hour)
	b.pings(0, "paused")
	b.r.PauseSender(false)
	b.r.Advance(2 * time.Minute)
	b.pings(1, "resumed")
}

func TestABodyWithoutEndIsRecordedAndTheRowStays(t *testing.T) {
	b := setup(t, func(o *Options) { o.BodyTimeout = 50 * time.Millisecond })
	b.recv.Behave(receiver.Script(receiver.HangBody(), receiver.OK()))
	id := b.hooked()
	b.change(id)
	b.r.IndexOnce()
	b.send()
	must(t, b.recv.Wait(deadline(t), 1)) // its handler ends when our side is closed
	b.pings(1, "the run ends with it")
	if h := b.hook(id); h.Failed != 0 || !h.LastSent.IsZero() || b.r.Counters().Hung != 1 {
		t.Errorf("row %+v, hung %d; want it untouched and one hung", h, b.r.Counters().Hung)
	}
	b.send()
	b.pings(1, "the next run")
}

func TestAKilledSenderMarksNothing(t *testing.T) {
	b := setup(t)
	arrived := make(chan struct{}, 1)
	b.recv.Behave(func(w http.ResponseWriter, r *http.Request) int {
		arrived <- struct{}{}
		return receiver.Hang()(w, r)
	})
	id := b.hooked()
	b.change(id)
	b.r.IndexOnce()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.r.SendOnce(ctx) }()
	<-arrived
	cancel()
	<-done
	if h := b.hook(id); h.Failed != 0 || h.Posts != 0 {
		t.Errorf("row %+v, want it untouched", h)
	}
	b.recv.Behave(receiver.OK())
	must(t, b.recv.Wait(deadline(t), 1))
	b.recv.Forget()
	b.send()
	b.pings(1, "the next run")
}

func TestARowRegisteredAnewDuringThePostGetsTheMark(t *testing.T) {
	b := setup(t)
	id := b.hooked()
	b.change(id)
	b.r.IndexOnce()
	b.recv.Behave(func(w http.ResponseWriter, _ *http.Request) int {
		b.del(b.tok, id, b.uri(id), 204)
		b.put(b.tok, id, b.uri(id), 201)
		return receiver.Status(500, "")(w, nil)
	})
	b.send()
	if h := b.hook(id); h.Failed != 1 {
		t.Errorf("the new row is %+v, want the failure on it", h)
	}
	b.recv.Behave(func(w http.ResponseWriter, _ *http.Request) int {
		b.del(b.tok, id, b.uri(id), 204)
		return receiver.OK()(w, nil)
	})
	b.change(id)
	b.r.Shift(time.Hour)
	b.r.IndexOnce()
	b.send()
	if n := b.r.Counters().Webhooks; n != 0 {
		t.Errorf("%d rows, want none: it was deleted during the POST", n)
	}
	b.r.Advance(24 * time.Hour)
	b.pings(2, "nothing after the DELETE")
}

func TestTheRunningClockPings(t *testing.T) {
	t.Parallel()
	recv, err := receiver.Start(receiver.Options{})
	must(t, err)
	t.Cleanup(recv.Close)
	r, err := New(Options{Speed: 600, RateLimit: -1})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 { // the second only waits
		wg.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait(); r.Close() })
	ids := r.AddProfiles(20)
	_, err = r.RegisterAll(DefaultClient().ID, func(id orcid.ID) string { return recv.URL() + "/" + id.String() })
	must(t, err)
	r.ChangeRandom(20)
	must(t, recv.Wait(deadline(t), 20))
	must(t, r.Traffic(Activity{ChangesPerDay: 1e6, Zipf: 1.2})) // 11.6 a second, 7,000 a real second
	must(t, recv.Wait(deadline(t), 21))
	must(t, r.Traffic(Activity{}))
	r.Advance(time.Hour) // moves it, and Run makes up for it
	if time.Until(r.Now()) < 59*time.Minute {
		t.Error("Advance did not move the running clock")
	}
	must(t, r.SetSpeed(1200))
	// One may be lost, as at ORCID, if it comes while another is being sent.
	whole := deadline(t)
	for n := recv.Count(); recv.Count() == n; {
		must(t, whole.Err())
		r.ChangeRandom(len(ids))
		ctx, cancel := context.WithTimeout(whole, time.Second)
		_ = recv.Wait(ctx, n+1) // looked at above
		cancel()
	}
}

func TestTrafficOnAManualClock(t *testing.T) {
	b := setup(t)
	b.r.AddProfiles(100)
	must(t, b.r.Traffic(Activity{ChangesPerDay: 2400, Zipf: 1.5}))
	b.r.Advance(24 * time.Hour)
	var n int64
	for _, c := range b.r.Counters().Changes {
		n += c
	}
	if n < 2200 || n > 2600 {
		t.Errorf("%d changes in a day, want about 2400", n)
	}
	per := make(map[orcid.ID]int)
	most := 0
	for _, e := range b.r.Ledger(0) {
		if e.Kind == KindChange {
			per[e.ORCID()]++
			most = max(most, per[e.ORCID()])
		}
	}
	if most < int(n)/5 {
		t.Errorf("the most active record has %d of %d changes: no Zipf", most, n)
	}
	for _, bad := range []Activity{{ChangesPerDay: -1}, {Zipf: 0.5}} {
		if b.r.Traffic(bad) == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestTheLedgerTellsOfEveryChangeAndPost(t *testing.T) {
	b := setup(t, func(o *Options) { o.LedgerSize = 4 })
	id := b.hooked()
	b.change(id)
	b.r.Advance(2 * time.Minute)
	entries := b.r.Ledger(0)
	kinds := make([]string, len(entries))
	for i, e := range entries {
		kinds[i] = string(e.Kind)
		if e.Seq != int64(i+1) || e.ORCID() != id {
			t.Errorf("entry %d is %+v", i, e)
		}
	}
	if got := strings.Join(kinds, " "); got != "put change post" {
		t.Fatalf("ledger is %q", got)
	}
	post := entries[2]
	if at := begin.Add(85 * time.Second); !post.Time().Equal(at) || post.DoneTime().Sub(at) > time.Millisecond || post.DoneTime().Before(at) || post.Status != 204 || post.URI != b.uri(id) {
		t.Errorf("post is %+v", post)
	}
	for range 5 {
		b.change(id)
	}
	if entries = b.r.Ledger(0); len(entries) != 4 || entries[0].Seq != 5 || entries[3].Seq != 8 {
		t.Errorf("a ledger of 4 keeps %+v", entries)
	}
	if got := b.r.Ledger(7); len(got) != 1 || got[0].Seq != 8 {
		t.Errorf("after 7: %+v", got)
	}
}

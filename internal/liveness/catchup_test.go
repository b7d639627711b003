package liveness

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/sim"
	"dispatchd/internal/store"
)

func TestChangesWithoutPingAreFoundOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		users  int
		slices bool
	}{"asked for our users": {700, false}, "asked for slices of time": {2500, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.users)
			since := w.sim.Now()
			silent, pinged, lost, late := w.users[:5], w.users[5:15], w.users[15:17], w.users[20:22]
			w.sim.Advance(2 * time.Hour)
			w.change(silent...)
			w.change(pinged...)
			w.change(lost...)
			w.change(w.sim.AddProfiles(3)...) // nobody of ours
			w.ping(pinged...)
			w.ping(lost...)
			w.sim.Advance(time.Hour)
			w.change(lost...) // committed while ORCID waited for our 204: it never pings
			w.sim.Advance(time.Hour)
			w.ping(late...) // of nothing that changed
			w.lookBack(since)
			w.wantTold("the round", append(append(w.users[:0:0], silent...), lost...)...)
			calls := w.orcid.calls.Load()
			t.Logf("%d calls for %d users", calls, c.users)
			p, err := w.watch.load(t.Context(), "main")
			w.must(err)
			if p.Round != nil || !p.Owed.IsZero() {
				t.Errorf("after the round: %+v", p)
			}
			w.lookBack(since)
			w.wantTold("a second round over the same time")
			if c.slices && calls > 12 {
				t.Errorf("%d calls, although slices need few", calls)
			}
		})
	}
}

func TestAChangeSoNewThatItsPingMayComeIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10)
	since := w.sim.Now()
	known, missed := w.users[0], w.users[1]
	w.change(known, missed)
	w.ping(known, missed)
	w.sim.Advance(time.Hour)
	w.must(w.sim.Change(known, "works", sim.Edit))
	w.must(w.sim.Change(missed, "works", sim.Edit))
	w.sim.Advance(7 * time.Minute)
	w.lookBack(since)
	w.wantTold("seven minutes after the change")
	w.ping(known)
	w.sim.Advance(20 * time.Minute)
	w.must(w.watch.runChecks(t.Context()))
	w.wantTold("a quarter of an hour later", missed)
	w.sim.Advance(24 * time.Hour)
	w.must(w.watch.runChecks(t.Context()))
	w.wantTold("the day after")
}

// TestABrokenORCIDNeitherForgetsNorRepeats breaks ORCID after every number of
// calls, each time with a new process after it.
func TestABrokenORCIDNeitherForgetsNorRepeats(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 700)
	for _, bySlice := range []bool{false, true} {
		since := w.sim.Now()
		w.sim.Advance(2 * time.Hour)
		changed := w.users[100:120]
		w.change(changed...)
		if bySlice {
			w.must(w.watch.Owe(t.Context(), []string{"main"}, since))
			w.must(w.watch.change(t.Context(), "main", func(p *progress) {
				p.begin("main", w.every, w.sim.Now())
				p.Round.Slices, p.Round.At, p.Round.Width = true, p.Round.Since, 10*time.Minute
			}))
		} else {
			w.must(w.watch.Owe(t.Context(), []string{"main"}, since))
		}
		failures := 0
		for left := int64(0); ; left++ {
			w.orcid.left.Store(left % 12)
			if left%12 == 0 {
				w.restart()
			}
			err := w.watch.catchUp(t.Context(), "main")
			p, lerr := w.watch.load(t.Context(), "main")
			w.must(lerr)
			if err == nil && p.Round == nil {
				break
			}
			if err != nil && !errors.Is(err, errBroken) {
				t.Fatal(err)
			}
			if failures++; failures > 200 {
				t.Fatal("the round never ends")
			}
		}
		if failures < 2 {
			t.Fatalf("only %d failures: nothing was tested", failures)
		}
		w.orcid.left.Store(1 << 40)
		w.wantTold("after the failures", changed...)
		w.sim.Advance(48 * time.Hour)
	}
}

func TestTheTimerFindsWhatNoPingTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	ctx := t.Context()
	w.must(w.watch.catchUp(ctx, "main")) // begins the clock
	for day := range 3 {
		w.sim.Advance(12 * time.Hour)
		w.change(w.users[day])
		w.sim.Advance(24*time.Hour - 12*time.Hour)
		w.restart()
		w.must(w.watch.catchUp(ctx, "main"))
		w.must(w.watch.catchUp(ctx, "main"))
		w.wantTold("a day later", w.users[day])
	}
}

func TestALongOutageMakesTheSilentAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 30)
	ctx := t.Context()
	w.gaps.now = w.sim.Now()
	w.gaps.Beat()
	w.sim.Advance(3 * time.Hour)
	dead, alive, quiet := w.users[0], w.users[1], w.users[2]
	w.change(dead, alive)
	w.sim.Advance(27 * time.Hour)
	w.gaps.now = w.sim.Now()
	w.gaps.Beat()
	w.must(w.watch.handOver(ctx, []string{"main"}))
	w.must(w.watch.catchUp(ctx, "main"))
	w.wantTold("after the outage", dead, alive)
	w.sim.Advance(2 * time.Hour)
	w.ping(alive)
	w.must(w.watch.runChecks(ctx))
	if n := len(w.rows(dead)); n != 1 {
		t.Errorf("%d rows two hours after the outage: ORCID may still ping", n)
	}
	w.sim.Advance(5 * time.Hour)
	w.must(w.watch.runChecks(ctx))
	w.must(w.watch.runChecks(ctx))
	if rows := w.rows(dead); len(rows) != 2 || rows[1].Epoch != 2 || rows[1].State != event.RegNone {
		t.Errorf("the registration that stayed silent: %+v, want a second one planned", rows)
	}
	for _, id := range w.users[1:] {
		if rows := w.rows(id); len(rows) != 1 {
			t.Errorf("%s (pinged %v, quiet %v) is made anew: %+v", id, id == alive, id == quiet, rows)
		}
	}
	due, _, err := w.store.DueUsers(ctx, w.sim.Now(), 10)
	if err != nil || len(due) != 1 || due[0] != dead {
		t.Errorf("work is due for %v, %v; want %s", due, err, dead)
	}
}

func TestAShortOutageMakesNobodyAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10)
	ctx := t.Context()
	w.gaps.now = w.sim.Now()
	w.gaps.Beat()
	w.change(w.users[0])
	w.sim.Advance(10 * time.Hour)
	w.gaps.now = w.sim.Now()
	w.gaps.Beat()
	w.must(w.watch.handOver(ctx, []string{"main"}))
	w.must(w.watch.catchUp(ctx, "main"))
	w.wantTold("after the outage", w.users[0])
	w.sim.Advance(24 * time.Hour)
	w.must(w.watch.runChecks(ctx))
	if rows := w.rows(w.users[0]); len(rows) != 1 {
		t.Errorf("made anew: %+v", rows)
	}
}

func TestTwoChangesInARowWithoutPingMakeItAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10)
	id, lucky := w.users[0], w.users[1]
	for day := range 2 {
		since := w.sim.Now()
		w.sim.Advance(2 * time.Hour)
		w.change(id, lucky)
		w.sim.Advance(time.Hour)
		w.lookBack(since)
		w.wantTold("a day", id, lucky)
		if n := len(w.rows(id)); n != day+1 {
			t.Errorf("%d rows after %d changes without ping", n, day+1)
		}
		w.sim.Advance(20 * time.Hour)
		w.ping(lucky)
		w.sim.Advance(time.Hour)
	}
	if n := len(w.rows(lucky)); n != 1 {
		t.Errorf("%d rows of a registration that pings", n)
	}
}

func TestWhatChangedAroundARegistrationIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10)
	ctx := t.Context()
	before, after, long := w.users[0], w.users[1], w.users[2]
	w.change(long)
	w.sim.Advance(3 * time.Hour)
	w.must(w.sim.Change(before, "works", sim.Add)) // not indexed before the PUT
	w.sim.Advance(2 * time.Second)
	w.register(before, after, long)
	for _, id := range w.users[:3] {
		u, err := w.store.User(ctx, id)
		w.must(err)
		w.must(w.watch.Registered(ctx, u))
	}
	w.sim.Advance(time.Minute)
	w.must(w.sim.Change(after, "works", sim.Add))
	w.ping(after)
	w.sim.Advance(10 * time.Minute)
	w.must(w.watch.runChecks(ctx))
	w.wantTold("before a quarter of an hour is over")
	w.sim.Advance(10 * time.Minute)
	w.restart()
	w.must(w.watch.runChecks(ctx))
	w.wantTold("after it", before)
	w.sim.Advance(time.Hour)
	w.must(w.watch.runChecks(ctx))
	w.wantTold("only once")
}

func TestALockedRecordIsToldRatherThanLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5)
	since := w.sim.Now()
	w.sim.Advance(2 * time.Hour)
	w.ping(w.users[0])
	w.sim.Advance(time.Hour)
	w.must(w.sim.Lock(w.users[0]))
	w.sim.Advance(20 * time.Minute)
	w.lookBack(since)
	w.wantTold("a locked record", w.users[0])
}

func TestAMassOfChangesInOneSecondIsReadWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3500)
	since := w.sim.Now()
	w.sim.Advance(2 * time.Hour)
	changed := w.sim.ChangeRandom(2300)
	w.sim.Advance(20 * time.Minute)
	w.lookBack(since)
	w.wantTold("2300 changes at once", changed...)
	if p, _ := w.watch.load(t.Context(), "main"); p.Round != nil {
		t.Errorf("the round goes on: %+v", p.Round)
	}
	t.Logf("%d calls", w.orcid.calls.Load())
}

func TestALossMakesTheRoundBeginAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	ctx := t.Context()
	w.must(w.watch.catchUp(ctx, "main"))
	p, err := w.watch.load(ctx, "main")
	w.must(err)
	done := p.Done
	w.sim.Advance(2 * time.Hour)
	w.change(w.users[3])
	w.must(w.watch.OweLost(ctx, []string{"main"}))
	p, err = w.watch.load(ctx, "main")
	w.must(err)
	if !p.Owed.Equal(done) {
		t.Errorf("owed since %s, want %s", p.Owed, done)
	}
	w.must(w.watch.catchUp(ctx, "main"))
	w.wantTold("after the loss", w.users[3])
}

func TestRunDoesWhatIsDueAndStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	since := w.sim.Now()
	w.sim.Advance(2 * time.Hour)
	w.change(w.users[4])
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.watch.Run(ctx); close(done) }()
	w.must(w.watch.Owe(ctx, []string{"main"}, since))
	select {
	case <-w.appended:
	case <-time.After(time.Minute):
		t.Fatal("nothing was told")
	}
	cancel()
	<-done
	w.wantTold("by itself", w.users[4])
}

func TestFailuresAreShownAfterTheThird(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5)
	w.orcid.left.Store(0)
	w.must(w.watch.Owe(t.Context(), []string{"main"}, w.sim.Now()))
	for i := range 3 {
		if n := len(w.watch.Failures()); n != 0 {
			t.Fatalf("%d failures shown after %d", n, i)
		}
		w.watch.look(t.Context(), func(f func()) { f() })
		for _, tr := range w.watch.trials {
			tr.notUntil = time.Time{} // the rest is over
		}
	}
	list := w.watch.Failures()
	if len(list) != 1 || !errors.Is(list[0].Err, errBroken) {
		t.Fatalf("shown: %+v", list)
	}
	w.orcid.left.Store(1 << 40)
	w.watch.look(t.Context(), func(f func()) { f() })
	if list := w.watch.Failures(); len(list) != 0 {
		t.Errorf("still shown: %+v", list)
	}
}

// TestABrokenRecordStopsNobody: ORCID answers 500 for one record, as it might
// for ever, and then for all of them.
func TestABrokenRecordStopsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10)
	since := w.sim.Now()
	w.sim.Advance(2 * time.Hour)
	changed := slices.SortedFunc(slices.Values(w.users[:3]), func(a, b orcid.ID) int { return cmp.Compare(a.Base(), b.Base()) })
	w.change(changed...)
	w.ping(changed...)
	w.sim.Advance(time.Hour)
	fault := sim.Fault{Operation: "record", Kind: sim.FaultStatus, Count: 1}
	if _, err := w.sim.InjectFault(fault); err != nil {
		t.Fatal(err)
	}
	w.lookBack(since)
	w.wantTold("with one record broken", changed[0])
	fault.Count = 0
	id, err := w.sim.InjectFault(fault)
	w.must(err)
	w.must(w.watch.Owe(t.Context(), []string{"main"}, since))
	if err := w.watch.catchUp(t.Context(), "main"); err == nil {
		t.Error("a round in which no record can be read is finished")
	}
	w.wantTold("with every record broken")
	w.sim.ClearFault(id)
	w.must(w.watch.catchUp(t.Context(), "main"))
	w.wantTold("when ORCID works again")
}

// TestPingsThatWaitToBeFannedOutAreNotMissed: fan-out is hours behind; nobody is
// told twice, nor held to be silent, and who really is silent is told after it.
func TestPingsThatWaitToBeFannedOutAreNotMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 30)
	since := w.sim.Now()
	pinged, silent := w.users[:5], w.users[5:8]
	w.change(pinged...)
	w.change(silent...)
	var waiting []event.Ping
	for _, id := range pinged {
		waiting = append(waiting, event.Ping{Credential: "main", ORCID: id, AcceptedAt: w.sim.Now()})
	}
	w.must(w.store.Append(t.Context(), waiting))
	w.must(w.watch.o.Store.AddChecks(t.Context(), []event.Check{{Kind: event.CheckBaseline, ORCID: pinged[0], Credential: "main", At: w.sim.Now()}}))
	w.sim.Advance(2 * time.Hour)
	w.lookBack(since)
	w.must(w.watch.runChecks(t.Context()))
	if p, err := w.watch.load(t.Context(), "main"); err != nil || p.Round == nil {
		t.Fatalf("the round does not wait: %+v, %v", p, err)
	}
	// Fan-out gets on at last.
	for lane := range store.Lanes {
		entries, err := w.store.ReadLog(t.Context(), lane, "", 10)
		w.must(err)
		for _, e := range entries {
			for _, it := range e.Items {
				if it.Kind != store.KindPing {
					t.Fatalf("%s was told of although pings waited", it.ORCID)
				}
				_, err := w.store.LookUp(t.Context(), []orcid.ID{it.ORCID}, []time.Time{it.At})
				w.must(err)
			}
			w.must(w.store.RemoveEntries(t.Context(), lane, []store.Processed{{ID: e.ID, Pings: len(e.Items), Told: len(e.Items)}}))
		}
	}
	w.must(w.watch.catchUp(t.Context(), "main"))
	w.must(w.watch.runChecks(t.Context()))
	w.wantTold("when fan-out has caught up", silent...)
}

// countedPages counts the pages of due checks that are read.
type countedPages struct {
	Store
	baseline int
}

func (s *countedPages) DueChecks(ctx context.Context, kind event.CheckKind, now time.Time, skip, limit int) ([]event.Check, error) {
	if kind == event.CheckBaseline {
		s.baseline++
	}
	return s.Store.DueChecks(ctx, kind, now, skip, limit)
}

func TestACredentialInTroubleHoldsUpNoOthersChecks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 30)
	ctx := t.Context()
	w.orcid.broken, w.watch.atOnce = "other", 10
	w.watch.o.Credentials = func() []string { return []string{"main", "other"} }
	w.affiliate("uni-other", w.users[:25])
	var list []event.Check
	for _, id := range w.users[:25] {
		list = append(list, event.Check{Kind: event.CheckBaseline, ORCID: id, Credential: "other", At: w.sim.Now()})
	}
	w.must(w.store.AddChecks(ctx, list))
	w.sim.Advance(time.Hour)
	changed := w.users[29]
	w.must(w.sim.Change(changed, "works", sim.Add)) // not indexed before the PUT
	w.sim.Advance(2 * time.Second)
	w.register(changed)
	u, err := w.store.User(ctx, changed)
	w.must(err)
	w.must(w.watch.Registered(ctx, u))
	w.sim.Advance(20 * time.Minute)
	if err := w.watch.runChecks(ctx); !errors.Is(err, errBroken) {
		t.Errorf("%v, want that of the credential in trouble", err)
	}
	w.wantTold("while the other is broken", changed)
	// With nobody else to go on for, the rest is not looked at.
	pages := &countedPages{Store: w.watch.o.Store}
	w.watch.o.Store, w.watch.o.Credentials = pages, func() []string { return []string{"other"} }
	if err := w.watch.runChecks(ctx); !errors.Is(err, errBroken) {
		t.Errorf("%v, want that of the credential in trouble", err)
	}
	if pages.baseline != 1 {
		t.Errorf("%d pages of due checks were read, want 1", pages.baseline)
	}
	w.orcid.broken = ""
	w.must(w.watch.runChecks(ctx))
	if n, err := w.store.CountChecks(ctx, event.CheckBaseline); err != nil || n > 0 {
		t.Errorf("%d checks are left, %v", n, err)
	}
}

func TestDamagedProgressIsBegunAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10)
	ctx := t.Context()
	w.change(w.users[3])
	w.must(w.store.SetFact(ctx, progressFact("main"), "{damaged"))
	w.must(w.watch.Owe(ctx, []string{"main"}, w.sim.Now()))
	w.must(w.watch.catchUp(ctx, "main"))
	w.wantTold("after the damage", w.users[3])
}

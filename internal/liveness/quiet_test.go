package liveness

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"dispatchd/internal/directory"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
)

// TestSilenceIsMeasuredByWhatIsUsual: ten times the usual pause, an hour at
// least, and not before anything is known to be usual.
func TestSilenceIsMeasuredByWhatIsUsual(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		gap    time.Duration // between minutes with pings
		n      int
		burst  int // pings more, in the last three minutes
		usual  time.Duration
		silent time.Duration // longest silence that is no problem
	}{
		"often":           {time.Minute, 600, 0, time.Minute, time.Hour},
		"every 12 min":    {12 * time.Minute, 300, 0, 12 * time.Minute, 2 * time.Hour},
		"once in 3 h":     {3 * time.Hour, 60, 0, 3 * time.Hour, 30 * time.Hour},
		"too few to know": {time.Hour, fewMinutes - 1, 0, 0, 0},
		"a re-index":      {30 * time.Minute, 336, 15_000, 30 * time.Minute, 5 * time.Hour},
	} {
		var p pace
		at := noon
		for range tt.n {
			p.note(at)
			at = at.Add(tt.gap)
		}
		for i := range tt.burst {
			p.note(at.Add(time.Duration(i) * 3 * time.Minute / time.Duration(tt.burst)))
		}
		if got := p.usual(); got < tt.usual*9/10 || got > tt.usual*11/10 {
			t.Errorf("%s: usual is %s, want about %s", name, got, tt.usual)
		}
		if tt.usual == 0 {
			if p.overdue(p.Last.Add(1000*time.Hour), noon) {
				t.Errorf("%s: a silence is a problem", name)
			}
			continue
		}
		if p.overdue(p.Last.Add(tt.silent*9/10), noon) || !p.overdue(p.Last.Add(tt.silent*12/10), noon) {
			t.Errorf("%s: a silence of about %s is not where the problem begins", name, tt.silent)
		}
		if able := p.Last.Add(tt.silent); p.overdue(able.Add(tt.silent*9/10), able) {
			t.Errorf("%s: a silence counts from before pings could come", name)
		}
	}
}

// TestAWeekIsRemembered and no more, whatever the pauses.
func TestAWeekIsRemembered(t *testing.T) {
	t.Parallel()
	var p pace
	for i := range 400 {
		p.note(noon.Add(time.Duration(i) * time.Hour))
	}
	if len(p.Hours) != memory || p.usual().Round(time.Minute) != time.Hour {
		t.Errorf("%d hours are kept, usual %s", len(p.Hours), p.usual())
	}
	p.note(noon.Add(2000 * time.Hour)) // long after
	if p.usual() != 0 {
		t.Errorf("usual is %s after a month without a ping", p.usual())
	}
	p.note(noon) // a clock that was set back
	if !p.Last.Equal(noon.Add(2000 * time.Hour)) {
		t.Errorf("the last ping moved back to %s", p.Last)
	}
}

// TestWhatIsUsualOutlivesARestart, and a restart is no silence.
func TestWhatIsUsualOutlivesARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "outages.json")
	b := openBeats(t, path, noon)
	for range 60 {
		b.Pinged()
		b.Pinged() // the same minute
		b.beat(10*time.Minute, true)
	}
	q := b.Quiet()
	if q.Usual < 9*time.Minute || q.Usual > 11*time.Minute || q.Overdue {
		t.Fatalf("it is %+v", q)
	}
	b.beat(3*time.Hour, true)
	if !b.Quiet().Overdue {
		t.Error("three hours of silence are no problem")
	}
	again := openBeats(t, path, b.now.Add(30*time.Hour))
	again.Beat()
	if got := again.Quiet(); got.Usual != q.Usual || !got.Last.Equal(q.Last) || got.Overdue {
		t.Errorf("after a restart it is %+v, was %+v", got, q)
	}
	again.o.Expected = func() bool { return false }
	again.beat(30*time.Hour, true)
	if again.Quiet().Overdue {
		t.Error("nobody is enabled, and pings are missed")
	}
}

// TestRegistrationsAreCounted as they are wanted, whoever has them.
func TestRegistrationsAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 40)
	if c := w.watch.Counted(); !c.At.IsZero() {
		t.Fatalf("counted before the first look: %+v", c)
	}
	w.affiliate("uni-other", w.users[:7]) // not registered with that credential
	w.must(w.watch.census(t.Context()))
	if c := w.watch.Counted(); c.Wanted != 47 || c.Missing != 7 {
		t.Errorf("counted %+v, want 47 wanted and 7 missing", c)
	}
	w.affiliate("uni-other", w.users[7:8])
	w.must(w.watch.census(t.Context()))
	if c := w.watch.Counted(); c.Wanted != 47 {
		t.Errorf("counted again at once: %+v", c)
	}
}

// slowPages is a store whose pages of members take a while.
type slowPages struct {
	Store
	pages int
}

func (s *slowPages) Members(_ context.Context, _, cursor string, _ int) (ids []orcid.ID, next string, err error) {
	time.Sleep(20 * time.Millisecond) // of the bubble's clock
	s.pages++
	if cursor == "" {
		next = "more"
	}
	return nil, next, nil
}

func (s *slowPages) Users(context.Context, []orcid.ID) ([]*event.User, error) { return nil, nil }

// TestACountRestsBetweenPages, so that it does not have Redis to itself.
func TestACountRestsBetweenPages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := directory.New()
		dir.Put(org.Organisation{ID: "uni-a", Credential: "main", Webhook: org.Webhook{Enabled: true}})
		dir.Put(org.Organisation{ID: "uni-b", Credential: "main", Webhook: org.Webhook{Enabled: true}})
		pages := &slowPages{}
		w := &Watcher{o: Options{Store: pages, Directory: dir, Tick: 30 * time.Second, Now: time.Now}}
		began := time.Now()
		if err := w.census(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); pages.pages != 4 || took != 4*100*time.Millisecond {
			t.Errorf("%d pages took %s with their rests, want 4 and 400ms", pages.pages, took)
		}
		if w.countTook != 80*time.Millisecond {
			t.Errorf("the count says that it took %s, want 80ms", w.countTook)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		w.counted = time.Time{}
		if err := w.census(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a count that is to end: %v", err)
		}
	})
}

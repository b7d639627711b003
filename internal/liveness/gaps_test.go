package liveness

import (
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// beats drives a Gaps by hand.
type beats struct {
	*Gaps
	path   string
	now    time.Time
	taking bool
}

func openBeats(t *testing.T, path string, now time.Time) *beats {
	t.Helper()
	b := &beats{path: path, now: now, taking: true}
	g, err := OpenGaps(GapOptions{
		Path: path, Write: func(p string, raw []byte) error { return os.WriteFile(p, raw, 0o600) }, Taking: func() bool { return b.taking }, Now: func() time.Time { return b.now },
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Gaps = g
	return b
}

// beat lets d pass in steps of a beat.
func (b *beats) beat(d time.Duration, taking bool) {
	b.taking = taking
	for end := b.now.Add(d); b.now.Before(end); {
		b.now = b.now.Add(min(beatEvery, end.Sub(b.now)))
		b.Beat()
	}
}

func (b *beats) want(t *testing.T, what string, want time.Time) {
	t.Helper()
	if since, _ := b.fresh(); !since.Equal(want) {
		t.Errorf("%s: to be caught up since %s, want %s", what, since, want)
	}
}

func TestOutagesAreKnownAfterwards(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "outages.json")
	b := openBeats(t, path, noon)
	b.beat(time.Hour, true)
	b.want(t, "an hour without trouble", time.Time{})

	b.beat(40*time.Second, false)
	b.beat(time.Minute, true)
	b.want(t, "refusing for less than a minute", time.Time{})

	refused := b.now
	b.beat(3*time.Hour, false)
	b.want(t, "while it refuses", time.Time{})
	b.beat(time.Minute, true)
	b.want(t, "refused for three hours", refused)
	if _, until := b.fresh(); b.long(noon, until) {
		t.Error("three hours count as long")
	}
	_, until := b.fresh()
	b.handed(until)
	b.want(t, "handed over", time.Time{})
	b.beat(time.Hour, true)

	// Killed: the file has the last beat.
	died := b.now
	b = openBeats(t, path, died.Add(30*time.Hour))
	b.want(t, "before the first beat after a crash", time.Time{})
	b.Beat()
	b.want(t, "down for 30 hours", died)
	if !b.long(died, b.now) || b.long(noon, died.Add(-time.Hour)) || b.long(b.now.Add(time.Hour), b.now.Add(2*time.Hour)) {
		t.Error("30 hours do not count as long where they were, or do elsewhere")
	}
	if got, want := b.Budget().Used, 30/26.25; math.Abs(got-want) > 0.01 {
		t.Errorf("the budget used is %.3f, want %.3f", got, want)
	}
	// Killed again before anybody was told: it is still owed.
	b = openBeats(t, path, b.now.Add(10*time.Second))
	b.want(t, "after another crash", died)
	b.now = b.now.Add(7 * time.Hour)
	b.state.Alive = b.now
	if got := b.Budget().Used; got != 0 {
		t.Errorf("seven hours later %.3f of the budget is used", got)
	}
}

func TestOutagesNearToEachOtherAreOne(t *testing.T) {
	t.Parallel()
	b := openBeats(t, filepath.Join(t.TempDir(), "outages.json"), noon)
	b.Beat()
	b.beat(10*time.Hour, false)
	b.beat(5*time.Minute, true)
	b.beat(11*time.Hour, false)
	b.beat(5*time.Minute, true)
	if !b.long(noon, b.now) {
		t.Error("five minutes between two outages make ORCID forgive")
	}
	if n := len(b.state.Gaps); n != 1 {
		t.Errorf("%d gaps, want 1", n)
	}
}

func TestADamagedRecordIsCaughtUpWith(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "outages.json")
	if err := os.WriteFile(path, []byte(`{"alive":`), 0o600); err != nil {
		t.Fatal(err)
	}
	b := openBeats(t, path, noon)
	b.Beat()
	b.want(t, "a damaged file", noon.Add(-afterLoss))
}

// TestABeatThatIsHeldUpTakesNothingBack: of two beats at once, the later one to
// write has the later time, since each reads it when its turn has come.
func TestABeatThatIsHeldUpTakesNothingBack(t *testing.T) {
	t.Parallel()
	var g *Gaps
	asked := 0
	now := func() time.Time {
		if g != nil {
			if asked++; g.mu.TryLock() {
				g.mu.Unlock()
				t.Error("the time is read before it is the beat's turn")
			}
		}
		return noon
	}
	var err error
	g, err = OpenGaps(GapOptions{
		Path: filepath.Join(t.TempDir(), "x"), Write: func(string, []byte) error { return nil },
		Taking: func() bool { return true }, Now: now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Beat()
	if asked == 0 {
		t.Fatal("a beat does not ask for the time")
	}
}

func TestAFullDiskOnlyCostsTheRecord(t *testing.T) {
	t.Parallel()
	now := noon
	g, err := OpenGaps(GapOptions{
		Path: filepath.Join(t.TempDir(), "x"), Write: func(string, []byte) error { return errors.New("no space left on device") },
		Taking: func() bool { return true }, Now: func() time.Time { return now }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Beat()
	now = now.Add(2 * time.Hour)
	g.Beat()
	if since, _ := g.fresh(); !since.Equal(noon) {
		t.Errorf("owed since %s, want %s", since, noon)
	}
}

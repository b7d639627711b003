package liveness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// beatEvery is how often it is noted that pings are taken.
	beatEvery = 15 * time.Second
	// minGap is what counts as a gap: ORCID repeats a refused ping in 15 min by
	// itself, and a restart takes seconds.
	minGap = time.Minute
	// joinGaps is the pause that ORCID makes between its first attempts: gaps
	// nearer to each other are one to it.
	joinGaps = 15 * time.Minute
	keepGaps = 60 * 24 * time.Hour
	// budget is how long ORCID goes on trying before it gives up for ever, with
	// the shortest of its known settings.
	budget = 26*time.Hour + 15*time.Minute
)

// Gap is a time in which pings may have been refused or missed.
type Gap struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Handed says that catch-up owes a round for it.
	Handed bool `json:"handed,omitempty"`
}

// GapOptions wires Gaps. All but Expected and Registerer must be set.
type GapOptions struct {
	// Path is the file in data_dir, so that it works without Redis.
	Path string
	// Write replaces a file so that a crash leaves the old or the new one whole.
	Write func(path string, raw []byte) error
	// Taking reports whether pings are taken now. It must not block.
	Taking func() bool
	// Expected reports whether pings are to be expected at all. It must not
	// block; nil means yes.
	Expected   func() bool
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Gaps notes, beat by beat, that pings are taken, and so knows after a crash, a
// stop or a time of refusals when they were not. It is safe for concurrent use.
type Gaps struct {
	o GapOptions

	began time.Time

	mu     sync.Mutex
	state  gapState
	warned bool
	pinged atomic.Int64 // minute of the latest ping that was noted, so that most cost nothing
}

type gapState struct {
	// Alive is when pings were taken last; zero: never yet.
	Alive time.Time `json:"alive"`
	Gaps  []Gap     `json:"gaps"`
	Pings pace      `json:"pings,omitzero"`
}

// OpenGaps reads the file. What lies between its last beat and now was a gap.
func OpenGaps(o GapOptions) (*Gaps, error) {
	if o.Path == "" || o.Write == nil || o.Taking == nil || o.Now == nil || o.Logger == nil {
		return nil, errors.New("liveness: every option of Gaps but Expected and Registerer must be set")
	}
	if o.Expected == nil {
		o.Expected = func() bool { return true }
	}
	g := &Gaps{o: o, began: o.Now()}
	raw, err := os.ReadFile(o.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read when pings were taken: %w", err)
	}
	if err == nil {
		if err := json.Unmarshal(raw, &g.state); err != nil {
			// It is a record of the past: without it the last two days are caught up.
			o.Logger.Error("the record of outages is damaged; the last two days are caught up", "path", o.Path, "err", err)
			g.state = gapState{Alive: o.Now().Add(-afterLoss)}
		}
	}
	g.register(promauto.With(o.Registerer))
	return g, nil
}

// Run beats until ctx ends.
func (g *Gaps) Run(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		g.Beat()
		select {
		case <-ctx.Done():
			g.Beat()
			return
		case <-tick.C:
		}
	}
}

// Beat notes whether pings are taken now.
func (g *Gaps) Beat() {
	taking := g.o.Taking()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !taking {
		return // the gap began at the last good beat, and goes on
	}
	// Only now: a beat that was held up must not take back what a later one noted,
	// which would be a gap to the next.
	now := g.o.Now()
	if from := g.state.Alive; !from.IsZero() && now.Sub(from) >= minGap {
		g.add(Gap{From: from, To: now})
	}
	g.state.Alive = now
	g.write()
}

// add appends a gap, or lengthens the one before that is near.
func (g *Gaps) add(gap Gap) {
	g.o.Logger.Warn("pings may have been missed; they are caught up", "component", "liveness", "from", gap.From, "to", gap.To,
		"for", gap.To.Sub(gap.From).Round(time.Second).String())
	if n := len(g.state.Gaps); n > 0 && gap.From.Sub(g.state.Gaps[n-1].To) < joinGaps {
		gap.From = g.state.Gaps[n-1].From
		g.state.Gaps[n-1] = gap
		return
	}
	g.state.Gaps = slices.DeleteFunc(g.state.Gaps, func(old Gap) bool { return gap.To.Sub(old.To) > keepGaps })
	g.state.Gaps = append(g.state.Gaps, gap)
}

func (g *Gaps) write() {
	raw, err := json.Marshal(g.state)
	if err == nil {
		err = g.o.Write(g.o.Path, raw)
	}
	if err != nil && !g.warned {
		g.o.Logger.Warn("it cannot be noted that pings are taken; after a restart this looks like an outage", "component", "liveness", "err", err)
	}
	g.warned = err != nil
}

// fresh returns since when there are gaps that were not handed over, zero when
// there are none, and what handed takes.
func (g *Gaps) fresh() (since, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, gap := range g.state.Gaps {
		if gap.Handed {
			continue
		}
		if since.IsZero() {
			since = gap.From
		}
		until = gap.To
	}
	return since, until
}

// handed notes that catch-up knows of every gap that ended until then.
func (g *Gaps) handed(until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.state.Gaps {
		if gap := &g.state.Gaps[i]; !gap.To.After(until) {
			gap.Handed = true
		}
	}
	g.write()
}

// long reports whether a gap so long that ORCID may have given up touches the
// time between.
func (g *Gaps) long(since, until time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.state.Gaps, func(gap Gap) bool {
		return gap.To.Sub(gap.From) >= longGap && gap.To.After(since) && gap.From.Before(until)
	})
}

// register makes the metrics, all read when they are scraped.
func (g *Gaps) register(f promauto.Factory) {
	gauge := func(name, help string, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "dispatchd_" + name, Help: help}, value)
	}
	gauge("failure_budget_used_ratio",
		"How much of the about 26 h after which ORCID gives up on a webhook the present outage, or one that ended in the last 6 h, has used.",
		func() float64 { return g.Budget().Used })
	gauge("last_ping_timestamp_seconds", "When the latest ping was taken; 0 when none is known.", func() float64 {
		last := g.Quiet().Last
		if last.IsZero() {
			return 0
		}
		return float64(last.Unix())
	})
	gauge("usual_ping_gap_seconds", "The usual pause between two minutes with pings, over the last 7 days; 0 while too few are known.",
		func() float64 { return g.Quiet().Usual.Seconds() })
	gauge("pings_overdue", "Whether (1) no ping came for ten times the usual pause and for an hour at least, although some are to be expected.",
		func() float64 {
			if g.Quiet().Overdue {
				return 1
			}
			return 0
		})
}

// Budget is how much of ORCID's patience an outage has used.
type Budget struct {
	Used float64 // 1 is all of it; 0 when all is well
	Gap  Gap     // the outage; To is now while it lasts
	Over bool    // it has ended
}

// Budget returns the part of ORCID's patience that the present outage, or one
// that ended so lately that pings of it may still come, has used.
func (g *Gaps) Budget() Budget {
	now := g.o.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	var b Budget
	if n := len(g.state.Gaps); n > 0 && now.Sub(g.state.Gaps[n-1].To) < pingWait {
		b.Gap, b.Over = g.state.Gaps[n-1], true
	}
	if from := g.state.Alive; !from.IsZero() && now.Sub(from) >= minGap {
		if !b.Over || from.Sub(b.Gap.To) >= joinGaps {
			b.Gap.From = from
		}
		b.Gap.To, b.Over = now, false
	}
	b.Used = float64(b.Gap.To.Sub(b.Gap.From)) / float64(budget)
	return b
}

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

// GapOptions wires Gaps. All but Registerer must be set.
type GapOptions struct {
	// Path is the file in data_dir, so that it works without Redis.
	Path string
	// Write replaces a file so that a crash leaves the old or the new one whole.
	Write func(path string, raw []byte) error
	// Taking reports whether pings are taken now. It must not block.
	Taking     func() bool
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Gaps notes, beat by beat, that pings are taken, and so knows after a crash, a
// stop or a time of refusals when they were not. It is safe for concurrent use.
type Gaps struct {
	o GapOptions

	mu     sync.Mutex
	state  gapState
	warned bool
}

type gapState struct {
	// Alive is when pings were taken last; zero: never yet.
	Alive time.Time `json:"alive"`
	Gaps  []Gap     `json:"gaps"`
}

// OpenGaps reads the file. What lies between its last beat and now was a gap.
func OpenGaps(o GapOptions) (*Gaps, error) {
	if o.Path == "" || o.Write == nil || o.Taking == nil || o.Now == nil || o.Logger == nil {
		return nil, errors.New("liveness: every option of Gaps but Registerer must be set")
	}
	g := &Gaps{o: o}
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
	promauto.With(o.Registerer).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dispatchd_failure_budget_used_ratio",
		Help: "How much of the about 26 h after which ORCID gives up on a webhook the present outage, or one that ended in the last 6 h, has used.",
	}, g.Budget)
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
	taking, now := g.o.Taking(), g.o.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !taking {
		return // the gap began at the last good beat, and goes on
	}
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

// Budget is the part of ORCID's patience that is used up; 0 when all is well.
func (g *Gaps) Budget() float64 {
	now := g.o.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	var used time.Duration
	if !g.state.Alive.IsZero() && now.Sub(g.state.Alive) >= minGap {
		used = now.Sub(g.state.Alive)
	}
	if n := len(g.state.Gaps); n > 0 && now.Sub(g.state.Gaps[n-1].To) < pingWait {
		used = max(used, g.state.Gaps[n-1].To.Sub(g.state.Gaps[n-1].From))
	}
	return float64(used) / float64(budget)
}

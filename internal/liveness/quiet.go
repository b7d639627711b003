package liveness

import "time"

const (
	// memory is how far back the usual pace of pings is looked at: a week, since
	// researchers rest at its end.
	memory = 7 * 24
	// overdueTimes is how often the usual pause between pings must have passed
	// before their silence is a problem, and leastSilence how long at least.
	overdueTimes = 10
	leastSilence = time.Hour
	// fewMinutes is how many minutes with pings must be known before anything is
	// usual.
	fewMinutes = 20
)

// pace knows in how many minutes of each of the last hours pings came. Minutes,
// not pings: a re-index of all records is ten thousands of pings in three of
// them, and must not make an ordinary night look like a silence.
type pace struct {
	// Last is when the latest ping came; zero: none is known.
	Last time.Time `json:"last,omitzero"`
	// Since is when the counting began.
	Since time.Time `json:"since,omitzero"`
	// Hours holds, for the hour that Last lies in and those before it (newest
	// first), the minutes with pings.
	Hours []int `json:"hours,omitempty"`
}

// note counts a ping that came at that time.
func (p *pace) note(at time.Time) {
	if p.Since.IsZero() {
		p.Since = at
	}
	if !p.Last.IsZero() && !at.After(p.Last) {
		return
	}
	hour := func(t time.Time) int64 { return t.Unix() / 3600 }
	fresh := p.Last.IsZero() || at.Unix()/60 != p.Last.Unix()/60
	if len(p.Hours) == 0 {
		p.Hours = []int{0}
	} else if n := min(hour(at)-hour(p.Last), memory); n > 0 {
		p.Hours = append(make([]int, n), p.Hours[:min(int64(len(p.Hours)), memory-n)]...)
	}
	if fresh {
		p.Hours[0]++
	}
	p.Last = at
}

// usual returns the usual pause between two minutes with pings; zero while too
// little is known.
func (p *pace) usual() time.Duration {
	minutes := 0
	for _, n := range p.Hours {
		minutes += n
	}
	if minutes < fewMinutes {
		return 0
	}
	return min(p.Last.Sub(p.Since), memory*time.Hour) / time.Duration(minutes)
}

// overdue reports whether nothing has come for far longer than usual, counted
// from the last ping or from when pings could come again.
func (p *pace) overdue(now, able time.Time) bool {
	usual := p.usual()
	return usual > 0 && now.Sub(latest(p.Last, able)) > max(overdueTimes*usual, leastSilence)
}

// Pinged notes that a ping was taken. It is cheap: only the first of a minute
// is more than a comparison.
func (g *Gaps) Pinged() {
	now := g.o.Now()
	minute := now.Unix() / 60
	if g.pinged.Swap(minute) == minute {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state.Pings.note(now)
}

// Quiet is how long ago pings came, and whether that is unusual.
type Quiet struct {
	Last    time.Time     // to the minute; zero: none is known
	Usual   time.Duration // pause between two minutes with pings; 0: not known
	Overdue bool
}

// Quiet returns how quiet ORCID is.
func (g *Gaps) Quiet() Quiet {
	now, expected := g.o.Now(), g.o.Expected()
	g.mu.Lock()
	defer g.mu.Unlock()
	p := &g.state.Pings
	able := g.began // while we were away none could come
	if n := len(g.state.Gaps); n > 0 {
		able = latest(able, g.state.Gaps[n-1].To)
	}
	return Quiet{Last: p.Last, Usual: p.usual(), Overdue: expected && p.overdue(now, able)}
}

package liveness

import (
	"hash/fnv"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

const (
	// overlap is how far a round looks back behind the one before: ORCID's
	// search is minutes behind its records, and may be more.
	overlap = time.Hour
	// settle is how long ORCID may take from a change to its ping when all is
	// well; before that nothing is said about a missing one.
	settle = 15 * time.Minute
	// pingWait is how long after an outage a ping may still come: ORCID's pauses
	// between attempts grow up to 3.75 h.
	pingWait = 6 * time.Hour
	// longGap is from when on ORCID may have given up on a registration.
	longGap = 20 * time.Hour
	// afterLoss is how far is looked back when nobody knows since when.
	afterLoss = 48 * time.Hour
	// sliceRows is how many changes a time slice is aimed to have, so that it
	// nearly always fits one page.
	sliceRows = 700
)

// The reasons of rounds.
const (
	whyTimer  = "timer"
	whyOutage = "outage"
)

// progress is what a credential's catch-up keeps.
type progress struct {
	// Done is until when all changes are known by rounds of the timer; zero:
	// there was none yet.
	Done time.Time `json:"done,omitzero"`
	// Owed is since when changes may have been missed in outages; zero: none.
	Owed  time.Time `json:"owed,omitzero"`
	Round *round    `json:"round,omitempty"`
}

// round is one search through all users of a credential.
type round struct {
	Why   string    `json:"why"`
	Began time.Time `json:"began"`
	Since time.Time `json:"since"` // the overlap taken off
	// Slices says that all of ORCID's changes are read, slice by slice, instead
	// of asking for our users.
	Slices bool          `json:"slices,omitempty"`
	At     time.Time     `json:"at,omitzero"` // slices: where the next begins
	Width  time.Duration `json:"width,omitempty"`
	Org    string        `json:"org,omitempty"` // users: where it is; empty at the beginning
	Cursor string        `json:"cursor,omitempty"`

	Users int `json:"users"` // looked at, or ours among the changes
	Found int `json:"found"` // changed
	Told  int `json:"told"`  // without a ping
	Calls int `json:"calls"` // of ORCID
}

// begin decides whether a round is due and begins it. A credential that is new
// begins with a time of its own, so that the rounds of many spread.
func (p *progress) begin(credential string, every time.Duration, now time.Time) (changed bool) {
	if p.Round != nil {
		return false
	}
	if p.Done.IsZero() {
		p.Done = now.Add(-stagger(credential, every))
		changed = true
	}
	if p.Done.After(now) { // the clock was set back; else no round would be due until then
		p.owe(now.Add(-afterLoss))
		p.Done = now
	}
	timer := every > 0 && !now.Before(p.Done.Add(every))
	switch {
	case timer:
		since := p.Done
		if !p.Owed.IsZero() && p.Owed.Before(since) {
			since = p.Owed
		}
		p.Round = &round{Why: whyTimer, Began: now, Since: since.Add(-overlap)}
	case !p.Owed.IsZero():
		p.Round = &round{Why: whyOutage, Began: now, Since: p.Owed.Add(-overlap)}
	default:
		return changed
	}
	p.Owed = time.Time{} // the round has it
	return true
}

// finish ends the round.
func (p *progress) finish() {
	if p.Round.Why == whyTimer {
		p.Done = p.Round.Began
	}
	p.Round = nil
}

// owe notes that changes may have been missed since then.
func (p *progress) owe(since time.Time) {
	if p.Owed.IsZero() || since.Before(p.Owed) {
		p.Owed = since
	}
}

// stagger is a part of every that is always the same for a credential.
func stagger(credential string, every time.Duration) time.Duration {
	if every <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(credential)) // never fails (hash.Hash)
	return time.Duration(h.Sum64() % uint64(every))
}

// bySlices reports whether reading all changes of ORCID takes fewer calls than
// asking for our users.
func bySlices(users, changes int) bool {
	return ceil(changes, sliceRows)+1 < ceil(users, orcid.MaxSearchIDs)
}

// worthCounting reports whether it may pay to ask how many changes there are.
func worthCounting(users int) bool { return ceil(users, orcid.MaxSearchIDs) > 3 }

func ceil(n, by int) int { return (n + by - 1) / by }

// firstWidth is how wide the first slice of a window with that many changes is.
func firstWidth(window time.Duration, changes int) time.Duration {
	part := min(float64(sliceRows)/float64(max(changes, 1)), 1)
	return max(time.Duration(float64(window)*part).Truncate(time.Second), time.Second)
}

// nextWidth is how wide a slice should be after one that had n changes.
func nextWidth(width time.Duration, n int) time.Duration {
	factor := min(max(float64(sliceRows)/float64(max(n, 1)), 0.25), 4)
	return max(time.Duration(float64(width)*factor).Truncate(time.Second), time.Second)
}

// knownUntil is until when changes of the user are known: by a ping, by what was
// found before, or because nobody was to be told of earlier ones.
func knownUntil(u *event.User, credential string, silence event.Silence, served func(org string) bool) time.Time {
	known := latest(u.LastPing, silence.At)
	var first time.Time
	for _, a := range u.Affiliations {
		if served(a.Org) && !a.Muted && (first.IsZero() || a.AffiliatedAt.Before(first)) {
			first = a.AffiliatedAt
		}
	}
	known = latest(known, first)
	if r := newest(u, credential); r != nil && r.State == event.RegAlive {
		known = latest(known, r.Changed.Add(-overlap)) // the baseline check has looked there
	}
	return known
}

// newest is the registration with the highest epoch; nil when there is none.
func newest(u *event.User, credential string) (top *event.Registration) {
	for i := range u.Registrations {
		if r := &u.Registrations[i]; r.Credential == credential && (top == nil || r.Epoch > top.Epoch) {
			top = r
		}
	}
	return top
}

// verdict is what follows from a change that no ping told of.
type verdict struct {
	silence event.Silence
	rearm   bool // the second in a row
	watch   bool // to be looked at again after pingWait
}

// judge decides what a change at or after since, without a ping, says about a
// registration. It counts only when the registration was alive by then.
func judge(u *event.User, credential string, before event.Silence, since, now time.Time, risk bool) verdict {
	v := verdict{silence: event.Silence{At: now}}
	r := newest(u, credential)
	if r == nil || r.State != event.RegAlive || r.Changed.After(since) {
		return v
	}
	v.silence.Count = 1
	if !u.LastPing.After(before.At) {
		v.silence.Count += before.Count
	}
	switch {
	case v.silence.Count >= 2:
		v.rearm, v.silence.Count = true, 0
	case risk:
		v.watch = true
	}
	return v
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

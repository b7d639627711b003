package service

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"dispatchd/internal/event"
)

// RegistrationReport is where the rows at ORCID stand, and how far a sweep is.
type RegistrationReport struct {
	// Paused says that nothing is registered or unregistered for now.
	Paused bool `json:"paused"`
	// States counts rows by state: none, putting, alive, deleting, refused.
	States map[string]int64 `json:"states"`
	// Wanted and Missing are what was wanted, and what of it did not live, at
	// CountedAt; nobody has counted yet when that is left out.
	Wanted    int       `json:"wanted"`
	Missing   int       `json:"missing"`
	CountedAt time.Time `json:"counted_at,omitzero"`
	// AtRisk are registrations that changed around a long outage, no ping since.
	AtRisk int64 `json:"at_risk"`
	Sweep  Sweep `json:"sweep"`
}

// Sweep is how far the work on registrations is.
type Sweep struct {
	// Left are the researchers to be looked at by now; 0 when no sweep is under way.
	Left int64 `json:"left"`
	// Total is the most that were left since the sweep began.
	Total int64     `json:"total"`
	Since time.Time `json:"since,omitzero"`
	// Rate is how many requests a second are allowed now, Speed how many were made
	// in the last seconds.
	Rate  float64 `json:"rate_per_second"`
	Speed float64 `json:"speed_per_second"`
	// SecondsLeft is an estimate at that speed, or at the rate while there is none;
	// 0 when nothing is left or nobody can tell.
	SecondsLeft float64 `json:"seconds_left,omitempty"`
}

// sweepMeter remembers how much a sweep had to do. The zero value is ready.
type sweepMeter struct {
	mu    sync.Mutex
	total int64
	since time.Time
}

// see notes how much is left now.
func (m *sweepMeter) see(left int64, now time.Time) (total int64, since time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case left == 0:
		m.total, m.since = 0, time.Time{}
	case m.total == 0:
		m.total, m.since = left, now
	default:
		m.total = max(m.total, left)
	}
	return m.total, m.since
}

// Registrations counts the rows at ORCID by state, and says how far a sweep is.
func (s *Service) Registrations(ctx context.Context) (RegistrationReport, error) {
	totals, err := s.o.Store.RegistrationTotals(ctx)
	if err != nil {
		return RegistrationReport{}, Explain("count registrations", err)
	}
	r := RegistrationReport{States: map[string]int64{}}
	for state, n := range totals {
		r.States[state.String()] = n
	}
	if r.Sweep.Left, err = s.o.Store.RegistrationWork(ctx); err != nil {
		return RegistrationReport{}, Explain("count what is left", err)
	}
	if r.AtRisk, err = s.o.Store.CountChecks(ctx, event.CheckAtRisk); err != nil {
		return RegistrationReport{}, Explain("count registrations at risk", err)
	}
	if f := s.o.Probe.Wanted; f != nil {
		r.Wanted, r.Missing, r.CountedAt = f()
	}
	if f := s.o.Probe.Actors; f != nil {
		st := f()
		r.Paused, r.Sweep.Rate, r.Sweep.Speed = st.Paused, st.Rate, st.Speed
	}
	r.Sweep.Total, r.Sweep.Since = s.swept.see(r.Sweep.Left, s.o.Store.Now())
	if pace := cmp.Or(r.Sweep.Speed, r.Sweep.Rate); pace > 0 && !r.Paused {
		r.Sweep.SecondsLeft = float64(r.Sweep.Left) / pace
	}
	return r, nil
}

// Credentials returns every configured credential as its actor sees it, by
// name. One that no actor knows of yet is "starting".
func (s *Service) Credentials() []CredentialState {
	list := []CredentialState{}
	if f := s.o.Probe.Actors; f != nil {
		list = append(list, f().Credentials...)
	}
	for _, name := range s.o.Credentials() {
		if !slices.ContainsFunc(list, func(c CredentialState) bool { return c.Name == name }) {
			list = append(list, CredentialState{Name: name, State: "starting", Detail: "nothing works with it yet"})
		}
	}
	slices.SortFunc(list, func(a, b CredentialState) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

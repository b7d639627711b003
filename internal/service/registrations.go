package service

import (
	"cmp"
	"context"
	"slices"
)

// RegistrationReport is where the rows at ORCID stand.
type RegistrationReport struct {
	// Paused says that nothing is registered or unregistered for now.
	Paused bool `json:"paused"`
	// States counts rows by state: none, putting, alive, deleting, refused.
	States map[string]int64 `json:"states"`
}

// Registrations counts the rows at ORCID by state.
func (s *Service) Registrations(ctx context.Context) (RegistrationReport, error) {
	totals, err := s.o.Store.RegistrationTotals(ctx)
	if err != nil {
		return RegistrationReport{}, Explain("count registrations", err)
	}
	r := RegistrationReport{States: map[string]int64{}}
	for state, n := range totals {
		r.States[state.String()] = n
	}
	if f := s.o.Probe.Actors; f != nil {
		r.Paused = f().Paused
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

package service

import (
	"context"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// Tell says whether the organisation is told of one of its users. Who is muted
// stays a user: what waits is cancelled, and the registration at ORCID goes when
// nobody else wants it. Told again, the user is registered again.
func (s *Service) Tell(ctx context.Context, by By, orgID string, id orcid.ID, told bool) error {
	if _, err := s.get(orgID); err != nil {
		return err
	}
	if err := s.notRemoving(orgID); err != nil {
		return err
	}
	if told {
		s.leaving.RLock()
		defer s.leaving.RUnlock()
	} else {
		s.leaving.Lock()
		defer s.leaving.Unlock()
	}
	ctx = context.WithoutCancel(ctx) // not halfway
	affiliated, err := s.o.Store.SetMuted(ctx, id, orgID, !told, s.o.Store.Now())
	if err != nil {
		return Explain("mute the user", err)
	}
	if !affiliated {
		return notFound("%s is not a user of organisation %q.", id, orgID)
	}
	if !told {
		if _, err := s.o.Store.CancelUser(ctx, orgID, id); err != nil {
			return Explain("cancel what waits for the user", err)
		}
	}
	s.audit(by, "user told of", "org", orgID, "orcid", id, "told", told)
	s.o.Hints.HintUser(id, true)
	return nil
}

// registeredPoll is how often Registered looks.
const registeredPoll = 50 * time.Millisecond

// Registered waits until the registration of the organisation's user is settled
// at ORCID, alive or refused, or ctx ends, and returns where it then stands:
// RegNone when none is wanted.
func (s *Service) Registered(ctx context.Context, orgID string, id orcid.ID) (event.RegState, error) {
	tick := time.NewTicker(registeredPoll)
	defer tick.Stop()
	for {
		state, err := s.registration(context.WithoutCancel(ctx), orgID, id)
		if err != nil || state != event.RegPutting {
			return state, err
		}
		select {
		case <-ctx.Done():
			return state, nil
		case <-tick.C:
		}
	}
}

// registration is where the newest row stands of the credential that serves the
// organisation; RegPutting also while it is still to be begun.
func (s *Service) registration(ctx context.Context, orgID string, id orcid.ID) (event.RegState, error) {
	o, err := s.get(orgID)
	if err != nil {
		return event.RegNone, err
	}
	u, err := s.o.Store.User(ctx, id)
	if err != nil {
		return event.RegNone, Explain("read the user", err)
	}
	mine := func(a event.Affiliation) bool { return a.Org == orgID && !a.Muted }
	if u == nil || !o.AnyEnabled() || !slices.ContainsFunc(u.Affiliations, mine) {
		return event.RegNone, nil
	}
	state, epoch := event.RegPutting, -1
	for _, r := range u.Registrations {
		if r.Credential == o.Credential && r.Epoch > epoch {
			state, epoch = r.State, r.Epoch
		}
	}
	if state != event.RegAlive && state != event.RegRefused {
		state = event.RegPutting
	}
	return state, nil
}

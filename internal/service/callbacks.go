package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

// Callbacks registers callbacks of organisations' own at ORCID.
type Callbacks interface {
	// Settle brings a row to what is wanted, now, and returns ORCID's last
	// answer; the zero Answer when nothing had to be asked.
	Settle(ctx context.Context, id orcid.ID, url string) (orcid.Answer, error)
}

// CallbackState is where a callback of an organisation's own stands.
type CallbackState struct {
	State event.RegState
	// Kind and Status are ORCID's answer to this request; zero when it was not
	// asked or gave none in time. Detail is for people.
	Kind   orcid.Kind
	Status int
	Detail string
}

// PutCallback registers a URL of the organisation's own at ORCID for one of its
// users. It is durable when it returns; what ORCID says is waited for until ctx
// ends. One that is registered already is not registered again: organisations
// that want the same URL share what is at ORCID, without hearing of each other.
func (s *Service) PutCallback(ctx context.Context, by By, orgID string, id orcid.ID, url string) (CallbackState, error) {
	o, err := s.ownUser(ctx, orgID, id)
	if err != nil {
		return CallbackState{}, err
	}
	if err := s.validCallback(url); err != nil {
		return CallbackState{}, badField("callback_url", err)
	}
	shared := false
	write := func() (event.RegState, error) {
		s.leaving.RLock()
		defer s.leaving.RUnlock()
		g, err := s.callback(ctx, id, url)
		if err != nil {
			return 0, err
		}
		mine := !g.Gone && slices.Contains(g.Orgs, orgID)
		if mine && g.Registration.State == event.RegAlive {
			return event.RegAlive, nil
		}
		shared = len(g.Orgs) > 0 && !slices.Contains(g.Orgs, orgID)
		if len(g.Orgs) == 0 || g.Registration.State == event.RegRefused {
			g.Registration = event.Registration{Credential: o.Credential, Epoch: 1, Changed: s.now()}
		}
		switch {
		case g.Gone || len(g.Orgs) == 0:
			g.Orgs, g.Gone = []string{orgID}, false
		case shared:
			g.Orgs = append(g.Orgs, orgID)
		}
		_, err = s.o.Store.AddGuest(ctx, g, orgID, s.now())
		if errors.Is(err, store.ErrFull) {
			return 0, &Error{Code: CodeConflict, What: fmt.Sprintf("This user has %d call-back URLs of yours already, which is all there may be.", store.MaxGuests), Do: "Remove one first."}
		}
		return g.Registration.State, err
	}
	state, err := s.writeCallback(write)
	if err != nil {
		return CallbackState{}, err
	}
	s.audit(by, "callback registered", "org", orgID, "orcid", id)
	st := CallbackState{State: state}
	if state != event.RegAlive {
		if st, err = s.settleCallback(ctx, id, url); err != nil {
			return CallbackState{}, err
		}
	}
	if shared && st.State == event.RegAlive {
		st.Kind = orcid.Created // as if it were the only one: that another has it is not to be told
	}
	return st, nil
}

// DeleteCallback removes it again; another organisation that registered the same
// keeps it. One that is not ours to know of, made before
// this hub was there, is removed too when ORCID finds that the credential owns
// it.
func (s *Service) DeleteCallback(ctx context.Context, by By, orgID string, id orcid.ID, url string) (CallbackState, error) {
	o, err := s.ownUser(ctx, orgID, id)
	if err != nil {
		return CallbackState{}, err
	}
	if err := s.validCallback(url); err != nil {
		return CallbackState{}, badField("callback_url", err)
	}
	var removed CallbackState // RegNone
	settle := false
	write := func() (event.RegState, error) {
		removed, settle = CallbackState{}, false
		g, err := s.callback(ctx, id, url)
		if err != nil {
			return 0, err
		}
		switch mine := slices.Index(g.Orgs, orgID); {
		case len(g.Orgs) == 0:
			g.Registration = event.Registration{Credential: o.Credential, Epoch: 1, State: event.RegDeleting, Changed: s.now()}
			g.Orgs, g.Gone, settle = []string{orgID}, true, true
		case mine < 0: // as if there were none: that another has it is not to be told
			removed.Kind = orcid.NoSuchWebhook
			return 0, nil
		case !g.Gone && len(g.Orgs) > 1: // the others keep it
			g.Orgs = slices.Delete(g.Orgs, mine, mine+1)
		default:
			g.Gone, settle = true, true
		}
		_, err = s.o.Store.AddGuest(ctx, g, orgID, s.now())
		if errors.Is(err, store.ErrFull) {
			return 0, &Error{Code: CodeConflict, What: fmt.Sprintf("ORCID has not answered about %d call-back URLs of this user that you removed.", store.MaxGuests), Do: "Try again later."}
		}
		return g.Registration.State, err
	}
	if _, err := s.writeCallback(write); err != nil {
		return CallbackState{}, err
	}
	if removed.Kind == orcid.NoSuchWebhook {
		return removed, nil
	}
	s.audit(by, "callback removed", "org", orgID, "orcid", id)
	if !settle {
		return removed, nil
	}
	return s.settleCallback(ctx, id, url)
}

// now is the time to be stored, in whole seconds.
func (s *Service) now() time.Time { return s.o.Store.Now().Truncate(time.Second) }

// ownUser returns the organisation when the user is its own.
func (s *Service) ownUser(ctx context.Context, orgID string, id orcid.ID) (*org.Organisation, error) {
	o, err := s.get(orgID)
	if err != nil {
		return nil, err
	}
	if err := s.notRemoving(orgID); err != nil {
		return nil, err
	}
	u, err := s.o.Store.User(ctx, id)
	if err != nil {
		return nil, Explain("read the user", err)
	}
	if u == nil || !slices.ContainsFunc(u.Affiliations, func(a event.Affiliation) bool { return a.Org == orgID }) {
		return nil, notFound("%s is not a user of organisation %q.", id, orgID)
	}
	return o, nil
}

// validCallback refuses what ORCID would take and never reach: it checks hardly
// anything itself.
func (s *Service) validCallback(url string) error {
	if err := org.ValidURL(url); err != nil {
		return err
	}
	for i := range len(url) {
		if url[i] <= ' ' || url[i] > '~' || strings.IndexByte("\"<>\\^`{|}", url[i]) >= 0 {
			return errors.New("has characters that must be percent-encoded in a URL")
		}
	}
	if s.o.OwnURLs == nil {
		return nil
	}
	for _, own := range s.o.OwnURLs() {
		if own != "" && strings.HasPrefix(strings.ToLower(url), strings.ToLower(own)+"/") {
			return errors.New("is one of this hub's own; PUT /api/v1/{orcid}/webhook without a URL is for these")
		}
	}
	return nil
}

// callback is the row of a user and a URL; a new one when there is none.
func (s *Service) callback(ctx context.Context, id orcid.ID, url string) (event.Guest, error) {
	list, err := s.o.Store.Guests(ctx, id)
	if err != nil {
		return event.Guest{}, err
	}
	for _, g := range list {
		if g.URL == url {
			if g.Damaged {
				return g, fmt.Errorf("a callback of %s: %w", id, store.ErrDamaged)
			}
			return g, nil
		}
	}
	return event.Guest{ORCID: id, URL: url}, nil
}

// writeCallback writes a row, again when somebody else was faster.
func (s *Service) writeCallback(write func() (event.RegState, error)) (event.RegState, error) {
	for tries := 1; ; tries++ {
		state, err := write()
		switch {
		case errors.Is(err, event.ErrConflict) && tries < 10:
		case err != nil:
			return state, Explain("write the callback", err)
		default:
			return state, nil
		}
	}
}

// settleCallback waits for ORCID's answer until ctx ends; what is not done by
// then goes on.
func (s *Service) settleCallback(ctx context.Context, id orcid.ID, url string) (CallbackState, error) {
	if s.o.Callbacks == nil {
		return CallbackState{State: event.RegPutting}, nil
	}
	answer, err := s.o.Callbacks.Settle(ctx, id, url)
	if err != nil && ctx.Err() == nil {
		s.log.Info("a callback of an organisation waits", "orcid", id, "err", err)
	}
	g, err := s.callback(context.WithoutCancel(ctx), id, url)
	if err != nil {
		return CallbackState{}, Explain("read the callback", err)
	}
	return CallbackState{State: g.Registration.State, Kind: answer.Kind, Status: answer.Status, Detail: answer.Detail}, nil
}

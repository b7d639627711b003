package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// Story is everything known of one researcher.
type Story struct {
	ORCID    orcid.ID  `json:"orcid"`
	LastPing time.Time `json:"last_ping,omitzero"`
	// Damaged says that the stored record cannot be read; then affiliations and
	// registrations are not known.
	Damaged bool `json:"damaged,omitempty"`
	// Suppressed is when the researcher asked to be erased; zero: never, or it
	// was lifted. Erasing says that ORCID has not confirmed yet.
	Suppressed    time.Time           `json:"suppressed,omitzero"`
	Erasing       bool                `json:"erasing,omitempty"`
	Affiliations  []StoryAffiliation  `json:"affiliations"`
	Registrations []StoryRegistration `json:"registrations"`
	// Callbacks are organisations' own, which ORCID pings directly.
	Callbacks []StoryCallback `json:"callbacks,omitempty"`
	// History is what happened to the registrations besides the usual, newest
	// first.
	History []store.History `json:"history"`
	// Watched is what catch-up has noted.
	Watched []store.Watched `json:"watched"`
}

// StoryAffiliation is what one organisation gave, and what there is for it.
type StoryAffiliation struct {
	Org          string    `json:"org"`
	Former       bool      `json:"former,omitempty"` // not affiliated any more; only traces are left
	Email        string    `json:"email,omitempty"`
	EPPN         string    `json:"eppn,omitempty"`
	Name         string    `json:"name,omitempty"`
	AffiliatedAt time.Time `json:"affiliated_at,omitzero"`
	// Muted says that the organisation does not want to be told for now.
	Muted bool `json:"muted,omitempty"`
	// Slots are what waits to be told, DeadLetters what was given up on.
	Slots       []StorySlot       `json:"slots"`
	DeadLetters []StoryDeadLetter `json:"dead_letters"`
	Attempts    []event.Attempt   `json:"attempts"` // newest first
}

// StorySlot is news that waits on one channel.
type StorySlot struct {
	Channel event.Channel `json:"channel"`
	store.SlotView
}

// StoryDeadLetter is news that was given up on.
type StoryDeadLetter struct {
	Channel  event.Channel `json:"channel"`
	Types    []event.Type  `json:"types"`
	LatestAt time.Time     `json:"latest_at"`
	DiedAt   time.Time     `json:"died_at"`
	Attempts int           `json:"attempts"`
	Status   int           `json:"status,omitempty"`
	Reason   string        `json:"reason"`
}

// StoryRegistration is one row at ORCID.
type StoryRegistration struct {
	Credential string    `json:"credential"`
	State      string    `json:"state"`
	Epoch      int       `json:"epoch"`
	Since      time.Time `json:"since"`
	Tries      int       `json:"failed_tries,omitempty"`
	Status     int       `json:"last_status,omitempty"`
	RetryAt    time.Time `json:"retry_at,omitzero"`
}

// StoryCallback is a callback URL of an organisation's own at ORCID.
type StoryCallback struct {
	Org        string    `json:"org"`
	URL        string    `json:"url"`
	Credential string    `json:"credential"`
	State      string    `json:"state"`
	Since      time.Time `json:"since"`
	Leaving    bool      `json:"leaving,omitempty"` // it is to be removed
	// Waits says what it waits for; empty when it is not held up.
	Waits  string `json:"waits,omitempty"`
	Tries  int    `json:"failed_tries,omitempty"`
	Status int    `json:"last_status,omitempty"`
}

// known reports whether there is anything to tell.
func (s Story) known() bool {
	return s.Damaged || !s.Suppressed.IsZero() || len(s.Affiliations) > 0 || len(s.Registrations) > 0 || len(s.Callbacks) > 0 || len(s.History) > 0 || len(s.Watched) > 0
}

// User returns the whole story of one researcher.
func (s *Service) User(ctx context.Context, id orcid.ID) (Story, error) {
	story, err := s.story(ctx, id)
	if err != nil {
		return Story{}, err
	}
	if !story.known() {
		return Story{}, notFound("Nothing is known of %s.", id)
	}
	return story, nil
}

func (s *Service) story(ctx context.Context, id orcid.ID) (Story, error) {
	story := Story{ORCID: id, Affiliations: []StoryAffiliation{}, Registrations: []StoryRegistration{}, Watched: []store.Watched{}}
	u, err := s.o.Store.User(ctx, id)
	switch {
	case errors.Is(err, store.ErrDamaged):
		story.Damaged = true
	case err != nil:
		return Story{}, Explain("read the user", err)
	}
	guests, err := s.o.Store.Guests(ctx, id)
	if err != nil {
		return Story{}, Explain("read the callbacks", err)
	}
	for _, g := range guests {
		if g.Damaged {
			story.Callbacks = append(story.Callbacks, StoryCallback{Org: "?", URL: g.URL, State: "damaged"})
			continue
		}
		r := g.Registration
		for _, orgID := range g.Orgs {
			story.Callbacks = append(story.Callbacks, StoryCallback{
				Org: orgID, URL: g.URL, Credential: r.Credential, State: r.State.String(), Since: r.Changed, Leaving: g.Gone, Waits: s.waitsFor(g, orgID), Tries: r.Tries, Status: r.Status,
			})
		}
	}
	on, err := s.o.Store.Suppressions(ctx, []orcid.ID{id})
	if err != nil {
		return Story{}, Explain("read the suppression list", err)
	}
	story.Suppressed, story.Erasing = on[0].Since, on[0].Erasing
	if u != nil {
		story.LastPing = u.LastPing
		for _, a := range u.Affiliations {
			story.Affiliations = append(story.Affiliations, StoryAffiliation{Org: a.Org, Email: a.Email, EPPN: a.EPPN, Name: a.Name, AffiliatedAt: a.AffiliatedAt, Muted: a.Muted})
		}
		for _, r := range u.Registrations {
			story.Registrations = append(story.Registrations, StoryRegistration{
				Credential: r.Credential, State: r.State.String(), Epoch: r.Epoch, Since: r.Changed, Tries: r.Tries, Status: r.Status, RetryAt: r.RetryAt,
			})
		}
	}
	if story.History, err = s.o.Store.History(ctx, id); err != nil {
		return Story{}, Explain("read the history", err)
	}
	watched, err := s.o.Store.Watched(ctx, id)
	if err != nil {
		return Story{}, Explain("read the checks", err)
	}
	story.Watched = append(story.Watched, watched...)
	if err := s.addTraces(ctx, &story); err != nil {
		return Story{}, err
	}
	return story, nil
}

// waitsFor says which credential a callback waits for that is not configured.
func (s *Service) waitsFor(g event.Guest, orgID string) string {
	r := g.Registration
	o, ok := s.o.Directory.Organisation(orgID)
	settled := r.State == event.RegAlive || r.State == event.RegRefused
	if r.Credential == "" || slices.Contains(s.o.Credentials(), r.Credential) || !g.Gone && settled && (!ok || o.Credential == r.Credential) {
		return ""
	}
	return fmt.Sprintf("credential %s, which is not configured", r.Credential)
}

// addTraces adds what waits, what died and what was tried, organisation by
// organisation; those that the researcher has left come last.
func (s *Service) addTraces(ctx context.Context, story *Story) error {
	traces, err := s.o.Store.Traces(ctx, s.everyOrganisation(), story.ORCID)
	if err != nil {
		return Explain("read what waits for the user", err)
	}
	for _, t := range traces {
		i := slices.IndexFunc(story.Affiliations, func(a StoryAffiliation) bool { return a.Org == t.Org })
		if i < 0 {
			i = len(story.Affiliations)
			story.Affiliations = append(story.Affiliations, StoryAffiliation{Org: t.Org, Former: true})
		}
		a := &story.Affiliations[i]
		if t.Slot != nil {
			a.Slots = append(a.Slots, StorySlot{t.Channel, *t.Slot})
		}
		if d := t.Dead; d != nil {
			a.DeadLetters = append(a.DeadLetters, StoryDeadLetter{
				Channel: d.Channel, Types: d.Types, LatestAt: d.LatestAt, DiedAt: d.DiedAt, Attempts: d.Attempts, Status: d.Status, Reason: d.Reason,
			})
		}
		a.Attempts = append(a.Attempts, t.Attempts...)
	}
	for i := range story.Affiliations {
		a := &story.Affiliations[i]
		slices.SortStableFunc(a.Attempts, func(x, y event.Attempt) int { return y.Start.Compare(x.Start) })
		a.Slots, a.DeadLetters, a.Attempts = orEmpty(a.Slots), orEmpty(a.DeadLetters), orEmpty(a.Attempts)
	}
	return nil
}

// orEmpty makes JSON say [] instead of null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// everyOrganisation returns the ids of all organisations.
func (s *Service) everyOrganisation() []string {
	all := s.o.Directory.All()
	ids := make([]string, len(all))
	for i, o := range all {
		ids[i] = o.ID
	}
	return ids
}

// Export is a researcher's story for a subject access request.
type Export struct {
	ExportedAt time.Time `json:"exported_at"`
	About      string    `json:"about"`
	Story
	// NotHere says where else something may stand for a while.
	NotHere []string `json:"not_here"`
}

// ExportUser returns everything that is held of one researcher; audited. It
// holds no secret: neither callback URLs nor what organisations sign with.
func (s *Service) ExportUser(ctx context.Context, by By, id orcid.ID) (Export, error) {
	story, err := s.User(ctx, id)
	if err != nil {
		return Export{}, err
	}
	s.audit(by, "user exported", "orcid", id)
	return Export{
		ExportedAt: s.o.Store.Now(), About: "Everything that this dispatchd holds about one researcher.", Story: story, NotHere: AgesOut(),
	}, nil
}

// AgesOut lists where traces of a researcher stay for a while although nothing
// can be looked up there any more: what an erasure does not reach.
func AgesOut() []string {
	return []string{
		"pings on their way through the intake log and the spool: seconds, while Redis works",
		"Redis's append-only file: until its next rewrite (BGREWRITEAOF rewrites it at once)",
		"free pages of spool.db: until they are written over",
		"backups of Redis and of data_dir: as long as they are kept",
		"log files, which name the iD in audit lines and at level debug: as long as they are kept",
		"what organisations were told: it is theirs, ask them",
	}
}

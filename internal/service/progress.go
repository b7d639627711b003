package service

import (
	"context"
	"sync"
	"time"

	"dispatchd/internal/event"
)

// RegistrationProgress is how far one organisation's users are registered with ORCID.
type RegistrationProgress struct {
	// Wanted says whether they are to be: whether a channel is enabled.
	Wanted                bool
	Users, Alive, Refused int
	// Rate is how many may be registered a second, all organisations together; 0
	// when nobody knows.
	Rate float64
	// Problem says why nothing goes on: the credential's, or that registrations
	// are paused; empty while all is well.
	Problem string
}

// Missing is how many are still to be registered.
func (r RegistrationProgress) Missing() int { return max(0, r.Users-r.Alive-r.Refused) }

// Left is about how long the missing ones take; 0 when nobody knows.
func (r RegistrationProgress) Left() time.Duration {
	if r.Rate <= 0 {
		return 0
	}
	return time.Duration(float64(r.Missing()) / r.Rate * float64(time.Second))
}

// countedFor is how much longer a count is used than it took to make: whoever
// watches the progress of a million users must not read them all every second.
const (
	countedFor   = 20
	countedLeast = time.Second
)

// counted remembers counts of users by organisation.
type counted struct {
	mu  sync.Mutex
	all map[string]headcount
}

type headcount struct {
	r       RegistrationProgress
	members int // in the index when it was made: with another number it is of no use
	until   time.Time
}

func (c *counted) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, id)
}

func (c *counted) get(id string, members int, now time.Time) (RegistrationProgress, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.all[id]
	if !ok || v.members != members || !now.Before(v.until) {
		return RegistrationProgress{}, false
	}
	return v.r, true
}

func (c *counted) put(id string, r RegistrationProgress, members int, now time.Time, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]headcount{}
	}
	for other, v := range c.all {
		if now.After(v.until) {
			delete(c.all, other)
		}
	}
	c.all[id] = headcount{r, members, now.Add(max(countedLeast, countedFor*took))}
}

// RegistrationProgress counts how far an organisation's users are registered.
func (s *Service) RegistrationProgress(ctx context.Context, orgID string) (RegistrationProgress, error) {
	o, err := s.get(orgID)
	if err != nil {
		return RegistrationProgress{}, err
	}
	began := time.Now()
	members, err := s.o.Store.MemberCount(ctx, orgID)
	if err != nil {
		return RegistrationProgress{}, Explain("count users", err)
	}
	r, ok := s.counted.get(orgID, members, began)
	if !ok {
		for cursor, more := "", true; more; more = cursor != "" {
			ids, next, err := s.o.Store.Members(ctx, orgID, cursor, importBatch)
			if err != nil {
				return RegistrationProgress{}, Explain("list users", err)
			}
			users, _, err := s.o.Store.ReadableUsers(ctx, ids) // a damaged one must not close the pages
			if err != nil {
				return RegistrationProgress{}, Explain("read users", err)
			}
			for _, u := range users {
				if u == nil {
					continue
				}
				r.Users++
				switch registrationWord(u, o.Credential) {
				case event.RegAlive.String():
					r.Alive++
				case event.RegRefused.String():
					r.Refused++
				}
			}
			cursor = next
		}
		s.counted.put(orgID, r, members, time.Now(), time.Since(began))
	}
	r.Wanted = o.AnyEnabled()
	if f := s.o.Probe.Actors; f != nil {
		state := f()
		for _, c := range state.Credentials {
			if c.Name == o.Credential {
				r.Rate = c.Rate
				if c.State != "ok" && c.State != "waiting" {
					r.Problem = c.Detail
				}
			}
		}
		if state.Paused {
			r.Problem = "the operator has paused registrations"
		}
	}
	return r, nil
}

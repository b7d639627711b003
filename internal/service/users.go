package service

import (
	"context"
	"fmt"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// Person is what an organisation gives about a researcher; all of it optional.
type Person struct {
	Email string `json:"email,omitempty"`
	EPPN  string `json:"eppn,omitempty"`
	Name  string `json:"name,omitempty"`
}

// maxPerson bounds each field of a Person, in bytes.
const maxPerson = 320

// check refuses what would not fit a mail header or a record.
func (p Person) check() error {
	for _, f := range []struct{ key, value string }{{"email", p.Email}, {"eppn", p.EPPN}, {"name", p.Name}} {
		if len(f.value) > maxPerson {
			return fmt.Errorf("%s has more than %d bytes", f.key, maxPerson)
		}
		if !clean(f.value) {
			return fmt.Errorf("%s has control characters or is not UTF-8", f.key)
		}
	}
	return nil
}

// AddUser affiliates a researcher with an organisation and reports whether that
// is new. A new affiliation is announced by a CREATED event.
func (s *Service) AddUser(ctx context.Context, by By, orgID string, id orcid.ID, p Person) (bool, error) {
	s.leaving.RLock()
	defer s.leaving.RUnlock()
	if err := s.joinable(orgID); err != nil {
		return false, err
	}
	if err := p.check(); err != nil {
		return false, invalid("The user's data is not valid.", err)
	}
	now := s.o.Store.Now()
	added, err := s.o.Store.Affiliate(ctx, id, event.Affiliation{
		Org: orgID, Email: p.Email, EPPN: p.EPPN, Name: p.Name, AffiliatedAt: now, Announce: true,
	}, now)
	if err != nil {
		return false, Explain("affiliate the user", err)
	}
	s.audit(by, "user added", "org", orgID, "orcid", id, "new", added)
	s.o.Hints.HintUser(id, true)
	return added, nil
}

// joinable refuses when nobody can be added to an organisation. Callers hold
// leaving, or the organisation could go before they have added anybody.
func (s *Service) joinable(orgID string) error {
	if _, err := s.get(orgID); err != nil {
		return err
	}
	return s.notRemoving(orgID)
}

// RemoveUser ends an affiliation: what waits for that organisation is
// cancelled, and the registration goes when nobody else wants it.
func (s *Service) RemoveUser(ctx context.Context, by By, orgID string, id orcid.ID) error {
	if _, err := s.get(orgID); err != nil {
		return err
	}
	s.leaving.Lock()
	defer s.leaving.Unlock()
	ctx = context.WithoutCancel(ctx) // not halfway
	removed, err := s.o.Store.Unaffiliate(ctx, id, orgID, s.o.Store.Now())
	if err != nil {
		return Explain("remove the user", err)
	}
	if _, err := s.o.Store.CancelUser(ctx, orgID, id); err != nil {
		return Explain("cancel what waits for the user", err)
	}
	if !removed {
		return notFound("%s is not a user of organisation %q.", id, orgID)
	}
	s.audit(by, "user removed", "org", orgID, "orcid", id)
	s.o.Hints.HintUser(id, true)
	return nil
}

// removeUsers is RemoveUser for a batch, and returns how many were users. Nobody
// is hinted: recovery finds their work, as fast as ORCID is asked, and thousands of
// users do not wait in memory.
func (s *Service) removeUsers(ctx context.Context, orgID string, ids []orcid.ID) (int, error) {
	s.leaving.Lock()
	defer s.leaving.Unlock()
	ctx = context.WithoutCancel(ctx)
	removed, err := s.o.Store.UnaffiliateAll(ctx, orgID, ids, s.o.Store.Now())
	if err != nil {
		return 0, Explain("remove users", err)
	}
	if err := s.o.Store.CancelUsers(ctx, orgID, ids); err != nil {
		return 0, Explain("cancel what waits for the users", err)
	}
	n := 0
	for _, gone := range removed {
		if gone {
			n++
		}
	}
	return n, nil
}

// UserPage is one page of an organisation's users.
type UserPage struct {
	Users []UserRow `json:"users"`
	Next  string    `json:"next,omitempty"` // cursor of the next page
}

// UserRow is one user as its organisation sees it.
type UserRow struct {
	ORCID        orcid.ID  `json:"orcid"`
	Email        string    `json:"email,omitempty"`
	EPPN         string    `json:"eppn,omitempty"`
	Name         string    `json:"name,omitempty"`
	AffiliatedAt time.Time `json:"affiliated_at"`
	LastPing     time.Time `json:"last_ping,omitzero"`
	Registration string    `json:"registration"`
	// Muted says that the organisation does not want to be told for now.
	Muted bool `json:"muted,omitempty"`
}

// Users returns a page of an organisation's users. A user may come twice over
// all pages when users are added meanwhile; none is missed.
func (s *Service) Users(ctx context.Context, orgID, cursor string, n int) (UserPage, error) {
	o, err := s.get(orgID)
	if err != nil {
		return UserPage{}, err
	}
	ids, next, err := s.o.Store.Members(ctx, orgID, cursor, n)
	if err != nil {
		return UserPage{}, Explain("list users", err)
	}
	users, damaged, err := s.o.Store.ReadableUsers(ctx, ids)
	if err != nil {
		return UserPage{}, Explain("read users", err)
	}
	page := UserPage{Users: []UserRow{}, Next: next}
	for _, id := range damaged {
		page.Users = append(page.Users, UserRow{ORCID: id, Registration: "damaged"})
	}
	for _, u := range users {
		if u == nil {
			continue // leaving right now
		}
		for _, a := range u.Affiliations {
			if a.Org == orgID {
				page.Users = append(page.Users, UserRow{
					ORCID: u.ORCID, Email: a.Email, EPPN: a.EPPN, Name: a.Name, AffiliatedAt: a.AffiliatedAt,
					LastPing: u.LastPing, Registration: registrationWord(u, o.Credential), Muted: a.Muted,
				})
			}
		}
	}
	return page, nil
}

// registrationWord is the state of the newest row of a credential.
func registrationWord(u *event.User, credential string) string {
	word, epoch := event.RegNone.String(), -1
	for _, r := range u.Registrations {
		if r.Credential == credential && r.Epoch > epoch {
			word, epoch = r.State.String(), r.Epoch
		}
	}
	return word
}

// affiliated joins an import line to what the store takes.
func affiliated(orgID string, id orcid.ID, p Person, now time.Time, announce bool) store.Affiliated {
	return store.Affiliated{ORCID: id, Affiliation: event.Affiliation{
		Org: orgID, Email: p.Email, EPPN: p.EPPN, Name: p.Name, AffiliatedAt: now, Announce: announce,
	}}
}

package store

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// partitionIDs returns n users of one partition, so that few of them already
// split its buckets.
func partitionIDs(t testing.TB, p, n int) []orcid.ID {
	t.Helper()
	var out []orcid.ID
	for x := uint64(p) << (mixBits - 6); len(out) < n; x++ {
		if id, err := orcid.FromBase(unmix(x*2654435761%(1<<(mixBits-6)) | uint64(p)<<(mixBits-6))); err == nil {
			out = append(out, id)
		}
	}
	return out
}

// userModel is what the store must say, in plain maps.
type userModel struct {
	s     *Store
	ctx   context.Context
	base  time.Time
	ids   []orcid.ID
	users map[orcid.ID]*event.User
	old   map[orcid.ID]string // versions that are not current any more
	steps int
	work  map[orcid.ID]time.Time
}

func (m *userModel) id(t *rapid.T) orcid.ID { return rapid.SampledFrom(m.ids).Draw(t, "id") }
func (m *userModel) org(t *rapid.T) string {
	return rapid.SampledFrom([]string{"uni-a", "uni-b", "uni-c"}).Draw(t, "org")
}

// at draws a time, or none.
func (m *userModel) at(t *rapid.T) time.Time {
	n := rapid.IntRange(0, 50).Draw(t, "seconds")
	if n == 0 {
		return time.Time{}
	}
	return m.base.Add(time.Duration(n) * time.Second)
}

func (m *userModel) lower(id orcid.ID, at time.Time) {
	if at.IsZero() {
		return
	}
	if old, ok := m.work[id]; !ok || at.Before(old) {
		m.work[id] = at
	}
}

// affiliate is what Affiliate must do.
func (m *userModel) affiliate(id orcid.ID, a event.Affiliation, work time.Time) bool {
	u := m.users[id]
	if u == nil {
		u = &event.User{ORCID: id}
		m.users[id] = u
	}
	for i := range u.Affiliations {
		if b := &u.Affiliations[i]; b.Org == a.Org {
			for to, text := range map[*string]string{&b.Email: a.Email, &b.EPPN: a.EPPN, &b.Name: a.Name} {
				if text != "" {
					*to = text
				}
			}
			return false
		}
	}
	u.Affiliations = append(u.Affiliations, a)
	m.lower(id, work)
	return true
}

func (m *userModel) affiliation(t *rapid.T, org string) event.Affiliation {
	text := rapid.SampledFrom([]string{"", "x", "Ān ☃ example", "a@b.example"})
	return event.Affiliation{
		Org: org, Email: text.Draw(t, "email"), EPPN: text.Draw(t, "eppn"), Name: text.Draw(t, "name"),
		AffiliatedAt: m.base, Announce: rapid.Bool().Draw(t, "announce"),
	}
}

func (m *userModel) unaffiliate(id orcid.ID, org string, work time.Time) bool {
	u := m.users[id]
	if u == nil {
		return false
	}
	n := len(u.Affiliations)
	u.Affiliations = slices.DeleteFunc(u.Affiliations, func(a event.Affiliation) bool { return a.Org == org })
	if len(u.Affiliations) == n {
		return false
	}
	m.lower(id, work)
	m.prune(id)
	return true
}

func (m *userModel) prune(id orcid.ID) {
	if u := m.users[id]; u != nil && len(u.Affiliations) == 0 && len(u.Registrations) == 0 {
		delete(m.users, id)
	}
}

func (m *userModel) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"Affiliate": func(t *rapid.T) {
			id, a, work := m.id(t), m.affiliation(t, m.org(t)), m.at(t)
			got, err := m.s.Affiliate(m.ctx, id, a, work)
			if want := m.affiliate(id, a, work); err != nil || got != want {
				t.Fatalf("added %v, %v, want %v", got, err, want)
			}
		},
		"AffiliateAll": func(t *rapid.T) {
			org, work := m.org(t), m.at(t)
			var list []Affiliated
			from := rapid.IntRange(0, len(m.ids)-1).Draw(t, "from")
			for range rapid.IntRange(0, 120).Draw(t, "n") { // some come twice in one batch
				a := m.affiliation(t, org)
				list = append(list, Affiliated{m.ids[from%len(m.ids)], a})
				from += rapid.IntRange(0, 2).Draw(t, "step")
			}
			got, err := m.s.AffiliateAll(m.ctx, org, list, work)
			if err != nil {
				t.Fatal(err)
			}
			for i, a := range list {
				if want := m.affiliate(a.ORCID, a.Affiliation, work); (got[i] == JoinAdded) != want {
					t.Fatalf("%s: added %v, want %v", a.ORCID, got[i], want)
				}
			}
		},
		"Unaffiliate": func(t *rapid.T) {
			id, org, work := m.id(t), m.org(t), m.at(t)
			got, err := m.s.Unaffiliate(m.ctx, id, org, work)
			if want := m.unaffiliate(id, org, work); err != nil || got != want {
				t.Fatalf("removed %v, %v, want %v", got, err, want)
			}
		},
		"UnaffiliateAll": func(t *rapid.T) {
			org, work := m.org(t), m.at(t)
			ids := rapid.SliceOfNDistinct(rapid.SampledFrom(m.ids), 0, 60, rapid.ID[orcid.ID]).Draw(t, "ids")
			got, err := m.s.UnaffiliateAll(m.ctx, org, ids, work)
			if err != nil {
				t.Fatal(err)
			}
			for i, id := range ids {
				if want := m.unaffiliate(id, org, work); got[i] != want {
					t.Fatalf("%s: removed %v, want %v", id, got[i], want)
				}
			}
		},
		"SaveUser":    m.save,
		"SaveUserOld": m.saveOld,
		"LookUp": func(t *rapid.T) {
			ids := rapid.SliceOfN(rapid.SampledFrom(m.ids), 0, 50).Draw(t, "ids")
			at := make([]time.Time, len(ids))
			for i, id := range ids {
				at[i] = m.at(t)
				if u := m.users[id]; u != nil && at[i].After(u.LastPing) {
					u.LastPing = at[i]
				}
			}
			got, err := m.s.LookUp(m.ctx, ids, at)
			if err != nil || len(got) != len(ids) {
				t.Fatalf("%d users, %v", len(got), err)
			}
			for i, u := range got {
				if (u == nil) != (m.users[ids[i]] == nil) {
					t.Fatalf("%s: %+v, want %+v", ids[i], u, m.users[ids[i]])
				}
			}
		},
		"SetWork": func(t *rapid.T) {
			ids := rapid.SliceOfN(rapid.SampledFrom(m.ids), 0, 20).Draw(t, "ids")
			at := m.base.Add(time.Duration(rapid.IntRange(1, 50).Draw(t, "s")) * time.Second)
			if err := m.s.SetWork(m.ctx, ids, at); err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				m.lower(id, at)
			}
		},
		"DueUsers": m.due,
		"": func(t *rapid.T) {
			if m.steps++; m.steps%8 == 0 {
				m.check(t)
			}
		},
	}
}

// save reads a user, gives it other registrations and writes it back.
func (m *userModel) save(t *rapid.T) {
	id, work := m.id(t), m.at(t)
	u, err := m.s.User(m.ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if u == nil {
		u = &event.User{ORCID: id}
	}
	before := u.Version
	if rapid.Bool().Draw(t, "drop affiliations") {
		// Only what is not in an index may go this way.
		for _, a := range slices.Clone(u.Affiliations) {
			if _, err := m.s.Unaffiliate(m.ctx, id, a.Org, time.Time{}); err != nil {
				t.Fatal(err)
			}
			m.unaffiliate(id, a.Org, time.Time{})
		}
		if u, err = m.s.User(m.ctx, id); err != nil {
			t.Fatal(err)
		}
		if u == nil {
			u = &event.User{ORCID: id}
		}
		before = u.Version
	}
	u.Registrations = nil
	for epoch := range rapid.IntRange(0, 3).Draw(t, "registrations") {
		u.Registrations = append(u.Registrations, event.Registration{
			Credential: rapid.SampledFrom([]string{"main", "other"}).Draw(t, "credential"), Epoch: epoch,
			State: event.RegState(rapid.IntRange(0, int(event.RegRefused)).Draw(t, "state")), Changed: m.base,
		})
	}
	u.LastPing = m.at(t)
	version, err := m.s.SaveUser(m.ctx, *u, work)
	if err != nil {
		t.Fatal(err)
	}
	if version != before {
		m.old[id] = before
	}
	if old := m.users[id]; old != nil && old.LastPing.After(u.LastPing) {
		u.LastPing = old.LastPing
	}
	m.users[id] = u
	m.prune(id)
	if delete(m.work, id); !work.IsZero() {
		m.work[id] = work
	}
}

// saveOld writes with a version that is not current: nothing may change.
func (m *userModel) saveOld(t *rapid.T) {
	id := m.id(t)
	u, err := m.s.User(m.ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	now := ""
	if u != nil {
		now = u.Version
	}
	version, ok := m.old[id]
	if !ok || version == now {
		t.Skip("there is no older version")
	}
	_, err = m.s.SaveUser(m.ctx, event.User{ORCID: id, Version: version}, m.at(t))
	if !errors.Is(err, ErrConflict) || !errors.Is(err, event.ErrConflict) {
		t.Fatalf("%v, want ErrConflict", err)
	}
}

package actors

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// fakeUsers is the store's users in memory.
type fakeUsers struct {
	mu        sync.Mutex
	away      bool
	partly    error // of DueUsers, beside what it returns
	all       map[orcid.ID]event.User
	work      map[orcid.ID]time.Time
	version   int
	announced []string
	saves     int
	onSave    func(event.User) // before it is looked at; without the lock
}

func newUsers() *fakeUsers {
	return &fakeUsers{all: map[orcid.ID]event.User{}, work: map[orcid.ID]time.Time{}}
}

func (f *fakeUsers) setAway(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

func (f *fakeUsers) setPartly(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.partly = err
}

// affiliate adds users of organisations, with work to do now.
func (f *fakeUsers) affiliate(u orcid.ID, announce bool, orgs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	r := f.all[u]
	r.ORCID, r.Version = u, strconv.Itoa(f.version)
	r.Affiliations = slices.Clone(r.Affiliations)
	for _, o := range orgs {
		r.Affiliations = append(r.Affiliations, event.Affiliation{Org: o, Announce: announce, Email: "a@" + o + ".example"})
	}
	f.all[u] = r
	f.work[u] = time.Now()
}

// change rewrites a record as somebody else would.
func (f *fakeUsers) change(u orcid.ID, c func(*event.User)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	r := f.all[u]
	r.Affiliations, r.Registrations = slices.Clone(r.Affiliations), slices.Clone(r.Registrations)
	r.ORCID, r.Version = u, strconv.Itoa(f.version)
	c(&r)
	f.all[u], f.work[u] = r, time.Now()
}

func (f *fakeUsers) User(_ context.Context, u orcid.ID) (*event.User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away {
		return nil, errAway
	}
	if r, ok := f.all[u]; ok {
		return &r, nil
	}
	return nil, nil
}

func (f *fakeUsers) RecentUsers(ctx context.Context, ids []orcid.ID) ([]*event.User, error) {
	out := make([]*event.User, len(ids))
	for i, u := range ids {
		var err error
		if out[i], err = f.User(ctx, u); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (f *fakeUsers) SaveUser(_ context.Context, u event.User, work time.Time) (string, error) {
	f.mu.Lock()
	hook := f.onSave
	f.mu.Unlock()
	if hook != nil {
		hook(u)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.saves++
	if f.away {
		return "", errAway
	}
	if f.all[u.ORCID].Version != u.Version {
		return "", fmt.Errorf("save %s: %w", u.ORCID, event.ErrConflict)
	}
	f.version++
	u.Version = strconv.Itoa(f.version)
	f.all[u.ORCID] = u
	if len(u.Affiliations) == 0 && len(u.Registrations) == 0 {
		delete(f.all, u.ORCID)
	}
	if work.IsZero() {
		delete(f.work, u.ORCID)
	} else {
		f.work[u.ORCID] = work
	}
	return u.Version, nil
}

func (f *fakeUsers) DueUsers(_ context.Context, now time.Time, limit int) (ids []orcid.ID, next time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away {
		return nil, time.Time{}, errAway
	}
	type due struct {
		id orcid.ID
		at time.Time
	}
	var list []due
	for u, at := range f.work {
		if at.After(now) {
			next = earliest(next, at)
		} else {
			list = append(list, due{u, at})
		}
	}
	slices.SortFunc(list, func(a, b due) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return int(a.id.Base()) - int(b.id.Base())
	})
	for _, d := range list[:min(limit, len(list))] {
		ids = append(ids, d.id)
	}
	return ids, next, f.partly
}

func (f *fakeUsers) Announce(_ context.Context, o string, ids []orcid.ID, _ time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range ids {
		f.announced = append(f.announced, o+" "+u.String())
	}
	return nil
}

// record returns a copy of a record and when its work is due.
func (f *fakeUsers) record(u orcid.ID) (event.User, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all[u], f.work[u]
}

// sizes returns how many records there are, and how many have work.
func (f *fakeUsers) sizes() (records, work int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.all), len(f.work)
}

func (f *fakeUsers) told() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.announced)
}

// rows lists the registrations of a user, as text.
func (f *fakeUsers) rows(u orcid.ID) (rows []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.all[u].Registrations {
		rows = append(rows, fmt.Sprintf("%s/%d %s", r.Credential, r.Epoch, r.State))
	}
	return rows
}

func (f *fakeUsers) countState(s event.RegState) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.all {
		for _, r := range u.Registrations {
			if r.State == s {
				n++
			}
		}
	}
	return n
}

package store

import (
	"context"
	"sync"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// recent keeps the users that the fan-out has just looked up for the deliveries
// that follow at once, which would read the same records again. A user stays for
// recentFor at most, and leaves as soon as this process begins to change the
// record: only a daemon that was replaced could make one of them old.
type recent struct {
	mu         sync.Mutex
	young, old map[orcid.ID]*event.User
	turned     time.Time
	saving     int    // changes under way
	changes    uint64 // changes ever begun or ended
}

const (
	recentFor  = time.Second
	recentMost = 20_000 // of half that time
)

// reading is to be called before users are read that keep is to have.
func (r *recent) reading() (changes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changes
}

// keep keeps users, unless any record was changed since reading: it may be one
// of theirs.
func (r *recent) keep(changes uint64, users []*event.User, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changes != changes || r.saving > 0 {
		return
	}
	r.turn(now)
	for _, u := range users {
		if u != nil && len(r.young) < recentMost {
			r.young[u.ORCID] = u
		}
	}
}

// turn lets go what was kept more than half of recentFor ago twice.
func (r *recent) turn(now time.Time) {
	if now.Sub(r.turned) < recentFor/2 {
		return
	}
	r.old = r.young
	if now.Sub(r.turned) >= recentFor {
		r.old = nil
	}
	r.young, r.turned = make(map[orcid.ID]*event.User), now
}

// find fills in what is known and returns which are not.
func (r *recent) find(ids []orcid.ID, users []*event.User, now time.Time) (missing []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	for i, id := range ids {
		u := r.young[id]
		if u == nil {
			u = r.old[id]
		}
		if u == nil {
			missing = append(missing, i)
		}
		users[i] = u
	}
	return missing
}

// change forgets the users whose records are about to be changed; end is to be
// called afterwards.
func (r *recent) change(list []*saving) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.saving++
	r.changes++
	for _, v := range list {
		delete(r.young, v.id)
		delete(r.old, v.id)
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.saving--
		r.changes++
	}
}

// RecentUsers is Users for who delivers: a record may be as old as a second
// unless it was changed through this store. The users must not be changed.
func (s *Store) RecentUsers(ctx context.Context, ids []orcid.ID) ([]*event.User, error) {
	if err := s.guard.Err(); err != nil {
		return nil, err
	}
	out := make([]*event.User, len(ids))
	missing := s.recent.find(ids, out, time.Now())
	if len(missing) == 0 {
		return out, nil
	}
	ask := make([]orcid.ID, len(missing))
	for i, at := range missing {
		ask[i] = ids[at]
	}
	read, err := s.Users(ctx, ask)
	if err != nil {
		return nil, err
	}
	for i, at := range missing {
		out[at] = read[i]
	}
	return out, nil
}

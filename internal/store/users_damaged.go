package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// ReadableUsers is Users for who goes on without those whose stored record
// cannot be read: they are nil in users, and named.
func (s *Store) ReadableUsers(ctx context.Context, ids []orcid.ID) (users []*event.User, damaged []orcid.ID, err error) {
	raws, err := s.readRaw(ctx, s.scripts.userRead, ids, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("read users: %w", err)
	}
	return s.decodeReadable(ctx, ids, raws)
}

// decodeReadable is decodeUsers that goes on without damaged records.
func (s *Store) decodeReadable(ctx context.Context, ids []orcid.ID, raws []string) (users []*event.User, damaged []orcid.ID, err error) {
	users = make([]*event.User, len(ids))
	for i, raw := range raws {
		if raw == "" {
			continue
		}
		users[i], err = s.decodeUser(ctx, ids[i], raw)
		switch {
		case unreadable(err):
			users[i] = nil
			damaged = append(damaged, ids[i])
		case err != nil:
			return nil, nil, fmt.Errorf("read user %s: %w", ids[i], err)
		}
	}
	return users, damaged, nil
}

// DropDamaged removes a user's record if it cannot be read, and reports whether
// it did. What ORCID holds of the user is not known any more, and the counts of
// registrations by state keep what the record had.
func (s *Store) DropDamaged(ctx context.Context, id orcid.ID) (bool, error) {
	fail := func(err error) (bool, error) { return false, fmt.Errorf("drop the damaged record of a user: %w", err) }
	raws, err := s.readRaw(ctx, s.scripts.userRead, []orcid.ID{id}, nil)
	if err != nil {
		return fail(err)
	}
	if raws[0] == "" {
		return false, nil
	}
	if _, err := s.decodeUser(ctx, id, raws[0]); !unreadable(err) {
		return false, err
	}
	v := &saving{id: id, version: raws[0][min(pingBytes, len(raws[0])):], work: "-"}
	if err := s.saveUsers(ctx, s.scripts.userSave, []*saving{v}); err != nil {
		return fail(err)
	}
	if !v.saved {
		return fail(ErrConflict)
	}
	return true, nil
}

// EraseMember takes a user out of the member indexes of the organisations,
// whatever the record says: a crash may have left the number there.
func (s *Store) EraseMember(ctx context.Context, orgs []string, id orcid.ID) error {
	for part := range slices.Chunk(orgs, 4*tracesPerCall) {
		calls := make([]*call, len(part))
		for i, o := range part {
			calls[i] = s.memberCall(s.scripts.memberRemove, o, memberNumber(id))
		}
		if err := s.do(ctx, calls...); err != nil {
			return fmt.Errorf("take a user out of the member indexes: %w", err)
		}
	}
	return nil
}

// OldestEntry is when the oldest entry of the intake log was committed; zero
// when the log is empty.
func (s *Store) OldestEntry(ctx context.Context) (time.Time, error) {
	var oldest time.Time
	for lane := range Lanes {
		if err := s.guard.Err(); err != nil {
			return time.Time{}, err
		}
		bounded, cancel := context.WithTimeoutCause(ctx, s.timeout, errTimeout)
		msgs, err := s.rdb.XRangeN(bounded, s.keys.log(lane), "-", "+", 1).Result()
		err = s.classify(bounded, "look at the intake log", err)
		cancel()
		if err != nil {
			return time.Time{}, err
		}
		if len(msgs) == 0 {
			continue
		}
		if at := (Entry{ID: msgs[0].ID}).Committed(); oldest.IsZero() || at.Before(oldest) {
			oldest = at
		}
	}
	return oldest, nil
}

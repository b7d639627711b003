package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// dueUser is one entry of a partition's work set.
type dueUser struct {
	id orcid.ID
	at int64 // ms
}

// DueUsers returns up to limit users whose work is due, earliest first, and
// when to ask again: the earliest time of those not returned (which may have
// passed when there are more than limit), or zero when there are none. An entry
// stays until SaveUser sets or clears it. With event.ErrIncomplete all that holds
// for the entries that could be read.
func (s *Store) DueUsers(ctx context.Context, now time.Time, limit int) (ids []orcid.ID, next time.Time, err error) {
	if limit <= 0 {
		return nil, time.Time{}, fmt.Errorf("find due users: limit %d", limit)
	}
	// Users are spread evenly, so a share of every partition nearly always has
	// the earliest of all; where it may not, that partition is asked again.
	share := min(limit, 2*limit/Partitions+8)
	parts := make([]int, Partitions)
	for p := range parts {
		parts[p] = p
	}
	found := make([][]dueUser, Partitions)
	later := int64(math.MaxInt64)
	var unread []error
	for n := share; len(parts) > 0; n = limit {
		calls := make([]*call, len(parts))
		for i, p := range parts {
			calls[i] = &call{script: s.scripts.userDue, mark: s.keys.mark(p), keys: []string{s.keys.userWork(p)}, args: []any{now.UnixMilli(), n + 1}}
		}
		if err := s.doEach(ctx, calls...); err != nil {
			return nil, time.Time{}, fmt.Errorf("find due users: %w", err)
		}
		unread = unread[:0] // said again by those that are asked again
		for i, p := range parts {
			var after int64
			if found[p], after, err = dueAnswer(p, calls[i]); err != nil {
				unread = append(unread, err)
			}
			later = min(later, after)
		}
		if n == limit {
			break
		}
		all := earliest(found)
		cut := int64(math.MaxInt64)
		if len(all) > limit {
			cut = all[limit].at
		}
		parts = slices.DeleteFunc(parts, func(p int) bool { return len(found[p]) <= n || found[p][n].at >= cut })
	}
	all := earliest(found)
	if len(all) > limit {
		later = min(later, all[limit].at)
		all = all[:limit]
	}
	ids = make([]orcid.ID, len(all))
	for i, d := range all {
		ids[i] = d.id
	}
	if later < math.MaxInt64 {
		next = time.UnixMilli(later).UTC()
	}
	return ids, next, incomplete("find due users", unread)
}

func earliest(found [][]dueUser) []dueUser {
	all := slices.Concat(found...)
	slices.SortFunc(all, func(a, b dueUser) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id.Base(), b.id.Base()))
	})
	return all
}

// dueAnswer reads the answer of one partition as far as it can be read.
func dueAnswer(p int, c *call) (due []dueUser, later int64, err error) {
	later = math.MaxInt64
	list, err := c.list()
	if err != nil {
		return nil, later, err
	}
	var texts [2][]string
	for i := range texts {
		if i >= len(list) {
			return nil, later, fmt.Errorf("%s: redis answered %d parts", c.script.name, len(list))
		}
		if texts[i], err = stringList(c, list[i]); err != nil {
			return nil, later, err
		}
	}
	var damaged []error
	score := func(text string) int64 {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			damaged = append(damaged, fmt.Errorf("%s: unexpected time %q of redis", c.script.name, text))
		}
		return int64(f)
	}
	for i := 0; i+1 < len(texts[0]); i += 2 {
		id, err := userOfMixedField(p, texts[0][i])
		if err != nil {
			damaged = append(damaged, fmt.Errorf("a member of %s: %w", c.keys[0], err))
			continue
		}
		due = append(due, dueUser{id, score(texts[0][i+1])})
	}
	if len(texts[1]) == 2 {
		later = score(texts[1][1])
	}
	return due, later, errors.Join(damaged...)
}

// stringList reads an answer element that is an array of strings.
func stringList(c *call, v any) ([]string, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%s: unexpected answer element %T of redis", c.script.name, v)
	}
	out := make([]string, len(list))
	for i, e := range list {
		if out[i], ok = e.(string); !ok {
			return nil, fmt.Errorf("%s: unexpected answer element %T of redis", c.script.name, e)
		}
	}
	return out, nil
}

// SetWork says that there is work to look at for the users from then on; an
// earlier time that is set already stays.
func (s *Store) SetWork(ctx context.Context, ids []orcid.ID, at time.Time) error {
	if at.IsZero() {
		return fmt.Errorf("set work of %d users: no time", len(ids))
	}
	runs := userRuns(len(ids), func(i int) orcid.ID { return ids[i] })
	calls := make([]*call, len(runs))
	for r, run := range runs {
		p := userPartition(ids[run[0]])
		c := &call{script: s.scripts.userWork, mark: s.keys.mark(p), keys: []string{s.keys.userWork(p)}, args: []any{at.UnixMilli()}}
		for _, i := range run {
			c.args = append(c.args, mixedField(ids[i]))
		}
		calls[r] = c
	}
	if err := s.do(ctx, calls...); err != nil {
		return fmt.Errorf("set work of %d users: %w", len(ids), err)
	}
	return nil
}

// UserTotals returns how many users there are.
func (s *Store) UserTotals(ctx context.Context) (users int64, err error) {
	t, err := s.totals(ctx)
	return t.users, err
}

// RegistrationTotals returns how many registrations stand in each state, and
// those without any as well.
func (s *Store) RegistrationTotals(ctx context.Context) (map[event.RegState]int64, error) {
	t, err := s.totals(ctx)
	return t.registrations, err
}

// WorkTotal returns how many users have work to be looked at, now or later.
func (s *Store) WorkTotal(ctx context.Context) (int64, error) {
	t, err := s.totals(ctx)
	return t.work, err
}

// RegistrationWork returns how many users have registrations to be looked at
// by now: what a sweep has left to do.
func (s *Store) RegistrationWork(ctx context.Context) (int64, error) {
	t, err := s.totals(ctx)
	return t.due, err
}

type userTotals struct {
	users, work, due, buckets, suppressed int64
	registrations                         map[event.RegState]int64
}

func (s *Store) totals(ctx context.Context) (userTotals, error) {
	t := userTotals{registrations: map[event.RegState]int64{}}
	for state := event.RegNone; state <= event.RegRefused; state++ {
		t.registrations[state] = 0
	}
	now := s.Now().UnixMilli()
	calls := make([]*call, Partitions)
	for p := range calls {
		calls[p] = &call{
			script: s.scripts.userTotals, mark: s.keys.mark(p),
			keys: []string{s.keys.userMeta(p), s.keys.userWork(p), s.keys.suppressed(p)}, args: []any{now},
		}
	}
	if err := s.do(ctx, calls...); err != nil {
		return userTotals{}, fmt.Errorf("count users: %w", err)
	}
	for p, c := range calls {
		if err := t.add(c); err != nil {
			return userTotals{}, fmt.Errorf("count users of partition %d: %w", p, err)
		}
	}
	return t, nil
}

// add reads the answer of one partition.
func (t *userTotals) add(c *call) error {
	list, err := c.list()
	if err != nil {
		return err
	}
	if len(list) != 4 {
		return fmt.Errorf("%s: redis answered %d parts", c.script.name, len(list))
	}
	for i, to := range []*int64{&t.work, &t.due, &t.suppressed} {
		n, ok := list[i].(int64)
		if !ok {
			return fmt.Errorf("%s: unexpected answer element %T of redis", c.script.name, list[i])
		}
		*to += n
	}
	pairs, err := stringList(c, list[3])
	if err != nil {
		return err
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		n, err := strconv.ParseInt(pairs[i+1], 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %s is %q", c.script.name, pairs[i], pairs[i+1])
		}
		switch pairs[i] {
		case "users":
			t.users += n
		case "buckets":
			t.buckets += n
		default:
			state, err := strconv.ParseUint(strings.TrimPrefix(pairs[i], "r"), 10, 8)
			if err != nil || event.RegState(state) > event.RegRefused {
				return fmt.Errorf("%s: unknown counter %q", c.script.name, pairs[i])
			}
			t.registrations[event.RegState(state)] += n
		}
	}
	return nil
}

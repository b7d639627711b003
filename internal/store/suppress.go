package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/orcid"
)

// ErrSuppressed says that the user asked to be erased and is not taken again
// until a person lifts it.
var ErrSuppressed = errors.New("the user is on the suppression list")

// Suppression is what is kept of a user who was erased, under a keyed hash of
// the iD: whoever has not the master key cannot tell who it is. The zero
// Suppression says that there is none.
type Suppression struct {
	// Since is when the erasure was asked for.
	Since time.Time `json:"since,omitzero"`
	// Erasing is the tombstone: ORCID has not confirmed yet that it will not
	// ping us about the user any more.
	Erasing bool `json:"erasing,omitempty"`
}

// The list lies in the partition of the user, so that the script which
// affiliates asks it: no way of adding users can forget to.

// suppressBody: KEYS mark, suppressed; ARGV mark, hash, now (ms), 'e' (erasing)
// or 'd' (done). The first time stays.
const suppressBody = `
local old = redis.call('HGET', KEYS[2], ARGV[2])
local since = old and string.match(old, '^%d+') or ARGV[3]
redis.call('HSET', KEYS[2], ARGV[2], since .. ' ' .. ARGV[4])
return 1
`

// suppressedBody: KEYS mark, suppressed; ARGV mark, then hashes. Returns the
// value of each, or ”.
const suppressedBody = `
local out = {}
if redis.call('EXISTS', KEYS[2]) == 0 then
  for i = 2, #ARGV do out[i - 1] = '' end
  return out
end
for i = 2, #ARGV do out[i - 1] = redis.call('HGET', KEYS[2], ARGV[i]) or '' end
return out
`

// unsuppressBody: KEYS mark, suppressed; ARGV mark, hash. Returns 1 when it was
// lifted, 0 when there was none, 2 while the user is being erased.
const unsuppressBody = `
local old = redis.call('HGET', KEYS[2], ARGV[2])
if not old then return 0 end
if string.sub(old, -1) == 'e' then return 2 end
return redis.call('HDEL', KEYS[2], ARGV[2])
`

// userHash is how a user is recognised after an erasure.
func (s *Store) userHash(id orcid.ID) string {
	return string(s.box.Hash("suppressed user", id.String()))
}

func (s *Store) suppressCall(sc *script, id orcid.ID, args ...any) *call {
	p := userPartition(id)
	return &call{
		script: sc, mark: s.keys.mark(p), keys: []string{s.keys.suppressed(p)},
		args: append([]any{s.userHash(id)}, args...),
	}
}

// Suppress puts the user on the suppression list, with the tombstone while
// erasing. From then on nobody can affiliate the user.
func (s *Store) Suppress(ctx context.Context, id orcid.ID, erasing bool) error {
	state := "d"
	if erasing {
		state = "e"
	}
	if err := s.do(ctx, s.suppressCall(s.scripts.suppress, id, s.Now().UnixMilli(), state)); err != nil {
		return fmt.Errorf("put a user on the suppression list: %w", err)
	}
	return nil
}

// Unsuppress takes the user off the suppression list and reports whether there
// was an entry. While the user is being erased it fails with ErrConflict.
func (s *Store) Unsuppress(ctx context.Context, id orcid.ID) (bool, error) {
	c := s.suppressCall(s.scripts.unsuppress, id)
	if err := s.do(ctx, c); err != nil {
		return false, fmt.Errorf("take a user off the suppression list: %w", err)
	}
	n, err := c.integer()
	if err == nil && n == 2 {
		err = ErrConflict
	}
	if err != nil {
		return false, fmt.Errorf("take a user off the suppression list: %w", err)
	}
	return n == 1, nil
}

// Suppressions returns what the suppression list has of the users, in their
// order.
func (s *Store) Suppressions(ctx context.Context, ids []orcid.ID) ([]Suppression, error) {
	runs := userRuns(len(ids), func(i int) orcid.ID { return ids[i] })
	calls := make([]*call, len(runs))
	for r, run := range runs {
		p := userPartition(ids[run[0]])
		c := &call{script: s.scripts.suppressed, mark: s.keys.mark(p), keys: []string{s.keys.suppressed(p)}}
		for _, i := range run {
			c.args = append(c.args, s.userHash(ids[i]))
		}
		calls[r] = c
	}
	if err := s.do(ctx, calls...); err != nil {
		return nil, fmt.Errorf("read the suppression list: %w", err)
	}
	out := make([]Suppression, len(ids))
	for r, run := range runs {
		texts, err := stringList(calls[r], calls[r].res)
		if err == nil && len(texts) != len(run) {
			err = fmt.Errorf("%d answers of redis for %d users", len(texts), len(run))
		}
		if err != nil {
			return nil, fmt.Errorf("read the suppression list: %w", err)
		}
		for k, i := range run {
			if texts[k] != "" {
				out[i] = parseSuppression(texts[k])
			}
		}
	}
	return out, nil
}

// parseSuppression reads an entry; a damaged one is an entry all the same.
func parseSuppression(text string) Suppression {
	since, state, _ := strings.Cut(text, " ")
	ms, err := strconv.ParseInt(since, 10, 64)
	if err != nil {
		ms = 1
	}
	return Suppression{Since: time.UnixMilli(ms).UTC(), Erasing: state == "e"}
}

// SuppressedTotal returns how many users the suppression list has.
func (s *Store) SuppressedTotal(ctx context.Context) (int64, error) {
	t, err := s.totals(ctx)
	return t.suppressed, err
}

// unsuppressed returns which of the users are not on the suppression list.
func (s *Store) unsuppressed(ctx context.Context, list []Affiliated, joined []Joined) (free []int, err error) {
	ids := make([]orcid.ID, len(list))
	for i := range list {
		ids[i] = list[i].ORCID
	}
	found, err := s.Suppressions(ctx, ids)
	if err != nil {
		return nil, err
	}
	free = make([]int, 0, len(list))
	for i := range list {
		if found[i].Since.IsZero() {
			free = append(free, i)
		} else {
			joined[i] = JoinSuppressed
		}
	}
	return slices.Clip(free), nil
}

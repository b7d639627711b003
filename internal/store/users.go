package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// ErrConflict is event.ErrConflict: the user's record was changed by somebody
// else since it was read.
var ErrConflict = event.ErrConflict

// usersPerCall bounds one script run: it delays everybody else's, and miniredis
// takes no more than some thousand arguments.
const usersPerCall = 200

// userRuns cuts the indices of ids into runs of one partition each.
func userRuns(n int, id func(i int) orcid.ID) [][]int {
	var parts [Partitions][]int
	for i := range n {
		p := userPartition(id(i))
		parts[p] = append(parts[p], i)
	}
	var out [][]int
	for _, list := range parts {
		for part := range slices.Chunk(list, usersPerCall) {
			out = append(out, part)
		}
	}
	return out
}

// userCall makes a call of a script of the users of one partition.
func (s *Store) userCall(sc *script, p int) *call {
	return &call{script: sc, mark: s.keys.mark(p), keys: []string{s.keys.userBuckets(p), s.keys.userMeta(p)}}
}

// LookUp reads users for fan-out and notes the time of their latest ping (at,
// in the order of ids), one pipeline for all. A missing user is nil; one whose
// record cannot be read is Damaged. Any other failure is an error of the whole
// call: a failed look-up is never read as "unknown".
func (s *Store) LookUp(ctx context.Context, ids []orcid.ID, at []time.Time) ([]*event.User, error) {
	if len(ids) != len(at) {
		return nil, fmt.Errorf("look up users: %d iDs with %d times", len(ids), len(at))
	}
	changes := s.recent.reading()
	raws, err := s.readRaw(ctx, s.scripts.userLook, ids, at)
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	users, damaged, err := s.decodeReadable(ctx, ids, raws)
	if err != nil {
		return nil, err
	}
	s.recent.keep(changes, users, time.Now())
	if len(damaged) > 0 {
		for i, id := range ids {
			if users[i] == nil && raws[i] != "" {
				users[i] = &event.User{ORCID: id, Damaged: true}
			}
		}
	}
	return users, nil
}

// Users reads users in the order of ids; a missing one is nil.
func (s *Store) Users(ctx context.Context, ids []orcid.ID) ([]*event.User, error) {
	if len(ids) == 0 || len(ids) > usersPerCall {
		return s.readUsers(ctx, ids)
	}
	raws, err := s.reads.Do(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	return s.decodeUsers(ctx, ids, raws)
}

// readBatch reads for several callers at once.
func (s *Store) readBatch(ctx context.Context, batch [][]orcid.ID) ([][]string, []error) {
	out, errs := make([][]string, len(batch)), make([]error, len(batch))
	raws, err := s.readRaw(ctx, s.scripts.userRead, slices.Concat(batch...), nil)
	for i, ids := range batch {
		switch {
		case err == nil:
			out[i], raws = raws[:len(ids)], raws[len(ids):]
		case len(batch) == 1 || errors.Is(err, ErrAway) || s.guard.Err() != nil:
			errs[i] = err
		default: // one damaged record is nobody else's trouble
			out[i], errs[i] = s.readRaw(ctx, s.scripts.userRead, ids, nil)
		}
	}
	return out, errs
}

// User reads one user; nil when there is none.
func (s *Store) User(ctx context.Context, id orcid.ID) (*event.User, error) {
	list, err := s.Users(ctx, []orcid.ID{id})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

func (s *Store) readUsers(ctx context.Context, ids []orcid.ID) ([]*event.User, error) {
	raws, err := s.readRaw(ctx, s.scripts.userRead, ids, nil)
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	return s.decodeUsers(ctx, ids, raws)
}

func (s *Store) decodeUsers(ctx context.Context, ids []orcid.ID, raws []string) ([]*event.User, error) {
	out := make([]*event.User, len(ids))
	for i, raw := range raws {
		if raw == "" {
			continue
		}
		var err error
		if out[i], err = s.decodeUser(ctx, ids[i], raw); err != nil {
			return nil, fmt.Errorf("read user %s: %w", ids[i], err)
		}
	}
	return out, nil
}

// readRaw reads records; "" is none.
func (s *Store) readRaw(ctx context.Context, sc *script, ids []orcid.ID, at []time.Time) ([]string, error) {
	runs := userRuns(len(ids), func(i int) orcid.ID { return ids[i] })
	calls := make([]*call, len(runs))
	for r, run := range runs {
		c := s.userCall(sc, userPartition(ids[run[0]]))
		c.args = make([]any, 0, 2*len(run))
		for _, i := range run {
			c.args = append(c.args, mixedField(ids[i]))
			if at != nil {
				c.args = append(c.args, appendPing(nil, at[i]))
			}
		}
		calls[r] = c
	}
	if err := s.do(ctx, calls...); err != nil {
		return nil, err
	}
	out := make([]string, len(ids))
	for r, run := range runs {
		list, err := calls[r].list()
		if err != nil {
			return nil, err
		}
		if len(list) != len(run) {
			return nil, fmt.Errorf("%s: %d answers of redis for %d users", sc.name, len(list), len(run))
		}
		for k, i := range run {
			switch v := list[k].(type) {
			case nil:
			case string:
				if out[i] = v; v == "" {
					out[i] = "\x00" // damaged to nothing, which is not no record
				}
			default:
				return nil, fmt.Errorf("%s: unexpected answer element %T of redis", sc.name, v)
			}
		}
	}
	return out, nil
}

// decodeUser decodes a record with the tables at hand, and once more with new
// ones when a number is missing in them.
func (s *Store) decodeUser(ctx context.Context, id orcid.ID, raw string) (*event.User, error) {
	any := func(*numberTable) bool { return true }
	for again := false; ; again = true {
		need := any
		if again {
			need = func(*numberTable) bool { return false }
		}
		orgs, err := s.table(ctx, s.scripts.orgNumbers, s.keys.orgNumbers(), need)
		if err != nil {
			return nil, err
		}
		creds, err := s.table(ctx, s.scripts.credentialNumbers, s.keys.credentials(), need)
		if err != nil {
			return nil, err
		}
		u, err := decodeUser(id, raw, orgs, creds)
		switch {
		case !errors.Is(err, errNoName):
			return u, err
		case again:
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
}

// encodeUser encodes a record; names that have no number yet get one.
func (s *Store) encodeUser(ctx context.Context, u *event.User) (string, error) {
	names := make([]string, 0, 8)
	for i := range u.Affiliations {
		names = append(names, u.Affiliations[i].Org)
	}
	orgs, err := s.assigned(ctx, s.scripts.orgNumbers, s.keys.orgNumbers(), names...)
	if err != nil {
		return "", err
	}
	names = names[:0]
	for i := range u.Registrations {
		names = append(names, u.Registrations[i].Credential)
	}
	creds, err := s.assigned(ctx, s.scripts.credentialNumbers, s.keys.credentials(), names...)
	if err != nil {
		return "", err
	}
	b, err := encodeUser(u, orgs, creds)
	return string(b), err
}

// saving is one record to be written if it still has the version.
type saving struct {
	id      orcid.ID
	version string
	record  string // without the ping; "" removes
	ping    time.Time
	work    string // as userSaveBody takes it
	states  string
	hash    string // refuses a user who is on the suppression list under it
	history string

	saved      bool
	suppressed bool   // so it was not saved
	found      string // when not saved: the record that is there, "" for none
}

// saveUsers tries every record once, one pipeline for all. On an error some may
// have been saved; each that is known to be says so.
func (s *Store) saveUsers(ctx context.Context, sc *script, list []*saving) error {
	defer s.recent.change(list)()
	runs := userRuns(len(list), func(i int) orcid.ID { return list[i].id })
	calls := make([]*call, len(runs))
	for r, run := range runs {
		p := userPartition(list[run[0]].id)
		c := s.userCall(sc, p)
		c.keys = append(c.keys, s.keys.userWork(p), s.keys.suppressed(p), s.keys.userHistory(p))
		c.args = make([]any, 0, 8*len(run))
		for _, i := range run {
			v := list[i]
			c.args = append(c.args, mixedField(v.id), v.version, v.record, appendPing(nil, v.ping), v.work, v.states, v.hash, v.history)
		}
		calls[r] = c
	}
	first := s.do(ctx, calls...)
	for r, run := range runs {
		answers, err := calls[r].list()
		if err == nil && len(answers) != len(run) {
			err = fmt.Errorf("%s: %d answers of redis for %d users", sc.name, len(answers), len(run))
		}
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		for k, i := range run {
			list[i].found, list[i].saved = "", true
			switch a := answers[k].(type) {
			case string:
				list[i].found, list[i].saved = a, false
			case int64:
				list[i].suppressed = a == 2
				list[i].saved = !list[i].suppressed
			}
		}
	}
	return first
}

// SaveUser writes the record if it is still at u.Version, removes it when the
// user has neither affiliations nor registrations, and in the same step sets
// (work not zero) or clears (zero) when there is work to look at. It fails with
// ErrConflict when the record changed meanwhile; a ping alone is no change, and
// the later of the two latest pings stays. It returns the new version.
func (s *Store) SaveUser(ctx context.Context, u event.User, work time.Time) (version string, err error) {
	record, err := s.encodeUser(ctx, &u)
	if err != nil {
		return "", fmt.Errorf("save user %s: %w", u.ORCID, err)
	}
	v := &saving{id: u.ORCID, version: u.Version, record: record, ping: u.LastPing, work: "-"}
	if !work.IsZero() {
		v.work = "=" + strconv.FormatInt(work.UnixMilli(), 10)
	}
	var before []event.Registration
	if u.Version != "" {
		old, err := s.decodeUser(ctx, u.ORCID, "\x00\x00\x00\x00"+u.Version)
		if err != nil {
			return "", fmt.Errorf("save user %s: its version: %w", u.ORCID, err)
		}
		before = old.Registrations
	}
	v.states = stateChanges(before, u.Registrations)
	v.history = historyLines(before, u.Registrations, s.Now())
	if err := s.saveUsers(ctx, s.scripts.userSave, []*saving{v}); err != nil {
		return "", fmt.Errorf("save user %s: %w", u.ORCID, err)
	}
	if !v.saved {
		return "", fmt.Errorf("save user %s: %w", u.ORCID, ErrConflict)
	}
	return record, nil
}

// stateChanges writes how the counts of registrations by state change, as
// userSaveBody takes it.
func stateChanges(before, after []event.Registration) string {
	var delta [event.RegRefused + 1]int
	for _, r := range before {
		delta[r.State]--
	}
	for _, r := range after {
		delta[r.State]++
	}
	var b strings.Builder
	for state, n := range delta {
		if n != 0 {
			fmt.Fprintf(&b, "%d=%d ", state, n)
		}
	}
	return b.String()
}

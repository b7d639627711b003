package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// checksPerCall bounds one script run.
const checksPerCall = 500

type checkScripts struct {
	checkAdd, checkDue, checkDrop, checkCount, silences, silenceSet *script
	watchedRead, watchedErase, pingedNote, pingedDrop               *script
}

func newCheckScripts() checkScripts {
	return checkScripts{
		checkAdd:   newScript("check_add", allowOOM|fenced, checkAddBody),
		checkDue:   newScript("check_due", allowOOM, checkDueBody),
		checkDrop:  newScript("check_drop", allowOOM|fenced, checkDropBody),
		checkCount: newScript("check_count", allowOOM, checkCountBody),
		silences:   newScript("silences", allowOOM, silencesBody),
		silenceSet: newScript("silence_set", allowOOM|fenced, silenceSetBody),

		watchedRead:  newScript("watched", allowOOM, watchedBody),
		watchedErase: newScript("watched_erase", allowOOM|fenced, watchedBody),
		pingedNote:   newScript("pinged_note", allowOOM|fenced, pingedNoteBody),
		pingedDrop:   newScript("pinged_drop", allowOOM|fenced, pingedDropBody),
	}
}

// checkAddBody: KEYS mark, checks; ARGV mark, then time (ms) and check. A later
// time moves a check, an earlier one does not: whoever asks again has a reason
// that is newer.
const checkAddBody = `
for i = 2, #ARGV, 2 do
  local due = redis.call('ZSCORE', KEYS[2], ARGV[i + 1])
  if not due or tonumber(ARGV[i]) > tonumber(due) then redis.call('ZADD', KEYS[2], ARGV[i], ARGV[i + 1]) end
end
return (#ARGV - 1) / 2
`

// checkDueBody: KEYS mark, checks; ARGV mark, now (ms), how many to leave out, how
// many. Returns the checks that are due with their times, earliest first.
const checkDueBody = `
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', ARGV[3], ARGV[4])
`

// checkDropBody: KEYS mark, checks; ARGV mark, then time (ms) and check. Removes
// each that still has that time; returns how many.
const checkDropBody = `
local dropped = 0
for i = 2, #ARGV, 2 do
  if tonumber(redis.call('ZSCORE', KEYS[2], ARGV[i + 1]) or '-1') == tonumber(ARGV[i]) then
    dropped = dropped + redis.call('ZREM', KEYS[2], ARGV[i + 1])
  end
end
return dropped
`

// checkCountBody: KEYS mark, checks; ARGV mark. Returns how many there are.
const checkCountBody = `return redis.call('ZCARD', KEYS[2])`

// silencesBody: KEYS mark, silences; ARGV mark, then fields. Returns the value of
// each, or ”.
const silencesBody = `
local out = {}
for i = 2, #ARGV do out[i - 1] = redis.call('HGET', KEYS[2], ARGV[i]) or '' end
return out
`

// silenceSetBody: KEYS mark, silences; ARGV mark, then field and value; ”
// forgets.
const silenceSetBody = `
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[2], ARGV[i])
  else redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
end
return (#ARGV - 1) / 2
`

// checkKinds lists the kinds of checks; each has a set of its own.
var checkKinds = [...]event.CheckKind{event.CheckBaseline, event.CheckAtRisk}

// watchField is a user's registration with a credential in every table.
func watchField(id orcid.ID, credential string) string { return slotField(id) + " " + credential }

// AddChecks notes checks to be made. One that is noted already is made at the
// later of the two times.
func (s *Store) AddChecks(ctx context.Context, list []event.Check) error {
	return s.changeChecks(ctx, s.scripts.checkAdd, "note", list)
}

// DropChecks forgets checks that were made; one that was noted again for
// another time meanwhile stays.
func (s *Store) DropChecks(ctx context.Context, list []event.Check) error {
	return s.changeChecks(ctx, s.scripts.checkDrop, "drop", list)
}

func (s *Store) changeChecks(ctx context.Context, sc *script, doing string, list []event.Check) error {
	for part := range slices.Chunk(list, checksPerCall) {
		args := map[event.CheckKind][]any{}
		for _, c := range part {
			args[c.Kind] = append(args[c.Kind], c.At.UnixMilli(), watchField(c.ORCID, c.Credential))
		}
		var calls []*call
		for _, kind := range checkKinds {
			if len(args[kind]) > 0 {
				calls = append(calls, s.hashCall(sc, s.keys.checks(kind), args[kind]...))
			}
		}
		if err := s.do(ctx, calls...); err != nil {
			return fmt.Errorf("%s %d checks: %w", doing, len(list), err)
		}
	}
	return nil
}

// DueChecks returns at most limit checks of a kind that are due, earliest first,
// after the first skip of them. Each stays until DropChecks.
func (s *Store) DueChecks(ctx context.Context, kind event.CheckKind, now time.Time, skip, limit int) ([]event.Check, error) {
	c := s.hashCall(s.scripts.checkDue, s.keys.checks(kind), now.UnixMilli(), skip, limit)
	if err := s.do(ctx, c); err != nil {
		return nil, fmt.Errorf("find due checks: %w", err)
	}
	pairs, err := stringList(c, c.res)
	if err != nil {
		return nil, fmt.Errorf("find due checks: %w", err)
	}
	out := make([]event.Check, 0, len(pairs)/2)
	for j := 0; j+1 < len(pairs); j += 2 {
		field, credential, ok := strings.Cut(pairs[j], " ")
		at, err := strconv.ParseFloat(pairs[j+1], 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("find due checks: check %q is damaged", pairs[j])
		}
		id, err := fieldUser(field)
		if err != nil {
			return nil, fmt.Errorf("find due checks: check %q is damaged: %w", pairs[j], err)
		}
		out = append(out, event.Check{Kind: kind, ORCID: id, Credential: credential, At: time.UnixMilli(int64(at)).UTC()})
	}
	return out, nil
}

// CountChecks returns how many checks of a kind are noted, due or not.
func (s *Store) CountChecks(ctx context.Context, kind event.CheckKind) (int64, error) {
	c := s.hashCall(s.scripts.checkCount, s.keys.checks(kind))
	if err := s.do(ctx, c); err != nil {
		return 0, fmt.Errorf("count checks: %w", err)
	}
	return c.integer()
}

// Silences returns what is noted of the users' registrations with a credential,
// in the order of ids.
func (s *Store) Silences(ctx context.Context, credential string, ids []orcid.ID) ([]event.Silence, error) {
	out := make([]event.Silence, 0, len(ids))
	for part := range slices.Chunk(ids, checksPerCall) {
		args := make([]any, len(part))
		for i, id := range part {
			args[i] = watchField(id, credential)
		}
		c := s.hashCall(s.scripts.silences, s.keys.silences(), args...)
		if err := s.do(ctx, c); err != nil {
			return nil, fmt.Errorf("read silences: %w", err)
		}
		texts, err := stringList(c, c.res)
		if err != nil {
			return nil, fmt.Errorf("read silences: %w", err)
		}
		if len(texts) != len(part) {
			return nil, fmt.Errorf("read silences: %d answers of redis for %d users", len(texts), len(part))
		}
		for i, text := range texts {
			var one event.Silence
			if text != "" {
				at, count, ok := strings.Cut(text, " ")
				ms, err1 := strconv.ParseInt(at, 10, 64)
				n, err2 := strconv.Atoi(count)
				if !ok || err1 != nil || err2 != nil {
					return nil, fmt.Errorf("read silences: that of %s is damaged: %q", part[i], text)
				}
				one = event.Silence{At: time.UnixMilli(ms).UTC(), Count: n}
			}
			out = append(out, one)
		}
	}
	return out, nil
}

// SetSilences notes the silence of each user's registration with a credential;
// a zero one is forgotten.
func (s *Store) SetSilences(ctx context.Context, credential string, list map[orcid.ID]event.Silence) error {
	args := make([]any, 0, 2*checksPerCall)
	flush := func() error {
		if len(args) == 0 {
			return nil
		}
		err := s.do(ctx, s.hashCall(s.scripts.silenceSet, s.keys.silences(), args...))
		args = args[:0:0]
		return err
	}
	for id, one := range list {
		value := ""
		if !one.At.IsZero() {
			value = strconv.FormatInt(one.At.UnixMilli(), 10) + " " + strconv.Itoa(one.Count)
		}
		args = append(args, watchField(id, credential), value)
		if len(args) >= 2*checksPerCall {
			if err := flush(); err != nil {
				return fmt.Errorf("note %d silences: %w", len(list), err)
			}
		}
	}
	if err := flush(); err != nil {
		return fmt.Errorf("note %d silences: %w", len(list), err)
	}
	return nil
}

// WriteFile replaces a file so that a crash leaves the old or the new one whole.
func WriteFile(path string, raw []byte) error { return writeFileAtomic(path, raw) }

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
	checkAdd, checkDue, checkDrop, silences, silenceSet *script
}

func newCheckScripts() checkScripts {
	return checkScripts{
		checkAdd:   newScript("check_add", allowOOM|fenced, checkAddBody),
		checkDue:   newScript("check_due", allowOOM, checkDueBody),
		checkDrop:  newScript("check_drop", allowOOM|fenced, checkDropBody),
		silences:   newScript("silences", allowOOM, silencesBody),
		silenceSet: newScript("silence_set", allowOOM|fenced, silenceSetBody),
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

// checkDueBody: KEYS mark, checks; ARGV mark, now (ms), how many. Returns the
// checks that are due with their times, earliest first.
const checkDueBody = `
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
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

// watchField is a user's registration with a credential in both tables; a check
// has its kind in front.
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
		args := make([]any, 0, 2*len(part))
		for _, c := range part {
			args = append(args, c.At.UnixMilli(), string(c.Kind)+watchField(c.ORCID, c.Credential))
		}
		if err := s.do(ctx, s.hashCall(sc, s.keys.checks(), args...)); err != nil {
			return fmt.Errorf("%s %d checks: %w", doing, len(list), err)
		}
	}
	return nil
}

// DueChecks returns at most limit checks that are due, earliest first. Each
// stays until DropChecks.
func (s *Store) DueChecks(ctx context.Context, now time.Time, limit int) ([]event.Check, error) {
	c := s.hashCall(s.scripts.checkDue, s.keys.checks(), now.UnixMilli(), limit)
	if err := s.do(ctx, c); err != nil {
		return nil, fmt.Errorf("find due checks: %w", err)
	}
	pairs, err := stringList(c, c.res)
	if err != nil {
		return nil, fmt.Errorf("find due checks: %w", err)
	}
	out := make([]event.Check, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		field, credential, ok := strings.Cut(pairs[i], " ")
		at, err := strconv.ParseFloat(pairs[i+1], 64)
		if !ok || len(field) < 2 || err != nil {
			return nil, fmt.Errorf("find due checks: check %q is damaged", pairs[i])
		}
		id, err := fieldUser(field[1:])
		if err != nil {
			return nil, fmt.Errorf("find due checks: check %q is damaged: %w", pairs[i], err)
		}
		out = append(out, event.Check{Kind: event.CheckKind(field[0]), ORCID: id, Credential: credential, At: time.UnixMilli(int64(at)).UTC()})
	}
	return out, nil
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

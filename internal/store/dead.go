package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// DeadLetter is a slot that used up its attempts or was refused for good.
type DeadLetter struct {
	ORCID    orcid.ID
	Channel  event.Channel
	Types    []event.Type
	FirstAt  time.Time // when the first ping was accepted
	LatestAt time.Time // when the latest ping was accepted
	DiedAt   time.Time
	Attempts int
	Status   int    // of the last attempt; 0 when there was no answer
	Reason   string // words for people
}

// Selection says which dead letters are meant.
type Selection struct {
	ORCID orcid.ID  // zero: of every user
	Since time.Time // died at or after; zero: whenever
	Until time.Time // died at or before; zero: whenever
}

// ErrDisabled says that dead letters cannot be replayed to a channel that is
// not enabled.
var ErrDisabled = errors.New("the channel is not enabled")

// deadPageBody: KEYS mark, dead, dead-at; ARGV mark, how many, and where the
// last page ended: died at (ms) and field, or '+inf' and ”. Newest first, users
// that died in the same millisecond in falling order of field. Returns died at,
// field and dead letter of each.
const deadPageBody = `
local want, top, last = tonumber(ARGV[2]), ARGV[3], ARGV[4]
local out, offset = {}, 0
while want > 0 do
  local page = redis.call('ZREVRANGEBYSCORE', KEYS[3], top, '-inf', 'WITHSCORES', 'LIMIT', offset, want + 1)
  if #page == 0 then break end
  offset = offset + #page / 2
  for i = 1, #page, 2 do
    local field, at = page[i], page[i + 1]
    if want > 0 and (last == '' or tonumber(at) < tonumber(top) or field < last) then
      out[#out + 1] = at
      out[#out + 1] = field
      out[#out + 1] = redis.call('HGET', KEYS[2], field) or ''
      want = want - 1
    end
  end
end
return out
`

// DeadLetters lists up to n (at most 1000) dead letters of a channel, the latest
// first, from where the cursor of the page before ended ("" from the
// beginning). The next cursor is empty at the end.
func (s *Store) DeadLetters(ctx context.Context, org string, ch event.Channel, cursor string, n int) ([]DeadLetter, string, error) {
	if err := checkChannel(org, ch); err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	top, last := "+inf", ""
	if cursor != "" {
		var ok bool
		top, last, ok = strings.Cut(cursor, "-")
		_, err1 := strconv.ParseInt(top, 10, 64)
		_, err2 := fieldUser(last)
		if !ok || err1 != nil || err2 != nil {
			return nil, "", fmt.Errorf("list dead letters of %s: %q is no cursor", org, cursor)
		}
	}
	n = batchSize(n)
	p := orgPartition(org)
	c := &call{
		script: s.scripts.deadPage, mark: s.keys.mark(p),
		keys: []string{s.keys.dead(p, org, ch), s.keys.deadAt(p, org, ch)}, args: []any{n, top, last},
	}
	if err := s.one(ctx, "list dead letters", org, c); err != nil {
		return nil, "", err
	}
	list, err := c.list()
	if err != nil {
		return nil, "", err
	}
	fields, err := texts(list)
	if err == nil && len(fields)%3 != 0 {
		err = errAnswer
	}
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters of %s: %w", org, err)
	}
	out := make([]DeadLetter, 0, len(fields)/3)
	next := ""
	for i := 0; i < len(fields); i += 3 {
		at, field, raw := fields[i], fields[i+1], fields[i+2]
		d, err := parseDead(at, field, raw)
		if err != nil {
			return nil, "", fmt.Errorf("list dead letters of %s: %w", org, err)
		}
		d.Channel = ch
		out = append(out, d)
		next = strconv.FormatInt(d.DiedAt.UnixMilli(), 10) + "-" + field
	}
	if len(out) < n {
		next = ""
	}
	return out, next, nil
}

func parseDead(at, field, raw string) (DeadLetter, error) {
	var d DeadLetter
	f := strings.SplitN(raw, "|", 4)
	if len(f) != 4 {
		return d, fmt.Errorf("dead letter %q is damaged", raw)
	}
	st, err := parseSlot(f[2])
	if err != nil {
		return d, err
	}
	id, err1 := fieldUser(field)
	died, err2 := strconv.ParseFloat(at, 64)
	attempts, err3 := strconv.Atoi(f[0])
	status := 0
	var err4 error
	if f[1] != "" {
		status, err4 = strconv.Atoi(f[1])
	}
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return d, fmt.Errorf("dead letter %q is damaged: %w", raw, err)
	}
	return DeadLetter{
		ORCID: id, Types: st.types, FirstAt: microTime(st.first), LatestAt: microTime(st.latest),
		DiedAt: milliTime(int64(died)), Attempts: attempts, Status: status, Reason: f[3],
	}, nil
}

// selectedLua finds the dead letters of a selection. ARGV mark, now, member of
// the ready index, how many, since (ms or -inf), field (or empty), until (ms or
// +inf).
const selectedLua = `
local c = channel(4, ARGV[3])
local function selected(most)
  if ARGV[6] == '' then return redis.call('ZRANGEBYSCORE', c.deadAt, ARGV[5], ARGV[7], 'LIMIT', 0, most) end
  local at = redis.call('ZSCORE', c.deadAt, ARGV[6])
  if at and (ARGV[5] == '-inf' or tonumber(at) >= tonumber(ARGV[5])) and (ARGV[7] == '+inf' or tonumber(at) <= tonumber(ARGV[7])) then
    return {ARGV[6]}
  end
  return {}
end
`

// replayBody: KEYS mark, ready, ledger, the channel's five; ARGV as selectedLua
// says. Returns how many it replayed and how many more there are at least, or
// -1 when the channel is disabled.
const replayBody = selectedLua + `
if not c.enabled then return {-1, 0} end
local list = selected(ARGV[4])
for i = 1, #list do
  local field = list[i]
  -- Before anything is taken away: on a key of another type these fail.
  local raw, due = redis.call('HGET', c.slots, field), tonumber(redis.call('ZSCORE', c.due, field) or now)
  local d = unbury(c, field)
  if d then
    count('replayed', 1)
    if raw then
      local s = parse(raw)
      join(s, d)
      count('coalesced', 1)
      if s.token then
        if not s.again or now < s.again then s.again = now end
        if not s.afirst or d.latest < s.afirst then s.afirst = d.latest end
      else
        s.attempts, s.began = 0, 0
        redis.call('ZADD', c.due, F(math.min(now, due)), field)
      end
      put(c, field, s)
    else
      fresh(d)
      put(c, field, d)
      redis.call('ZADD', c.due, F(now), field)
      count('opened', 1)
    end
  else
    redis.call('ZREM', c.deadAt, field)
  end
end
settle(c)
book()
return {#list, #selected(1)}
`

// purgeBody: KEYS mark, ready, ledger, the channel's five; ARGV as selectedLua
// says. Returns how many it purged and how many more there are at least.
const purgeBody = selectedLua + `
local list = selected(ARGV[4])
local gone = 0
for i = 1, #list do
  gone = gone + redis.call('HDEL', c.dead, list[i])
  redis.call('ZREM', c.deadAt, list[i])
end
count('purged', gone)
count('dead', -gone)
book()
return {gone, #selected(1)}
`

// Replay puts up to max (at most 1000) of the selected dead letters back into
// slots, due at once and with their attempts uncounted, the oldest first. More
// says that some are left. It fails with ErrDisabled on a disabled channel.
func (s *Store) Replay(ctx context.Context, org string, ch event.Channel, sel Selection, max int) (moved int, more bool, err error) {
	c, err := s.selectionCall(s.scripts.replay, org, ch, sel, max)
	if err != nil {
		return 0, false, err
	}
	moved, more, err = s.some(ctx, "replay dead letters", org, c)
	if err == nil && moved < 0 {
		return 0, false, fmt.Errorf("replay dead letters of %s to %s: %w", org, ch, ErrDisabled)
	}
	return moved, more, err
}

// Purge removes up to max (at most 1000) of the selected dead letters for good.
func (s *Store) Purge(ctx context.Context, org string, ch event.Channel, sel Selection, max int) (purged int, more bool, err error) {
	c, err := s.selectionCall(s.scripts.purge, org, ch, sel, max)
	if err != nil {
		return 0, false, err
	}
	return s.some(ctx, "purge dead letters", org, c)
}

func (s *Store) selectionCall(sc *script, org string, ch event.Channel, sel Selection, n int) (*call, error) {
	c, err := s.channelCall(sc, org, ch)
	if err != nil {
		return nil, err
	}
	since, until := "-inf", "+inf"
	if !sel.Since.IsZero() {
		since = strconv.FormatInt(sel.Since.UnixMilli(), 10)
	}
	if !sel.Until.IsZero() {
		until = strconv.FormatInt(sel.Until.UnixMilli(), 10)
	}
	c.args = append(c.args, batchSize(n), since, userField(sel.ORCID), until)
	return c, nil
}

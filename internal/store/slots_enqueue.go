package store

import (
	"context"
	"fmt"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// Target is one piece of news for one slot: what the fan-out of one intake log
// entry found for one organisation, channel and user.
type Target struct {
	Org     string
	Channel event.Channel
	ORCID   orcid.ID
	Type    event.Type
	At      time.Time // accepted at, microseconds
	Entry   string    // id of the intake log entry
	Due     time.Time // when a new slot comes due; zero: a quiet period after At
}

// enqueueBody: KEYS mark, ready, ledger, applied, then five a channel; ARGV
// mark, now, number of channels, their members of the ready index,
// number of entries, their ids, then per target: number of the entry, number of
// the channel, field, type, accepted at (µs), accepted at (ms, rounded up) plus
// quiet. Returns per channel when it is next ready, or -1.
//
// News for nobody who waits or lies dead is nearly all there is: its slot is
// written as text() would, without making a table of it first.
const enqueueBody = `
local function coalesce(c, field, raw, t, us, due)
  local s
  if raw then
    s = parse(raw)
    count('coalesced', 1)
  else
    s = {types = {}, latest = us, first = us, top = 0, attempts = 0, began = 0, crashes = 0}
    redis.call('ZADD', c.due, F(due), field)
    count('opened', 1)
    count('pending', 1)
  end
  if c.graves > 0 then
    local d = unbury(c, field)
    if d then join(s, d) end
  end
  local gen = math.max(us, s.top + 1)
  s.types[t], s.top = gen, gen
  if t == 'C' and (not s.created or s.created < us) then s.created = us end
  if us > s.latest then s.latest = us end
  if us < s.first then s.first = us end
  if s.token then
    if not s.again or due < s.again then s.again = due end
    if not s.afirst or us < s.afirst then s.afirst = us end
  elseif s.attempts > 0 then
    s.attempts, s.began = 0, 0
    if tonumber(redis.call('ZSCORE', c.due, field)) > now + HOUR then redis.call('ZADD', c.due, F(now + HOUR), field) end
  end
  put(c, field, s)
end

local channels = {}
local n = tonumber(ARGV[3])
for i = 1, n do
  local c = channel(5 * i, ARGV[3 + i])
  c.graves = redis.call('HLEN', c.dead)
  channels[i] = c
end
local at = 4 + n
local entries, new = tonumber(ARGV[at]), {}
for i = 1, entries do
  local id = ARGV[at + i]
  new[i] = redis.call('ZADD', KEYS[4], 'NX', string.match(id, '^%d+'), id) == 1
end
local opened = 0
for i = at + entries + 1, #ARGV, 6 do
  if new[tonumber(ARGV[i])] then
    local c, field, t, us = channels[tonumber(ARGV[i + 1])], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
    count(t == 'C' and 'created' or 'targets', 1)
    if not c.enabled then
      count('ignored_disabled', 1)
    else
      local raw = redis.call('HGET', c.slots, field)
      if raw or c.graves > 0 then
        coalesce(c, field, raw, t, us, tonumber(ARGV[i + 5]))
      else
        redis.call('HSET', c.slots, field, ARGV[i + 4] .. ';' .. t)
        redis.call('ZADD', c.due, ARGV[i + 5], field)
        opened = opened + 1
      end
    end
  end
end
count('opened', opened)
count('pending', opened)
local out = {}
for i = 1, n do out[i] = settle(channels[i]) end
book()
return out
`

// enqueueChunk is how many targets go into one script run, give or take those
// of one entry: short scripts keep claims and finishes quick meanwhile.
const enqueueChunk = 500

// Enqueue applies the targets of intake log entries of one lane: one script run
// per partition (or a few), all in one pipeline. A partition that has already
// applied an entry skips it, so Enqueue may be repeated after any error; for
// the same reason all targets of an entry must come in the same call. It
// returns the channels it touched with when they are next ready (zero: nothing
// waits there, for example because the channel is disabled). With an error,
// what it returns holds for the partitions that did succeed.
func (s *Store) Enqueue(ctx context.Context, lane int, targets []Target, quiet time.Duration) (map[event.ChannelKey]time.Time, error) {
	var parts [Partitions][]Target
	for _, t := range targets {
		if err := checkTarget(t); err != nil {
			return nil, fmt.Errorf("enqueue: %w", err)
		}
		p := orgPartition(t.Org)
		parts[p] = append(parts[p], t)
	}
	var calls []*call
	var channels [][]event.ChannelKey
	for p, list := range parts {
		for _, chunk := range chunkEntries(list) {
			c, touched := s.enqueueCall(p, lane, chunk, quiet)
			calls, channels = append(calls, c), append(channels, touched)
		}
	}
	first := s.do(ctx, calls...)
	out := make(map[event.ChannelKey]time.Time)
	for i, c := range calls {
		if c.err != nil {
			continue
		}
		next, err := c.ints(len(channels[i]))
		if err != nil {
			return out, err
		}
		for j, k := range channels[i] {
			out[k] = milliTime(next[j])
		}
	}
	if first != nil {
		return out, fmt.Errorf("enqueue: %w", first)
	}
	return out, nil
}

func checkTarget(t Target) error {
	if err := checkChannel(t.Org, t.Channel); err != nil {
		return err
	}
	switch {
	case typeCode(t.Type) == "":
		return fmt.Errorf("type %q is never in a slot", t.Type)
	case t.ORCID.IsZero():
		return fmt.Errorf("target of %s has no iD", t.Org)
	case t.At.UnixMicro() <= 0:
		return fmt.Errorf("target of %s has no time", t.Org)
	case len(t.Entry) == 0 || t.Entry[0] < '0' || t.Entry[0] > '9':
		return fmt.Errorf("target of %s names no entry (%q)", t.Org, t.Entry)
	}
	return nil
}

// chunkEntries cuts the targets of one partition so that an entry stays whole.
func chunkEntries(list []Target) [][]Target {
	if len(list) == 0 {
		return nil
	}
	var order []string
	byEntry := make(map[string][]Target)
	for _, t := range list {
		if _, seen := byEntry[t.Entry]; !seen {
			order = append(order, t.Entry)
		}
		byEntry[t.Entry] = append(byEntry[t.Entry], t)
	}
	var out [][]Target
	var chunk []Target
	for _, e := range order {
		if len(chunk) > 0 && len(chunk)+len(byEntry[e]) > enqueueChunk {
			out, chunk = append(out, chunk), nil
		}
		chunk = append(chunk, byEntry[e]...)
	}
	return append(out, chunk)
}

func (s *Store) enqueueCall(p, lane int, list []Target, quiet time.Duration) (*call, []event.ChannelKey) {
	c := s.slotCall(s.scripts.enqueue, p)
	c.keys = append(c.keys, s.keys.applied(p, lane))
	channel, entry := map[event.ChannelKey]int{}, map[string]int{}
	var channels []event.ChannelKey
	var members, entries []any
	latest := s.Now().UnixMilli() + 1
	flat := make([]any, 0, 6*len(list))
	for _, t := range list {
		k := event.ChannelKey{Org: t.Org, Channel: t.Channel}
		if channel[k] == 0 {
			channels = append(channels, k)
			channel[k] = len(channels)
			members = append(members, readyMember(k))
			c.keys = append(c.keys, s.channelKeys(p, k)...)
		}
		if entry[t.Entry] == 0 {
			entries = append(entries, t.Entry)
			entry[t.Entry] = len(entries)
		}
		// Accepted in the future, by a clock that has been set right since: it
		// must not wait until then.
		us := t.At.UnixMicro()
		due := min((us+999)/1000, latest) + quiet.Milliseconds()
		if !t.Due.IsZero() {
			due = asMillis(t.Due)
		}
		flat = append(flat, entry[t.Entry], channel[k], slotField(t.ORCID), typeCode(t.Type), us, due)
	}
	c.args = append(c.args, len(channels))
	c.args = append(c.args, members...)
	c.args = append(c.args, len(entries))
	c.args = append(c.args, entries...)
	c.args = append(c.args, flat...)
	return c, channels
}

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

// enqueueLua joins news with a slot that is there or a dead letter.
const enqueueLua = `
local function coalesce(c, field, t, us, due)
  local s
  local raw = redis.call('HGET', c.slots, field)
  if raw then
    s = parse(raw)
    count('coalesced', 1)
    redis.call('ZADD', c.due, 'NX', F(due), field) -- it has a time, unless a hand took it
  else
    s = {types = {}, latest = us, first = us, top = 0, attempts = 0, began = 0, crashes = 0}
    redis.call('ZADD', c.due, F(due), field)
    count('opened', 1)
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
`

// enqueueBody: KEYS mark, ready, ledger, applied, then five a channel; ARGV
// mark, now, number of channels, number of entries, their ids, then per channel
// its member of the ready index, the number of its targets, and per target:
// number of the entry, field, type, accepted at (µs), due (ms). Returns per
// channel when what it got is ready, or -1.
//
// News for nobody who waits or lies dead is nearly all there is: its slot is
// written as text() would, without making a table of it first, and all such
// slots of a channel are written together. They only ever make the channel
// ready earlier.
const enqueueBody = `
local channels, entries = tonumber(ARGV[3]), tonumber(ARGV[4])
local a, new, add = 4 + entries, {}, {}
local known = redis.call('ZMSCORE', KEYS[4], unpack(ARGV, 5, a))
redis.call('ZCARD', READY) -- see look
for i = 1, entries do
  if not known[i] then
    local id = ARGV[4 + i]
    new[tostring(i)] = true
    add[#add + 1] = string.match(id, '^%d+')
    add[#add + 1] = id
  end
end
-- look reads what apply needs of a channel. A script is not undone when a command
-- in it fails, as on a key of another type, so all of them are read before
-- anything is done for one: the entries come again, and must find nothing done.
local function look(i)
  local n = tonumber(ARGV[a + 2])
  local c, fields = channel(5 * i, ARGV[a + 1]), {}
  c.fields, c.at, c.created = fields, {}, 0
  for p = a + 3, a + 2 + 5 * n, 5 do
    if new[ARGV[p]] then
      fields[#fields + 1], c.at[#c.at + 1] = ARGV[p + 1], p
      if ARGV[p + 2] == 'C' then c.created = c.created + 1 end
    end
  end
  c.whole = #fields < n -- what was applied before may be due
  a = a + 2 + 5 * n
  if c.enabled then redis.call('ZCARD', c.due) end
  if #fields > 0 and c.enabled then
    c.graves = redis.call('HLEN', c.dead)
    c.raws = redis.call('HMGET', c.slots, unpack(fields))
    c.buried = {}
    if c.graves > 0 then
      redis.call('ZCARD', c.deadAt) -- or a dead letter that joins its news would be gone
      c.buried = redis.call('HMGET', c.dead, unpack(fields))
    end
  end
  return c
end
local function apply(c)
  local fields, ready = c.fields, -1
  if c.raws then
    local slots, dues, seen, others, low = {}, {}, {}, {}, nil
    for j = 1, #fields do
      local field, p = fields[j], c.at[j]
      if c.raws[j] or c.buried[j] or seen[field] then
        others[#others + 1] = p
      else
        seen[field] = true
        slots[#slots + 1], slots[#slots + 2] = field, ARGV[p + 3] .. ';' .. ARGV[p + 2]
        dues[#dues + 1], dues[#dues + 2] = ARGV[p + 4], field
        local due = tonumber(ARGV[p + 4])
        if not low or due < low then low = due end
      end
    end
    if low then
      redis.call('ZADD', c.due, unpack(dues)) -- first: one without a slot goes at the next claim
      redis.call('HSET', c.slots, unpack(slots))
      count('opened', #slots / 2)
      ready = math.max(low, c.hold)
    end
    for j = 1, #others do
      local p = others[j]
      coalesce(c, ARGV[p + 1], ARGV[p + 2], tonumber(ARGV[p + 3]), tonumber(ARGV[p + 4]))
      c.whole = true
    end
  elseif #fields > 0 then
    count('ignored_disabled', #fields)
  end
  count('targets', #fields - c.created)
  count('created', c.created)
  if c.whole then
    ready = settle(c)
  elseif ready >= 0 then
    redis.call('ZADD', READY, 'LT', F(ready), c.name)
  end
  return ready
end
local list, out = {}, {}
for i = 1, channels do list[i] = look(i) end
-- What fails here all the same was done as far as it got, and is counted.
for i = 1, channels do
  local ok, ready = pcall(apply, list[i])
  if not ok then
    book()
    error(ready, 0)
  end
  out[i] = ready
end
if #add > 0 then redis.call('ZADD', KEYS[4], unpack(add)) end
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
// returns the channels it touched with when what they got is ready (zero: nothing
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
	var channels []event.ChannelKey
	byChannel := make([][]any, 0, 4)
	numbers, entry := map[event.ChannelKey]int{}, map[string]int{}
	latest := s.Now().UnixMilli() + 1
	c.args = append(c.args, 0, 0) // the numbers of channels and entries, known at the end
	for i := range list {
		t := &list[i]
		k := event.ChannelKey{Org: t.Org, Channel: t.Channel}
		n := numbers[k]
		if n == 0 {
			channels, byChannel = append(channels, k), append(byChannel, nil)
			n = len(channels)
			numbers[k] = n
			c.keys = append(c.keys, s.channelKeys(p, k)...)
		}
		if entry[t.Entry] == 0 {
			c.args = append(c.args, t.Entry)
			entry[t.Entry] = len(entry) + 1
		}
		// Accepted in the future, by a clock that has been set right since: it
		// must not wait until then.
		us := t.At.UnixMicro()
		due := min((us+999)/1000, latest) + quiet.Milliseconds()
		if !t.Due.IsZero() {
			due = asMillis(t.Due)
		}
		byChannel[n-1] = append(byChannel[n-1], entry[t.Entry], slotField(t.ORCID), typeCode(t.Type), us, due)
	}
	c.args[1], c.args[2] = len(channels), len(entry)
	for i, k := range channels {
		c.args = append(append(c.args, readyMember(k), len(byChannel[i])/5), byChannel[i]...)
	}
	return c, channels
}

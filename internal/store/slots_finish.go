package store

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"dispatchd/internal/event"
)

// finishLua ends a flight that is not simply delivered.
const finishLua = attemptLua + `
local function deliveredLate(c, field, t, gen)
  local raw = redis.call('HGET', c.dead, field)
  if not raw then return false end
  local d = parseDead(raw)
  if d.types[t] ~= gen then return false end
  d.types[t] = nil
  count('delivered', 1)
  if empty(d.types) then
    redis.call('HDEL', c.dead, field)
    redis.call('ZREM', c.deadAt, field)
    count('dead', -1)
  else
    count('opened', 1)
    count('requeued', 1)
    putDead(c, field, d)
  end
  return true
end

-- finish writes one outcome; returns whether it was stale.
local function finish(c, field, t, gen, token, result, retry, began, status, reason, cap)
  local raw, stale = redis.call('HGET', c.slots, field), false
  local s = raw and parse(raw)
  if s and s.token == token then
    local again = s.again
    if result == 'delivered' or s.told then
      if not told(c, field, s, s.ctype, s.cgen) then back(c, field, s, again or now) end
    elseif result == 'released' then
      if again and s.attempts > 0 then
        s.attempts, s.began = 0, 0
        retry = math.min(retry, now + HOUR)
      end
      back(c, field, s, retry)
    elseif result == 'cancelled' and not again then
      count('cancelled', 1)
      drop(c, field, s)
    elseif result == 'retry' and not again then
      s.attempts, s.crashes = s.attempts + 1, 0
      if s.began == 0 then s.began = began end
      back(c, field, s, retry)
    elseif result == 'retry' then
      fresh(s)
      back(c, field, s, math.min(retry, now + HOUR))
    elseif result == 'dead' and s.types[t] == gen then
      local d = {types = {}, latest = s.latest, first = s.first, top = s.top, created = s.created}
      d.types[t], s.types[t] = gen, nil
      bury(c, field, d, s.attempts + 1, status, reason, cap)
      if empty(s.types) then
        drop(c, field, s)
      else
        count('opened', 1)
        count('requeued', 1)
        fresh(s)
        back(c, field, s, again or now)
      end
    else -- dead or cancelled, but news came meanwhile
      fresh(s)
      back(c, field, s, again or now)
    end
  elseif result ~= 'delivered' then
    stale = true
  elseif s and s.types[t] == gen then
    -- The lease has ended, but the POST did happen.
    if not s.token then
      if not told(c, field, s, t, gen) then
        back(c, field, s, math.min(now, tonumber(redis.call('ZSCORE', c.due, field) or now)))
      end
    elseif s.ctype == t then
      s.told = true -- one in flight at a time: its claim has to end first
      put(c, field, s)
    else
      count('delivered', 1)
      count('opened', 1)
      count('requeued', 1)
      s.types[t] = nil
      put(c, field, s)
    end
  else
    stale = not deliveredLate(c, field, t, gen)
  end
  return stale
end
`

// finishBody: KEYS mark, ready, ledger, then seven a channel (its five, the
// attempt log and the tally); ARGV mark, now, most dead letters, most attempts in the log,
// oldest attempt in the log (ms), then per channel: its member of the ready
// index, how many finishes, how many lines for the log, how many attempts
// delivered and how many failed, the lines, and per finish: field, type, generation, token, result, and if that is not delivered
// also retry at (ms), first attempt (ms), status, reason. Returns two answers
// per finish: 1 when stale, or the error of its channel, which is not the others';
// and when the channel is next ready or -1.
//
// A slot that was delivered and has nothing else to say goes together with the
// others of its channel. Its going makes the channel ready later, if at all:
// the ready index may then be too early, which the next claim puts right.
const finishBody = `
local out, a, k = {}, 5, 4
-- one writes the outcomes of one channel, whose answers stand in out after first.
local function one(c, fields, at, first)
  local raws, gone, seen, others = redis.call('HMGET', c.slots, unpack(fields)), {}, {}, {}
  for j = 1, #fields do
    local p = at[j]
    local field, t, gen = fields[j], ARGV[p + 2], ARGV[p + 3]
    if ARGV[p + 5] == 'delivered' and not seen[field] and raws[j] == aloft(gen .. ';' .. t, t, ARGV[p + 4]) then
      gone[#gone + 1] = field
    else
      others[#others + 1] = j
    end
    seen[field] = true
  end
  if #gone > 0 then
    -- In this order what is refused is done whole when it comes again.
    redis.call('ZREM', c.due, unpack(gone))
    c.flight = -#gone
    flown(c)
    redis.call('HDEL', c.slots, unpack(gone))
    count('delivered', #gone)
  end
  if #others == 0 then return end
  redis.call('ZCARD', load(c).due) -- what fails does so before anything is done
  for _, j in ipairs(others) do
    local p = at[j]
    local plain = ARGV[p + 5] == 'delivered'
    local stale = finish(c, fields[j], ARGV[p + 2], tonumber(ARGV[p + 3]), ARGV[p + 4], ARGV[p + 5],
      not plain and tonumber(ARGV[p + 6]), not plain and tonumber(ARGV[p + 7]), not plain and ARGV[p + 8], not plain and ARGV[p + 9],
      tonumber(ARGV[3]))
    if stale then out[first + 2 * j - 1] = 1 end
  end
  local next = settle(c)
  for _, j in ipairs(others) do out[first + 2 * j] = next end
end
while a < #ARGV do
  local c, n, lines, fields, at, first = named(k, ARGV[a + 1]), tonumber(ARGV[a + 2]), a + 5, {}, {}, #out
  local good, poor = tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
  a = lines + tonumber(ARGV[a + 3])
  local last = a
  for j = 1, n do
    fields[j], at[j] = ARGV[a + 1], a
    a = a + (ARGV[a + 5] == 'delivered' and 5 or 9)
    out[#out + 1] = 0
    out[#out + 1] = -1
  end
  local ok, err = pcall(one, c, fields, at, first)
  if ok then
    -- That these cannot be kept is no reason to make the delivery again.
    pcall(tally, KEYS[k + 6], good, poor)
    if last > lines then pcall(remember, KEYS[k + 5], {unpack(ARGV, lines + 1, last)}, tonumber(ARGV[4]), tonumber(ARGV[5])) end
  else
    pcall(flown, c)
    err = failed(err)
    for j = 1, n do out[first + 2 * j - 1] = err end
  end
  k = k + 7
end
book()
return out
`

type finishQuery struct {
	d event.Delivery
	o event.Outcome
}

// Finish writes what became of a claimed delivery. Delivered clears the type
// when no news came since the claim, also when the lease has ended meanwhile:
// the POST did happen. Every other result needs the current token. News that
// came during the attempt keeps the slot: it is due again a quiet period after
// that news, not dead, and not cancelled. Cancelled otherwise ends the whole
// slot with all its types. It may be called twice; the second call is stale.
func (s *Store) Finish(ctx context.Context, d event.Delivery, o event.Outcome) (event.Finished, error) {
	if err := checkChannel(d.Org, d.Channel); err != nil {
		return event.Finished{}, fmt.Errorf("finish: %w", err)
	}
	switch o.Result {
	case event.Delivered, event.Retry, event.Dead, event.Cancelled, event.Released:
	default:
		return event.Finished{}, fmt.Errorf("finish for %s: unknown result %q", d.Org, o.Result)
	}
	if typeCode(d.Type) == "" || d.Token == "" {
		return event.Finished{}, fmt.Errorf("finish for %s: a delivery of type %q and token %q was never claimed", d.Org, d.Type, d.Token)
	}
	f, err := s.finishes.Do(ctx, finishQuery{d, o})
	if err != nil {
		return f, fmt.Errorf("finish for %s: %w", d.Org, err)
	}
	return f, nil
}

func (s *Store) finishBatch(ctx context.Context, batch []finishQuery) ([]event.Finished, []error) {
	out, errs := make([]event.Finished, len(batch)), make([]error, len(batch))
	now := s.Now()
	calls, members := s.finishCalls(batch, now)
	_ = s.do(ctx, calls...) // each call carries its own error
	var seen refusals
	for i, c := range calls {
		list, err := c.list()
		if err == nil && len(list) != 2*len(members[i]) {
			err = fmt.Errorf("finish: redis answered %d of %d", len(list), 2*len(members[i]))
		}
		for j, at := range members[i] {
			k := event.ChannelKey{Org: batch[at].d.Org, Channel: batch[at].d.Channel}
			if err != nil {
				errs[at] = err
			} else if errs[at] = seen.of(ctx, s, c.script.name, k, list[2*j]); errs[at] == nil {
				out[at], errs[at] = readFinished(list[2*j], list[2*j+1])
			}
		}
	}
	return out, errs
}

func readFinished(stale, next any) (event.Finished, error) {
	n, ok1 := stale.(int64)
	at, ok2 := next.(int64)
	if !ok1 || !ok2 {
		return event.Finished{}, fmt.Errorf("finish: %w", errAnswer)
	}
	return event.Finished{Stale: n == 1, Next: milliTime(at)}, nil
}

// finishing are the finishes of one channel.
type finishing struct {
	key     event.ChannelKey
	members []int
	lines   []any
	args    []any
	good    int
	poor    int
}

// finishCalls makes one call per partition and says which finishes of the batch
// each one carries, in the order of its answers.
func (s *Store) finishCalls(batch []finishQuery, now time.Time) ([]*call, [][]int) {
	var byPart [Partitions][]*finishing
	channels := make(map[event.ChannelKey]*finishing, len(batch))
	var parts []int
	for i := range batch {
		q := &batch[i]
		key := event.ChannelKey{Org: q.d.Org, Channel: q.d.Channel}
		f := channels[key]
		if f == nil {
			f = &finishing{key: key}
			channels[key] = f
			p := orgPartition(key.Org)
			if byPart[p] == nil {
				parts = append(parts, p)
			}
			byPart[p] = append(byPart[p], f)
		}
		f.members = append(f.members, i)
		if line := attemptLine(q.o); line != "" {
			f.lines = append(f.lines, line)
		}
		good, poor := tallied(q.o)
		f.good, f.poor = f.good+good, f.poor+poor
		f.args = append(f.args, slotField(q.d.ORCID), typeCode(q.d.Type), q.d.Generation, q.d.Token, string(q.o.Result))
		if q.o.Result != event.Delivered {
			f.args = append(f.args, dueMillis(q.o.RetryAt, now), dueMillis(q.o.Attempt.Start, now), statusText(q.o.Attempt.Status), deathReason(q.o.Attempt))
		}
	}
	calls, members := make([]*call, len(parts)), make([][]int, len(parts))
	for i, p := range parts {
		c := s.slotCall(s.scripts.finish, p)
		c.args = []any{now.UnixMilli(), s.deadLetters, s.attemptLog, now.Add(-attemptAge).UnixMilli()}
		for _, f := range byPart[p] {
			c.keys = append(append(c.keys, s.channelKeys(p, f.key)...), s.keys.attempts(p, f.key.Org, f.key.Channel), s.keys.tally(p, f.key.Org, f.key.Channel))
			c.args = append(c.args, readyMember(f.key), len(f.members), len(f.lines), f.good, f.poor)
			c.args = append(append(c.args, f.lines...), f.args...)
			members[i] = append(members[i], f.members...)
		}
		calls[i] = c
	}
	return calls, members
}

// dueMillis is asMillis, and now when no time was given.
func dueMillis(t, now time.Time) int64 {
	if t.IsZero() {
		return now.UnixMilli()
	}
	return asMillis(t)
}

func statusText(status int) string {
	if status <= 0 {
		return ""
	}
	return fmt.Sprint(status)
}

const maxReason = 300 // bytes of a dead letter's reason

// deathReason is what a dead letter says of its last attempt.
func deathReason(a event.Attempt) string {
	r := strings.ToValidUTF8(a.Error, "\uFFFD")
	if r == "" {
		r = "refused"
	}
	if len(r) > maxReason {
		cut := maxReason
		for !utf8.RuneStart(r[cut]) {
			cut--
		}
		r = r[:cut] + "…"
	}
	return r
}

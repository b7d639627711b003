package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/secret"
)

// DigestUsers is how many users one digest tells of at most; who is above comes
// in another one right after it.
const DigestUsers = 5000

// A digest is one mail about many slots. Opening it copies what is due into a
// list (user and slot each) beside the slots, and holds the channel while the
// mail is under way; the slots stay as they are, so that news coalesces into
// them meanwhile. Finishing notes first what became of the mail, and then closes
// the slots by portions, the generation of each compared as for any delivery:
// whatever stops in between is taken up where it was.
//
// The digest is a hash: id; made, began (ms), attempts, crashes; flying while
// an attempt is under way; ended (delivered or dead), status, reason.

// openDigestBody: KEYS mark, ready, ledger, the channel's five, digest, its
// users; ARGV mark, now, member of the ready index, id for a new one, most users
// of a new one (0: only what is open), end of the lease (ms). Returns when next
// ready or -1, 1 when one is or may be open, and of one to be sent or closed:
// id, made, began, attempts, crashes, ended, then user and slot of each.
const openDigestBody = `
local c = channel(4, ARGV[3])
local D, U = KEYS[9], KEYS[10]
local here = redis.call('EXISTS', D)
if not c.enabled or c.hold > now then return {settle(c), here} end
local function frozen(due)
  local slots, list = redis.call('HMGET', c.slots, unpack(due)), {}
  for i = 1, #due do
    local field, raw = due[i], slots[i]
    if not raw then
      redis.call('ZREM', c.due, field)
    else
      if not string.match(raw, '^%d+;[CUDPL]$') then
        local s, gone = parse(raw), false
        if s.told then gone = told(c, field, s, s.ctype, s.cgen) end
        if s.token then land(c, s) end
        if gone then raw = nil else
          fresh(s)
          put(c, field, s)
          raw = text(s)
        end
      end
      if raw then list[#list + 1] = field .. ' ' .. raw end
    end
  end
  if #list > 0 then redis.call('RPUSH', U, unpack(list)) end
  return #list
end
if here == 0 then
  redis.call('DEL', U)
  local left, offset, n = tonumber(ARGV[5]), 0, 0
  while left > 0 do
    local due = redis.call('ZRANGEBYSCORE', c.due, '-inf', F(now), 'LIMIT', offset, math.min(left, 1000))
    if #due == 0 then break end
    local got = frozen(due)
    n, left, offset = n + got, left - #due, offset + got
  end
  if n == 0 then
    local next = settle(c)
    book()
    return {next, 0}
  end
  redis.call('HSET', D, 'id', ARGV[4], 'made', F(now))
end
local v = redis.call('HMGET', D, 'id', 'made', 'began', 'attempts', 'crashes', 'ended', 'flying')
local out = {0, 1, v[1], v[2], v[3] or '0', v[4] or '0', v[5] or '0', v[6] or ''}
if v[7] and not v[6] then out[7] = F(redis.call('HINCRBY', D, 'crashes', 1)) end
redis.call('HSET', D, 'flying', '1')
redis.call('HSET', c.control, 'digest', ARGV[6] .. ';' .. F(now) .. ';a digest is being sent')
local n = redis.call('LLEN', U)
for from = 0, n - 1, 1000 do
  local list, fields = redis.call('LRANGE', U, from, from + 999), {}
  for i = 1, #list do fields[i] = string.match(list[i], '^%d+') or '' end
  local slots = redis.call('HMGET', c.slots, unpack(fields))
  for i = 1, #list do
    -- Who has left meanwhile is not told of any more.
    if slots[i] or out[8] ~= '' then out[#out + 1] = list[i] end
  end
end
c.hold = tonumber(ARGV[6])
out[1] = settle(c)
book()
return out
`

// OpenDigest takes what is due on an organisation's e-mail channel for one
// digest, under a lease that ends lease from now, or takes up the one that was
// made before. It takes nothing while the channel is held or disabled, and makes
// no new one with most = 0.
func (s *Store) OpenDigest(ctx context.Context, org string, most int, lease time.Duration) (event.Opened, error) {
	c, err := s.digestCall(s.scripts.openDigest, org)
	if err != nil {
		return event.Opened{}, err
	}
	end := s.Now().UnixMilli() + lease.Milliseconds()
	c.args = append(c.args, "dig_"+secret.NewKey(15).Reveal(), min(max(most, 0), DigestUsers), end)
	if err := s.one(ctx, "open a digest", org, c); err != nil {
		return event.Opened{}, err
	}
	list, err := c.list()
	if err != nil {
		return event.Opened{}, err
	}
	if len(list) < 2 {
		return event.Opened{}, fmt.Errorf("open a digest of %s: %w", org, errAnswer)
	}
	next, ok1 := list[0].(int64)
	here, ok2 := list[1].(int64)
	if !ok1 || !ok2 || len(list) > 2 && len(list) < 8 {
		return event.Opened{}, fmt.Errorf("open a digest of %s: %w", org, errAnswer)
	}
	out := event.Opened{Next: milliTime(next), More: here != 0}
	if len(list) == 2 {
		return out, nil
	}
	out.Digest, err = readDigest(org, list[2:])
	if err != nil {
		return event.Opened{}, fmt.Errorf("open a digest of %s: %w", org, err)
	}
	out.Digest.LeaseEnd = milliTime(end)
	return out, nil
}

func readDigest(org string, answer []any) (*event.Digest, error) {
	texts := make([]string, len(answer))
	for i, v := range answer {
		text, ok := v.(string)
		if !ok {
			return nil, errAnswer
		}
		texts[i] = text
	}
	var failed error
	num := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil && failed == nil {
			failed = fmt.Errorf("a number is damaged: %w", err)
		}
		return n
	}
	d := &event.Digest{
		Org: org, ID: texts[0], MadeAt: milliTime(num(texts[1])), FirstAttemptAt: milliTime(num(texts[2])),
		Attempt: int(num(texts[3])) + 1, Crashes: int(num(texts[4])), Ended: event.Result(texts[5]),
	}
	if failed != nil {
		return nil, failed
	}
	for _, entry := range texts[6:] {
		field, text, _ := strings.Cut(entry, " ")
		id, err := fieldUser(field)
		if err != nil {
			return nil, fmt.Errorf("user %q is damaged: %w", field, err)
		}
		st, err := parseSlot(text)
		if err != nil {
			return nil, err
		}
		item := event.DigestItem{ORCID: id, Types: st.types, LatestAt: microTime(st.latest)}
		if item.Has(event.Created) {
			item.CreatedAt = microTime(st.created)
		}
		d.Items = append(d.Items, item)
	}
	return d, nil
}

// finishDigestBody: KEYS as openDigestBody has them, then the attempt log and the tally; ARGV
// mark, now, member of the ready index, id, result, try again at (ms), first
// attempt (ms), status, reason, when what is left of the slots comes due (ms),
// most dead letters, most attempts in the log, oldest (ms), attempt for the log
// (or empty), how many attempts delivered and how many failed, then users of whom nobody is told any more. Returns when next
// ready or -1, and how many slots are still to be closed.
const finishDigestBody = `
local c = channel(4, ARGV[3])
local D, U, result = KEYS[9], KEYS[10], ARGV[5]
local v = redis.call('HMGET', D, 'id', 'ended', 'attempts', 'status', 'reason')
if v[1] ~= ARGV[4] then return {settle(c), 0} end
local function hold(till, why)
  redis.call('HSET', c.control, 'digest', till .. ';' .. F(now) .. ';' .. why)
  c.hold = math.max(c.hold, tonumber(till))
end
if not v[2] then
  if ARGV[14] ~= '' then remember(KEYS[11], {ARGV[14]}, tonumber(ARGV[12]), tonumber(ARGV[13])) end
  tally(KEYS[12], tonumber(ARGV[15]), tonumber(ARGV[16]))
  redis.call('HDEL', D, 'flying')
  if result == 'retry' or result == 'released' then
    if result == 'retry' then
      redis.call('HINCRBY', D, 'attempts', 1)
      redis.call('HSETNX', D, 'began', ARGV[7])
      redis.call('HDEL', D, 'crashes')
    end
    redis.call('HDEL', c.control, 'digest')
    c = channel(4, ARGV[3])
    hold(ARGV[6], 'the digest is tried again: ' .. ARGV[9])
    local next = settle(c)
    book()
    return {next, 0}
  end
  redis.call('HSET', D, 'ended', result, 'status', ARGV[8], 'reason', ARGV[9])
  v[2], v[4], v[5] = result, ARGV[8], ARGV[9]
end
local gone = {}
for i = 17, #ARGV do gone[ARGV[i]] = true end
local attempts = (tonumber(v[3]) or 0) + 1

-- late is deliveredLate of finish: the slot died, and was told all the same.
local function late(field, t, gen)
  local raw = redis.call('HGET', c.dead, field)
  local d = raw and parseDead(raw)
  if not d or d.types[t] ~= gen then return end
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
end

-- left keeps a slot that has other news, or is under way by itself.
local function left(field, s)
  put(c, field, s)
  if not s.token then redis.call('ZADD', c.due, ARGV[10], field) end
end

local function close(field, f)
  local raw = redis.call('HGET', c.slots, field)
  if not raw then
    if v[2] == 'delivered' then for t, g in pairs(f.types) do late(field, t, g) end end
    return
  end
  local s, same = parse(raw), true
  for t, g in pairs(s.types) do if f.types[t] ~= g then same = false end end
  if gone[field] then
    if same and not s.token then
      count('cancelled', 1)
      drop(c, field, s)
    else
      left(field, s)
    end
    return
  end
  if v[2] == 'delivered' then
    for t, g in pairs(f.types) do
      if s.token and s.ctype == t then
        if s.types[t] == g then s.told = true end -- under way by itself, since the mode was changed
      elseif s.types[t] then
        -- With news of this type since, what is told now was before it.
        if s.types[t] ~= g and not s.token and s.first <= f.latest then s.first = s.latest end
        if told(c, field, s, t, g) then return end
      end
    end
    left(field, s)
  elseif not s.token then
    local d = {types = {}, latest = s.latest, first = s.first, top = s.top, created = s.created}
    for t, g in pairs(f.types) do
      if s.types[t] == g then d.types[t], s.types[t] = g, nil end
    end
    if not empty(d.types) then
      bury(c, field, d, attempts, v[4], v[5], tonumber(ARGV[11]))
      if empty(s.types) then
        drop(c, field, s)
        return
      end
      count('opened', 1)
      count('requeued', 1)
    end
    fresh(s)
    left(field, s)
  end
end

local list = redis.call('LRANGE', U, 0, 999)
for i = 1, #list do
  local field, frozen = string.match(list[i], '^(%d+) (.*)$')
  if field then close(field, parse(frozen)) end
end
redis.call('LTRIM', U, #list, -1)
local more = redis.call('LLEN', U)
if more == 0 then
  redis.call('DEL', D)
  redis.call('HDEL', c.control, 'digest')
  local flight = c.flight
  c = channel(4, ARGV[3])
  c.flight = flight
end
local next = settle(c)
book()
return {next, more}
`

// FinishDigest writes what became of an opened digest: Delivered and Dead close
// its slots, Retry and Released hold the channel until o.RetryAt and keep it as
// it is. Of gone nobody is told any more: their slots are cancelled when the
// digest is delivered. What came for its users meanwhile is due at due. It may
// be called twice. The digest stays open until everything is closed.
func (s *Store) FinishDigest(ctx context.Context, d event.Digest, o event.Outcome, gone []orcid.ID, due time.Time) (time.Time, error) {
	switch o.Result {
	case event.Delivered, event.Retry, event.Dead, event.Released:
	default:
		return time.Time{}, fmt.Errorf("finish a digest of %s: unknown result %q", d.Org, o.Result)
	}
	line := attemptLine(o)
	good, poor := tallied(o)
	for {
		c, err := s.digestCall(s.scripts.finishDigest, d.Org)
		if err != nil {
			return time.Time{}, err
		}
		now := s.Now()
		c.keys = append(c.keys, s.keys.attempts(orgPartition(d.Org), d.Org, event.Email), s.keys.tally(orgPartition(d.Org), d.Org, event.Email))
		c.args = append(c.args, d.ID, string(o.Result), dueMillis(o.RetryAt, now), dueMillis(o.Attempt.Start, now),
			statusText(o.Attempt.Status), digestReason(o), dueMillis(due, now), s.deadLetters, s.attemptLog,
			now.Add(-attemptAge).UnixMilli(), line, good, poor)
		for _, id := range gone {
			c.args = append(c.args, slotField(id))
		}
		if err := s.one(ctx, "finish a digest", d.Org, c); err != nil {
			return time.Time{}, err
		}
		r, err := c.ints(2)
		if err != nil {
			return time.Time{}, err
		}
		if r[1] == 0 {
			return milliTime(r[0]), nil
		}
	}
}

// digestReason is what people see of a digest that waits or died.
func digestReason(o event.Outcome) string {
	if o.Result == event.Released && o.Attempt.Error == "" {
		return "the last try was given up"
	}
	return deathReason(o.Attempt)
}

// dropDigestBody: KEYS as openDigestBody has them; ARGV mark, now, member of the
// ready index. Returns 1.
const dropDigestBody = `
local c = channel(4, ARGV[3])
if c.enabled then return 0 end
redis.call('DEL', KEYS[9], KEYS[10])
redis.call('HDEL', c.control, 'digest', 'rate')
settle(channel(4, ARGV[3]))
return 1
`

// DropDigest forgets an open digest of an organisation whose e-mail channel is
// disabled: its slots are cancelled by CancelSlots. On an enabled channel it
// does nothing.
func (s *Store) DropDigest(ctx context.Context, org string) error {
	c, err := s.digestCall(s.scripts.dropDigest, org)
	if err != nil {
		return err
	}
	return s.one(ctx, "drop the digest", org, c)
}

func (s *Store) digestCall(sc *script, org string) (*call, error) {
	c, err := s.channelCall(sc, org, event.Email)
	if err != nil {
		return nil, err
	}
	p := orgPartition(org)
	c.keys = append(c.keys, s.keys.digest(p, org), s.keys.digestUsers(p, org))
	return c, nil
}

// retimeBody: KEYS mark, ready, ledger, the channel's five; ARGV mark, now,
// member of the ready index, cursor, how many, due (ms), and 1 when slots may
// only come due earlier. Returns when next ready or -1, and the next cursor.
const retimeBody = `
local c = channel(4, ARGV[3])
local page = redis.call('HSCAN', c.slots, ARGV[4], 'COUNT', ARGV[5])
local list = page[2]
for i = 1, #list, 2 do
  local field, s = list[i], parse(list[i + 1])
  if not s.token then
    local due = tonumber(ARGV[6])
    if s.attempts > 0 then
      fresh(s) -- its retries are over: it waits like any other
      put(c, field, s)
    end
    if ARGV[7] == '1' then due = math.min(due, tonumber(redis.call('ZSCORE', c.due, field) or due)) end
    redis.call('ZADD', c.due, F(due), field)
  end
end
return {settle(c), page[1]}
`

// Retime makes the waiting slots of an organisation's e-mail channel due at this
// time, or with earlier only those that would be due later. What is under way is
// left alone. It may be repeated.
func (s *Store) Retime(ctx context.Context, org string, due time.Time, earlier bool) (next time.Time, err error) {
	flag := 0
	if earlier {
		flag = 1
	}
	cursor := "0"
	for {
		c, err := s.channelCall(s.scripts.retime, org, event.Email)
		if err != nil {
			return time.Time{}, err
		}
		c.args = append(c.args, cursor, maxBatch, asMillis(due), flag)
		if err := s.one(ctx, "set when mails are due", org, c); err != nil {
			return time.Time{}, err
		}
		list, err := c.list()
		if err != nil {
			return time.Time{}, fmt.Errorf("set when mails of %s are due: %w", org, err)
		}
		if len(list) != 2 {
			return time.Time{}, fmt.Errorf("set when mails of %s are due: %w: %d parts", org, errAnswer, len(list))
		}
		ready, ok1 := list[0].(int64)
		next, ok2 := list[1].(string)
		if !ok1 || !ok2 || next == "" {
			return time.Time{}, fmt.Errorf("set when mails of %s are due: %w: %T and %T", org, errAnswer, list[0], list[1])
		}
		if cursor = next; cursor == "0" {
			return milliTime(ready), nil
		}
	}
}

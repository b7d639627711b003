package store

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"dispatchd/internal/event"
)

// finishBody: KEYS mark, ready, ledger, then six a finish (the channel's five
// and the attempt log); ARGV mark, now, most dead letters, most attempts in the
// log, oldest attempt in the log (ms), then per finish: member of the ready
// index, field, type, generation, token, result, retry at (ms), first attempt
// (ms), status, reason, attempt for the log (or empty). Returns two numbers per
// finish: 1 when stale, and when next ready or -1.
const finishBody = attemptLua + `
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

-- A channel is read once, however many of its deliveries end in this run, and
-- settled when all are written.
local out, channels, of = {}, {}, {}
for i = 6, #ARGV, 11 do
  local k = 4 + (i - 6) / 11 * 6
  local c = channels[ARGV[i]]
  if not c then
    c = channel(k, ARGV[i])
    channels[ARGV[i]] = c
  end
  local field, t, gen, token, result = ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4], ARGV[i + 5]
  local retry, began = tonumber(ARGV[i + 6]), tonumber(ARGV[i + 7])
  if ARGV[i + 10] ~= '' then remember(KEYS[k + 5], ARGV[i + 10], tonumber(ARGV[4]), tonumber(ARGV[5])) end
  local raw, stale = redis.call('HGET', c.slots, field), false
  local plain = result == 'delivered' and raw == aloft(ARGV[i + 3] .. ';' .. t, t, token)
  local s = raw and not plain and parse(raw)
  if plain then
    redis.call('HDEL', c.slots, field)
    redis.call('ZREM', c.due, field)
    c.flight = c.flight - 1
    count('delivered', 1)
    count('pending', -1)
  elseif s and s.token == token then
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
      bury(c, field, d, s.attempts + 1, ARGV[i + 8], ARGV[i + 9], tonumber(ARGV[3]))
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
  out[#out + 1] = stale and 1 or 0
  out[#out + 1] = 0
  of[#out] = c
end
for _, c in pairs(channels) do c.next = settle(c) end
for i, c in pairs(of) do out[i] = c.next end
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
	lines := make([]string, len(batch))
	for i, q := range batch {
		lines[i], errs[i] = attemptLine(q.o)
	}
	calls, members := byPartition(batch, func(q finishQuery) string { return q.d.Org }, func(p int) *call {
		c := s.slotCall(s.scripts.finish, p)
		c.args = []any{now.UnixMilli(), s.deadLetters, s.attemptLog, now.Add(-attemptAge).UnixMilli()}
		return c
	}, func(c *call, p int, q finishQuery) {
		key := event.ChannelKey{Org: q.d.Org, Channel: q.d.Channel}
		c.keys = append(append(c.keys, s.channelKeys(p, key)...), s.keys.attempts(p, key.Org, key.Channel))
		c.args = append(c.args, readyMember(key), slotField(q.d.ORCID), typeCode(q.d.Type), q.d.Generation, q.d.Token,
			string(q.o.Result), dueMillis(q.o.RetryAt, now), dueMillis(q.o.Attempt.Start, now))
		c.args = append(c.args, statusText(q.o.Attempt.Status), deathReason(q.o.Attempt), "")
	})
	for i := range calls {
		for j, at := range members[i] {
			calls[i].args[4+11*j+10] = lines[at]
		}
	}
	_ = s.do(ctx, calls...) // each call carries its own error
	for i, c := range calls {
		list, err := c.ints(2 * len(members[i]))
		for j, at := range members[i] {
			if err != nil {
				errs[at] = err
				continue
			}
			out[at] = event.Finished{Stale: list[2*j] == 1, Next: milliTime(list[2*j+1])}
		}
	}
	return out, errs
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

package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/secret"
)

// claimLua claims a slot that has more to say than one type. It returns its
// text, or nothing when nothing is left to claim.
const claimLua = `
local function take(c, field, s, token, cap)
  local gone = false
  if s.told then
    gone = told(c, field, s, s.ctype, s.cgen)
  elseif s.token then -- its lease ended and nobody finished it
    s.crashes = s.crashes + 1
    if s.again then s.attempts, s.began = 0, 0 end
  end
  land(c, s)
  if gone then return nil end
  if s.crashes >= 5 then
    bury(c, field, s, s.attempts, '', 'crashed 5 times', cap)
    drop(c, field, s)
    return nil
  end
  for k = 1, #ORDER do
    if s.types[ORDER[k]] then s.ctype = ORDER[k] break end
  end
  s.token, s.cgen = token, s.types[s.ctype]
  return text(s)
end
`

// claimBody: KEYS mark, ready, ledger, then five a claim; ARGV mark, now, token,
// most dead letters, then per claim: member of the ready index, how many, lease
// (ms). Returns per claim a list: when next ready or -1, end of the hold or 0,
// then field and slot of each one claimed; or the error of that claim, which is
// not the others'.
const claimBody = `
local made, out = 0, {}
local function claim(i)
  local c = channel(4 + (i - 5) / 3 * 5, ARGV[i])
  local room, lease = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local found = {0, c.hold > now and c.hold or 0}
  local seen, limit, till = 0, room + 100, now + lease
  -- next is when the first slot is due then; nil: not known.
  local next
  while c.enabled and c.hold <= now and room > 0 and seen < limit do
    local most = math.min(room, 1000)
    local due = redis.call('ZRANGE', c.due, 0, most, 'WITHSCORES')
    local fields = {}
    next = math.huge
    for j = 1, #due, 2 do
      local score = tonumber(due[j + 1])
      if score > now or #fields == most then
        next = score
        break
      end
      fields[#fields + 1] = due[j]
    end
    if #fields == 0 then break end
    seen = seen + #fields
    local raws, slots, dues = redis.call('HMGET', c.slots, unpack(fields)), {}, {}
    for j = 1, #fields do
      local field, raw, flying = fields[j], raws[j], nil
      local only = raw and string.match(raw, '^%d+;([CUDPL])$')
      made = made + 1
      if only then
        flying = aloft(raw, only, ARGV[3] .. '.' .. made)
      elseif raw then
        flying = take(c, field, parse(raw), ARGV[3] .. '.' .. made, tonumber(ARGV[4]))
      else
        redis.call('ZREM', c.due, field)
      end
      if flying then
        room = room - 1
        c.flight = c.flight + 1
        slots[#slots + 1], slots[#slots + 2] = field, flying
        dues[#dues + 1], dues[#dues + 2] = F(till), field
        found[#found + 1], found[#found + 2] = field, flying
      end
    end
    if #slots > 0 then
      redis.call('HSET', c.slots, unpack(slots))
      redis.call('ZADD', c.due, unpack(dues))
      next = math.min(next, till)
    end
    if #fields < most then break end -- there is no more
  end
  if next and next < math.huge then
    flown(c)
    next = math.max(next, c.hold)
    redis.call('ZADD', READY, F(next), c.name)
    found[1] = next
  else
    found[1] = settle(c)
  end
  return found
end
redis.call('ZCARD', READY) -- every claim writes it at last, or its slots would fly for nobody
for i = 5, #ARGV, 3 do
  local ok, found = pcall(claim, i)
  out[#out + 1] = ok and found or failed(found)
end
book()
return out
`

type claimQuery struct {
	key   event.ChannelKey
	max   int
	lease time.Duration
}

// Claim takes up to max due slots of a channel under a lease that ends lease
// from now; it takes nothing while the channel is held or disabled. A slot whose
// lease ended unfinished is claimed again; the fifth time it becomes a dead
// letter. Concurrent calls are joined into one script run per partition. When
// ctx ends first the claim may still happen and then lies until its lease ends.
func (s *Store) Claim(ctx context.Context, org string, ch event.Channel, max int, lease time.Duration) (event.Claims, error) {
	if err := checkChannel(org, ch); err != nil {
		return event.Claims{}, fmt.Errorf("claim: %w", err)
	}
	if lease < time.Millisecond {
		return event.Claims{}, fmt.Errorf("claim of %s: a lease of %s is none", org, lease)
	}
	c, err := s.claims.Do(ctx, claimQuery{event.ChannelKey{Org: org, Channel: ch}, max, lease})
	if err != nil {
		return c, fmt.Errorf("claim of %s: %w", org, err)
	}
	return c, nil
}

func (s *Store) claimBatch(ctx context.Context, batch []claimQuery) ([]event.Claims, []error) {
	out, errs := make([]event.Claims, len(batch)), make([]error, len(batch))
	nowMS := s.Now().UnixMilli()
	calls, members := byPartition(batch, func(q claimQuery) string { return q.key.Org }, func(p int) *call {
		c := s.slotCall(s.scripts.claim, p)
		c.args = []any{nowMS, secret.NewKey(9).Reveal(), s.deadLetters}
		return c
	}, func(c *call, p int, q claimQuery) {
		c.keys = append(c.keys, s.channelKeys(p, q.key)...)
		c.args = append(c.args, readyMember(q.key), q.max, q.lease.Milliseconds())
	})
	lost := s.lost.of(batch, nowMS)
	back, losers := s.unclaimCalls(lost)
	_ = s.do(ctx, append(back, calls...)...) // each call carries its own error
	for i, c := range back {
		if c.err == nil {
			for _, at := range losers[i] {
				s.lost.forget(lost[at])
			}
		}
	}
	var seen refusals
	for i, c := range calls {
		lists, err := c.list()
		if err == nil && len(lists) != len(members[i]) {
			err = fmt.Errorf("claim: redis answered %d of %d", len(lists), len(members[i]))
		}
		for j, at := range members[i] {
			if maybeDone(err) {
				s.lost.add(lostClaim{batch[at].key, c.args[1].(string), nowMS + batch[at].lease.Milliseconds()})
			}
			if err != nil {
				errs[at] = err
				continue
			}
			if errs[at] = seen.of(ctx, s, c.script.name, batch[at].key, lists[j]); errs[at] == nil {
				out[at], errs[at] = readClaims(batch[at], lists[j], nowMS)
			}
		}
	}
	return out, errs
}

var errAnswer = errors.New("unexpected answer of redis")

func readClaims(q claimQuery, answer any, nowMS int64) (event.Claims, error) {
	var out event.Claims
	list, ok := answer.([]any)
	if !ok || len(list) < 2 || len(list)%2 != 0 {
		return out, fmt.Errorf("claim: %w", errAnswer)
	}
	next, ok1 := list[0].(int64)
	held, ok2 := list[1].(int64)
	if !ok1 || !ok2 {
		return out, fmt.Errorf("claim: %w", errAnswer)
	}
	out.Next, out.HeldUntil = milliTime(next), milliTime(held)
	for i := 2; i < len(list); i += 2 {
		field, ok1 := list[i].(string)
		text, ok2 := list[i+1].(string)
		if !ok1 || !ok2 {
			return out, fmt.Errorf("claim: %w", errAnswer)
		}
		id, err := fieldUser(field)
		if err != nil {
			return out, fmt.Errorf("claim: user %q is damaged: %w", field, err)
		}
		st, err := parseSlot(text)
		if err != nil {
			return out, fmt.Errorf("claim: %w", err)
		}
		d := event.Delivery{
			Org: q.key.Org, Channel: q.key.Channel, ORCID: id, Type: st.claimed, Generation: st.generation, Token: st.token,
			Attempt: st.attempts + 1, FirstAttemptAt: milliTime(st.firstAttempt), FirstAt: microTime(st.first),
			LatestAt: microTime(st.latest), LeaseEnd: milliTime(nowMS + q.lease.Milliseconds()),
		}
		if d.Type == event.Created {
			d.CreatedAt = microTime(st.created)
		}
		out.Deliveries = append(out.Deliveries, d)
	}
	return out, nil
}

// byPartition makes one call per partition of a batch and says which entries of
// the batch each one carries.
func byPartition[Q any](batch []Q, org func(Q) string, start func(p int) *call, add func(c *call, p int, q Q)) ([]*call, [][]int) {
	var at [Partitions]int
	var calls []*call
	var members [][]int
	for i, q := range batch {
		p := orgPartition(org(q))
		if at[p] == 0 {
			calls, members = append(calls, start(p)), append(members, nil)
			at[p] = len(calls)
		}
		n := at[p] - 1
		add(calls[n], p, q)
		members[n] = append(members[n], i)
	}
	return calls, members
}

package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
)

// enableBody: KEYS mark, ready, ledger, the channel's five; ARGV mark, now,
// member of the ready index, 1 or 0. Returns whether it was the other.
const enableBody = `
local on = redis.call('HGET', KEYS[8], 'enabled') == '1'
if on == (ARGV[4] == '1') then
  -- Where a hand took the ready index, what waits would stand still.
  if on and not redis.call('ZSCORE', READY, ARGV[3]) then settle(channel(4, ARGV[3])) end
  return 0
end
if on then
  redis.call('HDEL', KEYS[8], 'enabled')
else
  redis.call('HSET', KEYS[8], 'enabled', '1')
end
settle(channel(4, ARGV[3]))
return 1
`

// SetChannel notes in the organisation's own partition whether a channel is
// enabled: news for a channel that is not is ignored and counted, and nothing of
// it is claimed. It cancels nothing; CancelSlots does.
func (s *Store) SetChannel(ctx context.Context, org string, ch event.Channel, enabled bool) error {
	c, err := s.enableCall(event.ChannelKey{Org: org, Channel: ch}, enabled)
	if err != nil {
		return err
	}
	return s.one(ctx, "enable or disable the "+string(ch), org, c)
}

func (s *Store) enableCall(k event.ChannelKey, enabled bool) (*call, error) {
	c, err := s.channelCall(s.scripts.enable, k.Org, k.Channel)
	if err != nil {
		return nil, err
	}
	flag := 0
	if enabled {
		flag = 1
	}
	c.args = append(c.args, flag)
	return c, nil
}

// ChannelSwitch says whether a channel is to be enabled.
type ChannelSwitch struct {
	event.ChannelKey
	Enabled bool
}

// channelsAtOnce is how many channels one pipeline is about.
const channelsAtOnce = 512

// SetChannels is SetChannel of many, and returns which were the other way. With
// event.ErrIncomplete that holds but for those that could not be read.
func (s *Store) SetChannels(ctx context.Context, list []ChannelSwitch) (changed []ChannelSwitch, err error) {
	const doing = "enable or disable channels"
	var unread []error
	for some := range slices.Chunk(list, channelsAtOnce) {
		calls := make([]*call, len(some))
		for i, x := range some {
			if calls[i], err = s.enableCall(x.ChannelKey, x.Enabled); err != nil {
				return changed, err
			}
		}
		if err := s.doEach(ctx, calls...); err != nil {
			return changed, fmt.Errorf("%s: %w", doing, err)
		}
		for i, c := range calls {
			switch n, err := c.integer(); {
			case err != nil:
				unread = append(unread, err)
			case n == 1:
				changed = append(changed, some[i])
			}
		}
	}
	return changed, incomplete(doing, unread)
}

// channelCall prepares a call about one channel: KEYS ready, ledger, the
// channel's five; ARGV now, member of the ready index.
func (s *Store) channelCall(sc *script, org string, ch event.Channel) (*call, error) {
	if err := checkChannel(org, ch); err != nil {
		return nil, fmt.Errorf("%s: %w", sc.name, err)
	}
	k, p := event.ChannelKey{Org: org, Channel: ch}, orgPartition(org)
	c := s.slotCall(sc, p)
	c.keys = append(c.keys, s.channelKeys(p, k)...)
	c.args = append(c.args, readyMember(k))
	return c, nil
}

// holdBody: KEYS mark, ready, ledger, the channel's five; ARGV mark, now, member
// of the ready index, hold, until (ms, empty clears), reason, and optionally the
// breaker's state (empty clears). A hold that goes on keeps its beginning.
// Returns when the channel is next ready, or -1.
const holdBody = `
local control, hold = KEYS[8], ARGV[4]
if ARGV[5] == '' then
  redis.call('HDEL', control, hold)
else
  local since, old = ARGV[2], redis.call('HGET', control, hold)
  if old then
    local till, began = string.match(old, '^(%d+);(%d+);')
    if till and tonumber(till) > now then since = began end
  end
  redis.call('HSET', control, hold, ARGV[5] .. ';' .. since .. ';' .. ARGV[6])
end
if ARGV[7] == '' then
  redis.call('HDEL', control, 'state')
elseif ARGV[7] then
  redis.call('HSET', control, 'state', ARGV[7])
end
return settle(channel(4, ARGV[3]))
`

// SetHold holds a channel until the given time for one reason, or clears that
// hold only (zero until). It returns when the channel is next ready; zero when
// nothing waits.
func (s *Store) SetHold(ctx context.Context, org string, ch event.Channel, h event.Hold, until time.Time, reason string) (time.Time, error) {
	if !slices.Contains(event.Holds[:], h) {
		return time.Time{}, fmt.Errorf("hold %s: unknown hold %q", org, h)
	}
	return s.setHold(ctx, org, ch, h, until, reason)
}

// Breaker returns the state of a channel's breaker; zero is closed.
func (s *Store) Breaker(ctx context.Context, org string, ch event.Channel) (event.Breaker, error) {
	states, err := s.Channels(ctx, []event.ChannelKey{{Org: org, Channel: ch}})
	if err != nil {
		return event.Breaker{}, err
	}
	return states[0].Breaker, nil
}

// SetBreaker keeps the state of a channel's breaker and sets the hold that
// comes of it, or clears it (zero holdUntil).
func (s *Store) SetBreaker(ctx context.Context, org string, ch event.Channel, b event.Breaker, holdUntil time.Time) (time.Time, error) {
	var state []byte
	if b != (event.Breaker{}) {
		var err error
		if state, err = json.Marshal(b); err != nil {
			return time.Time{}, fmt.Errorf("write the breaker of %s: %w", org, err)
		}
	}
	return s.setHold(ctx, org, ch, event.HoldBreaker, holdUntil, fmt.Sprintf("%d failures in a row", b.Failures), state)
}

func (s *Store) setHold(ctx context.Context, org string, ch event.Channel, h event.Hold, until time.Time, reason string, state ...any) (time.Time, error) {
	c, err := s.channelCall(s.scripts.hold, org, ch)
	if err != nil {
		return time.Time{}, err
	}
	till := ""
	if !until.IsZero() {
		if until.After(event.Forever) {
			until = event.Forever
		}
		till = strconv.FormatInt(max(asMillis(until), 0), 10)
	}
	c.args = append(c.args, string(h), till, strings.ToValidUTF8(reason, "\uFFFD"))
	c.args = append(c.args, state...)
	if err := s.one(ctx, "hold", org, c); err != nil {
		return time.Time{}, err
	}
	next, err := c.integer()
	if err != nil {
		return time.Time{}, err
	}
	return milliTime(next), nil
}

// HoldInfo is one hold of a channel.
type HoldInfo struct {
	Until  time.Time // event.Forever: until a person ends it
	Reason string
	Since  time.Time // when it began; extending it does not change that
}

// ChannelState is what people and the organisation's actor see of a channel.
type ChannelState struct {
	Enabled                 bool
	Waiting, InFlight, Dead int
	// OldestFirst is when the first news of the most overdue slot was accepted;
	// zero when nothing waits.
	OldestFirst time.Time
	// Next is when the channel is next ready; zero when nothing waits or it is
	// disabled.
	Next    time.Time
	Holds   map[event.Hold]HoldInfo // those that have not ended yet
	Breaker event.Breaker
	Unread  bool // nothing is known: what Redis has of the channel is damaged
}

// inspectBody: KEYS mark, ready, then five a channel; ARGV mark, the members of
// the ready index. Returns per channel: slots, dead letters, score in the ready
// index, the most overdue slot, and the control hash; or the error of that one.
const inspectBody = `
local function inspect(i)
  local k = 3 + (i - 2) * 5
  local first, slot = redis.call('ZRANGE', KEYS[k], 0, 0)[1], false
  if first then slot = redis.call('HGET', KEYS[k + 1], first) end
  return {redis.call('ZCARD', KEYS[k]), redis.call('HLEN', KEYS[k + 2]), redis.call('ZSCORE', KEYS[2], ARGV[i]) or '',
    slot or '', redis.call('HGETALL', KEYS[k + 4])}
end
local out = {}
for i = 2, #ARGV do
  local ok, state = pcall(inspect, i)
  out[#out + 1] = ok and state or failed(state)
end
return out
`

// Channels tells the state of channels, in the order of keys. With
// event.ErrIncomplete that holds but for those that are Unread.
func (s *Store) Channels(ctx context.Context, keys []event.ChannelKey) ([]ChannelState, error) {
	const doing = "read channels"
	for _, k := range keys {
		if err := checkChannel(k.Org, k.Channel); err != nil {
			return nil, fmt.Errorf("%s: %w", doing, err)
		}
	}
	now := s.Now()
	calls, members := byPartition(keys, func(k event.ChannelKey) string { return k.Org }, func(p int) *call {
		return &call{script: s.scripts.inspect, mark: s.keys.mark(p), keys: []string{s.keys.ready(p)}}
	}, func(c *call, p int, k event.ChannelKey) {
		c.keys = append(c.keys, s.channelKeys(p, k)...)
		c.args = append(c.args, readyMember(k))
	})
	if err := s.doEach(ctx, calls...); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	out := make([]ChannelState, len(keys))
	var unread []error
	var seen refusals
	for i, c := range calls {
		list, err := c.list()
		if err == nil && len(list) != len(members[i]) {
			err = errAnswer
		}
		for j, at := range members[i] {
			k, err := keys[at], err
			if err == nil {
				err = seen.of(ctx, s, c.script.name, k, list[j])
			}
			if err == nil {
				out[at], err = readChannel(list[j], now)
			}
			if err != nil {
				out[at] = ChannelState{Unread: true}
				unread = append(unread, fmt.Errorf("%s of %s: %w", k.Channel, k.Org, err))
			}
		}
	}
	return out, incomplete(doing, unread)
}

func readChannel(answer any, now time.Time) (ChannelState, error) {
	var st ChannelState
	list, ok := answer.([]any)
	if !ok || len(list) != 5 {
		return st, errAnswer
	}
	slots, ok1 := list[0].(int64)
	dead, ok2 := list[1].(int64)
	ready, ok3 := list[2].(string)
	slot, ok4 := list[3].(string)
	control, ok5 := list[4].([]any)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || len(control)%2 != 0 {
		return st, errAnswer
	}
	st.Dead = int(dead)
	// The index may still have a channel whose last slot was delivered.
	if ready != "" && slots > 0 {
		ms, err := strconv.ParseFloat(ready, 64)
		if err != nil {
			return st, fmt.Errorf("%w: %w", errAnswer, err)
		}
		st.Next = milliTime(int64(ms))
	}
	if slot != "" {
		parsed, err := parseSlot(slot)
		if err != nil {
			return st, err
		}
		st.OldestFirst = microTime(parsed.first)
	}
	fields, err := texts(control)
	if err != nil {
		return st, err
	}
	for i := 0; i < len(fields); i += 2 {
		name, value := fields[i], fields[i+1]
		if err := st.setControl(name, value, now); err != nil {
			return st, fmt.Errorf("control field %s is damaged: %w", name, err)
		}
	}
	st.Waiting = int(slots) - st.InFlight
	return st, nil
}

var errNoNumber = errors.New("not until;since;reason")

func (st *ChannelState) setControl(name, value string, now time.Time) error {
	switch name {
	case "enabled":
		st.Enabled = value == "1"
		return nil
	case "flight":
		n, err := strconv.Atoi(value)
		st.InFlight = n
		return err
	case "state":
		return json.Unmarshal([]byte(value), &st.Breaker)
	}
	if !slices.Contains(event.Holds[:], event.Hold(name)) {
		return nil
	}
	parts := strings.SplitN(value, ";", 3)
	if len(parts) != 3 {
		return errNoNumber
	}
	until, err1 := strconv.ParseInt(parts[0], 10, 64)
	since, err2 := strconv.ParseInt(parts[1], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if until <= now.UnixMilli() {
		return nil // ended; it is overwritten when it is set again
	}
	if st.Holds == nil {
		st.Holds = make(map[event.Hold]HoldInfo)
	}
	st.Holds[event.Hold(name)] = HoldInfo{Until: milliTime(until), Reason: parts[2], Since: milliTime(since)}
	return nil
}

// readyBody: KEYS mark, ready; ARGV mark, now (ms), how many. Returns the time
// of the first that is not ready yet (or -1), then member and time of each that
// is.
const readyBody = `
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
if not first then return {'-1'} end
if tonumber(first) > tonumber(ARGV[2]) then return {first} end
local later = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local out = {later[2] or '-1'}
local ready = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 1, #ready do out[i + 1] = ready[i] end
return out
`

// Ready lists up to limit channels that have something to claim, the longest
// ready first, and tells when the next one after now gets ready (zero: none).
// With event.ErrIncomplete that holds for the channels that could be read.
func (s *Store) Ready(ctx context.Context, now time.Time, limit int) ([]event.ChannelKey, time.Time, error) {
	const doing = "read the ready indexes"
	calls := make([]*call, Partitions)
	for p := range Partitions {
		calls[p] = &call{
			script: s.scripts.ready, mark: s.keys.mark(p), keys: []string{s.keys.ready(p)},
			args: []any{now.UnixMilli(), max(limit, 0)},
		}
	}
	if err := s.doEach(ctx, calls...); err != nil {
		return nil, time.Time{}, fmt.Errorf("%s: %w", doing, err)
	}
	var all []readyChannel
	var next time.Time
	var unread []error
	for _, c := range calls {
		found, later, err := readReady(c)
		all = append(all, found...)
		if !later.IsZero() && (next.IsZero() || later.Before(next)) {
			next = later
		}
		if err != nil {
			unread = append(unread, err)
		}
	}
	slices.SortStableFunc(all, func(a, b readyChannel) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	ready := make([]event.ChannelKey, min(len(all), max(limit, 0)))
	for i := range ready {
		ready[i] = all[i].key
	}
	return ready, next, incomplete(doing, unread)
}

// readyChannel is one member of a ready index.
type readyChannel struct {
	key event.ChannelKey
	at  float64 // ms
}

// readReady reads the answer of one partition as far as it can be read.
func readReady(c *call) (found []readyChannel, next time.Time, err error) {
	list, err := c.list()
	if err != nil {
		return nil, time.Time{}, err
	}
	parts, err := texts(list)
	if err == nil && len(parts)%2 != 1 {
		err = errAnswer
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%s: %w", c.script.name, err)
	}
	ms, err := strconv.ParseFloat(parts[0], 64)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%s: %w: %w", c.script.name, errAnswer, err)
	}
	var damaged []error
	for i := 1; i < len(parts); i += 2 {
		k, err1 := memberChannel(parts[i])
		at, err2 := strconv.ParseFloat(parts[i+1], 64)
		if err := errors.Join(err1, err2); err != nil {
			damaged = append(damaged, err)
			continue
		}
		found = append(found, readyChannel{k, at})
	}
	return found, milliTime(int64(ms)), errors.Join(damaged...)
}

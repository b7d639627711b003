package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"dispatchd/internal/event"
)

// endLeasesBody: KEYS mark, ready, ledger, the channel's five, its digest; ARGV
// mark, now, member of the ready index, most slots looked at, how many to skip,
// how many in flight were seen before. Returns how many leases it ended, and the
// two numbers to go on with; the first of these is -1 when there is no more.
const endLeasesBody = `
local most, skip, seen, ended = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), 0
local v = redis.call('HMGET', KEYS[8], 'flight', 'digest')
local flight, till = tonumber(v[1]) or 0, v[2] and tonumber(string.match(v[2], '^%d+'))
if till and till > now and skip == 0 then
  local d = redis.call('HMGET', KEYS[9], 'flying', 'ended', 'crashes')
  if d[2] or d[1] and (tonumber(d[3]) or 0) == 0 then
    redis.call('HSET', KEYS[8], 'digest', F(now) .. ';' .. F(now) .. ';a digest was being sent')
    ended = 1
  end
end
local c, next = channel(4, ARGV[3]), -1
if seen < flight then
  local fields = redis.call('ZRANGEBYSCORE', c.due, '(' .. F(now), '+inf', 'LIMIT', skip, most)
  local raws, dues = #fields > 0 and redis.call('HMGET', c.slots, unpack(fields)), {}
  for j = 1, #fields do
    local s = raws[j] and not string.match(raws[j], '^%d+;[CUDPL]$') and parse(raws[j])
    if s and s.token then
      seen = seen + 1
      if s.crashes == 0 then dues[#dues + 1], dues[#dues + 2] = F(now), fields[j] end
    end
  end
  if #dues > 0 then redis.call('ZADD', c.due, unpack(dues)) end
  ended = ended + #dues / 2
  if #fields == most and seen < flight then next = skip + most - #dues / 2 end
end
settle(c)
return {ended, next, seen}
`

const (
	// leasesRead is how many slots of a channel one script run looks at: others'
	// calls wait meanwhile.
	leasesRead = 1000
	// longestLease is above any timeout and what a lease lasts beyond it.
	longestLease = 24 * time.Hour
)

// EndLeases ends the leases of what a process before this one had in flight, so
// that it is due at once: it was told or not when that process died, and nobody
// waits for the answer any more. Call it after Attach, before the first claim.
// What was in flight at a crash before waits for the end of its lease: a daemon
// that dies again and again must not have done so five times within seconds for
// the same delivery, which would make it a dead letter. It returns how many
// leases it ended; with event.ErrIncomplete, of the channels that could be read:
// the leases of the others end by themselves.
func (s *Store) EndLeases(ctx context.Context) (int, error) {
	const doing = "end leases"
	// A channel that is ready later still is held for longer than any lease.
	keys, _, err := s.Ready(ctx, s.Now().Add(longestLease), math.MaxInt32)
	if err != nil && !errors.Is(err, event.ErrIncomplete) {
		return 0, fmt.Errorf("%s: %w", doing, err)
	}
	var unread []error
	if err != nil {
		unread = append(unread, err)
	}
	calls := make([]*call, len(keys))
	for i, k := range keys {
		if calls[i], err = s.channelCall(s.scripts.endLeases, k.Org, k.Channel); err != nil {
			return 0, err
		}
		calls[i].keys = append(calls[i].keys, s.keys.digest(orgPartition(k.Org), k.Org))
		calls[i].args = append(calls[i].args, leasesRead, int64(0), int64(0))
	}
	total := 0
	for len(calls) > 0 {
		some := calls[:min(len(calls), channelsAtOnce)]
		calls = calls[len(some):]
		if err := s.doEach(ctx, some...); err != nil {
			return total, fmt.Errorf("%s: %w", doing, err)
		}
		for _, c := range some {
			answer, err := c.ints(3)
			if err != nil {
				unread = append(unread, err)
				continue
			}
			total += int(answer[0])
			if answer[1] >= 0 {
				last := len(c.args) - 2
				c.args[last], c.args[last+1] = answer[1], answer[2]
				calls = append(calls, c)
			}
		}
	}
	return total, incomplete(doing, unread)
}

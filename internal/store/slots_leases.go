package store

import (
	"context"
	"fmt"
	"math"
	"time"

	"dispatchd/internal/event"
)

// endLeasesBody: KEYS mark, ready, ledger, then six a channel (its five and the
// digest); ARGV mark, now, most slots looked at, then per channel: member of the
// ready index, how many slots to skip, how many in flight were seen before.
// Returns per channel how many leases it ended, and the two numbers to go on
// with; the first of these is -1 when there is no more.
const endLeasesBody = `
local most, out = tonumber(ARGV[3]), {}
for i = 4, #ARGV, 3 do
  local k = 4 + (i - 4) / 3 * 6
  local skip, seen, ended = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), 0
  local v = redis.call('HMGET', KEYS[k + 4], 'flight', 'digest')
  local flight, till = tonumber(v[1]) or 0, v[2] and tonumber(string.match(v[2], '^%d+'))
  if till and till > now and skip == 0 then
    local d = redis.call('HMGET', KEYS[k + 5], 'flying', 'ended', 'crashes')
    if d[2] or d[1] and (tonumber(d[3]) or 0) == 0 then
      redis.call('HSET', KEYS[k + 4], 'digest', F(now) .. ';' .. F(now) .. ';a digest was being sent')
      ended = 1
    end
  end
  local c, next = channel(k, ARGV[i]), -1
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
  out[#out + 1] = ended
  out[#out + 1] = next
  out[#out + 1] = seen
end
return out
`

const (
	// leasesRead is how many slots of a channel one script run looks at, and
	// leasesAtOnce of how many channels: others' calls wait meanwhile.
	leasesRead   = 1000
	leasesAtOnce = 512
	// longestLease is above any timeout and what a lease lasts beyond it.
	longestLease = 24 * time.Hour
)

// EndLeases ends the leases of what a process before this one had in flight, so
// that it is due at once: it was told or not when that process died, and nobody
// waits for the answer any more. Call it after Attach, before the first claim.
// What was in flight at a crash before waits for the end of its lease: a daemon
// that dies again and again must not have done so five times within seconds for
// the same delivery, which would make it a dead letter. It returns how many
// leases it ended; it may be called again after an error.
func (s *Store) EndLeases(ctx context.Context) (int, error) {
	// A channel that is ready later still is held for longer than any lease.
	keys, _, err := s.Ready(ctx, s.Now().Add(longestLease), math.MaxInt32)
	if err != nil {
		return 0, fmt.Errorf("end leases: %w", err)
	}
	type rest struct {
		key        event.ChannelKey
		skip, seen int64
	}
	list := make([]rest, len(keys))
	for i, k := range keys {
		list[i].key = k
	}
	total := 0
	for len(list) > 0 {
		some := list[:min(len(list), leasesAtOnce)]
		list = list[len(some):]
		calls, members := byPartition(some, func(r rest) string { return r.key.Org }, func(p int) *call {
			c := s.slotCall(s.scripts.endLeases, p)
			c.args = append(c.args, leasesRead)
			return c
		}, func(c *call, p int, r rest) {
			c.keys = append(append(c.keys, s.channelKeys(p, r.key)...), s.keys.digest(p, r.key.Org))
			c.args = append(c.args, readyMember(r.key), r.skip, r.seen)
		})
		if err := s.do(ctx, calls...); err != nil {
			return total, fmt.Errorf("end leases: %w", err)
		}
		for i, c := range calls {
			answer, err := c.ints(3 * len(members[i]))
			if err != nil {
				return total, fmt.Errorf("end leases: %w", err)
			}
			for j, at := range members[i] {
				total += int(answer[3*j])
				if skip := answer[3*j+1]; skip >= 0 {
					list = append(list, rest{some[at].key, skip, answer[3*j+2]})
				}
			}
		}
	}
	return total, nil
}

package store

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// WaitingSeen is how many slots Waiting looks at, those that come due first.
const WaitingSeen = 1000

// WaitingSlot is one slot that is not due yet.
type WaitingSlot struct {
	ORCID    orcid.ID
	Due      time.Time
	Attempts int // that failed since the news came
}

// Waiting is what waits on a channel.
type Waiting struct {
	Due   int           // how many are due and wait for their turn
	Later []WaitingSlot // the first of those that are not due, at most WaitingSeen with those in flight
}

// waitingBody: KEYS mark, due, slots; ARGV mark, now (ms), how many. Returns how
// many are due, and of each of the next: user, due, slot.
const waitingBody = `
local out = {redis.call('ZCOUNT', KEYS[2], '-inf', ARGV[2])}
local later = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
if #later == 0 then return out end
local fields = {}
for i = 1, #later, 2 do fields[#fields + 1] = later[i] end
for i, slot in ipairs(redis.call('HMGET', KEYS[3], unpack(fields))) do
  out[#out + 1] = later[2 * i - 1]
  out[#out + 1] = later[2 * i]
  out[#out + 1] = slot or ''
end
return out
`

// Waiting tells what waits on a channel and since how many attempts.
func (s *Store) Waiting(ctx context.Context, org string, ch event.Channel) (Waiting, error) {
	var w Waiting
	if err := checkChannel(org, ch); err != nil {
		return w, fmt.Errorf("read what waits: %w", err)
	}
	p := orgPartition(org)
	c := &call{
		script: s.scripts.waiting, mark: s.keys.mark(p), keys: []string{s.keys.due(p, org, ch), s.keys.slots(p, org, ch)},
		args: []any{s.Now().UnixMilli(), WaitingSeen},
	}
	if err := s.one(ctx, "read what waits", org, c); err != nil {
		return w, err
	}
	list, err := c.list()
	if err != nil {
		return w, err
	}
	due, ok := int64(0), len(list)%3 == 1
	if ok {
		due, ok = list[0].(int64)
	}
	if !ok {
		return w, fmt.Errorf("read what waits for %s: %w", org, errAnswer)
	}
	w.Due = int(due)
	for i := 1; i < len(list); i += 3 {
		slot, flying, err := readWaiting(list[i : i+3])
		if err != nil {
			return w, fmt.Errorf("read what waits for %s: %w", org, err)
		}
		if !flying {
			w.Later = append(w.Later, slot)
		}
	}
	return w, nil
}

func readWaiting(list []any) (slot WaitingSlot, flying bool, err error) {
	field, ok1 := list[0].(string)
	score, ok2 := list[1].(string)
	text, ok3 := list[2].(string)
	if !ok1 || !ok2 || !ok3 {
		return slot, false, errAnswer
	}
	if slot.ORCID, err = fieldUser(field); err != nil {
		return slot, false, fmt.Errorf("user %q is damaged: %w", field, err)
	}
	ms, err := strconv.ParseFloat(score, 64)
	if err != nil {
		return slot, false, fmt.Errorf("%w: %w", errAnswer, err)
	}
	st, err := parseSlot(text)
	if err != nil {
		return slot, false, err
	}
	slot.Due, slot.Attempts = milliTime(int64(ms)), st.attempts
	return slot, st.token != "", nil
}

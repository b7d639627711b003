package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// tracesPerCall is how many organisations are asked at once: each looks through
// its whole attempt log.
const tracesPerCall = 25

// SlotView is a slot as people see it.
type SlotView struct {
	Types    []event.Type `json:"types"`
	FirstAt  time.Time    `json:"first_at"`  // when the first ping was accepted
	LatestAt time.Time    `json:"latest_at"` // when the latest ping was accepted
	// Due is when it is tried; in flight, when its lease ends.
	Due      time.Time `json:"due"`
	Attempts int       `json:"attempts"`
	InFlight bool      `json:"in_flight,omitempty"`
}

// Trace is what one channel of an organisation has of one user.
type Trace struct {
	Org      string
	Channel  event.Channel
	Slot     *SlotView       // nil when nothing waits
	Dead     *DeadLetter     // nil when nothing was given up
	Attempts []event.Attempt // newest first
}

// Empty reports whether there is nothing.
func (t Trace) Empty() bool { return t.Slot == nil && t.Dead == nil && len(t.Attempts) == 0 }

// tracesBody: KEYS mark, then due, slots, dead, dead-at, attempts a channel;
// ARGV mark, field, iD. Returns per channel: due, slot, dead letter, died at,
// and the lines of the attempt log that name the iD.
const tracesBody = `
local out = {}
for k = 2, #KEYS, 5 do
  local lines = {}
  for _, line in ipairs(redis.call('LRANGE', KEYS[k + 4], 0, -1)) do
    if string.find(line, ARGV[3], 1, true) then lines[#lines + 1] = line end
  end
  out[#out + 1] = {redis.call('ZSCORE', KEYS[k], ARGV[2]) or '', redis.call('HGET', KEYS[k + 1], ARGV[2]) or '',
    redis.call('HGET', KEYS[k + 2], ARGV[2]) or '', redis.call('ZSCORE', KEYS[k + 3], ARGV[2]) or '', lines}
end
return out
`

// eraseTracesBody: KEYS mark, ready, ledger, then five a channel, then the
// attempt log of each; ARGV mark, now, field, iD, members of the ready index.
// Returns how many slots, dead letters and attempts are gone, and when the
// latest lease ends of what was in flight (ms, or 0).
const eraseTracesBody = `
local field, channels, slots, dead, attempts, lease = ARGV[3], #ARGV - 4, 0, 0, 0, 0
for i = 1, channels do
  local c = channel(4 + (i - 1) * 5, ARGV[4 + i])
  local raw = redis.call('HGET', c.slots, field)
  if raw then
    local s = parse(raw)
    if s.token then lease = math.max(lease, tonumber(redis.call('ZSCORE', c.due, field) or '0')) end
    drop(c, field, s)
    count('cancelled', 1)
    slots = slots + 1
  end
  if redis.call('HDEL', c.dead, field) == 1 then
    redis.call('ZREM', c.deadAt, field)
    count('purged', 1)
    count('dead', -1)
    dead = dead + 1
  end
  settle(c)
  local log = KEYS[3 + channels * 5 + i]
  for _, line in ipairs(redis.call('LRANGE', log, 0, -1)) do
    if string.find(line, ARGV[4], 1, true) then attempts = attempts + redis.call('LREM', log, 1, line) end
  end
end
book()
return {slots, dead, attempts, lease}
`

// Traces returns what the channels of the organisations have of a user; those
// that have nothing are left out.
func (s *Store) Traces(ctx context.Context, orgs []string, id orcid.ID) ([]Trace, error) {
	var out []Trace
	for part := range slices.Chunk(orgs, tracesPerCall) {
		calls := make([]*call, len(part))
		for i, o := range part {
			p := orgPartition(o)
			c := &call{script: s.scripts.traces, mark: s.keys.mark(p), args: []any{slotField(id), id.String()}}
			for _, ch := range event.Channels {
				c.keys = append(c.keys, s.keys.due(p, o, ch), s.keys.slots(p, o, ch), s.keys.dead(p, o, ch), s.keys.deadAt(p, o, ch), s.keys.attempts(p, o, ch))
			}
			calls[i] = c
		}
		if err := s.do(ctx, calls...); err != nil {
			return nil, fmt.Errorf("read what waits for %s: %w", id, err)
		}
		for i, c := range calls {
			list, err := c.list()
			if err == nil && len(list) != len(event.Channels) {
				err = errAnswer
			}
			for k, ch := range event.Channels {
				if err != nil {
					return nil, fmt.Errorf("read what %s has of %s: %w", part[i], id, err)
				}
				var t Trace
				if t, err = s.readTrace(id, list[k]); err == nil && !t.Empty() {
					t.Org, t.Channel = part[i], ch
					if t.Dead != nil {
						t.Dead.Channel = ch
					}
					out = append(out, t)
				}
			}
			if err != nil {
				return nil, fmt.Errorf("read what %s has of %s: %w", part[i], id, err)
			}
		}
	}
	return out, nil
}

func (s *Store) readTrace(id orcid.ID, answer any) (Trace, error) {
	var t Trace
	list, ok := answer.([]any)
	if !ok || len(list) != 5 {
		return t, errAnswer
	}
	parts, err := texts(list[:4])
	if err != nil {
		return t, err
	}
	if parts[1] != "" {
		st, err := parseSlot(parts[1])
		if err != nil {
			return t, err
		}
		due, err := strconv.ParseFloat(parts[0], 64)
		if err != nil {
			return t, fmt.Errorf("%w: due %q", errAnswer, parts[0])
		}
		t.Slot = &SlotView{
			Types: st.types, FirstAt: microTime(st.first), LatestAt: microTime(st.latest),
			Due: milliTime(int64(due)), Attempts: st.attempts, InFlight: st.token != "",
		}
	}
	if parts[2] != "" {
		d, err := parseDead(parts[3], slotField(id), parts[2])
		if err != nil {
			return t, err
		}
		t.Dead = &d
	}
	raw, ok := list[4].([]any)
	if !ok {
		return t, fmt.Errorf("%w: %T instead of lines", errAnswer, list[4])
	}
	lines, err := texts(raw)
	if err != nil {
		return t, err
	}
	oldest := s.Now().Add(-attemptAge)
	for _, text := range lines {
		_, text, _ = strings.Cut(text, " ")
		text, excerpt, _ := strings.Cut(text, "\n")
		var a event.Attempt
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			return t, fmt.Errorf("an attempt is damaged: %w", err)
		}
		if a.ORCID == id && !a.Start.Before(oldest) {
			a.Excerpt = excerpt
			t.Attempts = append(t.Attempts, a)
		}
	}
	return t, nil
}

// ErasedTraces counts what EraseTraces removed.
type ErasedTraces struct {
	Slots, DeadLetters, Attempts int
	// Lease is when an attempt that was on its way has ended for sure: what it
	// adds to the attempt log is to be erased after that. Zero: none was.
	Lease time.Time
}

// EraseTraces removes what the channels of the organisations have of a user:
// slots are cancelled, dead letters purged, and every line of the attempt logs
// that names the iD goes.
func (s *Store) EraseTraces(ctx context.Context, orgs []string, id orcid.ID) (ErasedTraces, error) {
	var sum ErasedTraces
	for part := range slices.Chunk(orgs, tracesPerCall) {
		calls := make([]*call, len(part))
		for i, o := range part {
			c, p := s.orgCall(s.scripts.eraseTraces, o, slotField(id), id.String())
			for _, ch := range event.Channels {
				c.keys = append(c.keys, s.keys.attempts(p, o, ch))
			}
			calls[i] = c
		}
		if err := s.do(ctx, calls...); err != nil {
			return sum, fmt.Errorf("erase what waits for a user: %w", err)
		}
		for i, c := range calls {
			n, err := c.ints(4)
			if err != nil {
				return sum, fmt.Errorf("erase what %s has of a user: %w", part[i], err)
			}
			sum.Slots += int(n[0])
			sum.DeadLetters += int(n[1])
			sum.Attempts += int(n[2])
			if end := milliTime(n[3]); end.After(sum.Lease) {
				sum.Lease = end
			}
		}
	}
	return sum, nil
}

// CancelUsers is CancelUser for many users of one organisation.
func (s *Store) CancelUsers(ctx context.Context, org string, ids []orcid.ID) error {
	if err := checkChannel(org, event.Webhook); err != nil {
		return fmt.Errorf("cancel users: %w", err)
	}
	for part := range slices.Chunk(ids, usersPerCall) {
		calls := make([]*call, len(part))
		for i, id := range part {
			calls[i], _ = s.orgCall(s.scripts.cancelUser, org, slotField(id))
		}
		if err := s.do(ctx, calls...); err != nil {
			return fmt.Errorf("cancel what waits for %d users of %s: %w", len(ids), org, err)
		}
	}
	return nil
}

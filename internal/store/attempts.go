package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
)

// attemptAge is how long an attempt stays in the log at most.
const attemptAge = 90 * 24 * time.Hour

// excerptsKept is how many of the newest attempts of a channel show their
// excerpt, so that an organisation has at most 100 over its channels.
const excerptsKept = 50

// attemptLua keeps the attempt log: a list, newest first, of "start (ms), space,
// JSON", and for failures and in shadow mode a line feed and the excerpt.
// Looking after it costs more than adding to it, so that is done at about every
// 64th: until then there may be some more attempts and excerpts than are shown.
const attemptLua = `
-- tally counts attempts of a channel by the hour in which they ended; an hour's
-- first makes those go that are too old.
local function tally(key, good, poor)
  local hour, first = math.floor(now / HOUR), false
  if good > 0 then first = redis.call('HINCRBY', key, hour .. '+', good) == good end
  if poor > 0 then first = redis.call('HINCRBY', key, hour .. '-', poor) == poor or first end
  if not first then return end
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if tonumber(string.match(field, '^%d+')) < hour - 23 then redis.call('HDEL', key, field) end
  end
  redis.call('PEXPIRE', key, 24 * HOUR)
end

local function remember(key, lines, most, oldest)
  local n = redis.call('LPUSH', key, unpack(lines))
  if n > most then
    if n - most < 64 then return end
    redis.call('LTRIM', key, 0, most - 1)
  elseif math.floor(n / 64) == math.floor((n - #lines) / 64) then
    return
  end
  for i, long in ipairs(redis.call('LRANGE', key, 50, 50 + 128 + #lines)) do
    local cut = string.find(long, '\n', 1, true)
    if cut then redis.call('LSET', key, 49 + i, string.sub(long, 1, cut - 1)) end
  end
  for _ = 1, 64 do
    local last = redis.call('LINDEX', key, -1)
    if not last or tonumber(string.match(last, '^%-?%d+')) >= oldest then break end
    redis.call('RPOP', key)
  end
end
`

// tallied says how an attempt counts in the picture of the last day: those that
// delivered and those that failed. Where nothing was sent, nothing counts.
func tallied(o event.Outcome) (good, poor int) {
	switch {
	case o.Attempt.Start.IsZero() || o.Attempt.Result == event.Shadow:
		return 0, 0
	case o.Result == event.Delivered:
		return 1, 0
	case o.Result == event.Retry || o.Result == event.Dead || answered(o):
		return 0, 1
	}
	return 0, 0
}

// answered says that the receiver was asked although the slot is given back: it
// answered 410.
func answered(o event.Outcome) bool { return o.Result == event.Released && o.Attempt.Status > 0 }

// attemptLine is an attempt as the log keeps it; empty for what was none.
func attemptLine(o event.Outcome) string {
	a := &o.Attempt
	if a.Start.IsZero() {
		return ""
	}
	switch o.Result {
	case event.Delivered, event.Retry, event.Dead:
	default:
		if !answered(o) {
			return ""
		}
	}
	result := a.Result
	if result == "" {
		result = o.Result
	}
	b := make([]byte, 0, 320)
	b = strconv.AppendInt(b, a.Start.UnixMilli(), 10)
	b = append(b, ' ')
	b = a.AppendJSON(b, result)
	if a.Excerpt != "" && (o.Result != event.Delivered || a.Result == event.Shadow) {
		b = append(append(b, '\n'), a.Excerpt...)
	}
	return string(b)
}

// attemptPageBody: KEYS mark, attempts; ARGV mark, how many. Returns the lines.
const attemptPageBody = `return redis.call('LRANGE', KEYS[2], 0, tonumber(ARGV[2]) - 1)`

// Attempts returns the latest n attempts of a channel, the newest first, none
// older than 90 days.
func (s *Store) Attempts(ctx context.Context, org string, ch event.Channel, n int) ([]event.Attempt, error) {
	if err := checkChannel(org, ch); err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	if n <= 0 {
		return nil, nil
	}
	n = min(n, s.attemptLog)
	p := orgPartition(org)
	c := &call{script: s.scripts.attemptPage, mark: s.keys.mark(p), keys: []string{s.keys.attempts(p, org, ch)}, args: []any{n}}
	if err := s.one(ctx, "read attempts", org, c); err != nil {
		return nil, err
	}
	list, err := c.list()
	if err != nil {
		return nil, err
	}
	oldest := s.Now().Add(-attemptAge)
	out := make([]event.Attempt, 0, len(list))
	lines, err := texts(list)
	if err != nil {
		return nil, fmt.Errorf("read attempts of %s: %w", org, err)
	}
	for i, line := range lines {
		_, line, _ = strings.Cut(line, " ")
		line, excerpt, _ := strings.Cut(line, "\n")
		var a event.Attempt
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			return out, fmt.Errorf("read attempts of %s: an entry is damaged: %w", org, err)
		}
		if a.Start.Before(oldest) {
			continue
		}
		if i < excerptsKept {
			a.Excerpt = excerpt
		}
		out = append(out, a)
	}
	return out, nil
}

// lately is how many of the newest attempts of a channel Lately looks at.
const lately = 20

// latelyBody: KEYS mark, attempt logs; ARGV mark, how many. Returns per log how
// many of the newest attempts there are and how many of them were delivered.
const latelyBody = `
local out = {}
for i = 2, #KEYS do
  local good, lines = 0, redis.call('LRANGE', KEYS[i], 0, tonumber(ARGV[2]) - 1)
  for _, line in ipairs(lines) do
    if string.find(line, '"result":"delivered"', 1, true) then good = good + 1 end
  end
  out[#out + 1] = #lines
  out[#out + 1] = good
end
return out
`

// Ratio is how the newest attempts of an organisation went.
type Ratio struct{ Attempts, Delivered int }

// Lately tells how the newest attempts of each organisation went, at most 20 a
// channel.
func (s *Store) Lately(ctx context.Context, orgs []string) ([]Ratio, error) {
	calls, members := byPartition(orgs, func(o string) string { return o }, func(p int) *call {
		return &call{script: s.scripts.lately, mark: s.keys.mark(p), args: []any{lately}}
	}, func(c *call, p int, o string) {
		for _, ch := range event.Channels {
			c.keys = append(c.keys, s.keys.attempts(p, o, ch))
		}
	})
	if err := s.do(ctx, calls...); err != nil {
		return nil, fmt.Errorf("look at the attempts of %d organisations: %w", len(orgs), err)
	}
	out := make([]Ratio, len(orgs))
	for i, c := range calls {
		n, err := c.ints(2 * len(event.Channels) * len(members[i]))
		if err != nil {
			return nil, fmt.Errorf("look at the attempts of %d organisations: %w", len(orgs), err)
		}
		for _, at := range members[i] {
			for range event.Channels {
				out[at].Attempts += int(n[0])
				out[at].Delivered += int(n[1])
				n = n[2:]
			}
		}
	}
	return out, nil
}

// dayBody: KEYS mark, tallies. Returns each one's fields and values.
const dayBody = `
local out = {}
for i = 2, #KEYS do out[#out + 1] = redis.call('HGETALL', KEYS[i]) end
return out
`

// DayHours is how many hours LastDay tells of.
const DayHours = 24

// Hour is how many attempts ended in an hour, over both channels.
type Hour struct {
	Delivered int `json:"delivered"`
	Failed    int `json:"failed"`
}

// LastDay tells how many attempts ended in each of the last 24 hours of the
// clock, the oldest first; the last one is the hour that now runs.
func (s *Store) LastDay(ctx context.Context, org string) ([DayHours]Hour, error) {
	var day [DayHours]Hour
	if err := checkChannel(org, event.Webhook); err != nil {
		return day, fmt.Errorf("read the last day: %w", err)
	}
	p := orgPartition(org)
	c := &call{script: s.scripts.day, mark: s.keys.mark(p)}
	for _, ch := range event.Channels {
		c.keys = append(c.keys, s.keys.tally(p, org, ch))
	}
	if err := s.one(ctx, "read the last day", org, c); err != nil {
		return day, err
	}
	list, err := c.list()
	if err != nil {
		return day, err
	}
	last := s.Now().UnixMilli() / time.Hour.Milliseconds()
	for _, v := range list {
		raw, ok := v.([]any)
		if !ok || len(raw)%2 != 0 {
			return day, fmt.Errorf("read the last day of %s: %w: %T", org, errAnswer, v)
		}
		pairs, err := texts(raw)
		if err != nil {
			return day, fmt.Errorf("read the last day of %s: %w", org, err)
		}
		for i := 0; i < len(pairs); i += 2 {
			field, value := pairs[i], pairs[i+1]
			hour, kind, err := tallyField(field)
			if err != nil {
				return day, fmt.Errorf("read the last day of %s: %w", org, err)
			}
			n, err := strconv.Atoi(value)
			if err != nil {
				return day, fmt.Errorf("read the last day of %s: %w", org, err)
			}
			at := DayHours - 1 - (last - hour)
			switch {
			case at < 0 || at >= DayHours: // left over, or the clock went back
			case kind == '+':
				day[at].Delivered += n
			default:
				day[at].Failed += n
			}
		}
	}
	return day, nil
}

// tallyField reads a field of a tally: the hour since 1970, then + or -.
func tallyField(field string) (hour int64, kind byte, err error) {
	if n := len(field) - 1; n > 0 && (field[n] == '+' || field[n] == '-') {
		hour, err = strconv.ParseInt(field[:n], 10, 64)
		return hour, field[n], err
	}
	return 0, 0, fmt.Errorf("the field %q of a tally is damaged", field)
}

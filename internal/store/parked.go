package store

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/orcid"
)

// maxParked bounds what a lane sets aside: more than that is no accident of one
// record, and the lane stops instead.
const maxParked = 1000

// maxParkedLine bounds what is kept of a line that cannot be read.
const maxParkedLine = 200

// Parked is a ping that waits beside the intake log, because the record of its
// researcher cannot be read, or a line of the log that cannot be read itself.
type Parked struct {
	Lane int
	Item Item      // when Line is empty
	Line string    // what could not be read
	At   time.Time // when the news came; of a line, when its entry was written

	field, value string
}

// parkBody: KEYS mark, parked; ARGV mark, how many at most, then field and time.
// The later time of a field stays. Returns how many there are, or -1 when they
// do not fit and nothing was done.
const parkBody = `
local new = 0
for i = 3, #ARGV, 2 do new = new + 1 - redis.call('HEXISTS', KEYS[2], ARGV[i]) end
if redis.call('HLEN', KEYS[2]) + new > tonumber(ARGV[2]) then return -1 end
for i = 3, #ARGV, 2 do
  local old = redis.call('HGET', KEYS[2], ARGV[i])
  if not old or tonumber(old) < tonumber(ARGV[i + 1]) then redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
end
return redis.call('HLEN', KEYS[2])
`

// unparkBody: KEYS mark, parked; ARGV mark, then field and time. Removes each
// that still has that time; returns how many.
const unparkBody = `
local n = 0
for i = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[i + 1] then n = n + redis.call('HDEL', KEYS[2], ARGV[i]) end
end
return n
`

// parkedField is an item in the table of a lane.
func parkedField(it Item) string {
	return string(rune(it.Kind)) + " " + slotField(it.ORCID) + " " + it.Subject
}

// Park sets items and unreadable lines of one lane aside before their entries
// are removed. It may be repeated. It fails when there are too many: then the
// lane has to wait for a person.
func (s *Store) Park(ctx context.Context, lane int, items []Item, lines []string, at time.Time) error {
	if len(items)+len(lines) == 0 {
		return nil
	}
	c := &call{script: s.scripts.park, mark: s.keys.laneMark(lane), keys: []string{s.keys.parked(lane)}, args: []any{maxParked}}
	for _, it := range items {
		c.args = append(c.args, parkedField(it), it.At.UnixMicro())
	}
	for _, line := range lines {
		c.args = append(c.args, "! "+line, at.UnixMicro())
	}
	if err := s.do(ctx, c); err != nil {
		return fmt.Errorf("set pings aside: %w", err)
	}
	n, err := c.integer()
	if err == nil && n < 0 {
		err = fmt.Errorf("more than %d would wait: %w", maxParked, ErrDamaged)
	}
	if err != nil {
		return fmt.Errorf("set pings aside: %w", err)
	}
	return nil
}

// Parked lists what was set aside.
func (s *Store) Parked(ctx context.Context) ([]Parked, error) {
	var out []Parked
	for lane := range Lanes {
		list, err := s.ParkedIn(ctx, lane)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

// ParkedIn lists what was set aside of one lane.
func (s *Store) ParkedIn(ctx context.Context, lane int) ([]Parked, error) {
	c := &call{script: s.scripts.parked, mark: s.keys.laneMark(lane), keys: []string{s.keys.parked(lane)}}
	if err := s.do(ctx, c); err != nil {
		return nil, fmt.Errorf("list what was set aside: %w", err)
	}
	pairs, err := stringList(c, c.res)
	if err != nil {
		return nil, fmt.Errorf("list what was set aside: %w", err)
	}
	var out []Parked
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, parseParked(lane, pairs[i], pairs[i+1]))
	}
	return out, nil
}

// parseParked reads one field; what it cannot read is a line.
func parseParked(lane int, field, value string) Parked {
	p := Parked{Lane: lane, field: field, value: value}
	us, err := strconv.ParseInt(value, 10, 64)
	if err == nil {
		p.At = microTime(us)
	}
	f := strings.SplitN(field, " ", 3)
	if len(f) == 3 && len(f[0]) == 1 && f[0] != "!" {
		if id, err := fieldUser(f[1]); err == nil {
			p.Item = Item{Kind: Kind(f[0][0]), ORCID: id, Subject: f[2], At: p.At}
			return p
		}
	}
	p.Line = strings.TrimPrefix(field, "! ")
	return p
}

// Unpark forgets what was set aside, except what was set aside anew meanwhile.
func (s *Store) Unpark(ctx context.Context, list []Parked) (int, error) {
	sum := 0
	for lane := range Lanes {
		c := &call{script: s.scripts.unpark, mark: s.keys.laneMark(lane), keys: []string{s.keys.parked(lane)}}
		for _, p := range list {
			if p.Lane == lane {
				c.args = append(c.args, p.field, p.value)
			}
		}
		if len(c.args) == 0 {
			continue
		}
		if err := s.do(ctx, c); err != nil {
			return sum, fmt.Errorf("forget what was set aside: %w", err)
		}
		n, err := c.integer()
		if err != nil {
			return sum, fmt.Errorf("forget what was set aside: %w", err)
		}
		sum += int(n)
	}
	return sum, nil
}

// DropParkedLines throws away the lines that could not be read, on a person's
// word, and returns how many.
func (s *Store) DropParkedLines(ctx context.Context) (int, error) {
	return s.dropParked(ctx, func(p Parked) bool { return p.Line != "" })
}

// ErasePark removes what was set aside of one user, and lines that name the user.
func (s *Store) ErasePark(ctx context.Context, id orcid.ID) (int, error) {
	field := slotField(id)
	return s.dropParked(ctx, func(p Parked) bool {
		return p.Line == "" && p.Item.ORCID == id || p.Line != "" && (strings.Contains(p.Line, field) || strings.Contains(p.Line, id.String()))
	})
}

func (s *Store) dropParked(ctx context.Context, which func(Parked) bool) (int, error) {
	all, err := s.Parked(ctx)
	if err != nil {
		return 0, err
	}
	var list []Parked
	for _, p := range all {
		if which(p) {
			list = append(list, p)
		}
	}
	return s.Unpark(ctx, list)
}

// clipLine keeps the beginning of a line, as text that can be shown.
func clipLine(line []byte) string {
	return string(bytes.ToValidUTF8(line[:min(len(line), maxParkedLine)], []byte("?")))
}

package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// MaxGuests is how many callbacks of its own an organisation may have for one
// user, and how many more that are to go: another's do not count, or one could
// shut the others out.
const MaxGuests = 20

// ErrFull says that an organisation has MaxGuests callbacks for a user already,
// or that as many are to go.
var ErrFull = errors.New("the organisation has as many callbacks for the user as can be kept")

type guestScripts struct {
	guestAdd, guestSave, guestRead, guestDue, guestSetAside, guestEnd, guestWake, guestTotals *script
}

func newGuestScripts() guestScripts {
	return guestScripts{
		guestAdd:      newScript("guest_add", 0, guestSaveBody),
		guestSave:     newScript("guest_save", allowOOM|fenced, guestSaveBody),
		guestRead:     newScript("guest_read", allowOOM, hashAllBody),
		guestDue:      newScript("guest_due", allowOOM, guestDueBody),
		guestSetAside: newScript("guest_set_aside", allowOOM, guestSetAsideBody),
		guestEnd:      newScript("guest_end", allowOOM, guestEndBody),
		guestWake:     newScript("guest_wake", allowOOM, guestWakeBody),
		guestTotals:   newScript("guest_totals", allowOOM, hashAllBody),
	}
}

// guestSaveBody: KEYS mark, the user's guests, work, counts; ARGV mark, member of
// work, URL, the row as it was read (” none), the row (” removes), when to look
// again (ms), how many of one organisation a user may have, changes of the
// counts, the organisation that asks (” none, and nothing is too many). Returns
// 1, 0 when the row was changed meanwhile, or -1 when there are too many.
const guestSaveBody = `
local was = redis.call('HGET', KEYS[2], ARGV[3]) or ''
if was ~= ARGV[4] then return 0 end
if ARGV[5] == '' then
  redis.call('HDEL', KEYS[2], ARGV[3])
  redis.call('ZREM', KEYS[3], ARGV[2])
else
  if ARGV[9] ~= '' then
    local gone, own, rows = string.sub(ARGV[5], 1, 1), 0, redis.call('HGETALL', KEYS[2])
    for i = 1, #rows, 2 do
      local its, orgs = string.match(rows[i + 1], '^(%d);([^;]*);')
      if rows[i] ~= ARGV[3] and its == gone and string.find(',' .. orgs .. ',', ',' .. ARGV[9] .. ',', 1, true) then own = own + 1 end
    end
    if own >= tonumber(ARGV[7]) then return -1 end
  end
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[5])
  redis.call('ZADD', KEYS[3], ARGV[6], ARGV[2])
end
for state, n in string.gmatch(ARGV[8], '(%d+)=(-?%d+)') do redis.call('HINCRBY', KEYS[4], state, n) end
return 1
`

// guestDueBody: KEYS mark, work; ARGV mark, now (ms), how many. Returns the
// members that are due with their times.
const guestDueBody = `return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[3])`

// guestSetAsideBody: KEYS mark, work; ARGV mark, then members. They are due at no
// time, until all are woken.
const guestSetAsideBody = `
for i = 2, #ARGV do redis.call('ZADD', KEYS[2], 'XX', '+inf', ARGV[i]) end
return #ARGV - 1
`

// guestEndBody: KEYS mark, work, then the guests of one user each; ARGV mark, now
// (ms), organisation (” all), then the user of each. Takes the organisation from
// rows that others share, marks the other rows as gone, and all as due. Returns
// how many.
const guestEndBody = `
local n = 0
for i = 3, #KEYS do
  local rows = redis.call('HGETALL', KEYS[i])
  for j = 1, #rows, 2 do
    local gone, orgs, rest = string.match(rows[j + 1], '^(%d);([^;]*);(.*)$')
    local left, its = {}, ARGV[3] == ''
    if not its then
      for org in string.gmatch(orgs or '', '[^,]+') do
        if org == ARGV[3] then its = true else left[#left + 1] = org end
      end
    end
    if gone == '0' and its then
      local row = '1;' .. orgs .. ';' .. rest
      if #left > 0 then row = '0;' .. table.concat(left, ',') .. ';' .. rest end
      redis.call('HSET', KEYS[i], rows[j], row)
      redis.call('ZADD', KEYS[2], ARGV[2], ARGV[i + 1] .. ' ' .. rows[j])
      n = n + 1
    end
  end
end
return n
`

// guestWakeBody: KEYS mark, work; ARGV mark, now (ms). Everything is due.
const guestWakeBody = `
local list = redis.call('ZRANGE', KEYS[2], 0, -1)
for _, member in ipairs(list) do redis.call('ZADD', KEYS[2], ARGV[2], member) end
return #list
`

// guestMember is a row inside work.
func guestMember(id orcid.ID, url string) string { return slotField(id) + " " + url }

// encodeGuest writes a row: what scripts look at first, then JSON.
func encodeGuest(g *event.Guest) (string, error) {
	gone := "0"
	if g.Gone {
		gone = "1"
	}
	raw, err := json.Marshal(g.Registration)
	if err != nil {
		return "", fmt.Errorf("write the %s: %w", g, err)
	}
	return gone + ";" + strings.Join(g.Orgs, ",") + ";" + string(raw), nil
}

func decodeGuest(id orcid.ID, url, raw string) (event.Guest, error) {
	g := event.Guest{ORCID: id, URL: url, Version: raw}
	parts := strings.SplitN(raw, ";", 3)
	if len(parts) != 3 {
		return g, fmt.Errorf("a callback of %s: %w", id, ErrDamaged)
	}
	g.Gone, g.Orgs = parts[0] == "1", strings.Split(parts[1], ",")
	if err := json.Unmarshal([]byte(parts[2]), &g.Registration); err != nil {
		return g, fmt.Errorf("a callback of %s: %w: %w", id, ErrDamaged, err)
	}
	return g, nil
}

// Guests returns the callbacks of organisations' own of a user, by URL. One that
// cannot be read is Damaged, and fails nobody else's.
func (s *Store) Guests(ctx context.Context, id orcid.ID) ([]event.Guest, error) {
	p := userPartition(id)
	c := &call{script: s.scripts.guestRead, mark: s.keys.mark(p), keys: []string{s.keys.guests(p, id)}}
	if err := s.do(ctx, c); err != nil {
		return nil, fmt.Errorf("read the callbacks of %s: %w", id, err)
	}
	pairs, err := stringList(c, c.res)
	if err != nil {
		return nil, fmt.Errorf("read the callbacks of %s: %w", id, err)
	}
	var out []event.Guest
	for i := 0; i+1 < len(pairs); i += 2 {
		g, err := decodeGuest(id, pairs[i], pairs[i+1])
		if err != nil {
			g = event.Guest{ORCID: id, URL: pairs[i], Version: pairs[i+1], Damaged: true}
		}
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b event.Guest) int { return cmp.Compare(a.URL, b.URL) })
	return out, nil
}

// AddGuest writes a row that an organisation asked for; see SaveGuest. It fails
// with ErrFull when that organisation has too many for the user.
func (s *Store) AddGuest(ctx context.Context, g event.Guest, orgID string, look time.Time) (event.Guest, error) {
	return s.saveGuest(ctx, s.scripts.guestAdd, g, orgID, look)
}

// SaveGuest writes the row if it is still at g.Version, to be looked at again
// then, and returns it with its new version. A zero look removes it. It fails
// with ErrConflict when the row changed meanwhile. Of a Damaged one only the look
// is written; once it is removed the counts keep what it had.
func (s *Store) SaveGuest(ctx context.Context, g event.Guest, look time.Time) (event.Guest, error) {
	return s.saveGuest(ctx, s.scripts.guestSave, g, "", look)
}

func (s *Store) saveGuest(ctx context.Context, sc *script, g event.Guest, asks string, look time.Time) (event.Guest, error) {
	var before, after []event.Registration
	if g.Version != "" && !g.Damaged {
		old, err := decodeGuest(g.ORCID, g.URL, g.Version)
		if err != nil {
			return g, err
		}
		before = append(before, old.Registration)
	}
	record := ""
	switch {
	case look.IsZero():
	case g.Damaged:
		record = cmp.Or(g.Version, ";") // an empty one would remove it
	default:
		var err error
		if record, err = encodeGuest(&g); err != nil {
			return g, err
		}
		after = append(after, g.Registration)
	}
	p := userPartition(g.ORCID)
	c := &call{
		script: sc, mark: s.keys.mark(p), keys: []string{s.keys.guests(p, g.ORCID), s.keys.guestWork(p), s.keys.guestCounts(p)},
		args: []any{guestMember(g.ORCID, g.URL), g.URL, g.Version, record, look.UnixMilli(), MaxGuests, stateChanges(before, after), asks},
	}
	if err := s.do(ctx, c); err != nil {
		return g, fmt.Errorf("save the %s: %w", g, err)
	}
	switch n, err := c.integer(); {
	case err != nil:
		return g, err
	case n == 0:
		return g, fmt.Errorf("save the %s: %w", g, ErrConflict)
	case n < 0:
		return g, fmt.Errorf("save the %s: %w", g, ErrFull)
	}
	g.Version = record
	return g, nil
}

// DueGuest is a row that is to be looked at.
type DueGuest struct {
	ORCID orcid.ID
	URL   string
	At    time.Time
}

// DueGuests returns at most limit rows of every partition that are due, the
// longest due first. Each stays due until it is saved. What names no row is set
// aside, or it would stand before the others for ever. With event.ErrIncomplete
// that holds for the partitions that could be read.
func (s *Store) DueGuests(ctx context.Context, now time.Time, limit int) ([]DueGuest, error) {
	calls := make([]*call, Partitions)
	for p := range calls {
		calls[p] = &call{script: s.scripts.guestDue, mark: s.keys.mark(p), keys: []string{s.keys.guestWork(p)}, args: []any{now.UnixMilli(), limit}}
	}
	if err := s.doEach(ctx, calls...); err != nil {
		return nil, fmt.Errorf("find due callbacks: %w", err)
	}
	var out []DueGuest
	var aside []*call
	var unread []error
	for p, c := range calls {
		var unreadable []any
		pairs, err := stringList(c, c.res)
		if c.err != nil {
			err = c.err
		}
		if err != nil {
			unread = append(unread, err)
			continue
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			field, url, ok := strings.Cut(pairs[i], " ")
			id, err1 := fieldUser(field)
			ms, err2 := strconv.ParseFloat(pairs[i+1], 64)
			// Saving writes only a member of exactly this form, here.
			if err := errors.Join(err1, err2); err != nil || !ok || userPartition(id) != p || guestMember(id, url) != pairs[i] {
				unreadable = append(unreadable, pairs[i])
				continue
			}
			out = append(out, DueGuest{id, url, time.UnixMilli(int64(ms)).UTC()})
		}
		if len(unreadable) > 0 {
			aside = append(aside, &call{script: s.scripts.guestSetAside, mark: c.mark, keys: c.keys, args: unreadable})
		}
	}
	if err := s.do(ctx, aside...); err != nil {
		return nil, fmt.Errorf("set damaged callbacks aside: %w", err)
	}
	for _, c := range aside {
		// Without what they hold: a URL may hold a secret.
		s.log.Warn("damaged entries of the callbacks that are to be looked at are set aside", "key", c.keys[0], "count", len(c.args))
	}
	slices.SortFunc(out, func(a, b DueGuest) int { return a.At.Compare(b.At) })
	return out, incomplete("find due callbacks", unread)
}

// EndGuests takes an organisation (all, when orgID is empty) from its callbacks of
// these users. What nobody wants then is gone, to be removed at ORCID. It returns
// of how many.
func (s *Store) EndGuests(ctx context.Context, orgID string, ids []orcid.ID) (int, error) {
	runs := userRuns(len(ids), func(i int) orcid.ID { return ids[i] })
	calls := make([]*call, len(runs))
	for r, run := range runs {
		p := userPartition(ids[run[0]])
		c := &call{script: s.scripts.guestEnd, mark: s.keys.mark(p), keys: []string{s.keys.guestWork(p)}, args: []any{s.Now().UnixMilli(), orgID}}
		for _, i := range run {
			c.keys = append(c.keys, s.keys.guests(p, ids[i]))
			c.args = append(c.args, slotField(ids[i]))
		}
		calls[r] = c
	}
	if err := s.do(ctx, calls...); err != nil {
		return 0, fmt.Errorf("end callbacks of %d users: %w", len(ids), err)
	}
	total := 0
	for _, c := range calls {
		n, err := c.integer()
		if err != nil {
			return total, err
		}
		total += int(n)
	}
	return total, nil
}

// WakeGuests has every callback looked at now.
func (s *Store) WakeGuests(ctx context.Context) error {
	calls := make([]*call, Partitions)
	for p := range calls {
		calls[p] = &call{script: s.scripts.guestWake, mark: s.keys.mark(p), keys: []string{s.keys.guestWork(p)}, args: []any{s.Now().UnixMilli()}}
	}
	if err := s.do(ctx, calls...); err != nil {
		return fmt.Errorf("look at every callback: %w", err)
	}
	return nil
}

// GuestTotals returns how many callbacks of organisations' own stand in each
// state.
func (s *Store) GuestTotals(ctx context.Context) (map[event.RegState]int64, error) {
	out := map[event.RegState]int64{}
	for state := event.RegNone; state <= event.RegRefused; state++ {
		out[state] = 0
	}
	calls := make([]*call, Partitions)
	for p := range calls {
		calls[p] = &call{script: s.scripts.guestTotals, mark: s.keys.mark(p), keys: []string{s.keys.guestCounts(p)}}
	}
	if err := s.do(ctx, calls...); err != nil {
		return nil, fmt.Errorf("count callbacks: %w", err)
	}
	for _, c := range calls {
		pairs, err := stringList(c, c.res)
		if err != nil {
			return nil, fmt.Errorf("count callbacks: %w", err)
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			state, err1 := strconv.ParseUint(pairs[i], 10, 8)
			n, err2 := strconv.ParseInt(pairs[i+1], 10, 64)
			if err := errors.Join(err1, err2); err != nil {
				return nil, fmt.Errorf("count callbacks: %w", err)
			}
			out[event.RegState(state)] += n
		}
	}
	return out, nil
}

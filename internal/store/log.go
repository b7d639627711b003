package store

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// Kind says what an item of the intake log is.
type Kind byte

// The kinds of items.
const (
	KindPing     Kind = 'p' // ORCID's ping: Subject is the credential
	KindCaughtUp Kind = 's' // found by a catch-up search: Subject is the credential
	KindCreated  Kind = 'c' // an affiliation to announce: Subject is the organisation
)

// Item is one line of the intake log.
type Item struct {
	Kind    Kind
	Subject string
	ORCID   orcid.ID
	At      time.Time // accepted at, microseconds
}

// Entry is one group commit of the intake log.
type Entry struct {
	Lane  int
	ID    string // of the stream, milliseconds-sequence
	Items []Item
	// Damaged are lines that cannot be read; they are to be set aside.
	Damaged []string
}

// damagedKind says what a line that cannot be read was counted as when it was
// appended: ping or announcement.
func damagedKind(line string) Kind {
	if strings.HasPrefix(line, string(rune(KindCreated))) {
		return KindCreated
	}
	return KindPing
}

// noLines stands for an entry that has nothing to read; nothing was counted of it.
const noLines = "(no lines in the entry)"

// DamagedPings counts the damaged lines by what they were appended as.
func (e Entry) DamagedPings() (pings, announced int) {
	for _, line := range e.Damaged {
		switch {
		case line == noLines:
		case damagedKind(line) == KindCreated:
			announced++
		default:
			pings++
		}
	}
	return pings, announced
}

// Committed is when Redis took the entry.
func (e Entry) Committed() time.Time {
	ms, _, _ := strings.Cut(e.ID, "-")
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(n).UTC()
}

type logScripts struct {
	append, remove       *script
	park, parked, unpark *script
	nextLane             *atomic.Uint32
}

func newLogScripts() logScripts {
	return logScripts{
		// append: KEYS mark, log, ledger; ARGV mark, lines, pings, caught up,
		// created. Returns the id of the entry.
		append: newScript("append", 0, `
local id = redis.call('XADD', KEYS[2], '*', 'd', ARGV[2])
if ARGV[3] ~= '0' then redis.call('HINCRBY', KEYS[3], 'accepted', ARGV[3]) end
if ARGV[4] ~= '0' then redis.call('HINCRBY', KEYS[3], 'caught_up', ARGV[4]) end
if ARGV[5] ~= '0' then redis.call('HINCRBY', KEYS[3], 'announced', ARGV[5]) end
return id
`),
		// remove: KEYS mark, log, ledger; ARGV mark, then per entry: id and the
		// counts to add once: processed, unknown, not_wanted, no_organisation,
		// told (pings with at least one target), announced_processed, parked.
		// Returns how many entries were there.
		remove: newScript("remove", allowOOM|fenced, `
local removed = 0
local names = {'processed', 'unknown', 'not_wanted', 'no_organisation', 'told', 'announced_processed', 'parked'}
for i = 2, #ARGV, 8 do
  if redis.call('XDEL', KEYS[2], ARGV[i]) == 1 then
    removed = removed + 1
    for j = 1, 7 do
      if ARGV[i + j] ~= '0' then redis.call('HINCRBY', KEYS[3], names[j], ARGV[i + j]) end
    end
  end
end
return removed
`),
		park:     newScript("park", 0, parkBody),
		parked:   newScript("parked", allowOOM, hashAllBody),
		unpark:   newScript("unpark", allowOOM|fenced, unparkBody),
		nextLane: new(atomic.Uint32),
	}
}

// Append durably appends the pings to the intake log as one entry and returns
// when Redis has it. After an error that wraps ErrAway it may or may not be
// there; appending again is harmless, since pings coalesce.
func (s *Store) Append(ctx context.Context, pings []event.Ping) error {
	items := make([]Item, len(pings))
	for i, p := range pings {
		items[i] = Item{KindPing, p.Credential, p.ORCID, p.AcceptedAt}
		if p.CaughtUp {
			items[i].Kind = KindCaughtUp
		}
	}
	return s.AppendItems(ctx, items)
}

// Announce durably asks for a CREATED event for each affiliation.
func (s *Store) Announce(ctx context.Context, org string, ids []orcid.ID, at time.Time) error {
	items := make([]Item, len(ids))
	for i, id := range ids {
		items[i] = Item{KindCreated, org, id, at}
	}
	return s.AppendItems(ctx, items)
}

// AppendItems appends one entry to the next lane.
func (s *Store) AppendItems(ctx context.Context, items []Item) error {
	lines, count, err := appendItems(make([]byte, 0, 64*len(items)), items)
	if err != nil {
		return fmt.Errorf("append to the intake log: %w", err)
	}
	lane := int(s.scripts.nextLane.Add(1) % Lanes)
	c := &call{
		script: s.scripts.append, mark: s.keys.laneMark(lane),
		keys: []string{s.keys.log(lane), s.keys.laneLedger(lane)},
		args: []any{lines, count[0], count[1], count[2]},
	}
	if err := s.do(ctx, c); err != nil {
		return fmt.Errorf("append to the intake log: %w", err)
	}
	s.onAppended(lane)
	return nil
}

// appendItems writes the lines of an entry, and counts the pings, those caught
// up and those created.
func appendItems(lines []byte, items []Item) (_ []byte, count [3]int, _ error) {
	for _, it := range items {
		switch it.Kind {
		case KindPing:
			count[0]++
		case KindCaughtUp:
			count[1]++
		case KindCreated:
			count[2]++
		default:
			return nil, count, fmt.Errorf("unknown kind %q", it.Kind)
		}
		lines = append(lines, byte(it.Kind), ' ')
		lines = strconv.AppendUint(lines, it.ORCID.Base(), 10)
		lines = append(lines, ' ')
		lines = strconv.AppendInt(lines, it.At.UnixMicro(), 10)
		lines = append(lines, ' ')
		lines = append(lines, it.Subject...)
		lines = append(lines, '\n')
	}
	return lines, count, nil
}

// parseItems reads the lines of an entry; those that cannot be read are damaged.
func parseItems(lines []byte) (items []Item, damaged []string) {
	items = make([]Item, 0, bytes.Count(lines, []byte{'\n'}))
	for len(lines) > 0 {
		line, rest, _ := bytes.Cut(lines, []byte{'\n'})
		lines = rest
		subject := "" // most lines have that of the line before
		if n := len(items); n > 0 {
			subject = items[n-1].Subject
		}
		if it, ok := parseItem(line, subject); ok {
			items = append(items, it)
		} else {
			damaged = append(damaged, clipLine(line))
		}
	}
	return items, damaged
}

// parseItem reads a line; the subject is used again if it is the line's too.
func parseItem(line []byte, subject string) (Item, bool) {
	space := []byte{' '}
	kinds, line, _ := bytes.Cut(line, space)
	digits, line, _ := bytes.Cut(line, space)
	micros, name, _ := bytes.Cut(line, space)
	if len(kinds) != 1 || len(name) == 0 {
		return Item{}, false
	}
	base, err1 := strconv.ParseUint(string(digits), 10, 64)
	us, err2 := strconv.ParseInt(string(micros), 10, 64)
	if err1 != nil || err2 != nil {
		return Item{}, false
	}
	id, err := orcid.FromBase(base)
	kind := Kind(kinds[0])
	if err != nil || kind != KindPing && kind != KindCaughtUp && kind != KindCreated {
		return Item{}, false
	}
	if string(name) != subject {
		subject = string(name)
	}
	return Item{kind, subject, id, time.UnixMicro(us).UTC()}, true
}

// ReadLog returns up to count entries of a lane after the given id ("" from the
// beginning), oldest first.
func (s *Store) ReadLog(ctx context.Context, lane int, after string, count int) ([]Entry, error) {
	if err := s.guard.Err(); err != nil {
		return nil, err
	}
	from := "-"
	if after != "" {
		from = "(" + after
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, errTimeout)
	defer cancel()
	began := time.Now()
	msgs, err := s.rdb.XRangeN(ctx, s.keys.log(lane), from, "+", int64(count)).Result()
	err = s.classify(ctx, "read the intake log", err)
	s.metrics.observe("read", time.Since(began), err)
	if err != nil {
		return nil, err
	}
	out := make([]Entry, 0, len(msgs))
	for _, m := range msgs {
		e := Entry{Lane: lane, ID: m.ID}
		if lines, ok := m.Values["d"].(string); ok {
			e.Items, e.Damaged = parseItems([]byte(lines))
		} else {
			e.Damaged = []string{noLines}
		}
		out = append(out, e)
	}
	return out, nil
}

// Processed is what became of the pings of one entry, for the ledger.
type Processed struct {
	ID string
	// Pings = Unknown + NotWanted + NoOrganisation + Told + Parked.
	Pings, Unknown, NotWanted, NoOrganisation, Told, Parked int
	Announced                                               int
}

// RemoveEntries removes entries that every partition took, and counts them
// exactly once, however often it is called.
func (s *Store) RemoveEntries(ctx context.Context, lane int, list []Processed) error {
	if len(list) == 0 {
		return nil
	}
	c := &call{script: s.scripts.remove, mark: s.keys.laneMark(lane), keys: []string{s.keys.log(lane), s.keys.laneLedger(lane)}}
	for _, p := range list {
		c.args = append(c.args, p.ID, p.Pings, p.Unknown, p.NotWanted, p.NoOrganisation, p.Told, p.Announced, p.Parked)
	}
	if err := s.do(ctx, c); err != nil {
		return fmt.Errorf("remove from the intake log: %w", err)
	}
	return nil
}

// TrimApplied forgets which entries of a lane the partitions have applied, up
// to but not including the given time. Only entries that are gone from the log
// may be forgotten, or they would be applied again.
func (s *Store) TrimApplied(ctx context.Context, lane int, before time.Time) error {
	if err := s.guard.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, errTimeout)
	defer cancel()
	pipe := s.rdb.Pipeline()
	limit := "(" + strconv.FormatInt(before.UnixMilli(), 10)
	for p := range Partitions {
		pipe.ZRemRangeByScore(ctx, s.keys.applied(p, lane), "-inf", limit)
	}
	cmds, err := pipe.Exec(ctx)
	for _, c := range cmds {
		if err == nil {
			err = c.Err()
		}
	}
	return s.classify(ctx, "trim what was applied", err)
}

// lookAtMost bounds how many entries of a lane OldestPing looks into.
const lookAtMost = 200

// OldestPing returns when the oldest ping of the intake log was accepted, zero
// when there is none. A ping from the spool is older than its entry, so the first
// entries are looked into; behind very many, the age of an entry must do.
func (s *Store) OldestPing(ctx context.Context) (oldest time.Time, err error) {
	for lane := range Lanes {
		entries, err := s.ReadLog(ctx, lane, "", lookAtMost)
		if err != nil {
			return time.Time{}, err
		}
		for _, e := range entries {
			for _, it := range e.Items {
				if it.Kind == KindPing && (oldest.IsZero() || it.At.Before(oldest)) {
					oldest = it.At
				}
			}
		}
	}
	return oldest, nil
}

// LogLength returns how many entries the intake log has over all lanes.
func (s *Store) LogLength(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, errTimeout)
	defer cancel()
	var total int64
	for l := range Lanes {
		n, err := s.rdb.XLen(ctx, s.keys.log(l)).Result()
		if err != nil {
			return 0, s.classify(ctx, "measure the intake log", err)
		}
		total += n
	}
	return total, nil
}

package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"dispatchd/internal/event"
)

// Ledger is every counter of the books and the real sizes beside them. The
// counters of one partition (or lane) and its sizes are read in one step, so
// that what is on its way makes no difference.
type Ledger struct {
	// Pings, by the lanes of the intake log.
	Accepted           int64 `json:"accepted"`
	CaughtUp           int64 `json:"caught_up"`
	Announced          int64 `json:"announced"`
	Processed          int64 `json:"processed"`
	Unknown            int64 `json:"unknown"`
	NotWanted          int64 `json:"not_wanted"`
	NoOrganisation     int64 `json:"no_organisation"`
	Told               int64 `json:"told"`
	Parked             int64 `json:"parked"` // set aside: the stored record or the line is damaged
	AnnouncedProcessed int64 `json:"announced_processed"`

	// News, by the partitions.
	Targets  int64 `json:"targets"`
	Created  int64 `json:"created"`
	Replayed int64 `json:"replayed"`
	Opened   int64 `json:"opened"`
	// Coalesced news joined a slot that was open already.
	Coalesced int64 `json:"coalesced"`
	// Ignored news opened nothing, by reason.
	Ignored  map[string]int64 `json:"ignored"`
	Requeued int64            `json:"requeued"`

	// What became of slots, by the partitions.
	Delivered  int64 `json:"delivered"`
	Superseded int64 `json:"superseded"`
	Cancelled  int64 `json:"cancelled"`
	Purged     int64 `json:"purged"`
	Dropped    int64 `json:"dropped"`
	Died       int64 `json:"died"` // for information: how often a slot died

	// CountedDead is how many dead letters there should be by the counters.
	CountedDead int64 `json:"counted_dead"`

	// Real sizes.
	Pending          int64 `json:"pending"`
	Dead             int64 `json:"dead"`
	LogEntries       int64 `json:"log_entries"`
	LogPings         int64 `json:"log_pings"`
	LogAnnouncements int64 `json:"log_announcements"`
	// LogPartly says that the intake log is too long to be counted through, so
	// that LogPings and LogAnnouncements are of its beginning only.
	LogPartly bool `json:"log_partly,omitempty"`

	broken []string
	undue  []event.ChannelKey // have slots without a due time
}

// Differences lists in words every equation of the books that does not hold.
// The spool is not in here: the caller adds its side.
func (l *Ledger) Differences() []string {
	out := append([]string(nil), l.broken...)
	check := func(left int64, leftWords string, right int64, rightWords string) {
		if left != right {
			out = append(out, fmt.Sprintf("%s = %d, but %s = %d (difference %d)", leftWords, left, rightWords, right, left-right))
		}
	}
	if !l.LogPartly {
		check(l.Accepted+l.CaughtUp, "pings accepted + caught up", l.Processed+l.LogPings, "processed + in the intake log")
		check(l.Announced, "affiliations announced", l.AnnouncedProcessed+l.LogAnnouncements, "processed + in the intake log")
	}
	check(l.Processed, "pings processed", l.Unknown+l.NotWanted+l.NoOrganisation+l.Told+l.Parked, "unknown + not wanted + no organisation + told + parked")
	var ignored int64
	for _, n := range l.Ignored {
		ignored += n
	}
	check(l.Targets+l.Created+l.Replayed, "news (targets + created + replayed)",
		l.Opened-l.Requeued+l.Coalesced+ignored, "slots opened − requeued + coalesced + ignored")
	check(l.Opened, "slots opened", l.Delivered+l.Superseded+l.Cancelled+l.Purged+l.Dropped+l.Dead+l.Pending,
		"delivered + superseded + cancelled + purged + dropped + dead + pending")
	check(l.CountedDead, "dead letters by the counters", l.Dead, "dead letters there are")
	return out
}

// auditBody: KEYS mark, ledger, then five a channel; ARGV mark. Returns the
// counters, and per channel: due set, slots, dead letters, their times, how many
// fly.
const auditBody = `
local sizes = {}
for k = 3, #KEYS, 5 do
  sizes[#sizes + 1] = redis.call('ZCARD', KEYS[k])
  sizes[#sizes + 1] = redis.call('HLEN', KEYS[k + 1])
  sizes[#sizes + 1] = redis.call('HLEN', KEYS[k + 2])
  sizes[#sizes + 1] = redis.call('ZCARD', KEYS[k + 3])
  sizes[#sizes + 1] = tonumber(redis.call('HGET', KEYS[k + 4], 'flight') or 0)
end
return {redis.call('HGETALL', KEYS[2]), sizes}
`

// maxLogCount is how many entries of a lane Ledger counts through at most.
const maxLogCount = 1000

// Ledger reads the books; orgs are all organisations whose slots are to be
// measured (a removed one has none).
func (s *Store) Ledger(ctx context.Context, orgs []string) (Ledger, error) {
	l := Ledger{Ignored: make(map[string]int64)}
	for lane := range Lanes {
		if err := l.addLane(ctx, s, lane); err != nil {
			return Ledger{}, fmt.Errorf("audit the intake log: %w", err)
		}
	}
	calls := make([]*call, Partitions)
	channels := make([][]event.ChannelKey, Partitions)
	for p := range Partitions {
		calls[p] = &call{script: s.scripts.audit, mark: s.keys.mark(p), keys: []string{s.keys.ledger(p)}}
	}
	for _, org := range orgs {
		p := orgPartition(org)
		for _, ch := range event.Channels {
			k := event.ChannelKey{Org: org, Channel: ch}
			channels[p] = append(channels[p], k)
			calls[p].keys = append(calls[p].keys, s.channelKeys(p, k)...)
		}
	}
	if err := s.do(ctx, calls...); err != nil {
		return Ledger{}, fmt.Errorf("audit the slots: %w", err)
	}
	for p, c := range calls {
		list, err := c.list()
		if err == nil && len(list) != 2 {
			err = errAnswer
		}
		if err == nil {
			err = l.addPartition(list, channels[p])
		}
		if err != nil {
			return Ledger{}, fmt.Errorf("audit partition %d: %w", p, err)
		}
	}
	return l, nil
}

func (l *Ledger) addPartition(list []any, channels []event.ChannelKey) error {
	sizes, ok := list[1].([]any)
	if !ok || len(sizes) != 5*len(channels) {
		return errAnswer
	}
	if err := l.addCounters(list[0]); err != nil {
		return err
	}
	for i, k := range channels {
		var n [5]int64
		for j := range n {
			if n[j], ok = sizes[5*i+j].(int64); !ok {
				return errAnswer
			}
		}
		l.Pending += n[0]
		l.Dead += n[2]
		switch line := fmt.Sprintf("%s %s: %d slots are due, but %d are kept", k.Org, k.Channel, n[0], n[1]); {
		case n[0] < n[1]:
			l.undue = append(l.undue, k)
			l.broken = append(l.broken, line+"; a restart of dispatchd makes them due")
		case n[0] > n[1]:
			l.broken = append(l.broken, line)
		}
		if n[2] != n[3] {
			l.broken = append(l.broken, fmt.Sprintf("%s %s: %d dead letters are kept, but %d have a time", k.Org, k.Channel, n[2], n[3]))
		}
		if n[4] < 0 || n[4] > n[0] {
			l.broken = append(l.broken, fmt.Sprintf("%s %s: %d deliveries in flight of %d slots", k.Org, k.Channel, n[4], n[0]))
		}
	}
	return nil
}

// addCounters adds what HGETALL of a ledger answered.
func (l *Ledger) addCounters(answer any) error {
	list, ok := answer.([]any)
	if !ok || len(list)%2 != 0 {
		return errAnswer
	}
	fields, err := texts(list)
	if err != nil {
		return err
	}
	for i := 0; i < len(fields); i += 2 {
		name, text := fields[i], fields[i+1]
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("counter %s is damaged: %w", name, err)
		}
		l.add(name, n)
	}
	return nil
}

// add adds a counter by its name in Redis.
func (l *Ledger) add(name string, n int64) {
	if reason, ok := strings.CutPrefix(name, "ignored_"); ok {
		l.Ignored[reason] += n
		return
	}
	if field := map[string]*int64{
		"accepted": &l.Accepted, "caught_up": &l.CaughtUp, "announced": &l.Announced, "processed": &l.Processed,
		"unknown": &l.Unknown, "not_wanted": &l.NotWanted, "no_organisation": &l.NoOrganisation, "told": &l.Told,
		"announced_processed": &l.AnnouncedProcessed, "parked": &l.Parked,
		"targets": &l.Targets, "created": &l.Created, "replayed": &l.Replayed, "opened": &l.Opened,
		"coalesced": &l.Coalesced, "requeued": &l.Requeued, "delivered": &l.Delivered, "superseded": &l.Superseded,
		"cancelled": &l.Cancelled, "purged": &l.Purged, "dropped": &l.Dropped, "died": &l.Died,
		"dead": &l.CountedDead,
	}[name]; field != nil {
		*field += n
	}
}

// auditLaneBody: KEYS mark, ledger of the lane, log; ARGV mark, how many
// entries. Returns the counters, the number of entries, and the first of them. A
// script and not a transaction, since a full server queues none.
const auditLaneBody = `
return {redis.call('HGETALL', KEYS[2]), redis.call('XLEN', KEYS[3]), redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', ARGV[2])}
`

// addLane reads one lane's counters and its log in one step.
func (l *Ledger) addLane(ctx context.Context, s *Store, lane int) error {
	c := &call{
		script: s.scripts.auditLane, mark: s.keys.laneMark(lane),
		keys: []string{s.keys.laneLedger(lane), s.keys.log(lane)}, args: []any{maxLogCount},
	}
	if err := s.do(ctx, c); err != nil {
		return err
	}
	list, err := c.list()
	if err != nil {
		return err
	}
	if len(list) != 3 {
		return errAnswer
	}
	length, ok1 := list[1].(int64)
	entries, ok2 := list[2].([]any)
	if !ok1 || !ok2 {
		return errAnswer
	}
	l.LogEntries += length
	l.LogPartly = l.LogPartly || length > int64(len(entries))
	for _, e := range entries {
		lines, ok := logEntry(e)
		if !ok {
			return errAnswer
		}
		var e Entry
		e.Items, e.Damaged = parseItems([]byte(lines))
		pings, announced := e.DamagedPings()
		l.LogPings += int64(pings)
		l.LogAnnouncements += int64(announced)
		for _, it := range e.Items {
			if it.Kind == KindCreated {
				l.LogAnnouncements++
			} else {
				l.LogPings++
			}
		}
	}
	return l.addCounters(list[0])
}

// totalsBody: KEYS mark, ledger; ARGV mark. Returns pending and dead: what was
// opened and has not ended is pending.
const totalsBody = `
local v = redis.call('HMGET', KEYS[2], 'dead', 'opened', 'delivered', 'superseded', 'cancelled', 'purged', 'dropped')
local dead, pending = tonumber(v[1] or 0), tonumber(v[2] or 0)
for i = 3, 7 do pending = pending - tonumber(v[i] or 0) end
return {pending - dead, dead}
`

// SlotTotals tells from the counters how many slots wait or fly and how many
// dead letters there are; it is cheap enough for every scrape.
func (s *Store) SlotTotals(ctx context.Context) (pending, dead int64, err error) {
	calls := make([]*call, Partitions)
	for p := range Partitions {
		calls[p] = &call{script: s.scripts.totals, mark: s.keys.mark(p), keys: []string{s.keys.ledger(p)}}
	}
	if err := s.do(ctx, calls...); err != nil {
		return 0, 0, fmt.Errorf("count slots: %w", err)
	}
	for _, c := range calls {
		n, err := c.ints(2)
		if err != nil {
			return 0, 0, err
		}
		pending += n[0]
		dead += n[1]
	}
	return pending, dead, nil
}

// logEntry returns the lines of an entry of the intake log, as XRANGE answers it:
// its id, and the name and the value of its only field.
func logEntry(answer any) (string, bool) {
	pair, ok := answer.([]any)
	if !ok || len(pair) != 2 {
		return "", false
	}
	fields, ok := pair[1].([]any)
	if !ok || len(fields) != 2 {
		return "", false
	}
	lines, ok := fields[1].(string)
	return lines, ok
}

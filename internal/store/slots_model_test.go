package store

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
)

type slotKey struct {
	event.ChannelKey
	user orcid.ID
}

type newsKey struct {
	slotKey
	typ event.Type
}

// slotWorld is what stands in Redis, read past the store's verbs.
type slotWorld struct {
	slots map[slotKey]slotState
	told  map[slotKey]bool // the claim in flight was told by an earlier one
	// crashes in a row, of each slot that had one
	crashes map[slotKey]int
	due     map[slotKey]int64 // ms
	dead    map[slotKey]DeadLetter
	ready   map[event.ChannelKey]int64
	holds   map[event.ChannelKey]int64
}

type claimed struct {
	d   event.Delivery
	seq int
}

// slotModel knows what is owed to whom, in plain maps: it is told every
// operation and compares after each.
type slotModel struct {
	s       *Store
	clock   *fakeClock
	ctx     context.Context
	keys    []event.ChannelKey
	users   []orcid.ID
	enabled map[event.ChannelKey]bool

	seq     int
	last    map[newsKey]int // when the latest news came
	told    map[newsKey]int // up to when news was told, cancelled, purged or dropped
	touched map[slotKey]int // when news or a replay last came to the slot
	current map[slotKey]claimed
	claims  []claimed
	entries []Target // of one earlier entry each: first target only names it
	byEntry map[string][]Target
	times   map[int64]bool // accepted-at of every ping, ms
	lanes   map[string]int
	lost    int64 // slots whose news is gone, which only the cap may do
	before  slotWorld
	checks  int
}

func newSlotModel(t *rapid.T, s *Store, clock *fakeClock) *slotModel {
	m := &slotModel{
		s: s, clock: clock, ctx: context.Background(), enabled: map[event.ChannelKey]bool{},
		last: map[newsKey]int{}, told: map[newsKey]int{}, touched: map[slotKey]int{}, current: map[slotKey]claimed{},
		byEntry: map[string][]Target{}, times: map[int64]bool{}, lanes: map[string]int{},
	}
	for _, org := range []string{"uni-a", "uni-b"} { // two partitions
		for _, ch := range event.Channels {
			k := event.ChannelKey{Org: org, Channel: ch}
			m.keys = append(m.keys, k)
			must(t, s.SetChannel(m.ctx, org, ch, true))
			m.enabled[k] = true
		}
	}
	for base := range uint64(2) {
		id, err := orcid.FromBase(base + 1)
		must(t, err)
		m.users = append(m.users, id)
	}
	m.before = m.read(t)
	return m
}

func must(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *slotModel) key(t *rapid.T) event.ChannelKey {
	if rapid.IntRange(0, 3).Draw(t, "elsewhere at 3") < 3 {
		return m.keys[0] // few slots, so that much happens to each
	}
	return rapid.SampledFrom(m.keys).Draw(t, "channel")
}

// read takes everything there is.
func (m *slotModel) read(t *rapid.T) slotWorld {
	w := slotWorld{
		map[slotKey]slotState{}, map[slotKey]bool{}, map[slotKey]int{}, map[slotKey]int64{}, map[slotKey]DeadLetter{}, map[event.ChannelKey]int64{}, map[event.ChannelKey]int64{},
	}
	pipe := m.s.rdb.Pipeline()
	type answers struct {
		slots, dead, control *redis.MapStringStringCmd
		due, deadAt          *redis.ZSliceCmd
		ready                *redis.FloatCmd
	}
	all := make([]answers, len(m.keys))
	for i, k := range m.keys {
		p := orgPartition(k.Org)
		all[i] = answers{
			pipe.HGetAll(m.ctx, m.s.keys.slots(p, k.Org, k.Channel)), pipe.HGetAll(m.ctx, m.s.keys.dead(p, k.Org, k.Channel)),
			pipe.HGetAll(m.ctx, m.s.keys.control(p, k.Org, k.Channel)),
			pipe.ZRangeWithScores(m.ctx, m.s.keys.due(p, k.Org, k.Channel), 0, -1),
			pipe.ZRangeWithScores(m.ctx, m.s.keys.deadAt(p, k.Org, k.Channel), 0, -1),
			pipe.ZScore(m.ctx, m.s.keys.ready(p), readyMember(k)),
		}
	}
	_, _ = pipe.Exec(m.ctx) // the only error is that of a member that is not ready
	for i, k := range m.keys {
		at := func(field string) slotKey {
			id, err := fieldUser(field)
			must(t, err)
			return slotKey{k, id}
		}
		for field, text := range all[i].slots.Val() {
			st, err := parseSlot(text)
			must(t, err)
			w.slots[at(field)] = st
			w.told[at(field)] = strings.Contains(text, "!")
			if f := strings.Split(text, ";"); len(f) > 6 && f[6] != "" {
				w.crashes[at(field)], err = strconv.Atoi(f[6])
				must(t, err)
			}
		}
		died := map[string]string{}
		for _, z := range all[i].deadAt.Val() {
			died[z.Member.(string)] = strconv.FormatFloat(z.Score, 'f', 0, 64)
		}
		for field, raw := range all[i].dead.Val() {
			d, err := parseDead(died[field], field, raw)
			must(t, err)
			w.dead[at(field)] = d
		}
		for _, z := range all[i].due.Val() {
			w.due[at(z.Member.(string))] = int64(z.Score)
		}
		if all[i].ready.Err() == nil {
			w.ready[k] = int64(all[i].ready.Val())
		}
		for name, v := range all[i].control.Val() {
			if slices.Contains(event.Holds[:], event.Hold(name)) {
				till, _, _ := strings.Cut(v, ";")
				n, err := strconv.ParseInt(till, 10, 64)
				must(t, err)
				w.holds[k] = max(w.holds[k], n)
			}
		}
	}
	return w
}

// check compares what is owed with what is there.
func (m *slotModel) check(t *rapid.T) {
	w := m.read(t)
	lost := map[slotKey]bool{}
	for k, last := range m.last {
		here := slices.Contains(w.slots[k.slotKey].types, k.typ)
		buried := slices.Contains(w.dead[k.slotKey].Types, k.typ)
		owed := last > m.told[k]
		switch {
		case here && buried:
			t.Fatalf("%+v is both pending and dead", k)
		case owed && !here && !buried:
			if _, still := w.dead[k.slotKey]; still {
				t.Fatalf("%+v is lost", k)
			}
			lost[k.slotKey] = true // only if dropped by the cap, see below
			m.told[k] = last
		case !owed && (here || buried) && (!w.told[k.slotKey] || w.slots[k.slotKey].claimed != k.typ):
			t.Fatalf("%+v was told and is here again without news", k)
		}
	}
	m.lost += int64(len(lost))
	if m.checks++; len(lost) > 0 || m.checks%10 == 0 { // 130 scripts, which gopher-lua compiles each time
		m.audit(t, w)
	}
	m.checkChannels(t, w)
	m.before = w
}

// audit compares the books with what is there and with what may be missing.
func (m *slotModel) audit(t *rapid.T, w slotWorld) {
	l, err := m.s.Ledger(m.ctx, []string{"uni-a", "uni-b"})
	must(t, err)
	if d := l.Differences(); len(d) > 0 {
		t.Fatalf("the books do not balance: %q", d)
	}
	if int(l.Pending) != len(w.slots) || int(l.Dead) != len(w.dead) {
		t.Fatalf("ledger sees %d pending and %d dead, there are %d and %d", l.Pending, l.Dead, len(w.slots), len(w.dead))
	}
	pending, dead, err := m.s.SlotTotals(m.ctx)
	must(t, err)
	if pending != l.Pending || dead != l.Dead {
		t.Fatalf("totals %d, %d", pending, dead)
	}
	if m.lost > l.Dropped {
		t.Fatalf("%d are lost, of which %d were dropped by the cap; there is %+v, before %+v", m.lost, l.Dropped, w, m.before)
	}
}

func (m *slotModel) checkChannels(t *rapid.T, w slotWorld) {
	states, err := m.s.Channels(m.ctx, m.keys)
	must(t, err)
	for i, k := range m.keys {
		slots, flying, dead := 0, 0, 0
		for at, st := range w.slots {
			if at.ChannelKey != k {
				continue
			}
			slots++
			if _, ok := w.due[at]; !ok || len(st.types) == 0 {
				t.Fatalf("slot %+v is never due or has no type: %+v", at, st)
			}
			if st.token != "" {
				flying++
				if !slices.Contains(st.types, st.claimed) {
					t.Fatalf("slot %+v flies with a type it has not: %+v", at, st)
				}
			}
			for i, g := range st.generations {
				if slices.Contains(st.generations[:i], g) {
					t.Fatalf("slot %+v has a generation twice: %+v", at, st)
				}
			}
		}
		for at := range w.dead {
			if at.ChannelKey == k {
				dead++
			}
		}
		// Too early costs a claim in vain, too late a delivery.
		want, has := m.readyAt(w, k)
		got, is := w.ready[k]
		if has && !is || has && got > want || is && !m.enabled[k] {
			t.Fatalf("ready index of %+v: %d (%v), want %d (%v)", k, got, is, want, has)
		}
		st := states[i]
		if st.Enabled != m.enabled[k] || st.Waiting != slots-flying || st.InFlight != flying || st.Dead != dead || slots > 0 && !st.Next.Equal(milliTime(got)) || slots == 0 && !st.Next.IsZero() {
			t.Fatalf("channel %+v: %+v; there are %d slots, %d flying, %d dead", k, st, slots, flying, dead)
		}
	}
	if len(w.due) != len(w.slots) {
		t.Fatalf("%d due, %d slots", len(w.due), len(w.slots))
	}
}

// readyAt is when the channel is really ready, if anything waits there.
func (m *slotModel) readyAt(w slotWorld, k event.ChannelKey) (at int64, has bool) {
	at = math.MaxInt64
	for slot, due := range w.due {
		if slot.ChannelKey == k {
			at, has = min(at, due), true
		}
	}
	return max(at, w.holds[k]), has && m.enabled[k]
}

// claimDue waits until something is ready and claims it.
func (m *slotModel) claimDue(t *rapid.T) {
	if at := m.before.ready[m.keys[0]]; at > m.clock.now().UnixMilli() && at < m.clock.now().Add(3*time.Hour).UnixMilli() {
		m.clock.advance(milliTime(at).Sub(m.clock.now()))
	}
	m.claim(t)
}

// run makes steps of weighted kinds: most of them build up what is worth
// breaking, few break it.
func (m *slotModel) run(t *rapid.T, steps int) {
	var kinds []string
	do := map[string]func(*rapid.T){}
	for _, k := range []struct {
		name   string
		weight int
		do     func(*rapid.T)
	}{
		{"enqueue", 24, m.enqueue},
		{"claim", 4, m.claim},
		{"claim due", 20, m.claimDue},
		{"finish", 28, m.finish},
		{"advance", 8, m.advance},
		{"repeat", 3, m.repeat},
		{"replay", 4, m.replay},
		{"hold", 4, m.hold},
		{"enable", 4, m.enable},
		{"purge", 1, m.purge},
		{"cancel", 1, m.cancel},
		{"leave", 1, m.leave},
		{"drop", 1, m.drop},
		{"end leases", 2, m.endLeases},
	} {
		do[k.name] = k.do
		for range k.weight {
			kinds = append(kinds, k.name)
		}
	}
	m.check(t)
	for range steps {
		do[rapid.SampledFrom(kinds).Draw(t, "step")](t)
		m.check(t)
	}
	m.audit(t, m.before)
}

func TestSlotsAgainstAModel(t *testing.T) {
	t.Parallel()
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	if err != nil {
		t.Fatal(err)
	}
	// most keeps the everyday run short; -rapid.checks asks for more.
	run := func(t *testing.T, url string, embedded bool, most, steps int) {
		runs, asked := 0, flag.Lookup("rapid.checks")
		rapid.Check(t, func(rt *rapid.T) {
			if runs++; runs > most && asked.Value.String() == asked.DefValue {
				return
			}
			clock := newFakeClock()
			s, err := New(Options{
				URL: url, Embedded: embedded, DataDir: t.TempDir(), Prefix: fmt.Sprintf("run%d:", runs), Box: box, DeadLetters: 2,
				Logger: slog.New(slog.DiscardHandler), Now: clock.now,
			})
			must(rt, err)
			defer s.Close()
			must(rt, s.Attach(context.Background()))
			newSlotModel(rt, s, clock).run(rt, steps)
		})
	}
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		run(t, redistest.Start(t).URL(), false, 40, 120)
	})
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		run(t, redistest.Embedded(t), true, 6, 60)
	})
}

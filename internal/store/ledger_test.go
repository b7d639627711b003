package store

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
)

func TestTheLedgerFollowsPingsThroughTheLog(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.must(b.s.Append(ctx, []event.Ping{
			{Credential: "main", ORCID: testID(b.T, 1), AcceptedAt: begin}, {Credential: "main", ORCID: testID(b.T, 2), AcceptedAt: begin, CaughtUp: true},
		}))
		b.must(b.s.Announce(ctx, "uni-a", b.ids(3, 4, 5), begin))
		l := b.audit()
		if l.Accepted != 1 || l.CaughtUp != 1 || l.LogPings != 2 || l.Announced != 3 || l.LogAnnouncements != 3 || l.LogEntries != 2 {
			b.Errorf("before: %+v", l)
		}
		for lane := range Lanes {
			entries, err := b.s.ReadLog(ctx, lane, "", 10)
			b.must(err)
			for _, e := range entries {
				p := Processed{ID: e.ID, Announced: 3}
				if e.Items[0].Kind != KindCreated {
					p = Processed{ID: e.ID, Pings: 2, Told: 1, NotWanted: 1}
				}
				b.must(b.s.RemoveEntries(ctx, lane, []Processed{p}))
			}
		}
		if l = b.audit(); l.Processed != 2 || l.Told != 1 || l.NotWanted != 1 || l.AnnouncedProcessed != 3 || l.LogEntries != 0 {
			b.Errorf("after: %+v", l)
		}
		// What the counters do not know must be told.
		p := orgPartition("uni-a")
		b.must(b.s.rdb.HSet(ctx, b.s.keys.slots(p, "uni-a", event.Webhook), "1", "1;U").Err())
		b.must(b.s.rdb.HSet(ctx, b.s.keys.dead(p, "uni-a", event.Webhook), "1", "1||1;U|x").Err())
		l, err := b.s.Ledger(ctx, b.orgs)
		b.must(err)
		all := strings.Join(l.Differences(), "\n")
		for _, want := range []string{"uni-a webhook: 0 slots are due, but 1 are kept; a restart of dispatchd makes them due", "1 dead letters are kept, but 0 have a time", "dead letters by the counters = 0"} {
			if !strings.Contains(all, want) {
				b.Errorf("%q is not in:\n%s", want, all)
			}
		}
		b.must(b.s.rdb.Del(ctx, b.s.keys.slots(p, "uni-a", event.Webhook), b.s.keys.dead(p, "uni-a", event.Webhook)).Err())
	})
}

func TestDifferencesNameEveryBrokenEquation(t *testing.T) {
	t.Parallel()
	good := Ledger{
		Accepted: 5, CaughtUp: 2, LogPings: 1, Processed: 6, Unknown: 1, NotWanted: 1, NoOrganisation: 1, Told: 3,
		Announced: 4, AnnouncedProcessed: 3, LogAnnouncements: 1,
		Targets: 8, Created: 3, Replayed: 2, Opened: 11, Requeued: 1, Coalesced: 2, Ignored: map[string]int64{"disabled": 1},
		Delivered: 3, Superseded: 1, Cancelled: 1, Purged: 1, Dropped: 1, Dead: 2, Pending: 2, CountedDead: 2,
	}
	if d := good.Differences(); len(d) != 0 {
		t.Fatalf("the good one differs: %q", d)
	}
	for name, c := range map[string]struct {
		change func(*Ledger)
		want   []string
	}{
		"accepted":        {func(l *Ledger) { l.Accepted++ }, []string{"pings accepted + caught up = 8, but processed + in the intake log = 7 (difference 1)"}},
		"log too long":    {func(l *Ledger) { l.LogPings, l.LogPartly = 0, true }, nil},
		"told":            {func(l *Ledger) { l.Told-- }, []string{"pings processed = 6, but"}},
		"announced":       {func(l *Ledger) { l.AnnouncedProcessed = 0 }, []string{"affiliations announced = 4, but"}},
		"targets":         {func(l *Ledger) { l.Targets-- }, []string{"news (targets + created + replayed) = 12, but"}},
		"pending":         {func(l *Ledger) { l.Pending++ }, []string{"slots opened = 11, but"}},
		"dead uncounted":  {func(l *Ledger) { l.CountedDead = 0 }, []string{"dead letters by the counters = 0, but"}},
		"opened, ignored": {func(l *Ledger) { l.Opened++; l.Ignored = nil }, []string{"slots opened = 12, but"}},
	} {
		l := good
		c.change(&l)
		got := l.Differences()
		if len(got) != len(c.want) || !slices.EqualFunc(got, c.want, strings.HasPrefix) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestAnEntryStaysInOneChunk(t *testing.T) {
	t.Parallel()
	var list []Target
	for i := range 3 * enqueueChunk {
		list = append(list, Target{Entry: []string{"1-0", "2-0", "3-0"}[i%3]})
	}
	list = append(list, Target{Entry: "4-0"})
	in, total := map[string]int{}, 0
	for i, chunk := range chunkEntries(list) {
		total += len(chunk)
		for _, x := range chunk {
			if at, seen := in[x.Entry]; seen && at != i {
				t.Fatalf("entry %s is in chunks %d and %d", x.Entry, at, i)
			}
			in[x.Entry] = i
		}
	}
	if total != len(list) || in["4-0"] < 2 {
		t.Errorf("%d targets in chunks %v", total, in)
	}
}

func TestASlotWithoutADueTimeIsToldAllTheSame(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.ping(1)
		b.ping(2)
		b.clock.advance(quiet)
		b.finish(b.claim(1).Deliveries[0], b.failed(event.Retry, 500)) // an attempt, so that the next news looks at the time
		b.clock.advance(time.Minute)
		p := orgPartition("uni-a")
		lose := func() {
			b.must(b.s.rdb.Del(ctx, b.s.keys.due(p, "uni-a", event.Webhook)).Err())
			b.must(b.s.rdb.ZRem(ctx, b.s.keys.ready(p), readyMember(event.ChannelKey{Org: "uni-a", Channel: event.Webhook})).Err())
		}
		lose()
		b.ping(1)
		b.ping(2)
		b.clock.advance(quiet)
		if n := len(b.claim(10).Deliveries); n != 2 {
			b.Errorf("after more news %d are claimed, want 2", n)
		}
		lose()
		b.must(b.s.rdb.HSet(ctx, b.s.keys.slots(p, "uni-a", event.Webhook), "no user", "1;U").Err())
		mended, err := b.s.MendSlots(ctx, b.orgs)
		b.must(err)
		if len(mended) != 1 || mended[0].Org != "uni-a" || mended[0].Slots != 2 || !mended[0].Next.Equal(b.clock.now()) {
			b.Errorf("mended: %+v", mended)
		}
		if n := len(b.claim(10).Deliveries); n != 2 {
			b.Errorf("after mending %d are claimed, want 2", n)
		}
		b.must(b.s.rdb.HDel(ctx, b.s.keys.slots(p, "uni-a", event.Webhook), "no user").Err())
		if mended, err = b.s.MendSlots(ctx, b.orgs); err != nil || len(mended) > 0 {
			b.Errorf("again: %+v, %v", mended, err)
		}
	})
}

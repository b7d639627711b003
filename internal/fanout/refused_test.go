package fanout

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// refuse makes the slots of uni-a's webhook another type and returns how to undo
// that.
func (b bundle) refuse(t *testing.T) (mend func()) {
	t.Helper()
	ctx, rdb := context.Background(), b.redis.Client(t)
	control, err := rdb.Keys(ctx, "*:o:uni-a:w:control").Result()
	if err != nil || len(control) != 1 {
		t.Fatal(control, err)
	}
	key := strings.TrimSuffix(control[0], "control") + "slots"
	if err := rdb.Set(ctx, key, "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := rdb.Del(ctx, key).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func (b bundle) lanes() (all []*lane) {
	for n := range store.Lanes {
		all = append(all, b.rd.newLane(n))
	}
	return all
}

// passes reads every lane to its end, and once more.
func (b bundle) passes(t *testing.T, lanes []*lane) error {
	t.Helper()
	for _, l := range lanes {
		for again := true; again; {
			more, err := b.rd.pass(context.Background(), l)
			if err != nil {
				return err
			}
			again = more
		}
		if _, err := b.rd.pass(context.Background(), l); err != nil {
			return err
		}
	}
	return nil
}

// TestWhatRedisRefusesHoldsUpNobodyElse: an organisation whose keys were made
// another type waits, alone, and gets its news when they are mended; nobody else
// gets theirs again.
func TestWhatRedisRefusesHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	b := setup(t, 0, time.Nanosecond)
	hookA, hookB := event.ChannelKey{Org: "uni-a", Channel: event.Webhook}, event.ChannelKey{Org: "uni-b", Channel: event.Webhook}
	both, other := testID(t, 1), testID(t, 2)
	b.affiliate(t, both, "uni-a", "uni-b")
	b.affiliate(t, other, "uni-b")
	mend := b.refuse(t)
	for range 3 {
		ping(t, b, "main", both)
	}
	// What was applied of the entries above must be known for as long as they wait.
	for until := b.store.Now().Add(20 * time.Millisecond); b.store.Now().Before(until); {
		ping(t, b, "main", other)
	}
	lanes := b.lanes()
	for range 2 {
		if err := b.passes(t, lanes); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.waiting(t); got[hookB] != 2 || got[hookA] != 0 {
		t.Errorf("waiting: %v", got)
	}
	if b.hints.chans[hookB] == 0 {
		t.Error("nobody was told of uni-b's news")
	}
	var wrong *store.WrongType
	refused := b.rd.Refused()
	if refused.Entries != 3 || refused.Since.IsZero() || !errors.As(refused.Err, &wrong) || !strings.HasSuffix(wrong.Key, "uni-a:w:slots") {
		t.Errorf("refused: %+v", refused)
	}
	if n, err := b.store.LogLength(t.Context()); err != nil || n != 3 {
		t.Errorf("%d entries are left in the log, want the 3 refused: %v", n, err)
	}
	before, err := b.store.Ledger(t.Context(), []string{"uni-b"})
	if err != nil {
		t.Fatal(err)
	}

	// A restart finds the same.
	lanes = b.lanes()
	if err := b.passes(t, lanes); err != nil {
		t.Fatal(err)
	}
	if again := b.rd.Refused(); again.Entries != 3 {
		t.Errorf("refused after a restart: %+v", again)
	}

	mend()
	if err := b.passes(t, lanes); err != nil {
		t.Fatal(err)
	}
	if b.waiting(t)[hookA] != 0 {
		t.Error("tried again with every pass")
	}
	for _, l := range lanes {
		l.begun = l.begun.Add(-refusedRetry)
	}
	if err := b.passes(t, lanes); err != nil {
		t.Fatal(err)
	}
	if got := b.waiting(t); got[hookA] != 1 || got[hookB] != 2 {
		t.Errorf("waiting when mended: %v", got)
	}
	if refused := b.rd.Refused(); refused.Entries != 0 || refused.Err != nil {
		t.Errorf("refused when mended: %+v", refused)
	}
	if n, err := b.store.LogLength(t.Context()); err != nil || n != 0 {
		t.Errorf("%d entries are left in the log: %v", n, err)
	}
	after := b.balanced(t)
	if n := after.Opened + after.Coalesced - before.Opened - before.Coalesced; n != 3 {
		t.Errorf("%d pieces of news were applied when mended, want the 3 of uni-a", n)
	}
}

// TestALaneWaitsWhenTooMuchIsRefused: it does not read an ever longer log again
// and again, and says once that it waits.
func TestALaneWaitsWhenTooMuchIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t, 0, time.Nanosecond)
	var said strings.Builder
	b.rd.log = slog.New(slog.NewTextHandler(&said, nil))
	id := testID(t, 1)
	b.affiliate(t, id, "uni-a")
	mend := b.refuse(t)
	for range store.Lanes*refusedMost + 2*store.Lanes {
		ping(t, b, "main", id)
	}
	lanes := b.lanes()
	for range 2 {
		if err := b.passes(t, lanes); err != nil {
			t.Fatal(err)
		}
		if r := b.rd.Refused(); r.Entries != store.Lanes*refusedMost || !r.Full {
			t.Errorf("refused: %+v", r)
		}
		looked := b.f.lookUps.Load()
		if err := b.passes(t, lanes); err != nil || b.f.lookUps.Load() != looked {
			t.Errorf("a full lane read on: %d more look-ups, %v", b.f.lookUps.Load()-looked, err)
		}
		for _, l := range lanes {
			l.begun = l.begun.Add(-refusedRetry)
		}
	}
	if n := strings.Count(said.String(), "\n"); n != 2*store.Lanes { // that entries wait, and that the lane does
		t.Errorf("said %d times:\n%s", n, said.String())
	}
	mend()
	if err := b.passes(t, lanes); err != nil {
		t.Fatal(err)
	}
	if r := b.rd.Refused(); r.Entries != 0 || r.Full {
		t.Errorf("refused when mended: %+v", r)
	}
	if n := b.waiting(t)[event.ChannelKey{Org: "uni-a", Channel: event.Webhook}]; n != 1 {
		t.Errorf("%d slots", n)
	}
	b.drain(t)
	b.balanced(t)
}

// spoil makes keys of Redis another type.
func (b bundle) spoil(t *testing.T, pattern string) {
	t.Helper()
	ctx, rdb := t.Context(), b.redis.Client(t)
	keys, err := rdb.Keys(ctx, pattern).Result()
	if err != nil || len(keys) == 0 {
		t.Fatal(pattern, keys, err)
	}
	for _, key := range keys {
		if err := rdb.Set(ctx, key, "x", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhatALaneDoesBesidesHoldsUpNobody: nor does what is looked after besides
// stop the news when Redis refuses it.
func TestWhatALaneDoesBesidesHoldsUpNobody(t *testing.T) {
	t.Parallel()
	hookA, hookB := event.ChannelKey{Org: "uni-a", Channel: event.Webhook}, event.ChannelKey{Org: "uni-b", Channel: event.Webhook}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, b bundle, of orcid.ID)
		left  int // entries that wait
		want  map[event.ChannelKey]int
	}{
		"the marks of a partition": {func(t *testing.T, b bundle, of orcid.ID) {
			for range store.Lanes {
				ping(t, b, "main", of)
			}
			b.drain(t)
			b.spoil(t, "*:applied:*")
		}, 2 * 40, map[event.ChannelKey]int{hookA: 1, hookB: 1}},
		"what was set aside": {func(t *testing.T, b bundle, _ orcid.ID) {
			mend := b.damage(t, testID(t, 2))
			for range store.Lanes {
				ping(t, b, "main", testID(t, 2))
			}
			b.drain(t)
			mend()
			b.spoil(t, "*:parked")
		}, 0, map[event.ChannelKey]int{hookA: 1, hookB: 1}},
		"the month": {func(t *testing.T, b bundle, of orcid.ID) {
			o, _ := b.dir.Organisation("uni-b")
			monthly := *o
			monthly.Email.Monthly = true
			b.dir.Put(monthly)
			ping(t, b, "main", testID(t, 2))
			b.drain(t)
			b.spoil(t, "*:o:uni-b:month:*")
		}, 2 * 40, map[event.ChannelKey]int{hookA: 1, hookB: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 0, time.Nanosecond)
			a := testID(t, 1)
			b.affiliate(t, a, "uni-a")
			b.affiliate(t, testID(t, 2), "uni-b")
			c.spoil(t, b, a)
			for range 2 * 40 { // more than a batch a lane
				ping(t, b, "main", a, testID(t, 2))
			}
			lanes := b.lanes()
			for range 2 {
				if err := b.passes(t, lanes); err != nil {
					t.Fatal(err)
				}
			}
			got := b.waiting(t)
			for key, n := range c.want {
				if got[key] != n {
					t.Errorf("%v has %d waiting, want %d", key, got[key], n)
				}
			}
			if n, err := b.store.LogLength(t.Context()); err != nil || n != int64(c.left) {
				t.Errorf("%d entries are left in the log, want %d: %v", n, c.left, err)
			}
		})
	}
}

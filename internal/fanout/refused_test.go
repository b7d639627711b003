package fanout

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
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
// and again.
func TestALaneWaitsWhenTooMuchIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t, 0, time.Nanosecond)
	id := testID(t, 1)
	b.affiliate(t, id, "uni-a")
	mend := b.refuse(t)
	for range store.Lanes*refusedMost + 2 {
		ping(t, b, "main", id)
	}
	if err := b.passes(t, b.lanes()); !errors.Is(err, store.ErrAnswered) {
		t.Fatalf("the lane went past more: %v", err)
	}
	mend()
	b.drain(t)
	if n := b.waiting(t)[event.ChannelKey{Org: "uni-a", Channel: event.Webhook}]; n != 1 {
		t.Errorf("%d slots", n)
	}
	b.balanced(t)
}

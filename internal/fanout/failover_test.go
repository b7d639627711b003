package fanout

import (
	"context"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/store"
)

// The slots' partition falls back to what it was before a ping was applied, and
// another server answers, while no pass is under way that could fail: the entry
// is still in the log and must be applied again before it is removed.
func TestAPartitionThatFellBackIsFedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t, time.Minute, time.Hour)
	ctx := context.Background()
	key := event.ChannelKey{Org: "uni-a", Channel: event.Webhook}
	b.affiliate(t, testID(t, 1), "uni-a")
	ping(t, b, "main", testID(t, 1))
	var lanes []*lane
	for n := range store.Lanes {
		lanes = append(lanes, b.rd.newLane(n))
	}
	passes := func() {
		t.Helper()
		for range 3 {
			for _, l := range lanes {
				if _, err := b.rd.pass(ctx, l); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	passes()
	if n := b.waiting(t)[key]; n != 1 {
		t.Fatalf("%d slots before", n)
	}
	rdb := b.redis.Client(t)
	found, err := rdb.Keys(ctx, "*:o:uni-a:w:slots").Result()
	if err != nil || len(found) != 1 {
		t.Fatalf("keys %q, %v", found, err)
	}
	part, _, _ := strings.Cut(found[0], ":")
	for _, k := range []string{"o:uni-a:w:slots", "o:uni-a:w:due", "ready", "applied:0", "applied:1"} {
		if err := rdb.Del(ctx, part+":"+k).Err(); err != nil {
			t.Fatal(err)
		}
	}
	b.redis.Kill()
	if err := b.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	passes()
	if n := b.waiting(t)[key]; n != 1 {
		t.Errorf("%d slots after the partition fell back, want 1", n)
	}
}

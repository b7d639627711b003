package service

import (
	"context"
	"strings"
	"testing"

	"dispatchd/internal/event"
	"dispatchd/internal/store"
)

// TestAPurgeThatFailsHalfwayIsAudited: what is gone by then is gone.
func TestAPurgeThatFailsHalfwayIsAudited(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, rdb := context.Background(), b.redis.Client(t)
	b.uniA(t)
	b.runJobs(t)
	b.die(t, "uni-a", researchers(t, 2)...)
	keys, err := rdb.Keys(ctx, "*:o:uni-a:w:dead*").Result()
	if err != nil || len(keys) == 0 {
		t.Fatal(keys, err)
	}
	for _, key := range keys { // the purge of the webhook's comes first
		if err := rdb.Set(ctx, strings.Replace(key, ":w:", ":e:", 1), "of another type", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := b.svc.Purge(ctx, tester, "uni-a", store.Selection{}); err == nil || n != 2 {
		t.Fatalf("%d purged, %v", n, err)
	}
	if said := b.log.String(); !strings.Contains(said, `what="dead letters purged"`) || !strings.Contains(said, "count=2 complete=false") {
		t.Error(said)
	}
	if page, err := b.svc.DeadLetters(ctx, "uni-a", event.Webhook, "", 10); err != nil || len(page.DeadLetters) != 0 {
		t.Errorf("%+v, %v", page, err)
	}
}

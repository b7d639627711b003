package service

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"dispatchd/internal/event"
	"dispatchd/internal/store"
)

// key is the one key of Redis that ends so.
func (b *testBundle) key(t *testing.T, rdb *redis.Client, end string) string {
	t.Helper()
	keys, err := rdb.Keys(t.Context(), "*"+end).Result()
	if err != nil || len(keys) != 1 {
		t.Fatal(end, keys, err)
	}
	return keys[0]
}

// TestADamagedChannelKeepsNoStartFromGoing: also when a change of the
// organisation was cut off.
func TestADamagedChannelKeepsNoStartFromGoing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA(t)
	rdb := b.redis.Client(t)
	b.lost(t, jobApply, 0)
	key := b.key(t, rdb, ":o:uni-a:w:control")
	if err := rdb.Set(t.Context(), key, "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	b = setupOn(t, b.redis, b.data) // it loads
	if !strings.Contains(b.log.String(), "key "+key+" is a string, not a hash") {
		t.Errorf("the log does not name the key:\n%s", b.log)
	}
}

// TestALostReadyIndexIsMade: what waits would stand still until its channel has
// news again.
func TestALostReadyIndexIsMade(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA(t)
	rdb := b.redis.Client(t)
	now := b.store.Now()
	list := []store.Target{{Org: "uni-a", Channel: event.Webhook, ORCID: anID(t), Type: event.Updated, At: now, Due: now, Entry: "1-1"}}
	if _, err := b.store.Enqueue(t.Context(), 0, list, 0); err != nil {
		t.Fatal(err)
	}
	if err := rdb.Rename(t.Context(), b.key(t, rdb, ":ready"), "kept").Err(); err != nil {
		t.Fatal(err)
	}
	b = setupOn(t, b.redis, b.data)
	if found, _, err := b.store.Ready(t.Context(), now.Add(time.Second), 10); err != nil || len(found) != 1 {
		t.Errorf("found %v, %v", found, err)
	}
}

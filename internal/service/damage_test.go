package service

import (
	"errors"
	"fmt"
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

// TestJobsThatNeedADamagedKeyWaitForItAndForNobodyElse: as many as run at once,
// and one that can go on; what was asked for is done when somebody has mended Redis.
func TestJobsThatNeedADamagedKeyWaitForItAndForNobodyElse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	rdb := b.redis.Client(t)
	var waiting []store.Job
	for i := range jobsAtOnce + 1 {
		id := fmt.Sprintf("uni-%d", i)
		if _, _, err := b.svc.PutOrganisation(t.Context(), tester, id, uniA()); err != nil {
			t.Fatal(err)
		}
		j := newJob(jobApply, id, b.store.Now())
		if err := b.store.SaveJob(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, j)
	}
	for i := range jobsAtOnce {
		key := b.key(t, rdb, fmt.Sprintf(":o:uni-%d:w:control", i))
		if err := errors.Join(rdb.Rename(t.Context(), key, "kept:"+key).Err(), rdb.Set(t.Context(), key, "x", 0).Err()); err != nil {
			t.Fatal(err)
		}
	}
	b = setupOn(t, b.redis, b.data)
	b.live(t)
	free := waiting[jobsAtOnce]
	await(t, "the end of the job that can go on", func() bool { return b.ended(t, free.ID) })
	for i, j := range waiting[:jobsAtOnce] {
		await(t, "the job says why it waits", func() bool {
			now, err := b.svc.Job(t.Context(), j.ID)
			return err == nil && now.State == jobRunning && strings.Contains(now.Error, fmt.Sprintf("uni-%d:w:control is a string", i))
		})
	}
	for i := range jobsAtOnce {
		kept := b.key(t, rdb, fmt.Sprintf("kept:*:o:uni-%d:w:control", i))
		if err := rdb.Rename(t.Context(), kept, strings.TrimPrefix(kept, "kept:")).Err(); err != nil {
			t.Fatal(err)
		}
	}
	b = setupOn(t, b.redis, b.data)
	b.runJobs(t)
	for _, j := range waiting {
		if now, err := b.svc.Job(t.Context(), j.ID); err != nil || now.State != jobDone || now.Error != "" {
			t.Errorf("%+v, %v", now, err)
		}
	}
}

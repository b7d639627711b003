package fanout

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// damage writes over the stored record of a user and returns how to mend it.
func (b bundle) damage(t *testing.T, id orcid.ID) (mend func()) {
	t.Helper()
	ctx := context.Background()
	rdb := b.redis.Client(t)
	keys, err := rdb.Keys(ctx, "*:u:*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		for field, raw := range rdb.HGetAll(ctx, key).Val() {
			rdb.HSet(ctx, key, field, "\x00\x00\x00\x00\xff garbage")
			mend := func() { rdb.HSet(ctx, key, field, raw) }
			if _, err := b.store.User(ctx, id); err != nil {
				return mend
			}
			mend()
		}
	}
	t.Fatal("no record found")
	return nil
}

// TestADamagedRecordHoldsUpNobodyElse: its ping is set aside, durably, the
// others are told; when the record can be read again the ping is.
func TestADamagedRecordHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	b := setup(t, 0, time.Nanosecond)
	ctx := context.Background()
	broken, fine := testID(t, 1), testID(t, 2)
	b.affiliate(t, broken, "uni-a", "uni-b")
	b.affiliate(t, fine, "uni-a")
	mend := b.damage(t, broken)
	at := b.store.Now()
	for range 3 {
		pings := []event.Ping{
			{Credential: "main", ORCID: broken, AcceptedAt: at},
			{Credential: "main", ORCID: fine, AcceptedAt: at},
			{Credential: "main", ORCID: testID(t, 3), AcceptedAt: at},
		}
		if err := b.store.Append(ctx, pings); err != nil {
			t.Fatal(err)
		}
	}
	b.drain(t)
	if n := b.waiting(t)[event.ChannelKey{Org: "uni-a", Channel: event.Webhook}]; n != 1 {
		t.Errorf("%d slots of uni-a, want that of the other researcher", n)
	}
	parked, err := b.store.Parked(ctx)
	if err != nil || len(parked) == 0 || len(parked) > store.Lanes {
		t.Fatalf("%+v, %v", parked, err)
	}
	for _, p := range parked {
		if p.Item.ORCID != broken || p.Item.Subject != "main" || p.Item.Kind != store.KindPing || p.Item.At.UnixMicro() != at.UnixMicro() || p.Line != "" {
			t.Errorf("%+v", p)
		}
	}
	b.balanced(t)
	// Nothing comes of trying while it is damaged; then it is told.
	for lane := range store.Lanes {
		if err := b.rd.retryParked(ctx, lane); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := b.store.Parked(ctx); err != nil || len(again) != len(parked) {
		t.Errorf("%+v, %v", again, err)
	}
	mend()
	for lane := range store.Lanes {
		if err := b.rd.retryParked(ctx, lane); err != nil {
			t.Fatal(err)
		}
	}
	b.drain(t)
	if left, err := b.store.Parked(ctx); err != nil || len(left) != 0 {
		t.Errorf("%+v, %v", left, err)
	}
	if n := b.waiting(t)[event.ChannelKey{Org: "uni-a", Channel: event.Webhook}]; n != 2 {
		t.Errorf("%d slots of uni-a, want both", n)
	}
	if n := b.waiting(t)[event.ChannelKey{Org: "uni-b", Channel: event.Email}]; n != 1 {
		t.Errorf("%d slots of uni-b's e-mail", n)
	}
	b.balanced(t)
}

// TestADamagedLineOfTheLogHoldsUpNobodyElse: the other lines of its entry, and
// the entries behind it, are applied.
func TestADamagedLineOfTheLogHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	b := setup(t, 0, time.Nanosecond)
	ctx := context.Background()
	first, second := testID(t, 1), testID(t, 2)
	b.affiliate(t, first, "uni-a")
	b.affiliate(t, second, "uni-a")
	rdb := b.redis.Client(t)
	if err := b.store.Append(ctx, []event.Ping{{Credential: "main", ORCID: first, AcceptedAt: b.store.Now()}}); err != nil {
		t.Fatal(err)
	}
	key := ""
	for _, k := range rdb.Keys(ctx, "*:log").Val() {
		key = k
	}
	entry := rdb.XRange(ctx, key, "-", "+").Val()[0]
	lines := entry.Values["d"].(string) + "p what is this\n"
	rdb.XDel(ctx, key, entry.ID)
	rdb.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []string{"d", lines}})
	rdb.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []string{"x", "no lines at all"}})
	rdb.HIncrBy(ctx, strings.TrimSuffix(key, "log")+"ledger", "accepted", 1)
	for range store.Lanes {
		if err := b.store.Append(ctx, []event.Ping{{Credential: "main", ORCID: second, AcceptedAt: b.store.Now()}}); err != nil {
			t.Fatal(err)
		}
	}
	b.drain(t)
	if n := b.waiting(t)[event.ChannelKey{Org: "uni-a", Channel: event.Webhook}]; n != 2 {
		t.Errorf("%d slots of uni-a, want both", n)
	}
	parked, err := b.store.Parked(ctx)
	if err != nil || len(parked) != 2 {
		t.Fatalf("%+v, %v", parked, err)
	}
	seen := parked[0].Line + "," + parked[1].Line
	if !strings.Contains(seen, "p what is this") || !strings.Contains(seen, "no lines") {
		t.Errorf("%q", seen)
	}
	b.balanced(t)
	for lane := range store.Lanes {
		if err := b.rd.retryParked(ctx, lane); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := b.store.DropParkedLines(ctx); err != nil || n != 2 {
		t.Errorf("%d, %v", n, err)
	}
	if left, err := b.store.Parked(ctx); err != nil || len(left) != 0 {
		t.Errorf("%+v, %v", left, err)
	}
}

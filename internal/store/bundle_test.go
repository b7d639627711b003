package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
)

// bundleTargets are one for each of n organisations, in many partitions.
func bundleTargets(t *testing.T, n int, entry string) []Target {
	t.Helper()
	out := make([]Target, n)
	for i := range out {
		out[i] = Target{
			Org: fmt.Sprintf("org-%d", i), Channel: event.Webhook, ORCID: testID(t, 15_000_000+uint64(i)), Type: event.Updated,
			At: time.Unix(1_795_000_000, 0), Entry: entry,
		}
	}
	return out
}

// TestCallsGoTogether: what would be one run per partition is one run.
func TestCallsGoTogether(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv := redistest.Start(t)
	s := attached(t, srv.URL())
	rdb := srv.Client(t)
	if err := rdb.ConfigResetStat(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	due, err := s.Enqueue(ctx, 0, bundleTargets(t, 200, "1-0"), 0)
	if err != nil || len(due) != 200 {
		t.Fatalf("%d channels, %v", len(due), err)
	}
	stats, err := rdb.InfoMap(ctx, "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	var runs int
	for _, kind := range []string{"cmdstat_eval", "cmdstat_evalsha"} {
		var n int
		if line := stats["Commandstats"][kind]; line != "" {
			if _, err := fmt.Sscanf(line, "calls=%d,", &n); err != nil {
				t.Fatal(err)
			}
		}
		runs += n
	}
	// Unknown at first, so it is sent twice: by name and whole.
	if runs < 2 || runs > 4 {
		t.Errorf("%d runs of scripts for 64 partitions", runs)
	}
}

// TestOneCallOfABundleFails: an error in one partition is that partition's, and
// what the others did stays.
func TestOneCallOfABundleFails(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv := redistest.Start(t)
	s := attached(t, srv.URL())
	rdb := srv.Client(t)
	targets := bundleTargets(t, 100, "1-0")
	for _, x := range targets {
		if err := s.SetChannel(ctx, x.Org, x.Channel, true); err != nil {
			t.Fatal(err)
		}
	}
	bad := orgPartition("org-7")
	if err := rdb.Set(ctx, s.keys.ready(bad), "not a sorted set", 0).Err(); err != nil {
		t.Fatal(err)
	}
	due, err := s.Enqueue(ctx, 0, targets, 0)
	if err == nil || errors.Is(err, ErrAway) {
		t.Errorf("the damage was not told as such: %v", err)
	}
	for _, x := range targets {
		_, ok := due[event.ChannelKey{Org: x.Org, Channel: x.Channel}]
		if want := orgPartition(x.Org) != bad; ok != want {
			t.Errorf("%s in partition %d: answered %v", x.Org, orgPartition(x.Org), ok)
		}
	}
	if err := rdb.Del(ctx, s.keys.ready(bad)).Err(); err != nil {
		t.Fatal(err)
	}
	for _, x := range targets {
		if orgPartition(x.Org) == bad {
			continue
		}
		c, err := s.Claim(ctx, x.Org, x.Channel, 1, time.Minute)
		if err != nil || len(c.Deliveries) != 1 {
			t.Fatalf("claim of %s: %+v, %v", x.Org, c, err)
		}
	}
}

// TestABundleLooksAtEveryMark: one partition with another's mark is enough.
func TestABundleLooksAtEveryMark(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv := redistest.Start(t)
	s := attached(t, srv.URL())
	if err := srv.Client(t).Set(ctx, s.keys.mark(orgPartition("org-3")), "another:1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Enqueue(ctx, 0, bundleTargets(t, 100, "1-0"), 0); !errors.Is(err, ErrForgot) {
		t.Errorf("enqueue: %v", err)
	}
	if !s.Guard().Forgot() {
		t.Error("the guard does not know")
	}
}

// TestABundleOnAFullServer: what fills is refused as a whole, and as away.
func TestABundleOnAFullServer(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv := redistest.Start(t)
	s := attached(t, srv.URL())
	if err := srv.Client(t).ConfigSet(ctx, "maxmemory", "1mb").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Enqueue(ctx, 0, bundleTargets(t, 100, "1-0"), 0); !errors.Is(err, ErrAway) {
		t.Errorf("enqueue on a full server: %v", err)
	}
	if _, err := s.Users(ctx, []orcid.ID{testID(t, 15_000_000), testID(t, 15_000_001)}); err != nil {
		t.Errorf("reading on a full server: %v", err)
	}
}

// TestBundlesAreBounded: no run carries more than bundleArgs, and calls of
// different scripts never go together.
func TestBundlesAreBounded(t *testing.T) {
	t.Parallel()
	one, two := newScript("one", 0, "return 1"), newScript("two", 0, "return 2")
	calls := []*call{
		{script: one, args: make([]any, 10)},
		{script: one, args: make([]any, bundleArgs-20)},
		{script: one, args: make([]any, 11)},
		{script: two, args: make([]any, 2*bundleArgs)},
		{script: two, args: make([]any, 1)},
	}
	count := func(s *Store) (out []int) {
		for _, b := range s.bundles(calls) {
			out = append(out, len(b))
		}
		return out
	}
	if got := fmt.Sprint(count(&Store{})); got != "[2 1 1 1]" {
		t.Errorf("bundles of %s calls", got)
	}
	for name, s := range map[string]*Store{"cluster": {cluster: true}, "embedded": {embedded: true}} {
		if got := fmt.Sprint(count(s)); got != "[1 1 1 1 1]" {
			t.Errorf("%s: bundles of %s calls", name, got)
		}
	}
}

// TestReadsOfManyCallers: one caller's damaged record fails nobody else.
func TestReadsOfManyCallers(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv := redistest.Start(t)
	s := attached(t, srv.URL())
	ids := []orcid.ID{testID(t, 15_000_000), testID(t, 15_000_001), testID(t, 15_000_002)}
	for _, id := range ids {
		if _, err := s.Affiliate(ctx, id, event.Affiliation{Org: "a"}, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	bucket := s.keys.userBuckets(userPartition(ids[1])) + ":0"
	if err := srv.Client(t).HSet(ctx, bucket, mixedField(ids[1]), "").Err(); err != nil {
		t.Fatal(err)
	}
	raws, errs := s.readBatch(ctx, [][]orcid.ID{ids[:1], ids[1:2], ids[2:]})
	for i, err := range errs {
		if err != nil || len(raws[i]) != 1 || raws[i][0] == "" {
			t.Errorf("caller %d: %q, %v", i, raws[i], err)
		}
		if u, err := s.User(ctx, ids[i]); errors.Is(err, ErrDamaged) != (i == 1) || i != 1 && u == nil {
			t.Errorf("caller %d: %+v, %v", i, u, err)
		}
	}
}

package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
)

// TestRecentUsersAreNotReadAgain, but for those whose record was changed.
func TestRecentUsersAreNotReadAgain(t *testing.T) {
	t.Parallel()
	ctx, srv := context.Background(), redistest.Start(t)
	s := attached(t, srv.URL())
	rdb := srv.Client(t)
	ids := []orcid.ID{testID(t, 1), testID(t, 2), testID(t, 3)}
	for i, id := range ids[:2] {
		if _, err := s.Affiliate(ctx, id, event.Affiliation{Org: "uni-a", Name: fmt.Sprint("name ", i)}, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	look := func() {
		t.Helper()
		if _, err := s.LookUp(ctx, ids, make([]time.Time, len(ids))); err != nil {
			t.Fatal(err)
		}
	}
	// names asks for all three and counts the runs of scripts that it took.
	names := func() (got [3]string, runs int64) {
		t.Helper()
		if err := rdb.ConfigResetStat(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		users, err := s.RecentUsers(ctx, ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, u := range users {
			if got[i] = "nobody"; u != nil {
				got[i] = u.Affiliations[0].Name
			}
		}
		stats, err := rdb.InfoMap(ctx, "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"cmdstat_evalsha", "cmdstat_eval"} {
			var n int64
			if line := stats["Commandstats"][kind]; line != "" {
				if _, err := fmt.Sscanf(line, "calls=%d,", &n); err != nil {
					t.Fatal(err)
				}
			}
			runs += n
		}
		return got, runs
	}
	look()
	ids = ids[:2]
	ids = append(ids, ids[0])
	if got, runs := names(); got != [3]string{"name 0", "name 1", "name 0"} || runs != 0 {
		t.Errorf("%q in %d runs after a look-up", got, runs)
	}
	if _, err := s.Affiliate(ctx, ids[0], event.Affiliation{Org: "uni-a", Name: "new"}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got, runs := names(); got != [3]string{"new", "name 1", "new"} || runs == 0 {
		t.Errorf("%q in %d runs after a change", got, runs)
	}
	if _, err := s.Unaffiliate(ctx, ids[1], "uni-a", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got, _ := names(); got != [3]string{"new", "nobody", "new"} {
		t.Errorf("%q after the second one left", got)
	}
}

func TestWhatIsReadDuringAChangeIsNotKept(t *testing.T) {
	t.Parallel()
	id, now := testID(t, 1), time.Now()
	u := &event.User{ORCID: id}
	known := func(r *recent, at time.Time) bool {
		return len(r.find([]orcid.ID{id}, make([]*event.User, 1), at)) == 0
	}
	var r recent
	before := r.reading()
	end := r.change([]*saving{{id: id}})
	r.keep(before, []*event.User{u}, now)
	r.keep(r.reading(), []*event.User{u}, now)
	if known(&r, now) {
		t.Error("kept while the record is being changed")
	}
	during := r.reading()
	end()
	r.keep(during, []*event.User{u}, now)
	if known(&r, now) {
		t.Error("kept although it was read before the change had ended")
	}
	r.keep(r.reading(), []*event.User{u, nil}, now)
	if !known(&r, now) || !known(&r, now.Add(recentFor*3/4)) {
		t.Error("not kept")
	}
	if known(&r, now.Add(recentFor*3/4+recentFor*3/4)) {
		t.Error("kept for longer than it may be")
	}
	r.keep(r.reading(), []*event.User{u}, now.Add(time.Hour))
	r.change([]*saving{{id: id}})()
	if known(&r, now.Add(time.Hour)) {
		t.Error("known after a change")
	}
}

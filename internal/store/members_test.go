package store

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"dispatchd/internal/orcid"
)

func TestMembersAreShownWhileTheIndexGrows(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		first, later := sequence(t, 3000)[:1000], sequence(t, 3000)[1000:]
		if _, err := s.memberCalls(ctx, s.scripts.memberAdd, "uni-a", first); err != nil {
			t.Fatal(err)
		}
		for _, page := range []int{1000, 97, 450} {
			seen, err := walkMembers(ctx, s, "uni-a", page, func() {
				n := min(200, len(later)) // enough for a split between two pages
				if _, err := s.memberCalls(ctx, s.scripts.memberAdd, "uni-a", later[:n]); err != nil {
					t.Fatal(err)
				}
				later = later[n:]
			})
			if err != nil {
				t.Fatal(err)
			}
			shown := map[orcid.ID]bool{}
			for _, id := range seen {
				shown[id] = true
			}
			for _, id := range first {
				if !shown[id] {
					t.Fatalf("page of %d: %s is not shown", page, id)
				}
			}
		}
		if len(later) > 0 {
			t.Errorf("the index did not grow: %d left", len(later))
		}
		if s.embedded {
			return
		}
		p := orgPartition("uni-a")
		for b := range (3000 + membersPerBucket - 1) / membersPerBucket {
			enc, err := s.rdb.ObjectEncoding(ctx, fmt.Sprintf("%s:%d", s.keys.members(p, "uni-a"), b)).Result()
			if err != nil || enc != "intset" {
				t.Errorf("bucket %d is %q, %v", b, enc, err)
			}
		}
	})
}

func TestDropMembersLeavesNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, ids := context.Background(), sequence(t, 2000)
		for _, o := range []string{"uni-a", "uni-ab"} {
			if _, err := s.memberCalls(ctx, s.scripts.memberAdd, o, ids); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := s.DropMembers(ctx, "uni-a"); err != nil {
				t.Fatal(err)
			}
		}
		keys, err := s.rdb.Keys(ctx, s.keys.members(orgPartition("uni-a"), "uni-a")+"*").Result()
		if err != nil || len(keys) > 0 {
			t.Errorf("left: %v, %v", keys, err)
		}
		if n, err := s.MemberCount(ctx, "uni-ab"); err != nil || n != len(ids) {
			t.Errorf("the other organisation has %d members, %v", n, err)
		}
		if got, next, err := s.Members(ctx, "uni-a", "", 10); len(got) != 0 || next != "" || err != nil {
			t.Errorf("%v %q %v", got, next, err)
		}
	})
}

// A number is taken out of the index after its record; whoever affiliates the
// user in between must not be forgotten.
func TestLeavingTheIndexPutsBackWhoCameAgain(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, ids := context.Background(), sequence(t, 3)
		if _, err := s.AffiliateAll(ctx, "uni-a", affiliated(ids, s.Now()), time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Unaffiliate(ctx, ids[0], "uni-a", time.Time{}); err != nil {
			t.Fatal(err)
		}
		if err := s.leaveIndex(ctx, "uni-a", ids[:2]); err != nil {
			t.Fatal(err)
		}
		got, _, err := s.Members(ctx, "uni-a", "", 10)
		if err != nil || len(got) != 2 || !slices.Contains(got, ids[1]) || !slices.Contains(got, ids[2]) {
			t.Errorf("members %v, %v, want %v", got, err, ids[1:])
		}
		if n, err := s.MemberCount(ctx, "uni-a"); err != nil || n != 2 {
			t.Errorf("%d members, %v", n, err)
		}
	})
}

package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

func (m *userModel) due(t *rapid.T) {
	now := m.base.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "now")) * time.Second)
	limit := rapid.SampledFrom([]int{1, 5, 40, 2000}).Draw(t, "limit")
	ids, next, err := m.s.DueUsers(m.ctx, now, limit)
	if err != nil {
		t.Fatal(err)
	}
	all := slices.SortedFunc(maps.Keys(m.work), func(a, b orcid.ID) int { return m.work[a].Compare(m.work[b]) })
	var want []time.Time
	var wantNext time.Time
	for _, id := range all {
		if at := m.work[id]; len(want) < limit && !at.After(now) {
			want = append(want, at)
		} else if wantNext.IsZero() {
			wantNext = at
		}
	}
	var got []time.Time
	for _, id := range ids {
		got = append(got, m.work[id])
	}
	if diff := cmp.Diff(want, got); diff != "" || !next.Equal(wantNext) {
		t.Fatalf("next %s, want %s; due times: %s", next, wantNext, diff)
	}
	seen := map[orcid.ID]bool{}
	for _, id := range ids {
		if seen[id] {
			t.Fatalf("%s is due twice", id)
		}
		seen[id] = true
	}
}

// check compares everything.
func (m *userModel) check(t *rapid.T) {
	got, err := m.s.Users(m.ctx, m.ids)
	if err != nil {
		t.Fatal(err)
	}
	members := map[string]map[orcid.ID]bool{"uni-a": {}, "uni-b": {}, "uni-c": {}}
	states := map[event.RegState]int64{}
	for s := event.RegNone; s <= event.RegRefused; s++ {
		states[s] = 0
	}
	for i, id := range m.ids {
		want := m.users[id]
		if got[i] != nil {
			got[i].Version = ""
		}
		if want != nil {
			want.Version = ""
			for _, a := range want.Affiliations {
				members[a.Org][id] = true
			}
			for _, r := range want.Registrations {
				states[r.State]++
			}
		}
		if diff := cmp.Diff(want, got[i], sameID, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s: %s", id, diff)
		}
	}
	for org, want := range members {
		if n, err := m.s.MemberCount(m.ctx, org); err != nil || n != len(want) {
			t.Fatalf("%s has %d members, %v, want %d", org, n, err, len(want))
		}
		seen, err := walkMembers(m.ctx, m.s, org, rapid.IntRange(30, 300).Draw(t, "page"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range seen {
			if !want[id] {
				t.Fatalf("%s is shown as a member of %s, or twice", id, org)
			}
			delete(want, id)
		}
		if len(want) > 0 {
			t.Fatalf("%d members of %s are not shown", len(want), org)
		}
	}
	totals, err := m.s.totals(m.ctx)
	if err != nil || totals.users != int64(len(m.users)) || totals.work != int64(len(m.work)) {
		t.Fatalf("%+v, %v, want %d users, %d with work", totals, err, len(m.users), len(m.work))
	}
	if diff := cmp.Diff(states, totals.registrations); diff != "" {
		t.Fatalf("registrations: %s", diff)
	}
}

// walkMembers shows every page; between runs after each.
func walkMembers(ctx context.Context, s *Store, org string, page int, between func()) ([]orcid.ID, error) {
	var out []orcid.ID
	for cursor := ""; ; {
		ids, next, err := s.Members(ctx, org, cursor, page)
		if err != nil {
			return nil, err
		}
		if len(ids) > page || next != "" && len(ids) < page {
			return nil, fmt.Errorf("a page of %d has %d, next %q", page, len(ids), next)
		}
		out = append(out, ids...)
		if cursor = next; next == "" {
			return out, nil
		}
		if between != nil {
			between()
		}
	}
}

func TestUsersAgainstAModel(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		// Most in one partition and one organisation: buckets split.
		ids := slices.Concat(partitionIDs(t, 7, 400), partitionIDs(t, 63, 20), partitionIDs(t, 0, 5))
		runs, failed := 0, false
		most := 25
		if s.embedded {
			most = 6 // it compiles a script at every call
		}
		rapid.Check(t, func(t *rapid.T) {
			// A count of our own, since rapid has one for all tests only; after a
			// failure it must run on, to find the shortest way to it.
			if runs++; runs > most && !failed {
				return
			}
			done := false
			defer func() { failed = failed || !done }()
			if err := empty(ctx, s); err != nil {
				t.Fatal(err)
			}
			if err := s.Recover(ctx); err != nil {
				t.Fatal(err)
			}
			m := &userModel{
				s: s, ctx: ctx, base: time.Unix(1_795_000_000, 0).UTC(), ids: ids,
				users: map[orcid.ID]*event.User{}, old: map[orcid.ID]string{}, work: map[orcid.ID]time.Time{},
			}
			t.Repeat(m.actions())
			m.check(t)
			done = true
		})
	})
}

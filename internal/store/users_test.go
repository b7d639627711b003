package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
)

// sequence returns n users whose iDs follow each other.
func sequence(t testing.TB, n int) []orcid.ID {
	t.Helper()
	out := make([]orcid.ID, n)
	for i := range out {
		out[i] = testID(t, 1_500_000_000+uint64(i))
	}
	return out
}

func affiliated(ids []orcid.ID, at time.Time) []Affiliated {
	out := make([]Affiliated, len(ids))
	for i, id := range ids {
		out[i] = Affiliated{id, event.Affiliation{AffiliatedAt: at}}
	}
	return out
}

func TestBucketsSplitAndKeepEverybody(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		const p = 5
		ids := partitionIDs(t, p, 1000)
		for part := range slices.Chunk(ids, 90) {
			if _, err := s.AffiliateAll(ctx, "uni-a", affiliated(part, s.Now()), time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Users(ctx, ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, u := range got {
			if u == nil || u.ORCID != ids[i] || len(u.Affiliations) != 1 {
				t.Fatalf("user %d of %d is %+v", i, len(ids), u)
			}
		}
		totals, err := s.totals(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if want := (1000 + usersPerBucket - 1) / usersPerBucket; totals.buckets != int64(want) {
			t.Errorf("%d buckets, want %d", totals.buckets, want)
		}
		if s.embedded {
			return
		}
		sum := int64(0)
		for b := range totals.buckets {
			key := fmt.Sprintf("%s:%d", s.keys.userBuckets(p), b)
			n, err := s.rdb.HLen(ctx, key).Result()
			if err != nil {
				t.Fatal(err)
			}
			enc, err := s.rdb.ObjectEncoding(ctx, key).Result()
			if err != nil || enc != "listpack" {
				t.Errorf("bucket %d with %d users is a %s, %v", b, n, enc, err)
			}
			sum += n
		}
		if sum != 1000 {
			t.Errorf("the buckets have %d users, want 1000", sum)
		}
	})
}

func TestAnExistingAffiliationGetsOnlyNewPersonalData(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id := context.Background(), testID(t, 182509)
		first := event.Affiliation{Org: "uni-a", Email: "a@x.example", Name: "Ana", AffiliatedAt: time.Unix(1_700_000_000, 0), Announce: true}
		if added, err := s.Affiliate(ctx, id, first, time.Time{}); err != nil || !added {
			t.Fatal(added, err)
		}
		second := event.Affiliation{Org: "uni-a", EPPN: "ana@x", Name: "Ana B", AffiliatedAt: time.Unix(1_800_000_000, 0)}
		if added, err := s.Affiliate(ctx, id, second, s.Now()); err != nil || added {
			t.Fatal(added, err)
		}
		u, err := s.User(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		want := event.Affiliation{Org: "uni-a", Email: "a@x.example", EPPN: "ana@x", Name: "Ana B", AffiliatedAt: first.AffiliatedAt.UTC(), Announce: true}
		if len(u.Affiliations) != 1 || u.Affiliations[0] != want {
			t.Errorf("got %+v, want %+v", u.Affiliations, want)
		}
		if n, err := s.WorkTotal(ctx); err != nil || n != 0 {
			t.Errorf("%d users with work, %v: nothing new is to be done", n, err)
		}
	})
}

func TestBadAffiliationsChangeNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id := context.Background(), testID(t, 7)
		for _, orgID := range []string{"", "Uni A", "a:b", strings.Repeat("x", 65)} {
			if _, err := s.Affiliate(ctx, id, event.Affiliation{Org: orgID}, time.Time{}); err == nil {
				t.Errorf("organisation %q was accepted", orgID)
			}
		}
		_, err := s.AffiliateAll(ctx, "uni-a", []Affiliated{{id, event.Affiliation{Org: "uni-b"}}}, time.Time{})
		if err == nil || !strings.Contains(err.Error(), `names "uni-b"`) {
			t.Errorf("another organisation: %v", err)
		}
		if _, err := s.LookUp(ctx, []orcid.ID{id}, nil); err == nil {
			t.Error("a look-up without times was accepted")
		}
		if _, _, err := s.DueUsers(ctx, s.Now(), 0); err == nil {
			t.Error("a limit of 0 was accepted")
		}
		for _, cursor := range []string{"x", "1", "1-x", "-1-1", "99999999999-1"} {
			if _, _, err := s.Members(ctx, "uni-a", cursor, 10); err == nil {
				t.Errorf("cursor %q was accepted", cursor)
			}
		}
		if n, err := s.UserTotals(ctx); n != 0 || err != nil {
			t.Errorf("%d users, %v", n, err)
		}
	})
}

func TestLookUpMovesTheLatestPingForwardOnlyAndConflictsWithNobody(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id := context.Background(), testID(t, 7)
		if _, err := s.Affiliate(ctx, id, event.Affiliation{Org: "uni-a", Name: "Ana"}, time.Time{}); err != nil {
			t.Fatal(err)
		}
		read, err := s.User(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		late := time.Unix(1_800_000_000, 999).UTC()
		for _, at := range []time.Time{late, late.Add(-time.Hour), {}} {
			if _, err := s.LookUp(ctx, []orcid.ID{id, testID(t, 8)}, []time.Time{at, at}); err != nil {
				t.Fatal(err)
			}
		}
		// The writer has read before the pings; it must neither fail nor take
		// them back.
		read.Registrations = []event.Registration{{Credential: "main", State: event.RegPutting, Epoch: 1}}
		if _, err := s.SaveUser(ctx, *read, time.Time{}); err != nil {
			t.Fatal(err)
		}
		u, err := s.User(ctx, id)
		if err != nil || !u.LastPing.Equal(late.Truncate(time.Second)) {
			t.Errorf("the latest ping is %v, %v, want %s", u.LastPing, err, late)
		}
	})
}

func TestARecordThatNamesAnUnknownNumberIsAnError(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id := context.Background(), testID(t, 7)
		for _, o := range []string{"uni-a", "uni-b"} {
			if _, err := s.Affiliate(ctx, id, event.Affiliation{Org: o}, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.rdb.HDel(ctx, s.keys.orgNumbers(), "uni-b").Err(); err != nil {
			t.Fatal(err)
		}
		if err := s.Recover(ctx); err != nil { // what was known is asked for again
			t.Fatal(err)
		}
		if u, err := s.User(ctx, id); !errors.Is(err, errNoName) || !errors.Is(err, ErrDamaged) {
			t.Errorf("%+v, %v, want an error", u, err)
		}
		// Never as unknown, nor as a user of no organisation.
		if list, err := s.LookUp(ctx, []orcid.ID{id}, []time.Time{s.Now()}); err != nil || len(list) != 1 || list[0] == nil || !list[0].Damaged {
			t.Errorf("%+v, %v, want a damaged user", list, err)
		}
		if err := s.rdb.HSet(ctx, s.keys.userBuckets(userPartition(id))+":0", mixedField(id), "\x00\x00\x00\x00?").Err(); err != nil {
			t.Fatal(err)
		}
		if u, err := s.User(ctx, id); !errors.Is(err, ErrDamaged) {
			t.Errorf("%+v, %v, want an error", u, err)
		}
	})
}

func TestNumbersGivenByAnotherProcessAreFound(t *testing.T) {
	t.Parallel()
	ctx, url, dir := context.Background(), redistest.Start(t).URL(), t.TempDir()
	one, two := newStore(t, url, dir), newStore(t, url, dir)
	for _, s := range []*Store{one, two} {
		if err := s.Attach(ctx); err != nil {
			t.Fatal(err)
		}
	}
	ids := sequence(t, 20)
	var done sync.WaitGroup
	for i, id := range ids {
		for _, s := range []*Store{one, two} {
			done.Go(func() {
				for k := range 5 {
					if _, err := s.Affiliate(ctx, id, event.Affiliation{Org: fmt.Sprintf("uni-%d", (i+k)%7)}, time.Time{}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	done.Wait()
	a, err := one.Users(ctx, ids)
	if err != nil {
		t.Fatal(err)
	}
	b, err := two.Users(ctx, ids)
	if err != nil {
		t.Fatal(err)
	}
	for i := range ids {
		if len(a[i].Affiliations) != 5 || a[i].Version != b[i].Version || !slices.Equal(a[i].Affiliations, b[i].Affiliations) {
			t.Errorf("%+v and %+v", a[i], b[i])
		}
	}
}

// Whatever runs at once: no edit is lost, counts are right, and everybody who
// is affiliated is in the member index.
func TestConcurrentEditsLoseNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		ids := partitionIDs(t, 9, 6)
		orgs := []string{"uni-a", "uni-b"}
		rounds := 60
		if s.embedded {
			rounds = 15
		}
		var added, removed [2]int
		var mu sync.Mutex
		var done sync.WaitGroup
		for w := range 4 {
			done.Go(func() {
				for i := range rounds {
					id, o := ids[(i*7+w)%len(ids)], (i+w)%2
					if (i/3+w)%2 == 0 {
						ok, err := s.Affiliate(ctx, id, event.Affiliation{Org: orgs[o], Name: fmt.Sprint(i, w)}, s.Now())
						if err != nil {
							t.Error(err)
						}
						mu.Lock()
						if ok {
							added[o]++
						}
						mu.Unlock()
					} else {
						ok, err := s.Unaffiliate(ctx, id, orgs[o], s.Now())
						if err != nil {
							t.Error(err)
						}
						mu.Lock()
						if ok {
							removed[o]++
						}
						mu.Unlock()
					}
				}
			})
		}
		conflicts := 0
		done.Go(func() { // as a UserActor does
			for i := range rounds * 2 {
				for {
					u, err := s.User(ctx, ids[i%len(ids)])
					if err != nil {
						t.Error(err)
						return
					}
					if u == nil {
						u = &event.User{ORCID: ids[i%len(ids)]}
					}
					u.Registrations = []event.Registration{{Credential: "main", State: event.RegState(1 + i%4), Epoch: 1}}
					_, err = s.SaveUser(ctx, *u, time.Time{})
					if err == nil {
						break
					}
					if !errors.Is(err, ErrConflict) {
						t.Error(err)
						return
					}
					conflicts++
				}
			}
		})
		done.Wait()
		users, err := s.Users(ctx, ids)
		if err != nil {
			t.Fatal(err)
		}
		var have [2]int
		states := map[event.RegState]int64{}
		for i, u := range users {
			for _, r := range u.Registrations {
				states[r.State]++
			}
			for o := range orgs {
				if slices.ContainsFunc(u.Affiliations, func(a event.Affiliation) bool { return a.Org == orgs[o] }) {
					have[o]++
					members, err := walkMembers(ctx, s, orgs[o], 100, nil)
					if err != nil || !slices.Contains(members, ids[i]) {
						t.Errorf("%s is affiliated with %s but not in its index (%v)", ids[i], orgs[o], err)
					}
				}
			}
		}
		for o := range orgs {
			if have[o] != added[o]-removed[o] {
				t.Errorf("%s has %d users after %d were added and %d removed", orgs[o], have[o], added[o], removed[o])
			}
		}
		totals, err := s.totals(ctx)
		if err != nil || totals.users != int64(len(ids)) {
			t.Errorf("%+v, %v", totals, err)
		}
		for state, n := range totals.registrations {
			if states[state] != n {
				t.Errorf("%d registrations %s are counted, %d are there", n, state, states[state])
			}
		}
		t.Logf("%d conflicts of SaveUser", conflicts)
	})
}

func TestMutingIsOneOrganisations(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		id, at := testID(t, 42), time.Unix(1_795_000_000, 0).UTC()
		if ok, err := s.SetMuted(ctx, id, "uni-a", true, at); err != nil || ok {
			t.Fatalf("nobody is muted: %v %v", ok, err)
		}
		for _, o := range []string{"uni-a", "uni-b"} {
			if _, err := s.Affiliate(ctx, id, event.Affiliation{Org: o, Name: "N", AffiliatedAt: at}, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		state := func(want ...bool) {
			t.Helper()
			u, err := s.User(ctx, id)
			if err != nil || len(u.Affiliations) != 2 {
				t.Fatalf("%+v %v", u, err)
			}
			for i, a := range u.Affiliations {
				if a.Muted != want[i] || a.Name != "N" || !a.AffiliatedAt.Equal(at) {
					t.Errorf("%+v, muted want %v", a, want[i])
				}
			}
		}
		if ok, err := s.SetMuted(ctx, id, "uni-c", true, at); err != nil || ok {
			t.Fatalf("%v %v", ok, err)
		}
		state(false, false)
		for range 2 {
			if ok, err := s.SetMuted(ctx, id, "uni-b", true, at); err != nil || !ok {
				t.Fatalf("%v %v", ok, err)
			}
			state(false, true)
		}
		if due, _, err := s.DueUsers(ctx, at, 10); err != nil || len(due) != 1 {
			t.Errorf("due: %v %v", due, err)
		}
		// New data leaves it as it is.
		if _, err := s.Affiliate(ctx, id, event.Affiliation{Org: "uni-b", Email: "x@b.example"}, time.Time{}); err != nil {
			t.Fatal(err)
		}
		state(false, true)
		if ok, err := s.SetMuted(ctx, id, "uni-b", false, at); err != nil || !ok {
			t.Fatalf("%v %v", ok, err)
		}
		state(false, false)
	})
}

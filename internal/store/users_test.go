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
	"dispatchd/internal/org"
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
	onBoth(t, func(t *testing.T, s *Store) {
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
	onBoth(t, func(t *testing.T, s *Store) {
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
	onBoth(t, func(t *testing.T, s *Store) {
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
	onBoth(t, func(t *testing.T, s *Store) {
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
	onBoth(t, func(t *testing.T, s *Store) {
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
		if u, err := s.User(ctx, id); !errors.Is(err, errNoName) {
			t.Errorf("%+v, %v, want an error", u, err)
		}
		if list, err := s.LookUp(ctx, []orcid.ID{id}, []time.Time{s.Now()}); !errors.Is(err, errNoName) {
			t.Errorf("%+v, %v, want an error", list, err)
		}
		if err := s.rdb.HSet(ctx, s.keys.userBuckets(userPartition(id))+":0", mixedField(id), "\x00\x00\x00\x00?").Err(); err != nil {
			t.Fatal(err)
		}
		if u, err := s.User(ctx, id); !errors.Is(err, errDamaged) {
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
	onBoth(t, func(t *testing.T, s *Store) {
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

func TestEveryUserVerbFindsAForgottenRedis(t *testing.T) {
	t.Parallel()
	ctx, id := context.Background(), testID(t, 7)
	for name, verb := range map[string]func(s *Store) error{
		"LookUp":   func(s *Store) error { _, err := s.LookUp(ctx, []orcid.ID{id}, []time.Time{s.Now()}); return err },
		"Users":    func(s *Store) error { _, err := s.Users(ctx, []orcid.ID{id}); return err },
		"SaveUser": func(s *Store) error { _, err := s.SaveUser(ctx, event.User{ORCID: id}, s.Now()); return err },
		"Affiliate": func(s *Store) error {
			_, err := s.Affiliate(ctx, id, event.Affiliation{Org: "uni-a"}, s.Now())
			return err
		},
		"Unaffiliate":        func(s *Store) error { _, err := s.Unaffiliate(ctx, id, "uni-a", s.Now()); return err },
		"Members":            func(s *Store) error { _, _, err := s.Members(ctx, "uni-a", "", 10); return err },
		"MemberCount":        func(s *Store) error { _, err := s.MemberCount(ctx, "uni-a"); return err },
		"DropMembers":        func(s *Store) error { return s.DropMembers(ctx, "uni-a") },
		"DueUsers":           func(s *Store) error { _, _, err := s.DueUsers(ctx, s.Now(), 10); return err },
		"SetWork":            func(s *Store) error { return s.SetWork(ctx, []orcid.ID{id}, s.Now()) },
		"UserTotals":         func(s *Store) error { _, err := s.UserTotals(ctx); return err },
		"RegistrationTotals": func(s *Store) error { _, err := s.RegistrationTotals(ctx); return err },
		"Organisations":      func(s *Store) error { _, err := s.Organisations(ctx); return err },
		"SaveOrganisation":   func(s *Store) error { return s.SaveOrganisation(ctx, org.Organisation{ID: "uni-a"}) },
		"DeleteOrganisation": func(s *Store) error { return s.DeleteOrganisation(ctx, "uni-a") },
		"BaseID":             func(s *Store) error { _, err := s.BaseID(ctx, Base{}); return err },
		"Base":               func(s *Store) error { _, err := s.Base(ctx, 1); return err },
		"SaveJob":            func(s *Store) error { return s.SaveJob(ctx, Job{ID: "j", State: JobRunning}) },
		"Jobs":               func(s *Store) error { _, err := s.Jobs(ctx); return err },
		"DeleteJob":          func(s *Store) error { return s.DeleteJob(ctx, "j") },
		"LoadToken":          func(s *Store) error { _, err := s.Tokens("main").LoadToken(ctx, "/webhook"); return err },
		"SaveToken":          func(s *Store) error { return s.Tokens("main").SaveToken(ctx, "/webhook", orcid.Token{}) },
		"SetFact":            func(s *Store) error { return s.SetFact(ctx, "paused", "yes") },
		"Fact":               func(s *Store) error { _, err := s.Fact(ctx, "paused"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := attached(t, redistest.Embedded(t), func(o *Options) { o.Embedded = true })
			if _, err := s.Affiliate(ctx, id, event.Affiliation{Org: "uni-a"}, time.Time{}); err != nil {
				t.Fatal(err)
			}
			if err := s.rdb.FlushAll(ctx).Err(); err != nil {
				t.Fatal(err)
			}
			if err := verb(s); !errors.Is(err, ErrForgot) {
				t.Fatalf("%v, want ErrForgot", err)
			}
			if n, err := s.rdb.DBSize(ctx).Result(); err != nil || n != 0 {
				t.Errorf("%d keys were written, %v", n, err)
			}
		})
	}
}

func TestAFullRedisDrainsAndTakesNothing(t *testing.T) {
	t.Parallel()
	ctx, ids := context.Background(), sequence(t, 3)
	srv := redistest.Start(t)
	s := attached(t, srv.URL())
	if _, err := s.AffiliateAll(ctx, "uni-a", affiliated(ids[:2], s.Now()), s.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SaveUser(ctx, event.User{ORCID: ids[2], Registrations: []event.Registration{{Credential: "main"}}}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := srv.Client(t).ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Affiliate(ctx, ids[2], event.Affiliation{Org: "uni-a"}, s.Now()); !errors.Is(err, ErrAway) {
		t.Errorf("affiliate: %v, want ErrAway", err)
	}
	if n, err := s.MemberCount(ctx, "uni-a"); err != nil || n != 2 {
		t.Errorf("%d members, %v, want 2", n, err)
	}
	list, err := s.LookUp(ctx, ids, []time.Time{s.Now(), s.Now(), s.Now()})
	if err != nil {
		t.Fatal(err)
	}
	list[0].Registrations = []event.Registration{{Credential: "main", State: event.RegAlive}}
	if _, err := s.SaveUser(ctx, *list[0], time.Time{}); err != nil {
		t.Errorf("save a registration's outcome: %v", err)
	}
	if ok, err := s.Unaffiliate(ctx, ids[1], "uni-a", s.Now()); !ok || err != nil {
		t.Errorf("remove: %v %v", ok, err)
	}
	if due, _, err := s.DueUsers(ctx, s.Now(), 10); err != nil || len(due) != 1 {
		t.Errorf("due users: %v %v", due, err)
	}
}

func TestADaemonThatWasTakenOverSavesNoUser(t *testing.T) {
	t.Parallel()
	ctx, url, dir, id := context.Background(), redistest.Start(t).URL(), t.TempDir(), testID(t, 7)
	old, current := newStore(t, url, dir), newStore(t, url, dir)
	for _, s := range []*Store{old, current} {
		if err := s.Attach(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for name, err := range map[string]error{
		"SaveUser": func() error { _, err := old.SaveUser(ctx, event.User{ORCID: id}, old.Now()); return err }(),
		"SetWork":  old.SetWork(ctx, []orcid.ID{id}, old.Now()),
		"SaveJob":  old.SaveJob(ctx, Job{ID: "j", State: JobRunning}),
	} {
		if !errors.Is(err, ErrFenced) {
			t.Errorf("%s: %v, want ErrFenced", name, err)
		}
	}
	if n, err := current.WorkTotal(ctx); n != 0 || err != nil {
		t.Errorf("%d users with work, %v", n, err)
	}
}

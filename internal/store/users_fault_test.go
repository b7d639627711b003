package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/redistest"
)

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

func TestNobodyIsSavedWithoutTheirWork(t *testing.T) {
	t.Parallel()
	srv, ctx, id := redistest.Start(t), context.Background(), testID(t, 7)
	s, rdb := attached(t, srv.URL()), srv.Client(t)
	work := s.keys.userWork(userPartition(id))
	due := func(what string) {
		t.Helper()
		if ids, _, err := s.DueUsers(ctx, s.Now(), 10); err != nil || len(ids) != 1 {
			t.Errorf("%s: %v are due, %v, want the user", what, ids, err)
		}
	}
	breakWork := func() {
		t.Helper()
		if err := errors.Join(rdb.Del(ctx, work).Err(), rdb.Set(ctx, work, "damaged by hand", 0).Err()); err != nil {
			t.Fatal(err)
		}
	}
	mendWork := func() {
		t.Helper()
		if err := rdb.Del(ctx, work).Err(); err != nil {
			t.Fatal(err)
		}
	}
	breakWork()
	if added, err := s.Affiliate(ctx, id, event.Affiliation{Org: "uni-a"}, s.Now()); err == nil {
		t.Fatalf("added (%v) although the work cannot be noted", added)
	}
	mendWork()
	if added, err := s.Affiliate(ctx, id, event.Affiliation{Org: "uni-a"}, s.Now()); err != nil || !added {
		t.Errorf("again: added %v, %v, want true", added, err)
	}
	due("added")
	breakWork()
	if _, err := s.Unaffiliate(ctx, id, "uni-a", s.Now()); err == nil {
		t.Fatal("removed although the work cannot be noted")
	}
	mendWork()
	if removed, err := s.Unaffiliate(ctx, id, "uni-a", s.Now()); err != nil || !removed {
		t.Errorf("again: removed %v, %v, want true", removed, err)
	}
	due("removed")
}

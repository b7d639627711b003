package service

import (
	"context"
	"errors"
	"sync"
	"testing"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
)

// registrar notes what is asked of it.
type registrar struct {
	mu     sync.Mutex
	lost   bool
	paused bool
	made   map[orcid.ID]int
	fail   int // after that many
}

func (r *registrar) AcceptKeys(context.Context) (bool, error) { return r.lost, nil }

func (r *registrar) Rearm(_ context.Context, id orcid.ID, credential string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if credential != "main" {
		return false, nil
	}
	if r.fail--; r.fail == 0 {
		return false, errors.New("injected")
	}
	r.made[id]++
	return true, nil
}

func (r *registrar) PauseRegistrations(paused bool) { r.paused = paused }

func withRegistrar(t *testing.T) (*testBundle, *registrar, []orcid.ID) {
	t.Helper()
	b := setup(t)
	reg := &registrar{made: map[orcid.ID]int{}}
	b.svc.o.Registrar = reg
	ctx := t.Context()
	var ids []orcid.ID
	for i, name := range []string{"uni-a", "uni-a-x", "uni-b"} {
		b.dir.Put(org.Organisation{ID: name, Credential: "main", Webhook: org.Webhook{Enabled: true}})
		for k := range 3 {
			id, err := orcid.FromBase(uint64(15_000_000 + 10*i + k))
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
			if _, err := b.store.Affiliate(ctx, id, event.Affiliation{Org: name}, b.store.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b, reg, ids
}

func TestRearmReachesEverybodyOnceAndGoesOnAfterAFailure(t *testing.T) {
	t.Parallel()
	b, reg, ids := withRegistrar(t)
	ctx := t.Context()
	j, err := b.svc.Rearm(ctx, tester, RearmSelection{All: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.svc.sweepJob(ctx, &j); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if reg.made[id] != 1 {
			t.Errorf("%s is made anew %d times", id, reg.made[id])
		}
	}
	if j.Done != int64(len(ids)) {
		t.Errorf("the job counts %d of %d", j.Done, len(ids))
	}

	clear(reg.made)
	if j, err = b.svc.Rearm(ctx, tester, RearmSelection{All: true}); err != nil {
		t.Fatal(err)
	}
	reg.fail = 5
	if err := b.svc.sweepJob(ctx, &j); err == nil {
		t.Fatal("the failure is not told")
	}
	if err := b.svc.sweepJob(ctx, &j); err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		if want := 1; i < 3 && reg.made[id] != want || reg.made[id] == 0 {
			t.Errorf("%s is made anew %d times after a failure", id, reg.made[id])
		}
	}

	clear(reg.made)
	if j, err = b.svc.Rearm(ctx, tester, RearmSelection{Org: "uni-a-x"}); err != nil {
		t.Fatal(err)
	}
	if err := b.svc.sweepJob(ctx, &j); err != nil || len(reg.made) != 3 || reg.made[ids[3]] != 1 {
		t.Errorf("one organisation: %v, %v", reg.made, err)
	}
}

func TestALostKeyMakesEverybodyBeLookedAt(t *testing.T) {
	t.Parallel()
	b, reg, ids := withRegistrar(t)
	ctx := t.Context()
	for _, id := range ids { // nothing is due
		u, err := b.store.User(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.store.SaveUser(ctx, *u, timeZero); err != nil {
			t.Fatal(err)
		}
	}
	reg.lost = true
	j, err := b.svc.Rearm(ctx, tester, RearmSelection{All: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.svc.sweepJob(ctx, &j); err != nil {
		t.Fatal(err)
	}
	due, _, err := b.store.DueUsers(ctx, b.store.Now(), 100)
	if err != nil || len(due) != len(ids) || len(reg.made) != 0 {
		t.Errorf("%d users are due, %v, %d made anew; want all %d due", len(due), err, len(reg.made), len(ids))
	}
}

func TestRearmWantsOneSelection(t *testing.T) {
	t.Parallel()
	b, reg, ids := withRegistrar(t)
	ctx := t.Context()
	for name, sel := range map[string]RearmSelection{
		"nothing": {}, "two": {All: true, Org: "uni-a"}, "nobody's": {Org: "nobody"},
	} {
		if _, err := b.svc.Rearm(ctx, tester, sel); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	stranger, _ := orcid.FromBase(99)
	var own *Error
	if _, err := b.svc.Rearm(ctx, tester, RearmSelection{ORCID: stranger}); !errors.As(err, &own) || own.Code != CodeNotFound {
		t.Errorf("a stranger: %v", err)
	}
	u, err := b.store.User(ctx, ids[0])
	if err != nil {
		t.Fatal(err)
	}
	u.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 1, Base: 1, Changed: b.store.Now()}}
	if _, err := b.store.SaveUser(ctx, *u, timeZero); err != nil {
		t.Fatal(err)
	}
	j, err := b.svc.Rearm(ctx, tester, RearmSelection{ORCID: ids[0]})
	if err != nil || j.Done != 1 || reg.made[ids[0]] != 1 {
		t.Errorf("one researcher: %+v, %v, %v", j, err, reg.made)
	}
}

func TestAPauseOfRegistrationsIsDurable(t *testing.T) {
	t.Parallel()
	b, reg, _ := withRegistrar(t)
	ctx := t.Context()
	for _, paused := range []bool{true, false} {
		if err := b.svc.PauseRegistrations(ctx, tester, paused); err != nil {
			t.Fatal(err)
		}
		if got, err := b.svc.RegistrationsPaused(ctx); err != nil || got != paused || reg.paused != paused {
			t.Errorf("paused %v: noted %v, %v, told %v", paused, got, err, reg.paused)
		}
	}
}

package service

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/directory"
	"dispatchd/internal/event"
	"dispatchd/internal/secret"
	"dispatchd/internal/store"
)

// An attempt may end after its organisation was removed, and write a hold then.
func TestAnOrganisationMadeAnewHasNoHoldOfTheOneBefore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	b.uniA(t)
	if err := b.svc.RemoveOrganisation(ctx, tester, "uni-a"); err != nil {
		t.Fatal(err)
	}
	b.runJobs(t)
	for _, ch := range event.Channels {
		if _, err := b.store.SetHold(ctx, "uni-a", ch, event.HoldSuspend, event.Forever, "410"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.store.SetBreaker(ctx, "uni-a", ch, event.Breaker{Failures: 12, Trips: 1}, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	b.uniA(t)
	v, err := b.svc.Organisation(ctx, "uni-a")
	if err != nil {
		t.Fatal(err)
	}
	for _, ch := range v.Channels {
		if len(ch.Holds) != 0 || ch.Failures != 0 {
			t.Errorf("%s: held by %+v, %d failures", ch.Channel, ch.Holds, ch.Failures)
		}
	}
	// A change of one that goes on leaves them.
	if err := b.svc.Pause(ctx, tester, "uni-a", event.Webhook, "works"); err != nil {
		t.Fatal(err)
	}
	name := "another name"
	if v, err = b.svc.PatchOrganisation(ctx, tester, "uni-a", Settings{Name: &name}); err != nil || len(v.Channels[0].Holds) != 1 {
		t.Errorf("the pause ended: %+v %v", v.Channels, err)
	}
}

func TestEmailNeedsAMailServer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	b.uniA(t)
	mail := false
	b.svc.o.CanMail = func() bool { return mail }
	yes, name := true, "another name"
	on := Settings{Email: &EmailSettings{Enabled: &yes}}
	_, err := b.svc.PatchOrganisation(ctx, tester, "uni-a", on)
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) != 1 || e.Problems[0].Key != "email.enabled" {
		t.Fatalf("e-mail was enabled: %v", err)
	}
	said := func() bool {
		for _, p := range b.svc.Status(ctx).Problems {
			if strings.Contains(p.What, "1 organisation is to be told by e-mail") {
				return true
			}
		}
		return false
	}
	mail = true
	if _, err := b.svc.PatchOrganisation(ctx, tester, "uni-a", on); err != nil || said() {
		t.Fatal(err, said())
	}
	// The mail server leaves the file: the organisation can still be changed.
	mail = false
	if _, err := b.svc.PatchOrganisation(ctx, tester, "uni-a", Settings{Name: &name}); err != nil || !said() {
		t.Error(err, said())
	}
}

func TestAWrongMasterKeySaysWhatToDo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA(t)
	box, err := secret.NewBox([]byte(strings.Repeat("x", 32)))
	if err != nil {
		t.Fatal(err)
	}
	other, err := store.New(store.Options{URL: b.redis.URL(), DataDir: b.data, Box: box, Logger: b.svc.log})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Attach(context.Background()); err != nil {
		t.Fatal(err)
	}
	o := b.svc.o
	o.Store = other
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Load(context.Background())
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.What, "another master key") || !strings.Contains(e.Do, "master_key_file") {
		t.Errorf("%v", err)
	}
}

// A daemon that starts while Redis is away knows no organisation yet; that must
// not be read as there being none.
func TestBeforeRedisIsReadNoOrganisationIsCalledAbsent(t *testing.T) {
	t.Parallel()
	ctx, b := context.Background(), setup(t)
	b.uniA(t)
	o := b.svc.o
	o.Directory = directory.New()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	code := func(err error) Code {
		t.Helper()
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%v", err)
		}
		return e.Code
	}
	_, err = s.Organisation(ctx, "uni-a")
	if c := code(err); c != CodeUnavailable {
		t.Errorf("one that is there: %s (%v)", c, err)
	}
	_, err = s.Organisations(ctx)
	if c := code(err); c != CodeUnavailable {
		t.Errorf("the list: %s (%v)", c, err)
	}
	if err := s.Load(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err = s.Organisation(ctx, "uni-a"); err != nil {
		t.Error(err)
	}
	if list, err := s.Organisations(ctx); err != nil || len(list) != 1 {
		t.Errorf("%d organisations, %v", len(list), err)
	}
	_, err = s.Organisation(ctx, "uni-b")
	if c := code(err); c != CodeNotFound {
		t.Errorf("one that is not there: %s (%v)", c, err)
	}
}

package service

import (
	"context"
	"errors"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

// news puts one ping for each user into the webhook's slots.
func (b *testBundle) news(t *testing.T, entry string, ids ...orcid.ID) {
	t.Helper()
	var targets []store.Target
	for _, id := range ids {
		targets = append(targets, store.Target{Org: "uni-a", Channel: event.Webhook, ORCID: id, Type: event.Updated, At: b.store.Now(), Entry: entry})
	}
	if _, err := b.store.Enqueue(context.Background(), 0, targets, 0); err != nil {
		t.Fatal(err)
	}
}

// pending is how many slots wait for the webhook.
func (b *testBundle) pending(t *testing.T) int {
	t.Helper()
	st, err := b.store.Channels(context.Background(), []event.ChannelKey{{Org: "uni-a", Channel: event.Webhook}})
	if err != nil {
		t.Fatal(err)
	}
	return st[0].Waiting
}

// An enable that fails halfway, after the organisation was saved: asked again it
// must not say that all is well while the partition ignores every ping, and not
// asked again it must be finished all the same.
func TestAChangeThatFailedHalfwayIsFinished(t *testing.T) {
	t.Parallel()
	for _, asked := range []bool{true, false} {
		b := setup(t)
		ctx := context.Background()
		if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
			t.Fatal(err)
		}
		rdb := b.redis.Client(t)
		control, err := rdb.Keys(ctx, "*:o:uni-a:w:control").Result()
		if err != nil || len(control) != 1 {
			t.Fatalf("keys %q, %v", control, err)
		}
		if _, err := b.svc.Disable(ctx, tester, "uni-a", event.Webhook); err != nil {
			t.Fatal(err)
		}
		if err := rdb.Set(ctx, control[0], "no hash", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.svc.Enable(ctx, tester, "uni-a", event.Webhook); err == nil {
			t.Fatal("a partition that cannot be switched was switched")
		}
		if o, _ := b.dir.Organisation("uni-a"); o.Enabled(event.Webhook) {
			t.Error("fan-out sends to a partition that ignores it")
		}
		if err := rdb.Del(ctx, control[0]).Err(); err != nil {
			t.Fatal(err)
		}
		if asked {
			if _, err := b.svc.Enable(ctx, tester, "uni-a", event.Webhook); err != nil {
				t.Fatal(err)
			}
		} else {
			b.runJobs(t)
		}
		if o, _ := b.dir.Organisation("uni-a"); !o.Enabled(event.Webhook) {
			t.Error("it is not enabled")
		}
		b.news(t, "1-1", researchers(t, 1)...)
		if n := b.pending(t); n != 1 {
			t.Errorf("asked again %v: %d slots, want 1", asked, n)
		}
	}
}

// A kill -9 between saving an organisation and switching its partition: nothing
// may be fanned out before the partition is switched.
func TestLoadSwitchesWhatACrashLeft(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	in := uniA()
	in.Webhook.Enabled = ptr(false)
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", in); err != nil {
		t.Fatal(err)
	}
	b.runJobs(t)
	o, err := b.svc.get("uni-a")
	if err != nil {
		t.Fatal(err)
	}
	next := clone(o)
	next.Webhook.Enabled = true
	if err := errors.Join(b.store.SaveJob(ctx, newJob(jobApply, "uni-a", b.store.Now())), b.store.SaveOrganisation(ctx, next)); err != nil {
		t.Fatal(err)
	}
	again := setupOn(t, b.redis, b.data)
	again.news(t, "1-1", researchers(t, 1)...)
	if n := again.pending(t); n != 1 {
		t.Errorf("%d slots of an enabled organisation after a restart, want 1", n)
	}
}

// An old disable's job goes on when its organisation is enabled again: what came
// since must stay.
func TestAnOldDisableCancelsNothingNew(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.svc.Disable(ctx, tester, "uni-a", event.Webhook); err != nil {
		t.Fatal(err)
	}
	// The job is between two of its batches now.
	if _, err := b.svc.Enable(ctx, tester, "uni-a", event.Webhook); err != nil {
		t.Fatal(err)
	}
	b.news(t, "1-1", researchers(t, 1)...)
	if more, err := b.svc.cancelDisabled(ctx, "uni-a", event.Webhook); err != nil || more {
		t.Fatalf("more %v, %v", more, err)
	}
	b.runJobs(t)
	if n := b.pending(t); n != 1 {
		t.Errorf("%d slots after disable and enable, want 1", n)
	}
}

// An organisation that is being removed cannot be made again meanwhile, or it
// would go with the old one; afterwards it can.
func TestAnOrganisationIsMadeAgainOnlyAfterItsRemoval(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	b.runJobs(t)
	if err := b.svc.RemoveOrganisation(ctx, tester, "uni-a"); err != nil {
		t.Fatal(err)
	}
	again := setupOn(t, b.redis, b.data) // also after a restart
	for _, s := range []*Service{b.svc, again.svc} {
		if _, _, err := s.PutOrganisation(ctx, tester, "uni-a", uniA()); code(err) != CodeConflict {
			t.Errorf("made during its removal: %v", err)
		}
		if _, err := s.AddUser(ctx, tester, "uni-a", researchers(t, 1)[0], Person{}); code(err) != CodeConflict {
			t.Errorf("a user joined during the removal: %v", err)
		}
	}
	again.runJobs(t)
	if _, made, err := again.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil || !made {
		t.Errorf("made %v after the removal: %v", made, err)
	}
}

// The file has an organisation again whose removal goes on.
func TestTheFileMakesAnOrganisationAgainAfterItsRemoval(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	o := org.Organisation{
		ID: "uni-a", Name: "University A", Credential: "main", TechnicalContact: "it@a.example",
		Webhook: org.Webhook{Enabled: true, URL: "https://a.example/orcid"},
	}
	apply := func(list ...org.Organisation) {
		t.Helper()
		if _, err := b.svc.ApplyFile(ctx, tester, list); err != nil {
			t.Fatal(err)
		}
	}
	apply(o)
	apply()
	if err := b.svc.RemoveOrganisation(ctx, tester, "uni-a"); err != nil {
		t.Fatal(err)
	}
	apply(o)
	b.runJobs(t)
	b.runJobs(t) // what the removal's end asked for
	got, ok := b.dir.Organisation("uni-a")
	if !ok || !got.Webhook.Enabled || len(got.Suspensions) != 0 {
		t.Fatalf("the file's organisation is %+v (%v)", got, ok)
	}
	b.news(t, "1-1", researchers(t, 1)...)
	if n := b.pending(t); n != 1 {
		t.Errorf("%d slots, want 1", n)
	}
}

// Redis is away just when the jobs are read.
func TestJobsRunAlsoWhenRedisWasAwayAtTheStart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, cancel := context.WithCancel(context.Background())
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	b.redis.Kill()
	done := make(chan error, 1)
	go func() { done <- b.svc.Run(ctx) }()
	select {
	case err := <-done:
		t.Fatalf("Run ended: %v", err)
	case <-time.After(300 * time.Millisecond): // it has asked by now
	}
	if err := b.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(time.Minute)
	for {
		jobs, err := b.svc.Jobs(ctx)
		if err == nil && len(jobs) == 1 && jobs[0].State == jobDone {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("jobs %+v, %v", jobs, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A kill -9 after the last step of a removal and before its end is noted: the
// job must not remove what was made by the same name since.
func TestARemovalThatWasDoneRemovesNothingNew(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	if err := b.store.SaveJob(ctx, newJob(jobRemove, "uni-a", b.store.Now())); err != nil {
		t.Fatal(err)
	}
	again := setupOn(t, b.redis, b.data)
	if _, _, err := again.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	again.runJobs(t)
	if _, ok := again.dir.Organisation("uni-a"); !ok {
		t.Error("the organisation was removed")
	}
}

package service

import (
	"context"
	"errors"
	"sync"
	"testing"

	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// blocker is a Registrar that works until it is stopped.
type blocker struct {
	once  sync.Once
	began chan struct{}
}

func (*blocker) AcceptKeys(context.Context) (bool, error) { return false, nil }
func (*blocker) PauseRegistrations(bool)                  {}
func (b *blocker) Rearm(ctx context.Context, _ orcid.ID, _ string) (bool, error) {
	b.once.Do(func() { close(b.began) })
	<-ctx.Done()
	return false, ctx.Err()
}

func TestJobsAreCancelledWhetherTheyRunOrWait(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	b.uniA(t)
	if _, err := b.svc.AddUser(ctx, tester, "uni-a", anID(t), Person{}); err != nil {
		t.Fatal(err)
	}
	b.runJobs(t)
	work := &blocker{began: make(chan struct{})}
	b.svc.o.Registrar = work
	running, err := b.svc.Rearm(ctx, tester, RearmSelection{Org: "uni-a"})
	if err != nil {
		t.Fatal(err)
	}
	waiting, err := b.svc.Replay(ctx, tester, "uni-a", store.Selection{}) // behind the other: the same organisation
	if err != nil {
		t.Fatal(err)
	}
	life, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- b.svc.Run(life) }()
	<-work.began
	for _, id := range []string{waiting.ID, running.ID} {
		j, err := b.svc.CancelJob(ctx, tester, id)
		if err != nil || j.State != store.JobCancelled {
			t.Errorf("%s: %+v %v", id, j, err)
		}
		var e *Error
		if _, err := b.svc.CancelJob(ctx, tester, id); !errors.As(err, &e) || e.Code != CodeConflict {
			t.Errorf("%s is cancelled again: %v", id, err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.runJobs(t) // after a restart they are not taken up
	for _, id := range []string{waiting.ID, running.ID} {
		if j, err := b.svc.Job(ctx, id); err != nil || j.State != store.JobCancelled {
			t.Errorf("%s: %+v %v", id, j, err)
		}
	}
}

func TestAJobThatMustEndIsNotCancelled(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	b.uniA(t)
	if err := b.svc.RemoveOrganisation(ctx, tester, "uni-a"); err != nil {
		t.Fatal(err)
	}
	jobs, err := b.svc.Jobs(ctx)
	if err != nil || len(jobs) == 0 {
		t.Fatal(jobs, err)
	}
	var e *Error
	for _, j := range jobs {
		if _, err := b.svc.CancelJob(ctx, tester, j.ID); !errors.As(err, &e) || e.Code != CodeConflict {
			t.Errorf("%s: %v", j.Kind, err)
		}
	}
	if _, err := b.svc.CancelJob(ctx, tester, "nothing"); !errors.As(err, &e) || e.Code != CodeNotFound {
		t.Error(err)
	}
	b.runJobs(t)
	if _, ok := b.dir.Organisation("uni-a"); ok {
		t.Error("it was not removed")
	}
}

func anID(t *testing.T) orcid.ID {
	t.Helper()
	id, err := orcid.Parse("0000-0002-1825-0097")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestACredentialIsTested(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	refused := errors.New("invalid_client")
	b.svc.o.CheckCredential = func(_ context.Context, name string) error {
		if name == "main" {
			return nil
		}
		return refused
	}
	if c, err := b.svc.TestCredential(ctx, tester, "main"); err != nil || !c.OK {
		t.Errorf("%+v %v", c, err)
	}
	if c, err := b.svc.TestCredential(ctx, tester, "other"); err != nil || c.OK || c.Error != refused.Error() {
		t.Errorf("%+v %v", c, err)
	}
	var e *Error
	if _, err := b.svc.TestCredential(ctx, tester, "main"); !errors.As(err, &e) || e.Code != CodeRateLimited {
		t.Errorf("again at once: %v", err)
	}
	if _, err := b.svc.TestCredential(ctx, tester, "nobody"); !errors.As(err, &e) || e.Code != CodeNotFound {
		t.Error(err)
	}
}

package service

import (
	"context"
	"testing"
	"time"

	"dispatchd/internal/store"
)

// lost saves a job that nobody queues, as when the answer that it was saved is lost.
func (b *testBundle) lost(t *testing.T, kind string, ago time.Duration) store.Job {
	t.Helper()
	j := newJob(kind, "uni-a", b.store.Now().Add(-ago))
	if err := b.store.SaveJob(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	return j
}

func (b *testBundle) ended(t *testing.T, id string) bool {
	t.Helper()
	j, err := b.svc.Job(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return j.State == jobDone
}

// live runs jobs until the test ends.
func (b *testBundle) live(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.svc.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	await(t, "the runner's start", func() bool {
		b.svc.jobs.mu.Lock()
		defer b.svc.jobs.mu.Unlock()
		return b.svc.jobs.ctx != nil
	})
}

func TestAJobThatNobodyRunsIsTakenUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA(t)
	b.live(t)
	old, fresh := b.lost(t, jobLook, 2*time.Minute), b.lost(t, jobLook, 0)
	b.svc.takeUp(t.Context())
	await(t, "the end of the job", func() bool { return b.ended(t, old.ID) })
	if b.ended(t, fresh.ID) {
		t.Error("a job was begun that its maker may be about to queue")
	}
	gone := b.lost(t, jobRemove, 2*time.Minute)
	b.svc.takeUp(t.Context())
	if err := b.svc.notRemoving("uni-a"); err == nil {
		t.Error("the organisation may be changed although it is being removed")
	}
	await(t, "the end of the removal", func() bool { return b.ended(t, gone.ID) })
	if _, there := b.dir.Organisation("uni-a"); there {
		t.Error("the organisation is still there")
	}
}

// TestAJobThatIsBeingCancelledIsNotTakenUp: noting that it goes on would undo
// that it was cancelled.
func TestAJobThatIsBeingCancelledIsNotTakenUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA(t)
	b.live(t)
	was := b.lost(t, jobLook, 2*time.Minute)
	was, err := b.svc.Job(t.Context(), was.ID)
	if err != nil {
		t.Fatal(err)
	}
	b.svc.jobs.cancel(was.ID) // and before that is noted
	b.svc.takeUp(t.Context())
	if now, err := b.svc.Job(t.Context(), was.ID); err != nil || !now.Updated.Equal(was.Updated) {
		t.Errorf("noted %s, was %s: %v", now.Updated, was.Updated, err)
	}
}

func TestALostRemovalTakesNobodyWhoComesAnew(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA(t)
	b.live(t)
	first := b.lost(t, jobRemove, 2*time.Minute)
	if err := b.svc.RemoveOrganisation(t.Context(), tester, "uni-a"); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of the removal", func() bool {
		_, there := b.dir.Organisation("uni-a")
		return !there && b.svc.notRemoving("uni-a") == nil
	})
	b.uniA(t)
	b.svc.takeUp(t.Context())
	if !b.ended(t, first.ID) {
		t.Error("the first removal is still to be done")
	}
	if _, there := b.dir.Organisation("uni-a"); !there || b.svc.notRemoving("uni-a") != nil {
		t.Error("the organisation that was made anew goes")
	}
}

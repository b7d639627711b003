package service

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
	"dispatchd/internal/store"
)

// TestMailIsRetimedAgainAfterACrash: what fan-out had decided by the old
// email.mode when it was changed comes in after the first pass. It follows the
// new mode also when the daemon dies before the second pass.
func TestMailIsRetimedAgainAfterACrash(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	clock := func(o *store.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())).UTC() }
	}
	srv, data := redistest.Start(t), t.TempDir()
	b := setupOn(t, srv, data, clock)
	ctx := context.Background()
	in := uniA()
	in.Email = &EmailSettings{Enabled: ptr(true), Mode: ptr("each")}
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", in); err != nil {
		t.Fatal(err)
	}
	first, late := testORCID(t, 1), testORCID(t, 2)
	soon := b.store.Now().Add(30 * time.Second)
	wait := func(b *testBundle, entry string, id orcid.ID) {
		t.Helper()
		if _, err := b.store.Enqueue(ctx, 0, []store.Target{{
			Org: "uni-a", Channel: event.Email, ORCID: id, Type: event.Updated, At: b.store.Now(), Entry: entry, Due: soon,
		}}, 0); err != nil {
			t.Fatal(err)
		}
	}
	// due is when the first of what waits comes due.
	due := func(b *testBundle) time.Time {
		t.Helper()
		v, err := b.svc.Organisation(ctx, "uni-a")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range v.Channels {
			if c.Channel == event.Email {
				return c.Next
			}
		}
		t.Fatal("no e-mail")
		return time.Time{}
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		tick, end := time.NewTicker(5*time.Millisecond), time.After(time.Minute)
		defer tick.Stop()
		for !ok() {
			select {
			case <-tick.C:
			case <-end:
				t.Fatalf("it did not happen: %s", what)
			}
		}
	}
	run := func(b *testBundle) (stop func()) {
		life, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- b.svc.Run(life) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}

	wait(b, "1-0", first)
	stop := run(b)
	if _, err := b.svc.PatchOrganisation(ctx, tester, "uni-a", Settings{Email: &EmailSettings{Mode: ptr("weekly")}}); err != nil {
		t.Fatal(err)
	}
	until("the first pass", func() bool { // it is due later, and that is noted
		jobs, err := b.svc.Jobs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return due(b).After(soon) && slices.ContainsFunc(jobs, func(j store.Job) bool {
			return j.Kind == jobRetime && (j.State != jobRunning || j.Args["again"] != "")
		})
	})
	wait(b, "2-0", late)
	if !due(b).Before(soon.Add(time.Second)) {
		t.Fatalf("what came late is due at %v", due(b))
	}
	stop()

	b = setupOn(t, srv, data, clock)
	ahead.Add(int64(time.Second))
	stop = run(b)
	defer func() { stop() }()
	if jobs := running(t, b); jobs != 1 || due(b).After(soon.Add(time.Second)) {
		t.Errorf("%d jobs wait for the second pass, due at %v", jobs, due(b))
	}
	stop()
	ahead.Add(int64(retimeAgain))
	b = setupOn(t, srv, data, clock)
	stop = run(b)
	until("the second pass", func() bool { return due(b).After(soon.Add(time.Second)) })
	until("the end of the job", func() bool { return running(t, b) == 0 })
}

func running(t *testing.T, b *testBundle) int {
	t.Helper()
	jobs, err := b.svc.Jobs(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, j := range jobs {
		if j.Kind == jobRetime && j.State == jobRunning {
			n++
		}
	}
	return n
}

func testORCID(t *testing.T, base uint64) orcid.ID {
	t.Helper()
	id, err := orcid.FromBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

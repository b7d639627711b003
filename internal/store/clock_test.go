package store

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/redistest"
)

// Redis's clock is set back by an hour, or this machine's was ahead before Redis
// was first asked: a clock that stood still until then would keep every
// delivery from coming due.
func TestTheClockNeitherGoesBackNorStandsStill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		real := time.Now().UTC()
		c := newClock(real.Add(time.Hour))
		before := c.now()
		c.set(real, time.Now())
		last := before
		for i := range 13 {
			time.Sleep(10 * time.Minute)
			now := c.now()
			if gone := now.Sub(last); gone < 5*time.Minute || gone > 10*time.Minute {
				t.Fatalf("step %d: ten minutes are %s", i, gone)
			}
			last = now
			c.set(time.Now(), time.Now()) // measured again
		}
		if now := c.now(); !now.Equal(time.Now().UTC()) {
			t.Errorf("after two hours it is %s ahead", time.Until(now))
		}
		c.set(time.Now().Add(time.Hour), time.Now())
		if now := c.now(); !now.Equal(time.Now().Add(time.Hour).UTC()) {
			t.Errorf("Redis's clock went on by an hour, this one is %s behind", time.Until(now))
		}
	})
}

// The clock is set back while the daemon is not there: what came due before
// must not wait for an hour, nor the beat go back and look like a rollback.
func TestTheClockGoesOnFromTheBeat(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv, dir := redistest.Start(t), t.TempDir()
	s := newStore(t, srv.URL(), dir)
	if err := s.Attach(ctx); err != nil {
		t.Fatal(err)
	}
	ahead := time.Now().Add(time.Hour)
	s.clock.set(ahead, time.Now())
	if err := s.Beat(ctx); err != nil {
		t.Fatal(err)
	}
	again := newStore(t, srv.URL(), dir)
	if err := again.Attach(ctx); err != nil {
		t.Fatal(err)
	}
	if now := again.Now(); now.Before(ahead.Truncate(time.Millisecond)) {
		t.Errorf("the new process is %s behind the old one", ahead.Sub(now))
	}
}

// A ping that was spooled by a clock which ran ahead.
func TestAPingFromTheFutureDoesNotWaitForIt(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := attached(t, redistest.Start(t).URL())
	if err := s.SetChannel(ctx, "uni-a", event.Webhook, true); err != nil {
		t.Fatal(err)
	}
	due, err := s.Enqueue(ctx, 0, []Target{{
		Org: "uni-a", Channel: event.Webhook, ORCID: testID(t, 7), Type: event.Updated, At: s.Now().Add(time.Hour), Entry: "1-1",
	}}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range due {
		if wait := at.Sub(s.Now()); wait > time.Minute+2*time.Millisecond { // due times are rounded up
			t.Errorf("it waits for %s, want the quiet period", wait)
		}
	}
	if len(due) != 1 {
		t.Errorf("channels %v", due)
	}
}

package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"dispatchd/internal/redistest"
)

// A frozen Redis takes connections and answers nothing; the daemon must be able
// to stop all the same.
func TestAttachToAFrozenRedisEnds(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s := newStore(t, srv.URL(), t.TempDir(), func(o *Options) { o.Timeout = 200 * time.Millisecond })
	if err := srv.Freeze(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Attach(context.Background()) }()
	select {
	case err := <-ended:
		if !errors.Is(err, ErrAway) {
			t.Errorf("attaching ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("attaching to a frozen redis does not end")
	}
	if err := srv.Thaw(); err != nil {
		t.Fatal(err)
	}
}

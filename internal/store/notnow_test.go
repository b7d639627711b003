package store

import (
	"errors"
	"fmt"
	"testing"

	"dispatchd/internal/redistest"
)

// TestNotNow meets a Redis that refuses work, and one that is gone.
func TestNotNow(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	srv := redistest.Start(t)
	s := attached(t, srv.URL())
	rdb := srv.Client(t)
	if err := rdb.Do(ctx, "CONFIG", "SET", "min-replicas-to-write", "1").Err(); err != nil {
		t.Fatal(err)
	}
	const said = "NOREPLICAS Not enough good replicas to write."
	err := s.Beat(ctx)
	if got := NotNow(err); got != said {
		t.Errorf("%v: got %q, want %q", err, got, said)
	}
	if got := NotNow(errors.Join(fmt.Errorf("read: %w", err), err)); got != said {
		t.Errorf("of two errors: got %q, want %q", got, said)
	}
	srv.Stop()
	if err := s.Beat(ctx); !errors.Is(err, ErrAway) || NotNow(err) != "" {
		t.Errorf("%v: got %q of a Redis that is gone", err, NotNow(err))
	}
}

package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/redistest"
)

// TestSentinelFailover: the master dies, its replica is promoted, and the store
// goes on with it by itself; what had been copied is there, and it is not taken
// for a Redis that forgot.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv, err := redistest.NewSentinel(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Kill)
	s := attached(t, "", func(o *Options) { o.Addresses, o.MasterName = []string{srv.Addr}, srv.Name })
	ping := func(base uint64) error {
		return s.Append(ctx, []event.Ping{{Credential: "main", ORCID: testID(t, base), AcceptedAt: s.Now()}})
	}
	if err := ping(1); err != nil {
		t.Fatal(err)
	}
	if err := s.Beat(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := srv.Master.Client(t).Wait(ctx, 1, 10*time.Second).Result(); err != nil || n != 1 {
		t.Fatalf("copied to %d replicas, %v", n, err)
	}
	before := s.Servers()
	if err := srv.Failover(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(60 * time.Second)
	for err = ping(2); errors.Is(err, ErrAway) && time.Now().Before(deadline); err = ping(2) {
		<-time.After(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("after the failover: %v", err)
	}
	if s.Servers() == before {
		t.Error("the new master was not noticed as another server")
	}
	seen := map[uint64]bool{}
	for lane := range Lanes {
		entries, err := s.ReadLog(ctx, lane, "", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			for _, it := range e.Items {
				seen[it.ORCID.Base()] = true
			}
		}
	}
	if !seen[1] || !seen[2] {
		t.Errorf("the log has %v, want 1 and 2", seen)
	}
	if err := s.Guard().Err(); err != nil {
		t.Errorf("the guard: %v", err)
	}
}

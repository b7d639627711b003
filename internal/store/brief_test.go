package store

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestBriefThings(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		if v, err := s.Session(ctx, "s3cret-id"); v != "" || err != nil {
			t.Errorf("a session before any: %q, %v", v, err)
		}
		for _, v := range []string{"first", "second"} {
			if err := s.SaveSession(ctx, "s3cret-id", v, time.Hour); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Session(ctx, "s3cret-id"); got != v || err != nil {
				t.Errorf("%q, %v, want %q", got, err, v)
			}
		}
		if v, err := s.Session(ctx, "s3cret-ie"); v != "" || err != nil {
			t.Errorf("another session: %q, %v", v, err)
		}
		var first atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				ok, err := s.Use(ctx, "s3cret-link", time.Hour)
				if err != nil {
					t.Error(err)
				}
				if ok {
					first.Add(1)
				}
			})
		}
		wg.Wait()
		if first.Load() != 1 {
			t.Errorf("%d were the first use", first.Load())
		}
		for text, want := range map[string]bool{"s3cret-link": true, "s3cret-other": false} {
			if used, err := s.Used(ctx, text); used != want || err != nil {
				t.Errorf("%s used: %v, %v", text, used, err)
			}
		}
		for want := range int64(3) {
			if n, err := s.Count(ctx, "s3cret@a.example", time.Hour); n != want+1 || err != nil {
				t.Errorf("count %d, %v, want %d", n, err, want+1)
			}
		}
		for _, k := range []string{
			s.keys.session(briefName("s3cret-id")), s.keys.used(briefName("s3cret-link")), s.keys.count(briefName("s3cret@a.example")),
		} {
			if strings.Contains(k, "s3cret") {
				t.Errorf("key %s can be read", k)
			}
			if ttl := s.rdb.PTTL(ctx, k).Val(); ttl > time.Hour || ttl < 50*time.Minute {
				t.Errorf("%s lives for %v", k, ttl)
			}
		}
		if err := s.DropSession(ctx, "s3cret-id"); err != nil {
			t.Fatal(err)
		}
		if v, err := s.Session(ctx, "s3cret-id"); v != "" || err != nil {
			t.Errorf("an ended session: %q, %v", v, err)
		}
	})
}

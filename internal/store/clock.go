package store

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// clock tells Redis's time: the offset is measured, and the node's monotonic
// clock runs in between, so that a jump of the node's wall clock moves nothing.
type clock struct {
	mu   sync.Mutex
	base time.Time // Redis's time at mono
	mono time.Time
	last time.Time // never tell an earlier time than before
}

func newClock(now time.Time) *clock { return &clock{base: now, mono: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.base.Add(time.Since(c.mono)).Truncate(time.Microsecond)
	if t.Before(c.last) {
		return c.last
	}
	c.last = t
	return t
}

// sync measures Redis's time; half of the round trip is taken off.
func (c *clock) sync(ctx context.Context, s *Store) error {
	began := time.Now()
	t, err := s.rdb.Time(ctx).Result()
	if err != nil {
		return fmt.Errorf("ask redis for its time: %w", err)
	}
	trip := time.Since(began)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.mono = t.Add(trip/2).UTC(), began.Add(trip)
	return nil
}

// offset is how far Redis's clock is from the node's wall clock.
func (c *clock) offset() time.Duration {
	return c.now().Sub(time.Now().Round(0))
}

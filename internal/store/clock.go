package store

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// clock tells Redis's time: the offset is measured, and the node's monotonic
// clock runs in between, so that a jump of the node's wall clock moves nothing.
// It never goes back and never stands still, which would keep everything from
// coming due: when Redis's time turns out to be behind what was told, it goes on
// at half speed until Redis has caught up.
type clock struct {
	mu    sync.Mutex
	base  time.Time // Redis's time at mono
	mono  time.Time
	ahead time.Duration // what was told already was this far ahead of base
	last  time.Time     // the latest time that was told
}

// maxAhead bounds what the beat of before a restart makes the clock tell.
const maxAhead = 24 * time.Hour

func newClock(now time.Time) *clock { return &clock{base: now, mono: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = c.at(time.Since(c.mono))
	return c.last
}

// at is what to tell so long after the offset was measured.
func (c *clock) at(since time.Duration) time.Time {
	return c.base.Add(since + max(0, c.ahead-since/2)).Truncate(time.Microsecond)
}

// sync measures Redis's time; half of the round trip is taken off.
func (c *clock) sync(ctx context.Context, s *Store) error {
	// A frozen Redis takes connections and answers nothing.
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, errTimeout)
	defer cancel()
	began := time.Now()
	t, err := s.rdb.Time(ctx).Result()
	if err != nil {
		return fmt.Errorf("ask redis for its time: %w", err)
	}
	trip := time.Since(began)
	c.set(t.Add(trip/2), began.Add(trip))
	return nil
}

// set says that it was that time in Redis at mono.
func (c *clock) set(redis, mono time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.mono = redis.UTC(), mono
	c.ahead = max(0, c.last.Sub(c.base))
}

// notBefore makes the clock go on from a time that was stored: the same as if
// this process had told it.
func (c *clock) notBefore(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.at(time.Since(c.mono))
	if d := t.Sub(now); d > 0 && d <= maxAhead {
		c.base, c.mono, c.ahead = now, time.Now(), d
	}
}

// offset is how far Redis's clock is from the node's wall clock.
func (c *clock) offset() time.Duration {
	return c.now().Sub(time.Now().Round(0))
}

package sim

import (
	"sync"
	"time"
)

// stamp is a virtual time in microseconds since 1970, the precision of ORCID's
// database; 0 is the database's NULL.
type stamp int64

func stampOf(t time.Time) stamp { return stamp(t.UnixMicro()) }

// plus adds a duration.
func (s stamp) plus(d time.Duration) stamp { return s + stamp(d.Microseconds()) }

// time returns the time, or the zero time for NULL.
func (s stamp) time() time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(s)).UTC()
}

// millis returns milliseconds since 1970, as ORCID's JSON has them.
func (s stamp) millis() int64 { return int64(s) / 1000 }

// clock is the virtual clock: base plus the real time since anchor times speed.
// A manual clock stands still between moves.
type clock struct {
	mu     sync.Mutex
	manual bool
	speed  float64
	base   time.Time     // virtual time at anchor
	anchor time.Time     // real time, monotonic
	moved  chan struct{} // closed and replaced when the clock was moved by hand
}

func newClock(start time.Time, speed float64, manual bool) *clock {
	return &clock{manual: manual, speed: speed, base: start.UTC().Round(0), anchor: time.Now(), moved: make(chan struct{})}
}

// now returns the virtual time.
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nowLocked()
}

func (c *clock) nowLocked() time.Time {
	if c.manual {
		return c.base
	}
	return c.base.Add(time.Duration(float64(time.Since(c.anchor)) * c.speed))
}

// shift moves the clock forward by d; a negative d is ignored, since ORCID's
// clock does not go back either.
func (c *clock) shift(d time.Duration) {
	if d <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.anchor = c.nowLocked().Add(d), time.Now()
	c.wakeLocked()
}

// tick moves a manual clock by a microsecond, the least that lies between two
// writes of a database: ORCID's comparisons of times are made for that.
func (c *clock) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.manual {
		c.base = c.base.Add(time.Microsecond)
	}
}

// setSpeed changes how fast virtual time runs from now on.
func (c *clock) setSpeed(speed float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.anchor = c.nowLocked(), time.Now()
	c.speed = speed
	c.wakeLocked()
}

func (c *clock) wakeLocked() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// until returns the real time to wait for virtual time t.
func (c *clock) until(t time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(float64(t.Sub(c.nowLocked())) / c.speed)
}

// getSpeed returns the virtual seconds in a real one.
func (c *clock) getSpeed() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.speed
}

// changed returns the channel that is closed when the clock is moved, or when
// somebody wakes its waiters.
func (c *clock) changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moved
}

// wake makes everybody who waits look again.
func (c *clock) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wakeLocked()
}

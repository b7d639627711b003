package actors

import (
	"fmt"
	"time"

	"dispatchd/internal/event"
)

const (
	breakerFailures = 10          // failures in a row …
	breakerRow      = time.Minute // … over at least this long hold the channel
	holdFirst       = 30 * time.Second
	holdMax         = 15 * time.Minute
	holdJitter      = 0.1 // of a hold is added at most, so that probes do not come in step
	downAfter       = time.Hour
	suspendAfter    = 5 * 24 * time.Hour
	suspendFailures = 20
)

// breaker is the state that decideBreaker works on.
type breaker struct {
	event.Breaker
	// until is the end of the hold that we set; zero when there is none or it
	// was set before a restart (then nothing is claimed before its end anyway).
	until time.Time
	// written is what Redis has. A row of failures that has not tripped is
	// written only when its actor is let go, and taken back by the next success.
	written event.Breaker
}

// limit is how many deliveries the breaker allows in flight: one probe at a
// time once it has been tripped, and all otherwise.
func (b breaker) limit(all int) int {
	if b.Trips > 0 {
		return min(1, all)
	}
	return all
}

// breakerEffects is what is to be done about an outcome.
type breakerEffects struct {
	persist   bool      // write the breaker with the hold that ends at holdUntil
	holdUntil time.Time // zero clears the hold
	down      bool      // tell the contact that the channel is down
	recovered bool      // tell the contact that it works again, since this:
	since     time.Time
	suspend   string // not empty: suspend the channel for this reason
}

// decideBreaker is the table of DESIGN §6: what an attempt means for the whole
// channel. rnd is in [0,1) and spreads the holds.
func decideBreaker(b breaker, o event.Outcome, now time.Time, rnd float64) (breaker, breakerEffects) {
	b, e := judgeBreaker(b, o, now, rnd)
	if e.persist {
		b.written = b.Breaker
	}
	return b, e
}

func judgeBreaker(b breaker, o event.Outcome, now time.Time, rnd float64) (breaker, breakerEffects) {
	var e breakerEffects
	switch o.Result {
	case event.Cancelled, event.Released:
		return b, e // not an attempt
	case event.Delivered:
		e.persist = b.written != (event.Breaker{})
		if b.Trips > 0 {
			e.recovered, e.since = b.NotifiedDown, b.HeldSince
		}
		return breaker{written: b.written}, e
	case event.Retry, event.Dead:
	}
	e.holdUntil = b.until
	e.persist = b.Slow != o.TimedOut
	b.Slow = o.TimedOut
	b.Failures++
	if b.FirstFailure.IsZero() {
		b.FirstFailure = now
	}
	row := now.Sub(b.FirstFailure)
	switch {
	case now.Before(b.until):
		// In flight when the channel was held: it says nothing new.
	case b.Trips > 0, b.Failures >= breakerFailures && row >= breakerRow:
		if b.Trips == 0 {
			b.HeldSince = now
		}
		b.Trips++
		hold := holdFirst << min(b.Trips-1, 10)
		b.until = now.Add(spread(min(hold, holdMax), rnd))
		e.persist, e.holdUntil = true, b.until
	}
	if b.Trips > 0 && !b.NotifiedDown && now.Sub(b.HeldSince) >= downAfter {
		b.NotifiedDown, e.persist, e.down = true, true, true
		e.since = b.HeldSince
	}
	if row >= suspendAfter && b.Failures >= suspendFailures {
		e.suspend = fmt.Sprintf("every one of %d attempts failed since %s; the last: %s",
			b.Failures, b.FirstFailure.UTC().Format("2006-01-02 15:04 MST"), words(o))
		// Whoever resumes the channel finds it as new.
		e.persist, e.holdUntil, e.down = true, time.Time{}, false
		b = breaker{Breaker: event.Breaker{Slow: b.Slow}, written: b.written}
	}
	return b, e
}

// spread adds a jitter to a hold; it never makes it shorter.
func spread(d time.Duration, rnd float64) time.Duration {
	return d + time.Duration(float64(d)*holdJitter*rnd)
}

// words says what a failure was, for people.
func words(o event.Outcome) string {
	switch {
	case o.Attempt.Error != "":
		return o.Attempt.Error
	case o.Attempt.Status != 0:
		return fmt.Sprintf("status %d", o.Attempt.Status)
	}
	return "no answer"
}

package deliver

import (
	"net/http"
	"time"

	"dispatchd/internal/event"
)

// Policy is how failures are met.
type Policy struct {
	// Retry holds the waits between attempts; one attempt more than waits.
	// Empty means that the first failure is the last.
	Retry []time.Duration
	// Jitter spreads every wait of the table by ± this share; 0 means none,
	// 0.2 is the daemon's. Above 1 counts as 1.
	Jitter float64
	// MaxRetryAfter caps what a receiver may ask for; 0 means 24 h.
	MaxRetryAfter time.Duration
	// RefusedTries is after how many tries a 400 or 422 is final; 0 means 3.
	RefusedTries int
	// ClientErrorFor is for how long since the first attempt other 4xx are
	// retried; 0 means 24 h.
	ClientErrorFor time.Duration
	// Timeout is the longest a channel may take. A delivery whose lease ends
	// sooner is given back unsent; 0 means that leases are not looked at.
	Timeout time.Duration
}

// DefaultPolicy is what the daemon uses where nothing is configured.
func DefaultPolicy() Policy {
	return Policy{
		Retry: []time.Duration{
			30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
			3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 24 * time.Hour,
		},
		Jitter:  0.2,
		Timeout: 15 * time.Second,
	}
}

const day = 24 * time.Hour

func (p Policy) withDefaults() Policy {
	if p.MaxRetryAfter <= 0 {
		p.MaxRetryAfter = day
	}
	if p.RefusedTries <= 0 {
		p.RefusedTries = 3
	}
	if p.ClientErrorFor <= 0 {
		p.ClientErrorFor = day
	}
	p.Jitter = min(max(p.Jitter, 0), 1)
	return p
}

// verdict is what a status or kind means, before the table is looked at.
type verdict int

const (
	done     verdict = iota
	again            // by the table
	briefly          // by the table, for a few tries only
	aWhile           // by the table, until a day after the first attempt
	final            // never again
	gone             // 410: the channel stops, the slot waits
	giveBack         // not an attempt
)

// judge is the one place where temporary and permanent are told apart.
func judge(a Answer) verdict {
	switch a.Kind {
	case KindOK, KindShadow:
		return done
	case KindCancelled:
		return giveBack
	case KindRefused:
		return final
	case KindHTTP:
	default:
		return again
	}
	switch s := a.Status; {
	case s >= 200 && s < 300:
		return done
	case s == http.StatusGone:
		return gone
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusTooManyRequests:
		return again
	case s == http.StatusBadRequest, s == http.StatusUnprocessableEntity:
		return briefly
	case s >= 400 && s < 500:
		return aWhile
	}
	return again // 3xx, 5xx and whatever is no status at all
}

// Decide says what an answer means for its slot and its channel. It is pure:
// now is when the attempt ended, rnd gives numbers in [0,1) for the jitter.
func Decide(p Policy, d event.Delivery, a Answer, now time.Time, rnd func() float64) event.Outcome {
	p = p.withDefaults()
	start := a.Start
	if start.IsZero() {
		start = now.Add(-a.Duration)
	}
	first := d.FirstAttemptAt
	if first.IsZero() {
		first = start
	}
	o := event.Outcome{
		TimedOut: a.Kind == KindTimeout || a.SlowBody,
		Reached:  a.Status > 0,
		Attempt: event.Attempt{
			DeliveryID: d.ID(), ORCID: d.ORCID, Channel: d.Channel, Type: d.Type, Number: d.Attempt,
			Start: start, Duration: a.Duration, Status: a.Status, Error: a.Words(),
		},
	}
	number := max(d.Attempt, 1)
	usedUp := number > len(p.Retry)
	switch judge(a) {
	case done:
		o.Result = event.Delivered
	case final:
		o.Result = event.Dead
	case giveBack:
		o.Result, o.RetryAt = event.Released, now
	case gone:
		// Released, not Retry: a receiver that comes back finds the whole
		// table ahead of it. The wait keeps a lost suspension from spinning.
		o.Result, o.RetryAt = event.Released, now.Add(firstWait(p))
		o.Suspend = "the receiver answered 410 Gone: it does not want to be told any more"
	case again:
		o.Result = retryUnless(usedUp)
	case briefly:
		o.Result = retryUnless(usedUp || number >= p.RefusedTries)
	case aWhile:
		o.Result = retryUnless(usedUp || now.Sub(first) >= p.ClientErrorFor)
	}
	after := min(max(a.RetryAfter, 0), p.MaxRetryAfter)
	if o.Result == event.Retry {
		o.RetryAt = now.Add(jittered(p.Retry[number-1], p.Jitter, rnd))
		if a.HasRetryAfter {
			o.RetryAt = later(o.RetryAt, now.Add(after))
		}
	}
	if a.Kind == KindHTTP && a.HasRetryAfter && after > 0 &&
		(a.Status == http.StatusTooManyRequests || a.Status == http.StatusServiceUnavailable) {
		o.HoldUntil = now.Add(after)
	}
	if o.Result != event.Delivered {
		o.Attempt.Excerpt = a.Excerpt
	}
	o.Attempt.Result = o.Result
	if a.Kind == KindShadow {
		o.Attempt.Result, o.Attempt.Excerpt = event.Shadow, a.Excerpt
	}
	return o
}

func retryUnless(over bool) event.Result {
	if over {
		return event.Dead
	}
	return event.Retry
}

func firstWait(p Policy) time.Duration {
	if len(p.Retry) == 0 {
		return time.Minute
	}
	return p.Retry[0]
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// jittered spreads wait evenly over wait·(1±share).
func jittered(wait time.Duration, share float64, rnd func() float64) time.Duration {
	if wait <= 0 || share == 0 {
		return max(wait, 0)
	}
	return wait + time.Duration(float64(wait)*share*(2*rnd()-1))
}

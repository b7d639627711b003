package event

import "time"

// Hold is a reason why a channel of an organisation waits. Each is set and
// cleared by itself; the channel waits until the latest of them.
type Hold string

// The holds.
const (
	HoldPause      Hold = "pause"       // an operator's, without end until resumed
	HoldSuspend    Hold = "suspend"     // the daemon's (410, five days of failure), without end until a person acts
	HoldBreaker    Hold = "breaker"     // the receiver failed many times in a row
	HoldRetryAfter Hold = "retry_after" // the receiver asked for it
	HoldRate       Hold = "rate"        // as many mails were sent as the organisation wants in an hour
	HoldDigest     Hold = "digest"      // a digest is being sent, or waits to be tried again
)

// Holds lists every hold.
var Holds = [...]Hold{HoldPause, HoldSuspend, HoldBreaker, HoldRetryAfter, HoldRate, HoldDigest}

// Forever is the end of a hold that only a person ends.
var Forever = time.UnixMilli(9_000_000_000_000).UTC() // the year 2255

// Claims is what a claim found.
type Claims struct {
	Deliveries []Delivery
	// Next is when the channel is to be asked again: the earliest due time left
	// or the end of the hold, whichever is later; zero when nothing waits. Slots
	// in flight count with the end of their lease.
	Next time.Time
	// HeldUntil is the end of the effective hold; zero when there is none.
	HeldUntil time.Time
}

// Finished is what finishing an attempt did.
type Finished struct {
	// Stale says that the slot was not ours any more and nothing was changed
	// but the attempt log.
	Stale bool
	// Next is as in Claims.
	Next time.Time
}

// Breaker is the persistent state of a channel's breaker; zero is closed.
type Breaker struct {
	Failures     int       // failures in a row
	FirstFailure time.Time // of that row
	Trips        int       // how often it was held in that row
	// HeldSince is when the first hold of the row began; NotifiedDown says that
	// the contact was told of it.
	HeldSince    time.Time
	NotifiedDown bool
	Slow         bool // the last attempt timed out
}

// ChannelKey names one channel of one organisation.
type ChannelKey struct {
	Org     string
	Channel Channel
}

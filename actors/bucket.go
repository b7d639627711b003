package actors

import (
	"math"
	"net/http"
	"time"

	"dispatchd/internal/orcid"
)

// bucket is a token bucket: in any window of length t it gives at most
// rate·t + burst.
type bucket struct {
	rate, burst, tokens float64
	last                time.Time
}

// burstOf is our burst at a rate. ORCID's is as large as its rate or larger (40 at
// 24 a second); what lies between is for requests that left one by one and were
// held up on their way, on a busy machine or by the network, and arrive together.
func burstOf(rate float64) float64 { return rate / 2 }

func newBucket(rate, burst float64, now time.Time) bucket {
	burst = max(burst, 1)
	return bucket{rate: rate, burst: burst, tokens: burst, last: now}
}

// take takes one token, or says how long to wait for one.
func (b *bucket) take(now time.Time) (ok bool, wait time.Duration) {
	b.refill(now)
	// A token that lacks a rounding error of a nanosecond is there.
	if b.tokens >= 1-1e-9 {
		b.tokens = max(b.tokens-1, 0)
		return true, 0
	}
	return false, time.Duration(math.Ceil((1 - b.tokens) / b.rate * float64(time.Second)))
}

// back returns a token that was not used.
func (b *bucket) back() { b.tokens = min(b.tokens+1, b.burst) }

// setRate changes the rate from now on; a lower one does not keep tokens that
// only the higher one would have allowed.
func (b *bucket) setRate(rate, burst float64, now time.Time) {
	b.refill(now)
	b.rate, b.burst = rate, max(burst, 1)
	b.tokens = min(b.tokens, b.burst)
}

func (b *bucket) refill(now time.Time) {
	if d := now.Sub(b.last); d > 0 {
		b.tokens = min(b.tokens+b.rate*d.Seconds(), b.burst)
		b.last = now
	}
}

const (
	paceSteps = 20              // a step up is this part of the full rate …
	paceEvery = 5 * time.Second // … and there is at most one in this time
	paceFloor = 16              // the rate never falls below this part of the full one
)

// pace is the rate that ORCID bears: halved when it asks for less, raised
// slowly when it does not.
type pace struct {
	full    float64 // what the operator allows
	now     float64
	changed time.Time
	cut     time.Time // the last time it was halved
	// notBefore is when ORCID wants to be asked again; zero means now.
	notBefore time.Time
}

// strain halves the rate, once for all requests that were on their way together.
func (p *pace) strain(granted, now time.Time, retryAfter time.Duration) {
	if at := now.Add(retryAfter); retryAfter > 0 && at.After(p.notBefore) {
		p.notBefore = at
	}
	if granted.Before(p.cut) {
		return
	}
	p.now = max(p.now/2, p.full/paceFloor)
	p.changed, p.cut = now, now
}

// ease raises the rate a little; it reports whether it changed.
func (p *pace) ease(now time.Time) bool {
	if p.now >= p.full || now.Sub(p.changed) < paceEvery {
		return false
	}
	p.now = min(p.now+p.full/paceSteps, p.full)
	p.changed = now
	return true
}

// setFull changes what the operator allows and forgets the past.
func (p *pace) setFull(full float64, now time.Time) {
	*p = pace{full: full, now: full, changed: now, notBefore: p.notBefore}
}

// strains reports whether an answer asks for fewer requests.
func strains(kind orcid.Kind, status int) bool {
	switch kind {
	case orcid.RateLimited, orcid.Unreachable:
		return true
	case orcid.Unavailable:
		// A plain 500 is about one record, not about us.
		return status != http.StatusInternalServerError
	default:
		return false
	}
}

// eases reports whether an answer shows that ORCID takes our requests.
func eases(kind orcid.Kind) bool {
	switch kind {
	case orcid.OK, orcid.Created, orcid.Exists, orcid.Deleted, orcid.NotOurs, orcid.NoSuchWebhook, orcid.NoSuchRecord:
		return true
	default:
		return false
	}
}

// troubleOf returns what is wrong with the credential itself; empty when the
// answer says nothing of the kind.
func troubleOf(a orcid.Answer) string {
	switch a.Kind {
	case orcid.Unauthorized, orcid.NoScope, orcid.ClientLocked, orcid.BadCredential:
		if a.Detail == "" {
			return a.Kind.String()
		}
		return a.Detail
	default:
		return ""
	}
}

package actors

import (
	"math"
	"time"
)

const (
	placesSmoothing = 8   // a sample counts for this part of the average
	placesHeadroom  = 1.1 // or answers that vary would leave some of the rate unused
)

// places is how many changes of one credential may be on their way to ORCID at
// once: no more than it takes to use the rate, because each of them is repeated
// when the process is killed. The zero value allows one.
type places struct {
	latency float64 // seconds from permit to the written outcome, smoothed
}

// sample learns how long a change took. A single slow one says little about the
// next: what counts of it is bounded, so that a stall does not open places, while
// an ORCID that is slow always is known after some answers.
func (p *places) sample(took time.Duration, rate float64) {
	s := min(took.Seconds(), max(2*p.latency, 2/rate), maxOutstanding/rate)
	p.latency += (max(s, 0) - p.latency) / placesSmoothing
}

// number is how many it takes at this rate (Little's law).
func (p *places) number(rate float64) int {
	return min(max(int(math.Ceil(rate*p.latency*placesHeadroom)), 1), maxOutstanding)
}

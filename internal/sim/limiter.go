package sim

import (
	"sync"
	"time"
)

// limiter is nginx's limit_req: a leaky bucket per source address, in real
// time. Requests above the rate are delayed up to the burst, then refused.
type limiter struct {
	rate  float64 // requests a second; below 0 no limit
	burst float64

	mu      sync.Mutex
	buckets map[string]*bucket
	delayed int64
	limited int64
	second  int64 // the second that is being counted
	inIt    int64 // requests in it
	peak    int64
}

type bucket struct {
	excess float64
	last   time.Time
}

func newLimiter(rate float64, burst int) *limiter {
	return &limiter{rate: rate, burst: float64(burst), buckets: make(map[string]*bucket)}
}

// take returns how long the request has to wait, or false to refuse it.
func (l *limiter) take(source string, now time.Time) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := now.Unix(); s != l.second {
		l.second, l.inIt = s, 0
	}
	l.inIt++
	l.peak = max(l.peak, l.inIt)
	if l.rate < 0 {
		return 0, true
	}
	b := l.buckets[source]
	if b == nil {
		l.buckets[source] = &bucket{last: now}
		return 0, true
	}
	excess := max(b.excess-l.rate*now.Sub(b.last).Seconds()+1, 0)
	if excess > l.burst {
		l.limited++
		return 0, false // and the bucket stays as it was, as in nginx
	}
	b.excess, b.last = excess, now
	if excess == 0 {
		return 0, true
	}
	l.delayed++
	return time.Duration(excess / l.rate * float64(time.Second)), true
}

func (l *limiter) counts() (delayed, limited, peak int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delayed, l.limited, l.peak
}

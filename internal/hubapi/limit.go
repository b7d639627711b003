package hubapi

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// The limits of the Hub, for a client or, before it is known, an address.
const (
	perSecond = 40
	perMinute = 1440
)

// maxTracked bounds how many clients or addresses are told apart; more share
// one count.
const maxTracked = 10_000

// limiter counts requests by the second and by the minute.
type limiter struct {
	now func() time.Time

	mu   sync.Mutex
	keys map[string]*window
	tidy int64 // the second of the last look for who asks no more
}

// window is the count of one key.
type window struct {
	second, minute int64 // which they are
	inSecond       int
	inMinute       int
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, keys: map[string]*window{}}
}

// take counts a request, and refuses it when there were too many. The headers
// tell of the limit that is nearer.
func (l *limiter) take(h http.Header, key string) error {
	now := l.now()
	second, minute := now.Unix(), now.Unix()/60
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.keys[key]
	if w == nil {
		if len(l.keys) >= maxTracked && l.tidy != second {
			l.tidy = second
			l.forget(minute)
		}
		if len(l.keys) >= maxTracked {
			key = ""
		}
		if w = l.keys[key]; w == nil {
			w = &window{}
			l.keys[key] = w
		}
	}
	if w.second != second {
		w.second, w.inSecond = second, 0
	}
	if w.minute != minute {
		w.minute, w.inMinute = minute, 0
	}
	limit, left, reset, unit := perSecond, perSecond-w.inSecond, second+1, "second"
	if rest := perMinute - w.inMinute; rest < left {
		limit, left, reset, unit = perMinute, rest, (minute+1)*60, "minute"
	}
	allowed := left > 0
	if allowed { // a refused request does not make it worse
		w.inSecond++
		w.inMinute++
		left--
	}
	h.Set("X-RateLimit-Limit", strconv.Itoa(limit))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(left))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(reset, 10))
	if allowed {
		return nil
	}
	return &failure{
		status: http.StatusTooManyRequests, error: "Too Many Requests", message: fmt.Sprintf("%d per 1 %s", limit, unit),
		retry: time.Unix(reset, 0).Sub(now),
	}
}

// forget drops who has not asked in this minute.
func (l *limiter) forget(minute int64) {
	for key, w := range l.keys {
		if w.minute != minute {
			delete(l.keys, key)
		}
	}
}

// How many wrong secrets are borne: for one client from one address, so that a
// guesser elsewhere locks nobody out, and from one address for all clients.
const (
	clientGuesses, clientRefill   = 5, 10 * time.Second
	addressGuesses, addressRefill = 50, time.Second
)

// guesses counts wrong secrets; a right one costs nothing.
type guesses struct {
	now func() time.Time

	mu   sync.Mutex
	full map[string]time.Time // key → when no guess counts any more
	tidy time.Time            // when the last look for those was
}

func newGuesses(now func() time.Time) *guesses {
	return &guesses{now: now, full: map[string]time.Time{}}
}

// wait returns how long nobody may try, 0 when one may.
func (g *guesses) wait(clientID, from string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	// Every guess puts the end off by one refill: no more are borne when it is
	// all of them away.
	left := func(key string, n int, refill time.Duration) time.Duration {
		return max(g.full[g.known(key)].Sub(now), 0) - time.Duration(n-1)*refill
	}
	return max(left(pairKey(clientID, from), clientGuesses, clientRefill), left(from, addressGuesses, addressRefill), 0)
}

// wrong counts a wrong secret.
func (g *guesses) wrong(clientID, from string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	add := func(key string, n int, refill time.Duration) {
		key = g.known(key)
		ahead := max(g.full[key].Sub(now), 0)
		g.full[key] = now.Add(min(ahead+refill, time.Duration(n)*refill))
	}
	add(pairKey(clientID, from), clientGuesses, clientRefill)
	add(from, addressGuesses, addressRefill)
}

// known is the key itself, or the one that all share when there are too many.
func (g *guesses) known(key string) string {
	if _, ok := g.full[key]; ok || len(g.full) < maxTracked {
		return key
	}
	if now := g.now(); now.Sub(g.tidy) >= time.Second {
		g.tidy = now
		for k, at := range g.full {
			if !at.After(now) {
				delete(g.full, k)
			}
		}
	}
	if len(g.full) < maxTracked {
		return key
	}
	return ""
}

func pairKey(clientID, from string) string { return clip(clientID) + "\x00" + from }

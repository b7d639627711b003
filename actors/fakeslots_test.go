package actors

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// fakeSlots is the store's slots in memory: one mutex, no cleverness.
type fakeSlots struct {
	mu       sync.Mutex
	away     bool
	awayFor  map[string]bool // calls that fail
	partly   error           // of Ready, beside what it returns
	channels map[event.ChannelKey]*fakeChannel
	calls    map[string]int
	tokens   int
	finished []finishedSlot
	digests  []finishedDigest
	mails    map[string]mailRate
}

type finishedSlot struct {
	event.Delivery
	event.Outcome
	at time.Time
}

type fakeChannel struct {
	slots   map[orcid.ID]*fakeSlot
	holds   map[event.Hold]time.Time
	breaker event.Breaker
	claims  int
	digest  *fakeDigest
}

type fakeSlot struct {
	due      time.Time
	token    string
	attempts int
	first    time.Time
	gen      int64
	told     bool
}

func newSlots() *fakeSlots {
	return &fakeSlots{channels: map[event.ChannelKey]*fakeChannel{}, calls: map[string]int{}, awayFor: map[string]bool{}}
}

func (f *fakeSlots) begin(call string) error {
	f.calls[call]++
	if f.away || f.awayFor[call] {
		return errAway
	}
	return nil
}

func (f *fakeSlots) channel(key event.ChannelKey) *fakeChannel {
	c := f.channels[key]
	if c == nil {
		c = &fakeChannel{slots: map[orcid.ID]*fakeSlot{}, holds: map[event.Hold]time.Time{}}
		f.channels[key] = c
	}
	return c
}

// put opens a slot for each user.
func (f *fakeSlots) put(key event.ChannelKey, due time.Time, ids ...orcid.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range ids {
		f.channel(key).slots[u] = &fakeSlot{due: due, gen: due.UnixMicro()}
	}
}

func (c *fakeChannel) hold() (end time.Time) {
	for _, u := range c.holds {
		if u.After(end) {
			end = u
		}
	}
	return end
}

func (c *fakeChannel) next() (next time.Time) {
	for _, s := range c.slots {
		next = earliest(next, s.due)
	}
	if h := c.hold(); !next.IsZero() && h.After(next) {
		next = h
	}
	return next
}

func (f *fakeSlots) Claim(_ context.Context, o string, ch event.Channel, limit int, lease time.Duration) (event.Claims, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("claim"); err != nil {
		return event.Claims{}, err
	}
	c, now := f.channel(event.ChannelKey{Org: o, Channel: ch}), time.Now()
	c.claims++
	var out event.Claims
	if !c.hold().After(now) {
		ids := slices.SortedFunc(maps.Keys(c.slots), func(a, b orcid.ID) int { return int(a.Base()) - int(b.Base()) })
		for _, u := range ids {
			s := c.slots[u]
			if s.due.After(now) || len(out.Deliveries) == limit {
				continue
			}
			f.tokens++
			s.token, s.due = strconv.Itoa(f.tokens), now.Add(lease)
			if s.first.IsZero() {
				s.first = now
			}
			out.Deliveries = append(out.Deliveries, event.Delivery{
				Org: o, Channel: ch, ORCID: u, Type: event.Updated, Generation: s.gen, Token: s.token,
				Attempt: s.attempts + 1, LeaseEnd: s.due, FirstAttemptAt: s.first,
			})
		}
	}
	out.Next, out.HeldUntil = c.next(), c.hold()
	return out, nil
}

func (f *fakeSlots) Finish(_ context.Context, d event.Delivery, o event.Outcome) (event.Finished, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("finish"); err != nil {
		return event.Finished{}, err
	}
	c := f.channel(event.ChannelKey{Org: d.Org, Channel: d.Channel})
	s := c.slots[d.ORCID]
	if s != nil && s.token != d.Token && o.Result == event.Delivered && s.gen == d.Generation {
		// The lease had ended, but it was told: who has claimed it since ends it.
		if s.told = true; s.token == "" {
			delete(c.slots, d.ORCID)
		}
		return event.Finished{Next: c.next()}, nil
	}
	if s == nil || s.token != d.Token {
		return event.Finished{Stale: true, Next: c.next()}, nil
	}
	f.finished = append(f.finished, finishedSlot{d, o, time.Now()})
	if s.told {
		delete(c.slots, d.ORCID)
		return event.Finished{Next: c.next()}, nil
	}
	switch o.Result {
	case event.Delivered, event.Dead, event.Cancelled:
		delete(c.slots, d.ORCID)
	case event.Retry:
		s.attempts++
		s.token, s.due = "", o.RetryAt
	case event.Released:
		s.token, s.due = "", o.RetryAt
	}
	return event.Finished{Next: c.next()}, nil
}

func (f *fakeSlots) SetHold(_ context.Context, o string, ch event.Channel, h event.Hold, until time.Time, _ string) (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("hold " + string(h)); err != nil {
		return time.Time{}, err
	}
	c := f.channel(event.ChannelKey{Org: o, Channel: ch})
	c.holds[h] = until
	return c.next(), nil
}

func (f *fakeSlots) SetBreaker(_ context.Context, o string, ch event.Channel, b event.Breaker, until time.Time) (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("set breaker"); err != nil {
		return time.Time{}, err
	}
	c := f.channel(event.ChannelKey{Org: o, Channel: ch})
	c.breaker, c.holds[event.HoldBreaker] = b, until
	return c.next(), nil
}

func (f *fakeSlots) Breaker(_ context.Context, o string, ch event.Channel) (event.Breaker, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.begin("breaker")
	return f.channel(event.ChannelKey{Org: o, Channel: ch}).breaker, err
}

func (f *fakeSlots) Ready(_ context.Context, now time.Time, limit int) (keys []event.ChannelKey, next time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("ready"); err != nil {
		return nil, time.Time{}, err
	}
	for key, c := range f.channels {
		switch at := c.next(); {
		case at.IsZero():
		case at.After(now):
			next = earliest(next, at)
		case len(keys) < limit:
			keys = append(keys, key)
		}
	}
	return keys, next, f.partly
}

func (f *fakeSlots) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call]
}

func (f *fakeSlots) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeSlots) results() map[event.Result]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := map[event.Result]int{}
	for _, x := range f.finished {
		m[x.Result]++
	}
	return m
}

// state returns a channel's breaker and holds, and how many slots are claimed.
func (f *fakeSlots) state(key event.ChannelKey) (b event.Breaker, holds map[event.Hold]time.Time, claimed int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.channel(key)
	for _, s := range c.slots {
		if s.token != "" {
			claimed++
		}
	}
	return c.breaker, maps.Clone(c.holds), claimed
}

func (f *fakeSlots) waiting(key event.ChannelKey) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.channel(key).slots)
}

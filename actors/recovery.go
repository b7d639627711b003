package actors

import (
	"context"
	"errors"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

const (
	readyLimit    = 4096
	maxReadyLimit = 1 << 20
	feedEvery     = 20 * time.Millisecond // between scans for users while there are more
	idleFeeds     = 4                     // polls for deliveries to one for users, when there are none
	minLookAhead  = 64
	lookAhead     = 3 // seconds of the rate
	// userCrowd bounds the actors of users in one shard; all together it is far
	// above what recovery hints at a time.
	userCrowd   = 256
	scanBackoff = 250 * time.Millisecond
)

// recovery looks in Redis for what is due and hints it: what was lost as a hint,
// what came due, what a restart left, and the next users of a sweep. It keeps
// nothing but when to look again.
type recovery struct {
	sys    *System
	run    uint64
	self   *actor.PID
	ctx    context.Context
	cancel context.CancelFunc

	scanning bool
	limit    int
	failures int  // scans that failed, in a row
	partly   bool // the latest scan could not read everything
	timer    *time.Timer
	again    time.Time // when the timer fires
	wanted   time.Time // the earliest due time hinted while scanning
	// Until then a lease of an intent may be from the process before, which is
	// gone: its users need not wait for the end of it. Each is hinted once so.
	leases time.Time
	early  map[orcid.ID]bool

	feeding   bool
	feedFails int
	fedPartly bool
	feedTimer *time.Timer
}

func newRecovery(s *System) actor.Actor {
	return &recovery{sys: s, run: s.runs.Add(1), limit: readyLimit}
}

// lookAt makes recovery look at that time, unless it will look before anyway.
func (s *System) lookAt(at time.Time) {
	ns := at.UnixNano()
	for {
		next := s.nextLook.Load()
		if next != 0 && next <= ns {
			return
		}
		if s.nextLook.CompareAndSwap(next, ns) {
			s.send(s.recovery.Load(), look{at})
			return
		}
	}
}

// Receive implements actor.Actor.
func (r *recovery) Receive(c actor.Context) {
	defer r.sys.counted()
	switch m := c.Message().(type) {
	case *actor.Started:
		r.start(c)
	case *actor.Stopping, *actor.Restarting:
		r.end()
	case *actor.Stopped:
	case look:
		r.look(m)
	case tick:
		r.scan(m)
	case readyFound:
		r.readyFound(m)
	case tickUsers:
		r.feed(m)
	case usersFound:
		r.usersFound(m)
	case pulse:
		m.answer <- struct{}{}
	default:
		r.sys.unknown("recovery", m)
	}
}

func (r *recovery) start(c actor.Context) {
	r.self = c.Self()
	r.leases, r.early = r.sys.now().Add(intentLease), map[orcid.ID]bool{}
	r.ctx, r.cancel = context.WithCancel(r.sys.life)
	r.arm(r.sys.now())
	r.armFeed(0)
}

func (r *recovery) end() {
	if r.cancel != nil {
		r.cancel()
		r.timer.Stop()
		r.feedTimer.Stop()
	}
}

// arm makes the next scan for deliveries begin at that time, in pollEvery at
// the latest.
func (r *recovery) arm(at time.Time) {
	now := r.sys.now()
	if latest := now.Add(r.sys.tuning.pollEvery); at.After(latest) {
		at = latest
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	r.again = at
	r.sys.nextLook.Store(at.UnixNano())
	self, m := r.self, tick{r.run}
	r.timer = time.AfterFunc(max(at.Sub(now), 0), func() { r.sys.send(self, m) })
}

func (r *recovery) look(m look) {
	switch {
	case r.scanning:
		r.wanted = earliest(r.wanted, m.at)
	case m.at.Before(r.again) && r.failures == 0:
		r.arm(m.at)
	}
}

func (r *recovery) scan(m tick) {
	if m.run != r.run || r.scanning {
		return
	}
	if r.sys.opt.Guard.Err() != nil {
		r.arm(r.sys.now().Add(r.sys.tuning.pollEvery)) // the guard has told everybody
		return
	}
	r.scanning, r.wanted = true, time.Time{}
	found, self, limit := readyFound{run: r.run, err: errPanicked}, r.self, r.limit
	r.sys.spawnGo(func() {
		ctx, cancel := context.WithTimeout(r.ctx, callTimeout)
		defer cancel()
		found.keys, found.next, found.err = r.sys.opt.Slots.Ready(ctx, r.sys.now(), limit)
	}, func(bool) { r.sys.send(self, found) })
}

func (r *recovery) readyFound(m readyFound) {
	if m.run != r.run {
		return
	}
	r.scanning = false
	now := r.sys.now()
	if err := r.readable(m.err, "due deliveries", &r.partly); err != nil {
		if r.failures == 0 && r.ctx.Err() == nil {
			r.sys.log.Warn("due deliveries cannot be looked for; trying again", "err", err)
		}
		r.failures++
		pause := backoff(scanBackoff, maxBackoff/2, r.failures)
		r.arm(now.Add(min(pause, r.sys.tuning.pollEvery*20)))
		return
	}
	if r.failures > 0 {
		r.sys.log.Info("due deliveries are looked for again", "failures", r.failures, "more_unclaimed", r.sys.unclaimed.over(), "more_uncounted", r.sys.uncounted.over())
		r.failures = 0
	}
	for _, key := range m.keys {
		// What nobody may claim would only be woken for nothing.
		if o, ok := r.sys.opt.Directory.Organisation(key.Org); ok && o.Enabled(key.Channel) {
			r.sys.HintChannel(key, time.Time{})
		}
	}
	// Whoever is first in the index for long must not hide the others.
	if len(m.keys) >= r.limit {
		r.limit = min(2*r.limit, maxReadyLimit)
	}
	next := earliest(r.wanted, m.next)
	if !next.After(now) {
		next = now.Add(r.sys.tuning.pollEvery)
		if r.wanted.After(now) {
			next = earliest(next, r.wanted)
		}
	}
	r.arm(next)
}

// readable is err, unless the rest of the list is good: then it only says so,
// once until everything can be read again.
func (r *recovery) readable(err error, what string, partly *bool) error {
	if err != nil && !errors.Is(err, event.ErrIncomplete) {
		return err
	}
	switch now := err != nil; {
	case now && !*partly:
		r.sys.log.Error("part of what is due cannot be found", "what", what, "err", err)
	case !now && *partly:
		r.sys.log.Info("all of what is due can be found again", "what", what)
	}
	*partly = err != nil
	return nil //nolint:nilerr // said above
}

func (r *recovery) armFeed(after time.Duration) {
	if r.feedTimer != nil {
		r.feedTimer.Stop()
	}
	self, m := r.self, tickUsers{r.run}
	r.feedTimer = time.AfterFunc(after, func() { r.sys.send(self, m) })
}

// feed looks for users with work, but only for as many as ORCID will be asked
// about in the next seconds: a sweep of millions waits in Redis, not in memory.
func (r *recovery) feed(m tickUsers) {
	if m.run != r.run || r.feeding {
		return
	}
	ahead := max(minLookAhead, int(lookAhead*r.sys.limits.Load().ORCIDRate))
	// Users of a credential with a lower rate of its own wait without holding
	// up the others; their number is bounded by the credential's lanes.
	limit := ahead - int(r.sys.busyUsers.Load()) + r.sys.board.waitingSlow()
	switch {
	case r.sys.paused.Load(), r.sys.opt.Guard.Err() != nil:
		r.armFeed(r.sys.tuning.pollEvery)
		return
	case limit < ahead/4:
		r.armFeed(feedEvery)
		return
	}
	r.feeding = true
	found, self, leases := usersFound{run: r.run, err: errPanicked}, r.self, r.leases
	limit = min(limit, ahead)
	r.sys.spawnGo(func() {
		ctx, cancel := context.WithTimeout(r.ctx, callTimeout)
		defer cancel()
		found.ids, found.next, found.err = r.sys.opt.Users.DueUsers(ctx, r.sys.now(), limit)
		if (found.err == nil || errors.Is(found.err, event.ErrIncomplete)) && len(found.ids) < limit && r.sys.now().Before(leases) {
			found.early, _, found.err = r.sys.opt.Users.DueUsers(ctx, leases, limit)
		}
	}, func(bool) { r.sys.send(self, found) })
}

func (r *recovery) usersFound(m usersFound) {
	if m.run != r.run {
		return
	}
	r.feeding = false
	if err := r.readable(m.err, "users with work", &r.fedPartly); err != nil {
		if r.feedFails == 0 && r.ctx.Err() == nil {
			r.sys.log.Warn("users with work cannot be looked for; trying again", "err", err)
		}
		r.feedFails++
		r.armFeed(backoff(scanBackoff, maxBackoff, r.feedFails))
		return
	}
	if r.feedFails > 0 {
		r.sys.log.Info("users with work are looked for again", "failures", r.feedFails)
	}
	r.feedFails = 0
	for _, id := range m.ids {
		r.sys.HintUser(id, false)
	}
	more := len(m.ids) > 0
	for _, id := range m.early {
		if !r.early[id] {
			r.early[id], more = true, true
			r.sys.HintUser(id, false)
		}
	}
	if more {
		r.armFeed(feedEvery)
		return
	}
	// Who has work is hinted at once; this finds what came due, and what a lost
	// hint left, and nobody waits for a request to ORCID as for a delivery.
	after := idleFeeds * r.sys.tuning.pollEvery
	if !m.next.IsZero() {
		after = min(after, max(m.next.Sub(r.sys.now())+time.Millisecond, r.sys.tuning.pollEvery)) // just after it
	}
	r.armFeed(after)
}

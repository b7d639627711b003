package actors

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

const (
	callTimeout  = 10 * time.Second // one call of a port, except for a delivery
	claimBackoff = 250 * time.Millisecond
	emptyPause   = 50 * time.Millisecond
	maxBackoff   = 10 * time.Second
)

// orgActor schedules the slots of one organisation: what it claims, how many at
// once, and when it looks again.
type orgActor struct {
	sys          *System
	key          string
	run          uint64
	epoch        uint64
	saidIdle     bool
	self, parent *actor.PID
	ctx          context.Context // ends with this instance
	cancel       context.CancelFunc
	channels     [len(event.Channels)]*channel
	timer        *time.Timer
	timerAt      time.Time
}

// channel is what an orgActor knows of one of its channels.
type channel struct {
	index int
	key   event.ChannelKey
	seat  *seat
	// due is when to claim next: the past means now, zero that nothing waits.
	due time.Time
	// claiming says that a claim (or the load before it) is under way; what
	// becomes due meanwhile is kept in due, which the claim had cleared.
	claiming bool
	flying   int
	known    bool // breaker was loaded
	breaker  breaker
	// effects are under way in their order; nothing is claimed until they are
	// written, or a channel that was just held would be asked once more.
	effects []effect
	// retryAfter is the latest hold that the receiver asked for.
	retryAfter time.Time
	suspended  bool // we did it; until something is claimed again
	failures   int  // of claims, in a row
	// Of the e-mail channel: the mails of the last hour, and whether a digest is
	// or may be open.
	mails  mailRate
	digest bool
}

func newOrgActor(s *System, key string) actor.Actor {
	return &orgActor{sys: s, key: key, run: s.runs.Add(1)}
}

// Receive implements actor.Actor.
func (a *orgActor) Receive(c actor.Context) {
	defer a.sys.counted()
	switch m := c.Message().(type) {
	case *actor.Started:
		a.start(c)
	case *actor.Stopping:
		a.end()
	case *actor.Restarting:
		a.end()
		c.Send(c.Parent(), crashed{a.key, a.epoch})
	case *actor.Stopped:
	case wake:
		a.wake(c, m)
	case tick:
		a.tick(m)
	case roomFree:
		a.roomFree(m)
	case breakerLoaded:
		a.breakerLoaded(m)
	case claimed:
		a.claimed(m)
	case deliveryDone:
		a.deliveryDone(m)
	case effectDone:
		a.effectDone(m)
	default:
		a.sys.unknown("org", m)
	}
}

func (a *orgActor) start(c actor.Context) {
	a.self, a.parent = c.Self(), c.Parent()
	a.ctx, a.cancel = context.WithCancel(a.sys.life)
	for i, ch := range event.Channels {
		m := roomFree{a.run, i}
		self := a.self
		a.channels[i] = &channel{
			index: i,
			key:   event.ChannelKey{Org: a.key, Channel: ch},
			// One that was open when the daemon stopped is ended first.
			digest: ch == event.Email,
			seat:   a.sys.room.seat(func() { a.sys.send(self, m) }),
		}
	}
}

func (a *orgActor) end() {
	if a.cancel == nil {
		return
	}
	a.cancel()
	if a.timer != nil {
		a.timer.Stop()
	}
	for _, ch := range a.channels {
		ch.seat.close()
		for range len(ch.effects) - 1 { // the first says itself that it is done
			a.sys.flights.end()
		}
		ch.effects = nil
	}
}

func (a *orgActor) wake(c actor.Context, m wake) {
	a.epoch, a.saidIdle = m.epoch, false
	// Before Redis is read: a hint that comes after this causes another wake.
	c.Send(a.parent, awake{a.key, m.epoch})
	for i, at := range m.news.due {
		a.channels[i].due = earliest(a.channels[i].due, at)
	}
	a.pumpAll()
}

func (a *orgActor) tick(m tick) {
	if m.run == a.run {
		a.timerAt = time.Time{}
		a.pumpAll()
	}
}

func (a *orgActor) roomFree(m roomFree) {
	if m.run == a.run {
		a.pump(a.channels[m.channel])
		a.settle()
	}
}

func (a *orgActor) pumpAll() {
	for _, ch := range a.channels {
		a.pump(ch)
	}
	a.settle()
}

// pump claims for the channel if there is something due and room for it.
func (a *orgActor) pump(ch *channel) {
	now := a.sys.now()
	if ch.claiming {
		return // its end pumps again, and keeps what was set aside
	}
	if len(ch.effects) > 0 || ch.due.IsZero() || ch.due.After(now) || a.sys.stopping.Load() {
		ch.seat.leave()
		return
	}
	o, ok := a.sys.opt.Directory.Organisation(a.key)
	if !ok || !o.Enabled(ch.key.Channel) {
		ch.due = time.Time{}
		ch.seat.leave()
		return
	}
	if a.sys.opt.Guard.Err() != nil {
		ch.due = now.Add(time.Second)
		ch.seat.leave()
		return
	}
	if !ch.known {
		a.loadBreaker(ch)
		return
	}
	limits := a.sys.limits.Load()
	all := limits.Concurrency
	if o.Concurrency > 0 {
		all = o.Concurrency
	}
	want := ch.breaker.limit(all) - ch.flying
	if ch.key.Channel == event.Email {
		if o.Email.Digest() || ch.digest {
			a.pumpDigest(ch, o, limits.lease(event.Email))
			return
		}
		want = a.mailRoom(ch, o, want)
	}
	if want <= 0 {
		ch.seat.leave()
		return
	}
	if n := ch.seat.take(want); n > 0 {
		a.claim(ch, n, limits.lease(ch.key.Channel))
	}
}

// settle sets the timer for what is due soon, and says idle when there is
// nothing to do until later: recovery wakes us then.
func (a *orgActor) settle() {
	now := a.sys.now()
	var next time.Time
	for _, ch := range a.channels {
		if ch.claiming || ch.flying > 0 || len(ch.effects) > 0 || !ch.due.IsZero() && !ch.due.After(now) {
			next = earliest(next, now)
		}
		if ch.due.After(now) {
			next = earliest(next, ch.due)
		}
	}
	if next.IsZero() || next.After(now.Add(a.sys.tuning.horizon)) {
		a.stopTimer()
		if a.noteFailures() {
			return // its end settles again
		}
		if !next.IsZero() {
			a.sys.lookAt(next)
		}
		if !a.saidIdle {
			a.saidIdle = true
			a.sys.send(a.parent, idle{a.key, a.epoch})
		}
		return
	}
	a.armTimer(now)
}

// noteFailures writes rows of failures that only this instance knows of; it
// reports whether there were any.
func (a *orgActor) noteFailures() (some bool) {
	for _, ch := range a.channels {
		if ch.known && ch.breaker.Breaker != ch.breaker.written {
			ch.breaker.written = ch.breaker.Breaker
			a.effect(ch, breakerEffect(ch.breaker.Breaker, breakerEffects{holdUntil: ch.breaker.until}))
			some = true
		}
	}
	return some
}

// armTimer arms it for the earliest due time to come; what is due already waits
// for something that will be told by a message.
func (a *orgActor) armTimer(now time.Time) {
	var at time.Time
	for _, ch := range a.channels {
		if ch.due.After(now) {
			at = earliest(at, ch.due)
		}
	}
	if at.Equal(a.timerAt) {
		return
	}
	a.stopTimer()
	if at.IsZero() {
		return
	}
	a.timerAt = at
	self, m := a.self, tick{a.run}
	a.timer = time.AfterFunc(at.Sub(now), func() { a.sys.send(self, m) })
}

func (a *orgActor) stopTimer() {
	if a.timer != nil {
		a.timer.Stop()
	}
	a.timerAt = time.Time{}
}

func (a *orgActor) loadBreaker(ch *channel) {
	ch.claiming = true
	m := breakerLoaded{run: a.run, channel: ch.index, err: errPanicked}
	self, key := a.self, ch.key
	a.sys.spawnGo(func() {
		ctx, cancel := context.WithTimeout(a.ctx, callTimeout)
		defer cancel()
		m.breaker, m.err = a.sys.opt.Slots.Breaker(ctx, key.Org, key.Channel)
		if m.err == nil && key.Channel == event.Email {
			m.mailed, m.err = a.sys.opt.Mail.Mailed(ctx, key.Org)
		}
	}, func(bool) { a.sys.send(self, m) })
}

var errPanicked = errors.New("panicked; the log has the stack")

func (a *orgActor) breakerLoaded(m breakerLoaded) {
	if m.run != a.run {
		return
	}
	ch := a.channels[m.channel]
	ch.claiming = false
	if m.err != nil {
		a.failed(ch, m.err)
	} else {
		ch.known = true
		ch.breaker = breaker{Breaker: m.breaker, written: m.breaker}
		if ch.mails = m.mailed; ch.mails == nil {
			ch.mails = mailRate{}
		}
		ch.seat.setSlow(ch.breaker.Slow)
		a.pump(ch)
	}
	a.settle()
}

// failed waits a while before the channel is tried again.
func (a *orgActor) failed(ch *channel, err error) {
	if ch.failures == 0 && a.ctx.Err() == nil {
		if kept, write := a.sys.unclaimed.say(a.sys.now()); write {
			a.sys.log.Warn("an organisation's slots cannot be claimed; trying again", "org", a.key, "channel", string(ch.key.Channel), "err", err, "more", kept)
		}
	}
	ch.failures++
	ch.due = a.sys.now().Add(backoff(claimBackoff, maxBackoff, ch.failures))
}

// claimed: the channel's deliveries were started, or nothing was there.
func (a *orgActor) claimed(m claimed) {
	if m.run != a.run {
		return
	}
	ch := a.channels[m.channel]
	ch.claiming = false
	switch {
	case m.err != nil:
		a.failed(ch, m.err)
	default:
		ch.failures = 0
		ch.flying += m.n
		if m.digest {
			ch.digest = m.more
		}
		if m.n > 0 && m.resumed {
			ch.suspended = false
		}
		next := m.next
		if soonest := a.sys.now().Add(emptyPause); m.n == 0 && !next.IsZero() && next.Before(soonest) {
			next = soonest // due and yet not given: not at once again
		}
		ch.due = earliest(ch.due, next)
	}
	a.pump(ch)
	a.settle()
}

func (a *orgActor) deliveryDone(m deliveryDone) {
	defer a.sys.flights.end()
	if m.run != a.run {
		return
	}
	ch := a.channels[m.channel]
	ch.flying--
	if ch.key.Channel == event.Email && m.outcome.Result == event.Delivered {
		ch.mails.note(a.sys.now())
	}
	ch.due = earliest(ch.due, m.next)
	o, _ := a.sys.opt.Directory.Organisation(a.key)
	a.judge(ch, o, m.outcome)
	a.pump(ch)
	a.settle()
}

// judge decides what the outcome means for the channel and starts the effects.
func (a *orgActor) judge(ch *channel, o *org.Organisation, out event.Outcome) {
	now := a.sys.now()
	b, e := decideBreaker(ch.breaker, out, now, rand.Float64())
	ch.breaker = b
	ch.seat.setSlow(b.Slow)
	if out.Suspend != "" && e.suspend == "" {
		e.suspend = out.Suspend
	}
	if e.persist {
		a.effect(ch, breakerEffect(b.Breaker, e))
	}
	suspend := e.suspend != "" && !ch.suspended
	if suspend {
		ch.suspended = true
		a.effect(ch, holdEffect(event.HoldSuspend, event.Forever, e.suspend))
	}
	if out.HoldUntil.After(now) && out.HoldUntil.After(ch.retryAfter) {
		ch.retryAfter = out.HoldUntil
		a.effect(ch, holdEffect(event.HoldRetryAfter, out.HoldUntil, "the receiver asked to wait (Retry-After)"))
	}
	if o == nil {
		return // removed meanwhile: nobody to tell
	}
	notices, name := a.sys.opt.Notices, ch.key.Channel
	switch {
	case suspend:
		a.effect(ch, noticeEffect(func() { notices.ChannelSuspended(o, name, e.suspend) }))
	case e.down:
		a.effect(ch, noticeEffect(func() { notices.ChannelDown(o, name, e.since, out.Attempt.Status, words(out)) }))
	case e.recovered:
		a.effect(ch, noticeEffect(func() { notices.ChannelRecovered(o, name, e.since) }))
	}
}

// backoff doubles first with every failure up to limit, ± a quarter.
func backoff(first, limit time.Duration, failures int) time.Duration {
	d := min(first<<min(max(failures-1, 0), 20), limit)
	return d - d/4 + time.Duration(rand.Int64N(int64(d/2)+1))
}

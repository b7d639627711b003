package actors

import (
	"context"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
)

const (
	// lookUpTries is how often users are read before their deliveries are given
	// back, and lookUpPause how long those then wait: a connection that breaks
	// must not cost seconds, a Redis that is away must not be asked in a loop.
	lookUpTries = 4
	lookUpPause = 5 * time.Second
	// cutAfter is how much later than the channel's own timeout an attempt is
	// cut off, should the deliverer not keep to it.
	cutAfter    = 5 * time.Second
	inAirPause  = 5 * time.Second
	finishFirst = 50 * time.Millisecond
	finishMax   = 2 * time.Second
)

// claim claims n slots, for which the seat has places, in a goroutine that then
// starts their deliveries. It looks the users up, so that a delivery carries
// what its organisation gave.
func (a *orgActor) claim(ch *channel, n int, lease time.Duration) {
	if !a.sys.flights.begin() {
		ch.seat.release(n)
		return
	}
	ch.claiming, ch.due = true, time.Time{}
	m := claimed{run: a.run, channel: ch.index, resumed: ch.suspended, err: errPanicked}
	told := false
	s, self, key, seat := a.sys, a.self, ch.key, ch.seat
	s.spawnGo(func() {
		ctx, cancel := context.WithTimeout(a.ctx, callTimeout)
		defer cancel()
		var claims event.Claims
		claims, m.err = s.opt.Slots.Claim(ctx, key.Org, key.Channel, n, lease)
		if m.err != nil {
			return
		}
		m.n, m.next = len(claims.Deliveries), claims.Next
		s.flights.add(m.n)
		s.flying[m.channel].Add(int64(m.n))
		seat.release(n - m.n)
		n = m.n
		// Before the deliveries begin, so that it is counted before they end.
		s.send(self, m)
		told = true
		if m.n == 0 {
			return
		}
		who, err := s.affiliations(ctx, key.Org, claims.Deliveries)
		for i, d := range claims.Deliveries {
			f := &flight{sys: s, actor: a, channel: m.channel, seat: seat, d: d, lookUp: err}
			if err == nil {
				f.who = who[i]
			}
			n--
			f.start()
		}
	}, func(bool) {
		// On an error or a panic: places whose delivery did not start. Those
		// slots come back with the end of their lease.
		seat.release(n)
		if !told {
			s.send(self, m)
		} else {
			for range n {
				s.flying[m.channel].Add(-1)
				s.send(self, deliveryDone{run: m.run, channel: m.channel, outcome: event.Outcome{Result: event.Released}})
			}
		}
		s.flights.end()
	})
}

// affiliations returns, for each delivery, its user's affiliation with the
// organisation; nil when there is none any more.
func (s *System) affiliations(ctx context.Context, organisation string, list []event.Delivery) ([]*event.Affiliation, error) {
	ids := make([]orcid.ID, len(list))
	for i, d := range list {
		ids[i] = d.ORCID
	}
	users, err := s.opt.Users.RecentUsers(ctx, ids)
	for tries := 1; err != nil && tries < lookUpTries && ctx.Err() == nil; tries++ {
		pause(ctx, backoff(finishFirst, finishMax, tries))
		users, err = s.opt.Users.RecentUsers(ctx, ids)
	}
	if err != nil {
		return nil, err
	}
	who := make([]*event.Affiliation, len(list))
	for i, u := range users {
		if u == nil || i >= len(who) {
			continue
		}
		j := slices.IndexFunc(u.Affiliations, func(a event.Affiliation) bool { return a.Org == organisation && !a.Muted })
		if j >= 0 {
			who[i] = &u.Affiliations[j]
		}
	}
	return who, nil
}

// inAir names who is being told; there is one attempt at a time.
type inAir struct {
	org     string
	channel event.Channel
	user    orcid.ID
}

// flight is one delivery on its way. It owns one place of the room.
type flight struct {
	sys     *System
	actor   *orgActor // only what never changes is read: run, self
	channel int
	seat    *seat
	d       event.Delivery
	who     *event.Affiliation
	lookUp  error // of the user
}

func (f *flight) start() {
	s := f.sys
	m := deliveryDone{run: f.actor.run, channel: f.channel, outcome: event.Outcome{Result: event.Released}, next: f.d.LeaseEnd}
	self := f.actor.self
	f.seat.ask()
	s.spawnGo(func() {
		// A lease may end while its attempt is on its way: Redis's clock jumps, or
		// the process stands still. Who comes second posts nothing and looks again
		// a little later; the first one's outcome counts all the same.
		user := inAir{f.d.Org, f.d.Channel, f.d.ORCID}
		if _, there := s.inAir.LoadOrStore(user, true); there {
			m.outcome = event.Outcome{Result: event.Released, RetryAt: s.now().Add(inAirPause)}
		} else {
			defer s.inAir.Delete(user)
			m.outcome = f.attempt()
		}
		m.next = f.finish(m.outcome)
	}, func(bool) {
		s.flying[f.channel].Add(-1)
		// The place first: the actor, once told, may take it again.
		if m.outcome.Result == event.Delivered {
			f.seat.answered()
		} else {
			f.seat.failed()
		}
		s.send(self, m)
	})
}

// attempt makes the attempt, or says why there was none.
func (f *flight) attempt() event.Outcome {
	s, now := f.sys, f.sys.now()
	timeout := s.limits.Load().Timeout[f.d.Channel]
	o, ok := s.opt.Directory.Organisation(f.d.Org)
	switch {
	case f.lookUp != nil:
		// Never read as "not affiliated".
		return event.Outcome{Result: event.Released, RetryAt: now.Add(lookUpPause)}
	case f.who == nil:
		return event.Outcome{Result: event.Cancelled}
	case s.stopping.Load(), !ok, !o.Enabled(f.d.Channel), f.d.LeaseEnd.Sub(now) < timeout:
		// A disabled channel's slots are cancelled by who disabled it.
		return event.Outcome{Result: event.Released, RetryAt: now}
	}
	return f.post(o, timeout)
}

func (f *flight) post(o *org.Organisation, timeout time.Duration) event.Outcome {
	ctx, cancel := context.WithTimeout(f.sys.post, timeout+cutAfter)
	defer cancel()
	out := f.sys.opt.Deliverer.Deliver(ctx, o, f.d, *f.who)
	if f.d.Channel == event.Email && out.Result == event.Delivered {
		f.sys.countMail(f.d.Org)
	}
	return out
}

// finish writes the outcome, again and again until the lease ends: a receiver
// that took a delivery should not get it twice because Redis was away. It
// returns when the channel is to be asked again.
func (f *flight) finish(o event.Outcome) time.Time {
	s := f.sys
	for failures := 1; ; failures++ {
		done, err := s.opt.Slots.Finish(s.io, f.d, o)
		if err == nil {
			return done.Next
		}
		wait := backoff(finishFirst, finishMax, failures)
		if s.opt.Guard.Err() != nil || s.io.Err() != nil || s.now().Add(wait).After(f.d.LeaseEnd) {
			if s.io.Err() == nil {
				s.log.Warn("the outcome of a delivery could not be written; it may be made again",
					"org", f.d.Org, "orcid", f.d.ORCID.String(), "delivery_id", f.d.ID(), "attempt", f.d.Attempt, "err", err)
			}
			return f.d.LeaseEnd
		}
		pause(s.io, wait)
	}
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

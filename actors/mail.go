package actors

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
)

// mailRate counts the mails of the last hour by the minute they were sent in
// (Unix time divided by 60).
type mailRate map[int64]int

// window is for how many minutes a mail counts: an hour, and the rest of the
// minute it was sent in.
const window = 61

func (r mailRate) note(at time.Time) { r[at.Unix()/60]++ }

// room returns how many mails may be sent now when limit an hour are wanted at
// most, and when there is none, from when on the next may.
func (r mailRate) room(now time.Time, limit int) (n int, next time.Time) {
	minute, sent := now.Unix()/60, 0
	for m, c := range r {
		if m <= minute-window {
			delete(r, m)
			continue
		}
		sent += c
	}
	if sent < limit {
		return limit - sent, time.Time{}
	}
	for _, m := range slices.Sorted(maps.Keys(r)) {
		if sent -= r[m]; sent < limit {
			return 0, time.Unix((m+window)*60, 0).UTC()
		}
	}
	return 0, now.Add(time.Minute) // a limit below 1, which org.Validate refuses
}

// mailRoom is want, bounded by how many mails the organisation takes in an hour.
// With none left the channel is held until there is, so that people see why
// nothing comes.
func (a *orgActor) mailRoom(ch *channel, o *org.Organisation, want int) int {
	limit := o.Email.PerHour()
	n, next := ch.mails.room(a.sys.now(), limit)
	if n == 0 && ch.flying == 0 {
		a.effect(ch, holdEffect(event.HoldRate, next, fmt.Sprintf("%d e-mails were sent in an hour (email.max_per_hour); the rest waits", limit)))
	}
	return min(want, n-ch.flying)
}

// pumpDigest sends a digest when nothing else is under way. In an organisation
// whose mails go one by one it only ends one that was begun before.
func (a *orgActor) pumpDigest(ch *channel, o *org.Organisation, lease time.Duration) {
	if ch.flying > 0 || ch.seat.take(1) == 0 {
		if ch.flying > 0 {
			ch.seat.leave()
		}
		return
	}
	most := 0
	if o.Email.Digest() {
		most = math.MaxInt32 // the store has its own bound
	}
	a.openDigest(ch, most, lease)
}

// openDigest opens a digest in a goroutine that then makes the attempt.
func (a *orgActor) openDigest(ch *channel, most int, lease time.Duration) {
	if !a.sys.flights.begin() {
		ch.seat.release(1)
		return
	}
	ch.claiming, ch.due = true, time.Time{}
	m := claimed{run: a.run, channel: ch.index, resumed: ch.suspended, digest: true, more: true, err: errPanicked}
	told := false
	s, self, key, seat := a.sys, a.self, ch.key, ch.seat
	s.spawnGo(func() {
		ctx, cancel := context.WithTimeout(a.ctx, callTimeout)
		defer cancel()
		opened, err := s.opt.Mail.OpenDigest(ctx, key.Org, most, lease)
		if m.err = err; err != nil {
			return
		}
		m.next, m.more = opened.Next, opened.More
		if opened.Digest == nil {
			return
		}
		m.n = 1
		s.flights.add(1)
		s.flying[m.channel].Add(1)
		s.send(self, m)
		told = true
		f := &digestFlight{sys: s, actor: a, channel: m.channel, seat: seat, d: *opened.Digest}
		f.start()
	}, func(bool) {
		if !told {
			seat.release(1)
			s.send(self, m)
		}
		s.flights.end()
	})
}

// digestFlight is one digest on its way. It owns one place of the room.
type digestFlight struct {
	sys     *System
	actor   *orgActor // only what never changes is read: run, self
	channel int
	seat    *seat
	d       event.Digest
	gone    []orcid.ID // of whom nobody is told any more
}

func (f *digestFlight) start() {
	s := f.sys
	m := deliveryDone{run: f.actor.run, channel: f.channel, outcome: event.Outcome{Result: event.Released}, next: f.d.LeaseEnd}
	self := f.actor.self
	f.seat.ask()
	s.spawnGo(func() {
		// One attempt at a time, also when Redis's clock jumps.
		one := inAir{org: f.d.Org, channel: event.Email}
		if _, there := s.inAir.LoadOrStore(one, true); there {
			return // the lease ends
		}
		defer s.inAir.Delete(one)
		var books event.Outcome
		m.outcome, books = f.attempt()
		if m.outcome.Result == event.Delivered {
			s.countMail(f.d.Org)
		}
		m.next = f.finish(books)
	}, func(bool) {
		s.flying[f.channel].Add(-1)
		if m.outcome.Result == event.Delivered {
			f.seat.answered()
		} else {
			f.seat.failed()
		}
		s.send(self, m)
	})
}

// attempt makes the attempt, or says why there was none. It returns what the
// channel learns of it and what the books are closed with.
func (f *digestFlight) attempt() (learnt, books event.Outcome) {
	s, now := f.sys, f.sys.now()
	timeout := s.limits.Load().Timeout[event.Email]
	o, ok := s.opt.Directory.Organisation(f.d.Org)
	released := event.Outcome{Result: event.Released, RetryAt: now}
	if f.d.Ended != "" || s.stopping.Load() || !ok || !o.Enabled(event.Email) || f.d.LeaseEnd.Sub(now) < timeout {
		return released, released // one that has ended is only closed, whatever is said
	}
	like := make([]event.Delivery, len(f.d.Items))
	for i, item := range f.d.Items {
		like[i].ORCID = item.ORCID
	}
	ctx, cancel := context.WithTimeout(s.post, callTimeout)
	found, err := s.affiliations(ctx, f.d.Org, like)
	cancel()
	if err != nil {
		released.RetryAt = now.Add(lookUpPause) // never read as "not affiliated"
		return released, released
	}
	d, who := f.d, []event.Affiliation{}
	d.Items = nil
	for i, item := range f.d.Items {
		if found[i] == nil {
			f.gone = append(f.gone, item.ORCID)
			continue
		}
		d.Items, who = append(d.Items, item), append(who, *found[i])
	}
	if len(d.Items) == 0 {
		return released, event.Outcome{Result: event.Delivered} // nobody is left to tell of
	}
	post, cancelPost := context.WithTimeout(s.post, timeout+cutAfter)
	defer cancelPost()
	out := s.opt.Deliverer.DeliverDigest(post, o, d, who)
	return out, out
}

// finish writes the outcome, again and again until the lease ends, and returns
// when the channel is to be asked again.
func (f *digestFlight) finish(o event.Outcome) time.Time {
	s := f.sys
	for failures := 1; ; failures++ {
		due := s.now()
		if organisation, ok := s.opt.Directory.Organisation(f.d.Org); ok && organisation.Email.Digest() {
			due = organisation.NextDigest(due)
		}
		ctx, cancel := context.WithTimeout(s.io, callTimeout)
		next, err := s.opt.Mail.FinishDigest(ctx, f.d, o, f.gone, due)
		cancel()
		if err == nil {
			return next
		}
		wait := backoff(finishFirst, finishMax, failures)
		if s.opt.Guard.Err() != nil || s.io.Err() != nil || s.now().Add(wait).After(f.d.LeaseEnd) {
			if s.io.Err() == nil {
				s.log.Warn("the outcome of a digest could not be written; it may be sent again",
					"org", f.d.Org, "delivery_id", f.d.ID, "attempt", f.d.Attempt, "err", err)
			}
			return f.d.LeaseEnd
		}
		pause(s.io, wait)
	}
}

// countMail notes durably that a mail was sent; the actor counts by itself as
// long as it lives.
func (s *System) countMail(organisation string) {
	ctx, cancel := context.WithTimeout(s.io, callTimeout)
	defer cancel()
	if err := s.opt.Mail.CountMail(ctx, organisation, s.now()); err != nil && s.io.Err() == nil {
		if kept, write := s.uncounted.say(s.now()); write {
			s.log.Warn("a mail could not be counted for email.max_per_hour", "org", organisation, "err", err, "more", kept)
		}
	}
}

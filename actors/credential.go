package actors

import (
	"math/rand/v2"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"dispatchd/internal/orcid"
)

const (
	maxOutstanding = 8                // requests on their way per credential, at most
	permitLease    = 3 * time.Minute  // a permit that nobody accounted for is lost after
	unknownPause   = 6 * time.Hour    // work of a credential that is not configured
	housekeeping   = 30 * time.Second // looking for such permits
	maxRemembered  = 4096             // users to be hinted when the credential recovers
	minSweepLane   = 4
)

// credentialActor decides which of its users goes next, and stops asking ORCID
// when ORCID refuses the credential itself.
type credentialActor struct {
	sys          *System
	cred         Credential
	run          uint64
	self, parent *actor.PID

	lanes       lanes
	booking     booking
	own         *bucket                 // nil without a rate of its own
	flying      map[ticketKey]time.Time // when the permit was given
	places      places
	asked       bool // for a token
	askedFast   bool
	paused      bool
	trouble     string // why ORCID refuses the credential; empty while it does not
	since       time.Time
	probeAt     time.Time
	remembered  map[orcid.ID]struct{}
	timer, tidy *time.Timer
	used        uint64
}

func newCredentialActor(s *System, cred Credential) actor.Actor {
	// After a panic the settings may have changed since the spawn.
	if now, ok := (*s.creds.Load())[cred.Name]; ok {
		cred = now
	}
	a := &credentialActor{
		sys: s, run: s.runs.Add(1), lanes: newLanes(), flying: map[ticketKey]time.Time{},
		remembered: map[orcid.ID]struct{}{}, paused: s.paused.Load(),
	}
	a.apply(cred)
	return a
}

// Receive implements actor.Actor.
func (a *credentialActor) Receive(c actor.Context) {
	defer a.sys.counted()
	switch m := c.Message().(type) {
	case *actor.Started:
		a.self, a.parent = c.Self(), c.Parent()
		a.armTidy()
	case *actor.Stopping, *actor.Restarting:
		a.end()
		a.sys.board.remove(a.cred.Name, a.run)
		return
	case *actor.Stopped:
		return
	case askPermit:
		a.ask(m.ticket)
	case dropAsk:
		a.lanes.remove(m.key)
	case token:
		a.token()
	case spent:
		a.spent(m)
	case landed:
		a.landed(m.key)
	case remember:
		a.remember(m.id)
	case reconfigure:
		a.reconfigure(m.credential)
	case setPause:
		a.setPause(m.paused)
	case tick:
		a.tick(m)
	case sweep:
		a.tidyUp()
	default:
		a.sys.unknown("credential", m)
	}
	a.pump()
	a.publish()
}

func (a *credentialActor) apply(cred Credential) {
	changed := cred.Rate != a.cred.Rate
	a.cred = cred
	switch {
	case cred.Rate <= 0:
		a.own = nil
	case a.own == nil:
		b := newBucket(cred.Rate, burstOf(cred.Rate), time.Now())
		a.own = &b
	case changed:
		a.own.setRate(cred.Rate, burstOf(cred.Rate), time.Now())
	}
}

func (a *credentialActor) end() {
	if a.timer != nil {
		a.timer.Stop()
	}
	if a.tidy != nil {
		a.tidy.Stop()
	}
	a.denyAll(a.sys.now().Add(time.Minute))
}

// rate is what this credential can get at most.
func (a *credentialActor) rate() float64 {
	shared := a.sys.limits.Load().ORCIDRate
	if a.own != nil {
		return min(a.own.rate, shared)
	}
	return shared
}

func (a *credentialActor) ask(t ticket) {
	if _, flying := a.flying[t.key()]; flying {
		return // its permit is on the way
	}
	now := time.Now()
	if until, blocked := a.blocked(now); blocked {
		a.deny(&t, until)
		return
	}
	// Two looks ahead of recovery: that lane fills up only behind a rate of its
	// own, and then the rest is booked for later.
	sweepMax := 4 * max(minLookAhead, int(lookAhead*a.rate()))
	if a.own != nil {
		sweepMax = max(minSweepLane, int(lookAhead*a.rate()))
	}
	if !a.lanes.add(t, sweepMax) {
		t.answer(false, a.booking.book(a.sys.now(), a.rate(), rand.Float64(), lookAhead*time.Second))
	}
}

// blocked reports whether nobody gets a permit now, and until when (in the
// system's time).
func (a *credentialActor) blocked(now time.Time) (until time.Time, blocked bool) {
	switch {
	case a.paused:
		return a.sys.now().Add(a.sys.tuning.probeEvery), true
	case a.trouble != "" && now.Before(a.probeAt):
		return a.sys.now().Add(a.probeAt.Sub(now)), true
	}
	return time.Time{}, false
}

func (a *credentialActor) deny(t *ticket, until time.Time) {
	if t.serial == 0 {
		a.remember(t.id)
	}
	t.answer(false, until)
}

func (a *credentialActor) denyAll(until time.Time) {
	for _, t := range a.lanes.all() {
		a.deny(t, until)
	}
}

// pump asks for a token when there is somebody to use it.
func (a *credentialActor) pump() {
	if a.paused || a.lanes.first(a.may) == nil {
		return
	}
	fast := a.lanes.nExpress > 0
	if a.asked {
		if fast && !a.askedFast {
			a.askedFast = true
			a.sys.send(a.parent, wantToken{a.self, true})
		}
		return
	}
	now := time.Now()
	if a.trouble != "" && (now.Before(a.probeAt) || len(a.flying) > 0) {
		return // one probe at a time
	}
	if a.own != nil {
		ok, wait := a.own.take(now)
		if !ok {
			a.arm(wait)
			return
		}
	}
	a.asked, a.askedFast = true, fast
	a.sys.send(a.parent, wantToken{a.self, fast})
}

// may reports whether a ticket's request may go beside those that are under way.
func (a *credentialActor) may(t *ticket) bool {
	if len(a.flying) >= maxOutstanding {
		return false
	}
	if t.serial != 0 {
		return true // a search: a kill repeats nothing that ORCID would count
	}
	limit := a.places.number(a.rate())
	if t.express {
		limit++ // a single change does not wait for the answer to one of a sweep
	}
	changes := 0
	for key := range a.flying {
		if key.serial == 0 {
			changes++
		}
	}
	return changes < limit
}

func (a *credentialActor) arm(wait time.Duration) {
	if a.timer != nil {
		a.timer.Stop()
	}
	self, m := a.self, tick{a.run}
	a.timer = time.AfterFunc(wait, func() { a.sys.send(self, m) })
}

func (a *credentialActor) tick(tick) {} // pump follows every message

func (a *credentialActor) token() {
	_, blocked := a.blocked(time.Now())
	var t *ticket
	if a.asked && !blocked {
		t = a.lanes.next(a.may)
	}
	a.asked, a.askedFast = false, false
	if t == nil {
		a.giveBack()
		return
	}
	now := time.Now()
	a.flying[t.key()] = now
	a.sys.metrics.permitWait.Observe(now.Sub(t.since).Seconds())
	t.answer(true, now)
}

func (a *credentialActor) giveBack() {
	if a.own != nil {
		a.own.back()
	}
	a.sys.send(a.parent, tokenBack{})
}

func (a *credentialActor) spent(m spent) {
	granted, known := a.flying[m.key]
	if !m.used || m.key.serial != 0 {
		delete(a.flying, m.key)
	}
	if !m.used {
		if known {
			a.giveBack()
		}
		return
	}
	a.used++
	a.sys.requests.add(time.Now())
	if !known {
		granted = time.Now()
	}
	switch {
	case m.trouble != "":
		a.enterTrouble(m.trouble)
		return
	case strains(m.kind, m.status):
		a.sys.send(a.parent, strain{granted, m.retryAfter})
	case eases(m.kind):
		a.sys.send(a.parent, ease{})
	}
	switch {
	case a.trouble == "":
	case eases(m.kind) || m.kind == orcid.BadURI || m.kind == orcid.Conflict:
		a.recovered()
	case m.kind != orcid.Cancelled:
		a.stayInTrouble() // the probe says nothing about the credential
	}
}

func (a *credentialActor) landed(key ticketKey) {
	if granted, known := a.flying[key]; known {
		delete(a.flying, key)
		a.places.sample(time.Since(granted), a.rate())
	}
}

func (a *credentialActor) enterTrouble(detail string) {
	now := time.Now()
	if a.trouble == "" {
		a.since = now
		a.sys.log.Warn("ORCID refuses a credential; its registrations wait", "credential", a.cred.Name, "err", detail)
	}
	a.trouble = detail
	a.stayInTrouble()
}

func (a *credentialActor) stayInTrouble() {
	a.probeAt = time.Now().Add(a.sys.tuning.probeEvery)
	until, _ := a.blocked(time.Now())
	a.denyAll(until)
}

func (a *credentialActor) recovered() {
	a.sys.log.Info("ORCID takes a credential again", "credential", a.cred.Name, "after", time.Since(a.since).Round(time.Second).String())
	a.trouble, a.since, a.probeAt = "", time.Time{}, time.Time{}
	a.publish() // before the users look at it
	a.hintRemembered()
}

// remember keeps who is to be hinted when the credential works again; beyond
// maxRemembered they come back by the time of their work.
func (a *credentialActor) remember(id orcid.ID) {
	if len(a.remembered) < maxRemembered {
		a.remembered[id] = struct{}{}
	}
}

func (a *credentialActor) hintRemembered() {
	for id := range a.remembered {
		a.sys.HintUser(id, false)
	}
	clear(a.remembered)
}

func (a *credentialActor) reconfigure(cred Credential) {
	a.apply(cred)
	if a.trouble != "" {
		a.probeAt = time.Now()
		a.publish()
	}
	a.hintRemembered()
}

func (a *credentialActor) setPause(paused bool) {
	if a.paused == paused {
		return
	}
	a.paused = paused
	a.publish()
	if paused {
		until, _ := a.blocked(time.Now())
		a.denyAll(until)
		return
	}
	a.hintRemembered()
}

func (a *credentialActor) armTidy() {
	self := a.self
	a.tidy = time.AfterFunc(housekeeping, func() { a.sys.send(self, sweep{}) })
}

// tidyUp forgets permits of askers that vanished, or room for others is lost.
func (a *credentialActor) tidyUp() {
	for key, granted := range a.flying {
		if time.Since(granted) > permitLease {
			delete(a.flying, key)
		}
	}
	a.armTidy()
}

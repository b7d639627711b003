package actors

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// credentials owns the one rate of requests to ORCID and hands its tokens to the
// credentials in turn, single changes first.
type credentials struct {
	sys      *System
	run      uint64
	self     *actor.PID
	children map[string]*credentialChild
	lanes    lanes // of children, by their serial
	bucket   bucket
	burst    float64
	pace     pace
	paused   bool
	stopping bool
	timer    *time.Timer
}

type credentialChild struct {
	pid    *actor.PID
	serial uint64
}

func newCredentials(s *System) actor.Actor {
	return &credentials{sys: s, run: s.runs.Add(1), children: map[string]*credentialChild{}, lanes: newLanes()}
}

// Receive implements actor.Actor.
func (p *credentials) Receive(c actor.Context) {
	defer p.sys.counted()
	switch m := c.Message().(type) {
	case *actor.Started:
		p.start(c)
	case *actor.Stopping, *actor.Restarting:
		p.end()
	case *actor.Stopped:
	case *actor.Terminated:
		p.terminated(m.Who)
	case respawn:
		p.configure(c, p.sys.credentialList())
	case askPermit:
		p.ask(c, m)
	case dropAsk:
		p.forward(c, m.credential, m)
	case spent:
		p.forward(c, m.credential, m)
	case landed:
		p.forward(c, m.credential, m)
	case remember:
		p.forward(c, m.credential, m)
	case wantToken:
		p.want(m)
	case tokenBack:
		p.bucket.back()
		p.pump()
	case tick:
		if m.run == p.run {
			p.pump()
		}
	case strain:
		p.strain(m)
	case ease:
		if p.pace.ease(time.Now()) {
			p.applyRate()
		}
	case configure:
		p.configure(c, m.list)
	case setRate:
		p.burst = m.burst
		p.pace.setFull(m.rate, time.Now())
		p.applyRate()
		p.pump()
	case setPause:
		p.pause(c, m)
	case pulse:
		m.answer <- struct{}{}
	default:
		p.sys.unknown("credentials", m)
	}
}

func (p *credentials) start(c actor.Context) {
	p.self = c.Self()
	l, now := p.sys.limits.Load(), time.Now()
	p.burst = l.ORCIDBurst
	p.pace.setFull(l.ORCIDRate, now)
	p.bucket = newBucket(l.ORCIDRate, l.ORCIDBurst, now)
	// Without the burst: a process that was killed in the middle of one and
	// started again would make two of it.
	p.bucket.tokens = min(p.bucket.tokens, 1)
	p.paused = p.sys.paused.Load()
	p.sys.board.setRate(p.pace.now, time.Time{})
	p.configure(c, p.sys.credentialList())
}

func (p *credentials) end() {
	p.stopping = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

// configure spawns who is new, poisons who is gone and tells the others.
func (p *credentials) configure(c actor.Context, list []Credential) {
	if p.stopping {
		return // whoever is spawned now is never told to stop
	}
	known := map[string]bool{}
	for _, cred := range list {
		known[cred.Name] = true
		if child := p.children[cred.Name]; child != nil {
			c.Send(child.pid, reconfigure{cred})
			continue
		}
		serial := p.sys.runs.Add(1)
		props := actor.PropsFromProducer(func() actor.Actor { return newCredentialActor(p.sys, cred) })
		pid, err := c.SpawnNamed(props, cred.Name+"~"+strconv.FormatUint(serial, 10))
		if err != nil {
			p.sys.log.Error("an actor cannot be started", "actor", cred.Name, "err", err)
			p.later()
			continue
		}
		p.children[cred.Name] = &credentialChild{pid, serial}
		c.Send(pid, setPause{p.paused})
	}
	for name, child := range p.children {
		if !known[name] {
			p.forget(name, child)
			c.Poison(child.pid)
		}
	}
}

func (p *credentials) forget(name string, child *credentialChild) {
	delete(p.children, name)
	p.lanes.remove(ticketKey{serial: child.serial})
}

func (p *credentials) terminated(who *actor.PID) {
	for name, child := range p.children {
		if !p.stopping && who.Equal(child.pid) {
			p.sys.log.Error("an actor stopped after too many panics and is started again", "actor", name)
			p.forget(name, child)
			p.later()
		}
	}
}

func (p *credentials) later() {
	self := p.self
	time.AfterFunc(p.sys.tuning.respawnAfter, func() { p.sys.send(self, respawn{}) })
}

func (p *credentials) ask(c actor.Context, m askPermit) {
	if child := p.children[m.credential]; child != nil {
		c.Send(child.pid, m)
		return
	}
	m.ticket.answer(false, p.sys.now().Add(unknownPause))
}

func (p *credentials) forward(c actor.Context, name string, m any) {
	if child := p.children[name]; child != nil {
		c.Send(child.pid, m)
	}
}

func (p *credentials) pause(c actor.Context, m setPause) {
	p.paused = m.paused
	for _, child := range p.children {
		c.Send(child.pid, m)
	}
	p.pump()
}

func (p *credentials) want(m wantToken) {
	serial := serialOf(m.from)
	to := m.from
	p.lanes.add(ticket{serial: serial, express: m.express, answer: func(bool, time.Time) { p.sys.send(to, token{}) }}, math.MaxInt)
	p.pump()
}

// serialOf reads the number at the end of a child's name.
func serialOf(pid *actor.PID) uint64 {
	n, _ := strconv.ParseUint(pid.Id[strings.LastIndexByte(pid.Id, '~')+1:], 10, 64) // 0 for what is no child's name
	return n
}

// pump hands out the tokens that there are.
func (p *credentials) pump() {
	for !p.paused && p.lanes.len() > 0 && !p.sys.stopping.Load() {
		now := time.Now()
		if wait := p.pace.notBefore.Sub(now); wait > 0 {
			p.arm(wait)
			return
		}
		ok, wait := p.bucket.take(now)
		if !ok {
			p.arm(wait)
			return
		}
		p.lanes.next(anybody).answer(true, now)
	}
}

func (p *credentials) arm(wait time.Duration) {
	if p.timer != nil {
		p.timer.Stop()
	}
	self, m := p.self, tick{p.run}
	p.timer = time.AfterFunc(wait, func() { p.sys.send(self, m) })
}

func (p *credentials) strain(m strain) {
	before := p.pace.now
	p.pace.strain(m.granted, time.Now(), m.retryAfter)
	if p.pace.now < before && before == p.pace.full {
		p.sys.log.Warn("ORCID asks for fewer requests; going slower", "rate", p.pace.now, "full_rate", p.pace.full, "retry_after", m.retryAfter.String())
	}
	p.applyRate()
}

// applyRate makes the bucket follow the pace. A lower rate has a lower burst.
func (p *credentials) applyRate() {
	burst := p.burst * p.pace.now / p.pace.full
	p.bucket.setRate(p.pace.now, burst, time.Now())
	p.sys.board.setRate(p.pace.now, p.pace.notBefore)
}

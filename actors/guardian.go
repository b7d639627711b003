package actors

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// guardian spawns the roots and brings back what stopped. It is the only one
// that tells System their PIDs, and only after they were spawned.
type guardian struct {
	sys      *System
	run      uint64
	self     *actor.PID
	roots    map[string]*atomic.Pointer[actor.PID] // role → where its PID goes
	stopping bool
}

// Receive implements actor.Actor.
func (g *guardian) Receive(c actor.Context) {
	defer g.sys.counted()
	switch m := c.Message().(type) {
	case *actor.Started:
		g.start(c)
	case *actor.Stopping:
		g.stopping = true
	case *actor.Stopped:
		close(g.sys.gone)
	case *actor.Restarting:
	case *actor.Terminated:
		g.terminated(c, m.Who)
	case respawn:
		g.spawn(c, m.key)
	case pulse:
		m.answer <- struct{}{}
	default:
		g.sys.unknown("guardian", m)
	}
}

func (g *guardian) start(c actor.Context) {
	g.self = c.Self()
	g.roots = map[string]*atomic.Pointer[actor.PID]{"credentials": &g.sys.credentials, "recovery": &g.sys.recovery}
	for i := range g.sys.orgs {
		g.roots[fmt.Sprintf("orgs-%02d", i)] = &g.sys.orgs[i]
	}
	for i := range g.sys.users {
		g.roots[fmt.Sprintf("users-%02d", i)] = &g.sys.users[i]
	}
	for role := range g.roots {
		// Recovery comes last: it hints the others.
		if role != "recovery" {
			g.spawn(c, role)
		}
	}
	g.spawn(c, "recovery")
	select {
	case <-g.sys.spawned: // a second instance after a panic
	default:
		close(g.sys.spawned)
	}
}

// spawn starts the role under a name that was never used before.
func (g *guardian) spawn(c actor.Context, role string) {
	if g.stopping {
		return
	}
	pid, err := c.SpawnNamed(g.props(role), role+"~"+strconv.FormatUint(g.sys.runs.Add(1), 10))
	if err != nil {
		g.sys.log.Error("an actor cannot be started", "actor", role, "err", err)
		g.later(role)
		return
	}
	g.roots[role].Store(pid)
}

func (g *guardian) props(role string) *actor.Props {
	s := g.sys
	return actor.PropsFromProducer(func() actor.Actor {
		switch {
		case role == "credentials":
			return newCredentials(s)
		case role == "recovery":
			return newRecovery(s)
		case strings.HasPrefix(role, "orgs-"):
			return newRegistry(s, 0, func(key string) actor.Actor { return newOrgActor(s, key) })
		}
		return newRegistry(s, userCrowd, func(key string) actor.Actor { return newUserActor(s, key) })
	})
}

func (g *guardian) terminated(c actor.Context, who *actor.PID) {
	role, _, _ := strings.Cut(strings.TrimPrefix(who.Id, c.Self().Id+"/"), "~")
	at, ok := g.roots[role]
	if !ok || !who.Equal(at.Load()) || g.stopping {
		return
	}
	g.sys.log.Error("an actor stopped after too many panics and is started again", "actor", role)
	g.later(role)
}

func (g *guardian) later(role string) {
	self := g.self
	time.AfterFunc(g.sys.tuning.respawnAfter, func() { g.sys.send(self, respawn{key: role}) })
}

// unknown counts a message that nobody expects as a panic: it is one of ours.
func (s *System) unknown(who string, m any) {
	s.panics.Add(1)
	if s.opt.Panics != nil {
		s.opt.Panics("actors")
	}
	s.log.Error("an actor got a message that it does not know", "actor", who, "message", fmt.Sprintf("%T", m))
}

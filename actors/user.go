package actors

import (
	"context"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/register"
)

const (
	// intentLease is when a user whose request was on its way at a crash is
	// looked at again.
	intentLease    = 2 * time.Minute
	requestTimeout = 90 * time.Second // a call of the client may be up to four requests
	restFirst      = time.Second
	restMax        = 30 * time.Second
	maxRests       = 8 // failures in a row before the user is left to recovery
)

// phase is what a userActor waits for.
type phase uint8

const (
	phaseIdle phase = iota
	phaseLoading
	phaseAnnouncing
	phaseSaving
	phaseWaiting // for a permit
	phaseRequesting
	phaseResting // after a failure
)

// userActor brings one user's registrations to what is wanted, one request at a
// time, and announces new affiliations. A pass is: load → plan → save the
// intent → permit → request → save the outcome with the next intent → … → save
// when to look again → idle. Whatever goes wrong, the pass begins again from
// the record.
type userActor struct {
	sys          *System
	key          string
	id           orcid.ID
	run          uint64
	epoch        uint64
	self, parent *actor.PID
	ctx          context.Context // ends with this instance
	cancel       context.CancelFunc
	timer        *time.Timer

	phase   phase
	busy    bool // counted in System.busyUsers
	dirty   bool // woken since the record was read
	express bool

	user      event.User
	step      register.Step
	stepping  bool            // the save under way is an intent: the step follows
	recheck   bool            // the save under way ends the pass: see saved
	answer    *orcid.Answer   // not saved yet
	answers   register.Step   // the one that answer is to; step may be the next already
	announced map[string]bool // in this pass
	asked     ticket          // what waits in phaseWaiting
	holding   string          // the credential of our request while it or its outcome is under way
	failures  int             // in a row
}

func newUserActor(s *System, key string) actor.Actor {
	id, err := orcid.ParseStrict(key)
	if err != nil {
		panic("a user's actor was made for what is no iD") // HintUser makes the keys
	}
	return &userActor{sys: s, key: key, id: id, run: s.runs.Add(1)}
}

// Receive implements actor.Actor.
func (a *userActor) Receive(c actor.Context) {
	defer a.sys.counted()
	switch m := c.Message().(type) {
	case *actor.Started:
		a.self, a.parent = c.Self(), c.Parent()
		a.ctx, a.cancel = context.WithCancel(a.sys.life)
	case *actor.Stopping:
		a.end()
	case *actor.Restarting:
		a.end()
		c.Send(c.Parent(), crashed{a.key, a.epoch})
	case *actor.Stopped:
	case wake:
		a.wake(c, m)
	case tick:
		a.rested(m)
	case loaded:
		a.loaded(m)
	case announced:
		a.announcedDone(m)
	case saved:
		a.saved(m)
	case permit:
		a.permit(m)
	case denied:
		a.denied(m)
	case answered:
		a.answered(m)
	default:
		a.sys.unknown("user", m)
	}
}

// rest waits after a failure and begins the pass again; after too many it
// leaves the user to recovery.
func (a *userActor) rest(err error, doing string) {
	a.failures++
	if a.sys.stopping.Load() || a.failures > maxRests {
		if !a.sys.stopping.Load() {
			a.sys.log.Warn("a user's registrations are left for later", "orcid", a.key, "doing", doing, "err", err)
		}
		a.answer, a.dirty = nil, false
		a.idle()
		return
	}
	a.phase = phaseResting
	a.arm(backoff(restFirst, restMax, a.failures))
}

// idle ends the pass, or begins the next when something came meanwhile.
func (a *userActor) idle() {
	a.letGo()
	a.stopTimer()
	if a.dirty && !a.sys.stopping.Load() {
		a.load()
		return
	}
	a.phase, a.express, a.failures, a.announced = phaseIdle, false, 0, nil
	a.user, a.step, a.asked = event.User{}, register.Step{}, ticket{}
	a.notBusy()
	a.sys.send(a.parent, idle{a.key, a.epoch})
}

func (a *userActor) notBusy() {
	if a.busy {
		a.busy = false
		a.sys.busyUsers.Add(-1)
	}
}

// letGo tells Stop that nothing of ours needs an end any more, and the credential
// that the place of our request is free.
func (a *userActor) letGo() {
	if a.holding != "" {
		a.sys.send(a.sys.credentials.Load(), landed{a.holding, ticketKey{id: a.id}})
		a.holding = ""
		a.sys.flights.end()
	}
}

func (a *userActor) end() {
	if a.cancel == nil {
		return
	}
	a.cancel()
	a.stopTimer()
	a.notBusy()
	switch a.phase {
	case phaseWaiting:
		a.sys.send(a.sys.credentials.Load(), dropAsk{a.step.Credential, ticketKey{id: a.id}})
	case phaseRequesting:
		a.spend(a.step.Credential, true, orcid.Answer{Kind: orcid.Cancelled})
	}
	a.letGo()
}

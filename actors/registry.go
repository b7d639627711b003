package actors

import (
	"strconv"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// registry spawns, wakes and lets go the children of one shard. It does look-ups
// in a map and nothing else. See doc.go for the handshake.
type registry struct {
	sys      *System
	produce  func(key string) actor.Actor
	self     *actor.PID
	entries  map[string]*entry
	resting  []string // who said idle since the sweep before last
	fresh    []string // who said idle since the last sweep
	timer    *time.Timer
	stopping bool
	// crowd is from how many children on nobody is spawned for what can wait: Redis
	// has the work, and recovery hints it as fast as it is done. 0: no bound.
	crowd int
}

// entry is what a registry knows of one child.
type entry struct {
	pid   *actor.PID // nil while it waits to be respawned
	epoch uint64     // of the last wake
	// waking: that wake was not taken yet. idle: the child has nothing to do.
	// stopping: it was poisoned.
	waking, idle, stopping bool
	crashes                int
	// listed is the epoch with which the key stands in resting or fresh; 0: it
	// does not.
	listed uint64
	// news came meanwhile; the next wake hands them over.
	news news
}

func newRegistry(s *System, crowd int, produce func(key string) actor.Actor) *registry {
	return &registry{sys: s, produce: produce, entries: map[string]*entry{}, crowd: crowd}
}

// Receive implements actor.Actor.
func (r *registry) Receive(c actor.Context) {
	defer r.sys.counted()
	switch m := c.Message().(type) {
	case hint:
		r.hint(c, m)
	case awake:
		r.awake(c, m)
	case idle:
		r.idle(m)
	case crashed:
		r.crashed(c, m)
	case *actor.Terminated:
		r.terminated(c, m.Who)
	case respawn:
		r.respawn(c, m)
	case sweep:
		r.sweep(c)
	case pulse:
		m.answer <- struct{}{}
	case *actor.Started:
		r.self = c.Self()
		r.arm()
	case *actor.Stopping, *actor.Restarting:
		r.stopping = true
		r.timer.Stop()
	case *actor.Stopped:
	default:
		r.sys.unknown("registry", m)
	}
}

func (r *registry) arm() {
	self := r.self
	r.timer = time.AfterFunc(r.sys.tuning.sweepEvery, func() { r.sys.send(self, sweep{}) })
}

func (r *registry) hint(c actor.Context, m hint) {
	// Whoever is spawned after the others were told to stop is never told, and
	// would keep this actor for ever.
	if r.stopping {
		return
	}
	e := r.entries[m.key]
	if e == nil {
		if r.crowd > 0 && len(r.entries) >= r.crowd && !m.news.express {
			r.thin(c)
			return
		}
		e = &entry{news: m.news}
		r.entries[m.key] = e
		r.spawn(c, m.key, e)
		return
	}
	e.news = e.news.merge(m.news)
	r.wake(c, e)
}

// wake hands the news over unless a wake is pending or nobody is there.
func (r *registry) wake(c actor.Context, e *entry) {
	if !e.news.some || e.waking || e.stopping || e.pid == nil {
		return
	}
	e.epoch = r.sys.runs.Add(1)
	e.waking, e.idle = true, false
	n := e.news
	e.news = news{}
	c.Send(e.pid, wake{e.epoch, n})
}

func (r *registry) awake(c actor.Context, m awake) {
	if e := r.entries[m.key]; e != nil && e.epoch == m.epoch {
		e.waking = false
		r.wake(c, e)
	}
}

func (r *registry) idle(m idle) {
	e := r.entries[m.key]
	if e == nil || e.epoch != m.epoch || e.waking || e.stopping || e.idle {
		return
	}
	e.idle, e.crashes = true, 0
	if e.listed == 0 {
		e.listed = e.epoch
		r.fresh = append(r.fresh, m.key)
	}
}

// crashed: the new instance knows nothing, so it is told everything, after the
// wake that may already be on its way.
func (r *registry) crashed(c actor.Context, m crashed) {
	e := r.entries[m.key]
	if e == nil || e.stopping {
		return
	}
	e.idle = false
	e.news = e.news.merge(everything())
	if e.epoch == m.epoch {
		e.waking = false
	}
	r.wake(c, e)
}

// thin lets go everybody who is idle, to make room.
func (r *registry) thin(c actor.Context) {
	for _, key := range append(r.resting, r.fresh...) {
		e := r.entries[key]
		if e == nil || e.listed == 0 {
			continue
		}
		e.listed = 0
		if e.idle && e.pid != nil {
			e.stopping = true
			c.Poison(e.pid)
		}
	}
	r.resting, r.fresh = nil, nil
}

// sweep lets go who has been idle since before the last sweep: who works now
// and then is not spawned over and over.
func (r *registry) sweep(c actor.Context) {
	next := r.fresh
	for _, key := range r.resting {
		e := r.entries[key]
		switch {
		case e == nil || e.listed == 0:
		case !e.idle || e.pid == nil:
			e.listed = 0
		case e.listed != e.epoch:
			e.listed = e.epoch
			next = append(next, key)
		default:
			e.listed, e.stopping = 0, true
			// Not Stop, which would drop what is queued without a trace.
			c.Poison(e.pid)
		}
	}
	r.resting, r.fresh = next, nil
	r.arm()
}

func (r *registry) terminated(c actor.Context, who *actor.PID) {
	key, _, _ := strings.Cut(strings.TrimPrefix(who.Id, r.self.Id+"/"), "~")
	e := r.entries[key]
	if e == nil || e.pid == nil || !who.Equal(e.pid) || r.stopping {
		return
	}
	wanted := e.stopping
	e.pid, e.waking, e.idle, e.stopping = nil, false, false, false
	switch {
	case wanted && e.news.some:
		r.spawn(c, key, e)
	case wanted:
		delete(r.entries, key)
	default:
		e.news = e.news.merge(everything())
		e.crashes++
		r.sys.log.Error("an actor stopped after too many panics and is started again", "actor", key)
		r.later(key, e)
	}
}

// later brings a crashed child back after a pause that doubles to a minute.
func (r *registry) later(key string, e *entry) {
	e.epoch = r.sys.runs.Add(1)
	pause := min(r.sys.tuning.respawnAfter<<min(max(e.crashes-1, 0), 10), time.Minute)
	self, m := r.self, respawn{key, e.epoch}
	time.AfterFunc(pause, func() { r.sys.send(self, m) })
}

func (r *registry) respawn(c actor.Context, m respawn) {
	if e := r.entries[m.key]; e != nil && e.pid == nil && e.epoch == m.epoch && !r.stopping {
		r.spawn(c, m.key, e)
	}
}

// spawn starts a child under a name that was never used before and wakes it.
func (r *registry) spawn(c actor.Context, key string, e *entry) {
	props := actor.PropsFromProducer(func() actor.Actor { return r.produce(key) })
	pid, err := c.SpawnNamed(props, key+"~"+strconv.FormatUint(r.sys.runs.Add(1), 10))
	if err != nil {
		r.sys.log.Error("an actor cannot be started", "actor", key, "err", err)
		e.crashes++
		r.later(key, e)
		return
	}
	e.pid = pid
	r.wake(c, e)
}

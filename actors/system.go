package actors

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

const (
	orgShards  = 8
	userShards = 16
	// stopGrace is how long deliveries and requests in flight may go on after
	// Stop, and cutGrace how long they have to note that they were cut off.
	stopGrace = 5 * time.Second
	cutGrace  = 2 * time.Second
	// soon is how near a due time has to be for a hint to go straight to the
	// organisation's actor.
	soon = 5 * time.Millisecond
)

// System is the running actors. Its methods may be called from anywhere, do not
// block (but for Alive, Permit and Stop) and, after Stop, do nothing.
type System struct {
	opt     Options
	tuning  tuning
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time

	actors                *actor.ActorSystem
	guardian              *actor.PID
	orgs                  [orgShards]atomic.Pointer[actor.PID]
	users                 [userShards]atomic.Pointer[actor.PID]
	credentials, recovery atomic.Pointer[actor.PID]
	spawned, gone         chan struct{}

	room                 *room
	flights              flights
	inAir                sync.Map // of inAir: attempts of this process that are not noted yet
	requests             meter
	board                board
	unclaimed, uncounted seldom // lines about claims and mails
	limits               atomic.Pointer[Limits]
	creds                atomic.Pointer[map[string]Credential]

	paused    atomic.Bool
	stopping  atomic.Bool
	panics    atomic.Int64
	runs      atomic.Uint64 // numbers instances, epochs and tickets
	busyUsers atomic.Int64  // userActors with work in hand
	flying    [len(event.Channels)]atomic.Int64
	nextLook  atomic.Int64 // when recovery will look next, in ns; 0: unknown

	// life ends when the actors do, post when what is in flight is to be cut
	// off, io when not even its end can be noted any more.
	life, post, io                   context.Context
	cancelLife, cancelPost, cancelIO context.CancelFunc
	goroutines                       *crew
	stopOnce                         sync.Once
	stopped                          chan struct{}
	stopErr                          error
}

// Start makes the actors and sets them to work. The caller must Stop them.
func Start(o Options) (*System, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	limits, err := o.Limits.withDefaults()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	s := &System{
		opt:     o,
		tuning:  o.tuning.withDefaults(),
		log:     o.Logger.With("component", "actors"),
		metrics: m,
		now:     o.Now,
		spawned: make(chan struct{}),
		gone:    make(chan struct{}),
		stopped: make(chan struct{}),
		room:    newRoom(limits.MaxInFlight),

		goroutines: newCrew(),
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.life, s.cancelLife = context.WithCancel(context.Background())
	s.post, s.cancelPost = context.WithCancel(context.Background())
	s.io, s.cancelIO = context.WithCancel(context.Background())
	s.limits.Store(&limits)
	s.storeCredentials(o.Credentials)
	s.paused.Store(o.Paused)
	s.actors = actor.NewActorSystem(
		actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(warnings{o.Logger.Handler()}) }),
		// Its goroutine lives for one interval after a message to nobody.
		actor.WithDeadLetterThrottleInterval(time.Millisecond),
	)
	props := actor.PropsFromProducer(func() actor.Actor { return &guardian{sys: s, run: s.runs.Add(1)} })
	s.guardian, err = s.actors.Root.SpawnNamed(props, "guardian")
	if err != nil {
		return nil, fmt.Errorf("actors: spawn the guardian: %w", err)
	}
	<-s.spawned
	return s, nil
}

// HintChannel says that something is, or at a later time will be, due for the
// channel. A zero at means now.
func (s *System) HintChannel(key event.ChannelKey, at time.Time) {
	if at.After(s.now().Add(soon)) {
		s.lookAt(at)
		return
	}
	i := channelIndex(key.Channel)
	if i < 0 {
		return
	}
	n := news{some: true}
	n.due[i] = at
	if at.IsZero() {
		n.due[i] = time.Unix(1, 0)
	}
	s.send(s.orgs[shard(key.Org, orgShards)].Load(), hint{key.Org, n})
}

// HintUser says that there is work on the user's registrations or announcements.
// An express user overtakes sweeps.
func (s *System) HintUser(id orcid.ID, express bool) {
	key := id.String()
	s.send(s.users[shard(key, userShards)].Load(), hint{key, news{some: true, express: express}})
}

// SetCredentials replaces the credentials; those in trouble are tried again at
// once. It fails without changing anything when the list makes no sense.
func (s *System) SetCredentials(list []Credential) error {
	if err := checkCredentials(list); err != nil {
		return err
	}
	s.storeCredentials(list)
	s.send(s.credentials.Load(), configure{list})
	return nil
}

func (s *System) storeCredentials(list []Credential) {
	m := make(map[string]Credential, len(list))
	for _, c := range list {
		m[c.Name] = c
	}
	s.creds.Store(&m)
}

// credentialList is the current list, for actors that begin.
func (s *System) credentialList() []Credential {
	m := *s.creds.Load()
	list := make([]Credential, 0, len(m))
	for _, c := range m {
		list = append(list, c)
	}
	return list
}

// SetLimits replaces the limits; what is in flight is not disturbed. It fails
// without changing anything when they make no sense.
func (s *System) SetLimits(l Limits) error {
	l, err := l.withDefaults()
	if err != nil {
		return err
	}
	s.limits.Store(&l)
	s.room.resize(l.MaxInFlight)
	s.send(s.credentials.Load(), setRate{l.ORCIDRate, l.ORCIDBurst})
	return nil
}

// PauseRegistrations stops (or resumes) all requests to ORCID. Work waits in
// Redis meanwhile.
func (s *System) PauseRegistrations(paused bool) {
	s.paused.Store(paused)
	s.send(s.credentials.Load(), setPause{paused})
}

// Permit waits until one request to ORCID may be sent with the credential, as
// part of the one rate for all, in front of sweeps when it is express and among
// them when it is not. The returned function
// must be called once with what ORCID said (the zero Answer when the request
// was not sent).
func (s *System) Permit(ctx context.Context, credential string, express bool) (done func(orcid.Answer), err error) {
	type reply struct {
		granted bool
		until   time.Time
	}
	replies := make(chan reply, 1)
	t := ticket{serial: s.runs.Add(1), express: express, since: time.Now(), answer: func(granted bool, at time.Time) {
		replies <- reply{granted, at}
	}}
	back := func(a orcid.Answer) {
		used := a.Status != 0 || a.Kind != orcid.Unexpected
		s.send(s.credentials.Load(), spent{credential: credential, key: t.key(), used: used, kind: a.Kind, status: a.Status, retryAfter: a.RetryAfter, trouble: troubleOf(a)})
	}
	for {
		s.send(s.credentials.Load(), askPermit{credential, t})
		again := time.NewTimer(s.tuning.askAgain)
		select {
		case r := <-replies:
			again.Stop()
			if !r.granted {
				return nil, fmt.Errorf("credential %s gets no permit before %s", credential, r.until.UTC().Format(time.RFC3339))
			}
			return back, nil
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			s.send(s.credentials.Load(), dropAsk{credential, t.key()})
			return nil, fmt.Errorf("wait for a permit of credential %s: %w", credential, ctx.Err())
		case <-s.stopped:
			again.Stop()
			return nil, fmt.Errorf("wait for a permit of credential %s: %w", credential, errStopped)
		}
	}
}

var errStopped = errors.New("the actors are stopped")

// Alive asks the guardian, every registry, the credentials and recovery for an
// answer; a watchdog calls it.
func (s *System) Alive(ctx context.Context) error {
	if s.stopping.Load() {
		return errStopped
	}
	type asked struct {
		name   string
		answer chan struct{}
	}
	var all []asked
	ask := func(name string, pid *actor.PID) {
		a := asked{name, make(chan struct{}, 1)}
		s.send(pid, pulse{a.answer})
		all = append(all, a)
	}
	ask("guardian", s.guardian)
	for i := range s.orgs {
		ask(fmt.Sprintf("orgs-%02d", i), s.orgs[i].Load())
	}
	for i := range s.users {
		ask(fmt.Sprintf("users-%02d", i), s.users[i].Load())
	}
	ask("credentials", s.credentials.Load())
	ask("recovery", s.recovery.Load())
	for _, a := range all {
		select {
		case <-a.answer:
		case <-ctx.Done():
			return fmt.Errorf("actor %s does not answer: %w", a.name, ctx.Err())
		}
	}
	return nil
}

// Stop ends the actors: nothing more is claimed or asked of ORCID, what is in
// flight gets five seconds (or until ctx ends), is then cut off and given back.
// It returns when no goroutine is left, or with an error when ctx ended first
// and something still hangs.
func (s *System) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() { s.stopErr = s.stop(ctx) })
	return s.stopErr
}

func (s *System) stop(ctx context.Context) error {
	s.stopping.Store(true)
	s.flights.close()
	grace, cancel := context.WithTimeout(ctx, stopGrace)
	s.flights.drain(grace)
	cancel()
	s.cancelPost()
	// What was cut off is noted even when ctx is over: it costs a moment here
	// and a minute of waiting for the lease otherwise.
	grace, cancel = context.WithTimeout(context.WithoutCancel(ctx), cutGrace)
	s.flights.drain(grace)
	cancel()
	s.cancelLife()
	s.actors.Root.Poison(s.guardian)
	defer s.actors.Shutdown()
	defer close(s.stopped)
	grace, cancel = context.WithTimeout(context.WithoutCancel(ctx), cutGrace)
	defer cancel()
	select {
	case <-s.gone:
	case <-grace.Done():
		s.cancelIO()
		return errors.New("actors: an actor does not stop")
	}
	s.cancelIO()
	finished := make(chan struct{})
	go func() { s.goroutines.end(); close(finished) }()
	select {
	case <-finished:
		return nil
	case <-grace.Done():
		return errors.New("actors: something does not heed the end of its context")
	}
}

func (s *System) send(to *actor.PID, m any) {
	if to != nil {
		s.actors.Root.Send(to, m)
	}
}

// spawnGo runs f in a goroutine that Stop waits for. A panic is counted, logged
// and, like a return, followed by after, which must not panic; nil is nothing.
func (s *System) spawnGo(f func(), after func(panicked bool)) {
	s.goroutines.do(func() {
		panicked := true
		defer func() {
			if panicked {
				s.caught(recover())
			}
			if after != nil {
				after(panicked)
			}
		}()
		f()
		panicked = false
	})
}

// counted is deferred by every Receive: it counts a panic and lets it pass on
// to the supervisor, who makes a new instance.
func (s *System) counted() {
	if v := recover(); v != nil {
		s.caught(v)
		panic(v)
	}
}

func (s *System) caught(v any) {
	s.panics.Add(1)
	if s.opt.Panics != nil {
		s.opt.Panics("actors")
	}
	s.log.Error("an actor panicked", "err", fmt.Sprint(v), "stack", string(debug.Stack()))
}

func shard(key string, n uint32) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // never fails (hash.Hash)
	return h.Sum32() % n
}

func channelIndex(ch event.Channel) int {
	for i, c := range event.Channels {
		if c == ch {
			return i
		}
	}
	return -1
}

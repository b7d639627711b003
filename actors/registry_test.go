package actors

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// counterActor is a child that does what the real ones do: it reads the truth
// in a goroutine after awake, and says idle when that is done.
type counterActor struct {
	sys          *System
	key          string
	self, parent *actor.PID
	truth, seen  *atomic.Int64
	epoch        uint64
	reading      bool
	dirty        bool
	panicAt      int64
	live         *atomic.Int64 // may be nil
}

type counted struct{ n int64 }

func (a *counterActor) Receive(c actor.Context) {
	defer a.sys.counted()
	switch m := c.Message().(type) {
	case *actor.Started:
		a.self, a.parent = c.Self(), c.Parent()
		if a.live != nil {
			a.live.Add(1)
		}
	case *actor.Stopped:
		if a.live != nil {
			a.live.Add(-1)
		}
	case *actor.Restarting:
		c.Send(c.Parent(), crashed{a.key, a.epoch})
	case wake:
		a.epoch = m.epoch
		c.Send(a.parent, awake{a.key, m.epoch})
		if a.panicAt > 0 && a.seen.Load() >= a.panicAt {
			panic("as the test wants")
		}
		if a.reading {
			a.dirty = true
			return
		}
		a.read()
	case counted:
		a.seen.Store(m.n)
		a.reading = false
		if a.dirty {
			a.dirty = false
			a.read()
			return
		}
		c.Send(a.parent, idle{a.key, a.epoch})
	}
}

func (a *counterActor) read() {
	a.reading = true
	self, truth, s := a.self, a.truth, a.sys
	s.spawnGo(func() { s.send(self, counted{truth.Load()}) }, nil)
}

// bareSystem is a System without any actor but what the test spawns.
func bareSystem(t *testing.T, tu tuning) *System {
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	s := &System{tuning: tu.withDefaults(), log: log, metrics: m, now: time.Now, goroutines: newCrew()}
	s.actors = actor.NewActorSystem(
		actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return log }),
		actor.WithDeadLetterThrottleInterval(time.Millisecond),
	)
	return s
}

// stopRegistry poisons a registry and waits until it is gone.
func (s *System) stopRegistry(pid *actor.PID) {
	_ = s.actors.Root.PoisonFuture(pid).Wait()
	s.goroutines.end()
	s.actors.Shutdown()
}

// TestNoHintIsLostToPassivation sends many hints to few keys whose actors are
// let go every few milliseconds. Whatever a hint tells must be seen in the end,
// without any scan to help.
func TestNoHintIsLostToPassivation(t *testing.T) {
	t.Parallel()
	const keys, hints, senders = 1500, 200_000, 4
	s := bareSystem(t, tuning{sweepEvery: 300 * time.Microsecond})
	var truth, seen [keys]atomic.Int64
	var spawns atomic.Int64
	index := map[string]int{}
	for i := range keys {
		index[fmt.Sprint("key-", i)] = i
	}
	pid := s.actors.Root.Spawn(actor.PropsFromProducer(func() actor.Actor {
		return newRegistry(s, 0, func(key string) actor.Actor {
			spawns.Add(1)
			i := index[key]
			return &counterActor{sys: s, key: key, truth: &truth[i], seen: &seen[i]}
		})
	}))
	done := make(chan struct{}, senders)
	for w := range senders {
		go func() {
			defer func() { done <- struct{}{} }()
			answer := make(chan struct{}, 1)
			for n := range hints / senders {
				// A few keys at a time, so that the others are let go meanwhile
				// and hints meet them in every state.
				i := (n/40*7 + n%5 + w*3) % keys
				truth[i].Add(1)
				s.send(pid, hint{fmt.Sprint("key-", i), news{some: true}})
				if n%200 == 0 {
					s.send(pid, pulse{answer})
					<-answer
				}
			}
		}()
	}
	for range senders {
		<-done
	}
	eventually(t, "every hint to be seen", func() bool {
		for i := range keys {
			if seen[i].Load() != truth[i].Load() {
				return false
			}
		}
		return true
	})
	s.stopRegistry(pid)
	if spawns.Load() < 5*keys {
		t.Errorf("only %d spawns of %d keys: nothing was let go", spawns.Load(), keys)
	}
	if s.panics.Load() != 0 {
		t.Error("something panicked")
	}
	t.Logf("%d hints, %d spawns", hints, spawns.Load())
}

func pauseFor(t *testing.T, d time.Duration) { pause(t.Context(), d) }

// eventually polls; it is for real time only.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		pauseFor(t, time.Millisecond)
	}
}

func TestIdleChildrenAreLetGoAndComeBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := bareSystem(t, tuning{})
		var truth, seen, live atomic.Int64
		pid := s.actors.Root.Spawn(actor.PropsFromProducer(func() actor.Actor {
			return newRegistry(s, 0, func(key string) actor.Actor {
				return &counterActor{sys: s, key: key, truth: &truth, seen: &seen, live: &live}
			})
		}))
		for round := range 3 {
			truth.Add(1)
			s.send(pid, hint{"a", news{some: true}})
			synctest.Wait()
			if seen.Load() != truth.Load() || live.Load() != 1 {
				t.Fatalf("round %d: seen %d, %d children", round, seen.Load(), live.Load())
			}
			sleep(30 * time.Second)
			if live.Load() != 0 {
				t.Fatalf("round %d: the idle child is still there", round)
			}
		}
		s.stopRegistry(pid)
		time.Sleep(2 * time.Second)
	})
}

func TestAChildThatPanicsIsToldEverythingAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := bareSystem(t, tuning{})
		var truth, seen atomic.Int64
		broken := &atomic.Bool{}
		pid := s.actors.Root.Spawn(actor.PropsFromProducer(func() actor.Actor {
			return newRegistry(s, 0, func(key string) actor.Actor {
				a := &counterActor{sys: s, key: key, truth: &truth, seen: &seen}
				if broken.Load() {
					a.panicAt = 1
				}
				return a
			})
		}))
		truth.Store(1)
		broken.Store(true)
		s.send(pid, hint{"a", news{some: true}})
		synctest.Wait()
		if seen.Load() != 1 {
			t.Fatal("the first hint was not seen")
		}
		// Every wake panics now: it is restarted, stops at the 11th panic in 10 s
		// and comes back after a pause.
		truth.Store(2)
		s.send(pid, hint{"a", news{some: true}})
		synctest.Wait()
		if n := s.panics.Load(); n != 11 {
			t.Fatalf("%d panics, want 11", n)
		}
		broken.Store(false)
		sleep(2 * time.Second)
		if seen.Load() != 2 {
			t.Error("after the respawn the work was forgotten")
		}
		s.stopRegistry(pid)
		time.Sleep(2 * time.Second)
	})
}

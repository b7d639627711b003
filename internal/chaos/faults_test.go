package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/sim/receiver"
)

// fault is one way in which the world fails.
type fault struct {
	name string
	// short is how often it strikes in the short version, share its weight among
	// the rounds of the long one.
	short, share int
	strike       func(s *strike) error
	late         int // orders the short version
	// last strikes after all others: pings are booked by the daemon's clock, which
	// is ahead for a while then.
	last  bool
	blows int // how often it strikes in one round; 0 means once
	// skip says why it cannot strike here; empty when it can.
	skip string
}

// strike is one fault happening, under load.
type strike struct {
	w   *world
	rng *rand.Rand
	// over is when the fault had ended: from then on the daemon has 10 s.
	over time.Time
	// lossFrom and lossTo is the second that Redis itself may lose.
	lossFrom, lossTo time.Time
}

// between draws a time.
func (s *strike) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.rng.Int64N(int64(most-least)))
}

// diskSize is how big the small disk is.
const diskSize = 16 << 20

// tolerance is how far Redis may fall back by itself before the daemon calls it
// rolled back, and a second more.
const tolerance = 6 * time.Second

// lease is what a delivery in flight holds its slot for: the timeout and 45 s.
const lease = 46 * time.Second

// faults lists them all; those that cannot strike say why.
func faults(w *world) []fault {
	return []fault{
		{name: "daemon kill -9", short: 5, share: 8, strike: killDaemon},
		{name: "daemon SIGTERM", short: 1, share: 3, strike: endDaemon},
		{name: "daemon frozen", short: 1, share: 3, strike: freezeDaemon},
		{name: "daemon frozen > lease", share: 0, strike: freezeDaemonLong},
		{name: "redis kill -9, everysec", short: 1, share: 3, strike: killRedis("everysec")},
		{name: "redis kill -9, always", short: 1, share: 3, strike: killRedis("always")},
		{name: "redis frozen", short: 1, share: 3, strike: freezeRedis},
		{name: "redis SCRIPT FLUSH", short: 1, share: 2, strike: flushScripts},
		{name: "redis CLIENT KILL", short: 1, share: 2, blows: 3, strike: killClients},
		{name: "redis maxmemory", short: 1, share: 2, strike: fillRedis},
		{name: "redis FLUSHALL", short: 1, share: 1, strike: emptyRedis},
		{name: "redis rolled back", short: 1, share: 1, late: 1, strike: rollRedisBack},
		{name: "disk full, redis frozen", short: 1, share: 2, strike: fillDisk, skip: w.diskWhy},
		{name: "one receiver hangs", short: 1, share: 2, strike: hangReceiver},
		{name: "clock jump", short: 1, last: true, strike: jumpClock, skip: w.clockWhy},
	}
}

// most is how many duplicates a round may make: the deliveries in flight, and at
// each blow the pings in flight. A ping whose append may or may not have happened
// goes to the spool as well, with the same time and so the same webhook-id.
func (f fault) most(orgs int) int { return (concurrency + max(f.blows, 1)*loadWorkers) * orgs }

// restart starts the daemon again and waits until it takes pings.
func (s *strike) restart() error {
	s.over = time.Now()
	if err := s.w.daemon.start(); err != nil {
		return err
	}
	return s.w.daemon.listening(patience)
}

func killDaemon(s *strike) error {
	s.w.daemon.kill()
	return s.restart()
}

func endDaemon(s *strike) error {
	if took, err := s.w.daemon.term(stopLimit); err != nil {
		return fmt.Errorf("after %s: %w", took, err)
	}
	return s.restart()
}

func (s *strike) freeze(d time.Duration) error {
	if err := s.w.daemon.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	rest(d)
	s.over = time.Now()
	return s.w.daemon.signal(syscall.SIGCONT)
}

func freezeDaemon(s *strike) error {
	return s.freeze(s.between(300*time.Millisecond, 900*time.Millisecond))
}

func freezeDaemonLong(s *strike) error { return s.freeze(lease + 2*time.Second) }

// killRedis takes Redis away for a moment. What it wrote to its file is in the
// kernel and outlives the process; with everysec it may hold writes back for up
// to two seconds while the disk is slow.
func killRedis(fsync string) func(*strike) error {
	return func(s *strike) error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.w.rdb.ConfigSet(ctx, "appendfsync", fsync).Err(); err != nil {
			return err
		}
		rest(50 * time.Millisecond)
		s.w.redis.Kill()
		if fsync != "always" {
			s.lossTo = time.Now()
			s.lossFrom = s.lossTo.Add(-2 * time.Second)
		}
		rest(s.between(50*time.Millisecond, 600*time.Millisecond))
		err := s.w.redis.Restart()
		s.over = time.Now()
		return err
	}
}

func freezeRedis(s *strike) error {
	if err := s.w.redis.Freeze(); err != nil {
		return err
	}
	rest(s.between(400*time.Millisecond, 900*time.Millisecond))
	s.over = time.Now()
	return s.w.redis.Thaw()
}

func flushScripts(s *strike) error {
	s.over = time.Now()
	return s.w.rdb.ScriptFlush(context.Background()).Err()
}

func killClients(s *strike) error {
	for range 3 { // fault.blows
		if err := s.w.rdb.Do(context.Background(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
			return err
		}
		rest(50 * time.Millisecond)
	}
	s.over = time.Now()
	return nil
}

func fillRedis(s *strike) error {
	ctx := context.Background()
	if err := s.w.rdb.ConfigSet(ctx, "maxmemory", "1mb").Err(); err != nil {
		return err
	}
	rest(s.between(400*time.Millisecond, 800*time.Millisecond))
	if err := s.w.rdb.Do(ctx, "SET", "chaos", "x").Err(); err == nil || !strings.Contains(err.Error(), "OOM") {
		return errors.Join(errors.New("redis with maxmemory reached does not refuse a write"), err)
	}
	s.over = time.Now()
	return s.w.rdb.ConfigSet(ctx, "maxmemory", "0").Err()
}

// emptyRedis empties it. What it held is gone and nobody can be told of it; the
// daemon must notice, and stop.
func emptyRedis(s *strike) error {
	if err := s.w.rdb.FlushAll(context.Background()).Err(); err != nil {
		return err
	}
	if err := s.shoutsUntilRecovered(); err != nil {
		return err
	}
	// Organisations and users went with it: an operator makes them again. Until
	// then nobody is affiliated, so nobody is owed anything.
	if err := s.w.makeOrganisations(); err != nil {
		return err
	}
	s.over = time.Now()
	s.w.books.forgive(time.Time{}, s.over)
	return nil
}

// rollRedisBack restores Redis from its state at the start of the test. Pings
// that came since are lost with it; those taken while it was distrusted are not.
func rollRedisBack(s *strike) error {
	if age := time.Since(s.w.backedUp); age < tolerance {
		rest(tolerance - age)
	}
	s.w.redis.Kill()
	killed := time.Now()
	if err := s.w.restoreRedis(); err != nil {
		return err
	}
	if err := s.w.redis.Restart(); err != nil {
		return err
	}
	if err := s.shoutsUntilRecovered(); err != nil {
		return err
	}
	s.over = time.Now()
	s.w.books.forgive(time.Time{}, killed)
	return nil
}

// shoutsUntilRecovered checks that the daemon stops and says so, that pings are
// still taken, that ORCID hears nothing, and then accepts the loss.
func (s *strike) shoutsUntilRecovered() error {
	var problems []string
	if err := within(patience, 20*time.Millisecond, func() (err error) {
		if problems, err = s.w.api.problems(); err != nil {
			return err
		}
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, "Redis forgot") }) {
			return fmt.Errorf("status does not say that Redis forgot: %q", problems)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := s.w.api.ready(); err == nil || !strings.Contains(err.Error(), "redis") {
		return errors.Join(errors.New("/readyz does not complain about redis"), err)
	}
	before := s.w.sim.Counters()
	if status, err := s.w.ping(0); err != nil || status != http.StatusNoContent {
		return errors.Join(fmt.Errorf("a ping while Redis is distrusted is answered %d", status), err)
	}
	rest(300 * time.Millisecond)
	if n, err := s.w.metric("dispatchd_spool_pings"); err != nil || n == 0 {
		return errors.Join(errors.New("nothing is in the spool while Redis is distrusted"), err)
	}
	after := s.w.sim.Counters()
	for _, op := range []string{"put", "delete"} {
		if a, b := sum(before.Requests[op]), sum(after.Requests[op]); a != b {
			return fmt.Errorf("%d %ss at ORCID while Redis is distrusted", b-a, op)
		}
	}
	return within(patience, 100*time.Millisecond, func() error {
		err := s.w.api.do(http.MethodPost, "/v1/recover", "", map[string]bool{"accept_loss": true}, nil)
		var answer *statusError
		if err == nil || errors.As(err, &answer) && answer.status == http.StatusServiceUnavailable {
			return err // "Redis does not answer, try again"
		}
		return final{err}
	})
}

func sum(byStatus map[int]int64) (n int64) {
	for _, c := range byStatus {
		n += c
	}
	return n
}

// fillDisk leaves nowhere to put a ping: then it must not be answered 204.
func fillDisk(s *strike) error {
	ballast := filepath.Join(s.w.dir, "ballast")
	if err := s.w.redis.Freeze(); err != nil {
		return err
	}
	err := fill(ballast)
	if err == nil {
		err = s.fillSpool()
	}
	err = errors.Join(err, os.Remove(ballast), s.w.redis.Thaw())
	s.over = time.Now()
	return err
}

// fillSpool pings strangers until the spool is full too: it has free pages, and
// a user who waits in it takes no more room.
func (s *strike) fillSpool() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var next, refused atomic.Int64
	next.Store(s.rng.Int64N(1 << 40))
	var burst sync.WaitGroup
	for range 32 {
		burst.Go(func() {
			for ctx.Err() == nil && refused.Load() < 5 {
				id, err := orcid.FromBase(uint64(next.Add(1)))
				if err != nil {
					return
				}
				if status, err := s.w.post(s.w.url(id)); err == nil && status == http.StatusTooManyRequests {
					refused.Add(1)
				}
			}
		})
	}
	burst.Wait()
	if refused.Load() == 0 {
		return errors.New("no ping is refused with 429 though nothing can take it")
	}
	// The load meets the full disk for a while.
	rest(300 * time.Millisecond)
	return nil
}

// fill writes a file until the disk is full.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for range 4 * diskSize / len(block) {
		n, err := f.Write(block)
		if errors.Is(err, syscall.ENOSPC) {
			if n == 0 && len(block) == 1 {
				return nil
			}
			block = block[:1] // up to the last byte
			if n == 0 {
				continue
			}
		} else if err != nil {
			return err
		}
		if len(block) == 1 {
			continue
		}
	}
	return errors.New("the small disk is larger than it should be")
}

// clockJump is longer than a lease: whatever is in flight looks given up.
const clockJump = time.Minute

// jumpClock sets Redis's clock, which is the daemon's too, a minute ahead and,
// when the daemon has seen it, back. (That of the daemon's own machine counts
// for nothing, and belongs to everything on this one.)
func jumpClock(s *strike) error {
	s.w.jumped += clockJump // what the daemon has told is never taken back
	if err := s.w.redis.Jump(s.w.jumped); err != nil {
		return err
	}
	// It asks Redis for the time every ten seconds.
	err := within(20*time.Second, 100*time.Millisecond, func() error {
		u := s.w.nextProbe()
		if status, err := s.w.ping(u); err != nil || status != http.StatusNoContent {
			return errors.Join(fmt.Errorf("a ping is answered %d", status), err)
		}
		if !s.w.books.toldFrom(time.Now().Add(s.w.jumped - clockJump/2)) {
			return errors.New("nobody is told a time of the clock that jumped")
		}
		return nil
	})
	rest(s.between(200*time.Millisecond, 600*time.Millisecond))
	err = errors.Join(err, s.w.redis.Jump(0))
	s.over = time.Now()
	return err
}

// hangReceiver lets one organisation hang; the others must not notice.
func hangReceiver(s *strike) error {
	names := s.w.set.orgs
	bad := names[len(names)-1]
	s.w.recv.BehaveFor("/"+bad, receiver.Hang())
	rest(s.between(1000*time.Millisecond, 1500*time.Millisecond))
	u := s.w.nextProbe()
	status, err := s.w.ping(u)
	if err == nil && status != http.StatusNoContent {
		err = fmt.Errorf("a ping while a receiver hangs: %d", status)
	}
	if err == nil {
		err = within(patience, 5*time.Millisecond, func() error {
			for k := range s.w.books.missing() {
				if k.user == u && names[k.org] != bad {
					return fmt.Errorf("%s is not told while %s hangs", names[k.org], bad)
				}
			}
			return nil
		})
	}
	s.w.recv.BehaveFor("/"+bad, nil)
	s.over = time.Now()
	return err
}

package chaos

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dispatchd/internal/sim/receiver"
)

// TestStop: SIGTERM ends the daemon in the time that its unit gives it though every receiver hangs,
// nothing acknowledged is lost by it, and a second SIGTERM ends it at once.
func TestStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{orgs: []string{"uni-a", "uni-b"}, users: 60, timeout: "15s", behaviour: receiver.Hang()})
	w.must(w.pingAll())
	w.must(w.hanging(1))
	// Pings go on while it stops: each is taken or not answered at all.
	stop := make(chan struct{})
	var pinging sync.WaitGroup
	pinging.Go(func() {
		for u := 0; ; u = (u + 1) % len(w.users) {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if status, err := w.ping(u); err == nil && status != http.StatusNoContent {
				t.Errorf("a ping while the daemon stops: %d", status)
			}
		}
	})
	took, err := w.daemon.term(stopLimit)
	close(stop)
	pinging.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ended %s after SIGTERM with every receiver hanging", took.Round(10*time.Millisecond))

	w.must(w.daemon.start())
	w.must(w.ready())
	// Everybody is owed and waits or flies: 60 users of two organisations.
	w.must(within(patience, 20*time.Millisecond, func() error {
		for _, name := range w.set.orgs {
			ch, err := w.api.organisation(name)
			if err != nil {
				return err
			}
			if n := ch.Waiting + ch.InFlight + ch.Dead; n != len(w.users) {
				return fmt.Errorf("%s: %d of %d slots are visible after the restart", name, n, len(w.users))
			}
		}
		return nil
	}))
	w.must(w.hanging(1))
	w.must(w.daemon.signal(syscall.SIGTERM))
	w.must(within(patience, 5*time.Millisecond, func() error {
		if strings.Count(w.daemon.tail(1000), "msg=\"stopping") != 2 {
			return errors.New("the daemon does not say that it stops")
		}
		return nil
	}))
	// The same signal within a second is taken for the first one once more, as
	// timeout(1) sends it to a process and to its group.
	rest(1100 * time.Millisecond)
	_, err = w.daemon.term(stopLimit)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 { // 0 is the end of the first one
		t.Errorf("the second SIGTERM: %v, want exit code 1", err)
	}
}

// TestStopWhileRedisIsFrozen: what waits for Redis waits before the callback listener closes, so that
// pings are taken until the last moment.
func TestStopWhileRedisIsFrozen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{orgs: []string{"uni-a"}, users: 20})
	w.must(w.redis.Freeze())
	defer func() { w.must(w.redis.Thaw()) }()
	w.must(w.pingAll())
	stop := make(chan struct{})
	var last time.Time
	var pinging sync.WaitGroup
	pinging.Go(func() {
		for u := 0; ; u = (u + 1) % len(w.users) {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			began := time.Now()
			switch status, err := w.ping(u); {
			case err != nil: // it may not listen any more
			case status != http.StatusNoContent:
				t.Errorf("a ping while the daemon stops: %d", status)
			default:
				last = began
			}
		}
	})
	took, err := w.daemon.term(stopLimit)
	ended := time.Now()
	close(stop)
	pinging.Wait()
	if err != nil {
		t.Fatal(err)
	}
	gap := ended.Sub(last)
	t.Logf("ended %s after SIGTERM, %s after the last ping that it took", took.Round(10*time.Millisecond), gap.Round(10*time.Millisecond))
	if gap > time.Second {
		t.Errorf("no ping was taken in the last %s of %s", gap, took)
	}
}

// TestKilledInFlight: what was in flight when the daemon was killed is due when
// the next one is there, long before its lease ends.
func TestKilledInFlight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{orgs: []string{"uni-a", "uni-b"}, users: 20, timeout: "60s", behaviour: receiver.Hang()})
	w.must(w.pingAll())
	w.must(w.hanging(2))
	w.daemon.kill()
	w.recv.Behave(receiver.OK())
	w.must(w.daemon.start())
	w.must(w.ready())
	again := time.Now()
	w.must(within(time.Minute, 20*time.Millisecond, func() error {
		for _, name := range w.set.orgs {
			ch, err := w.api.organisation(name)
			if err != nil {
				return err
			}
			if n := ch.Waiting + ch.InFlight + ch.Dead; n != 0 {
				return fmt.Errorf("%s: %d of %d slots are left", name, n, len(w.users))
			}
		}
		return nil
	}))
	t.Logf("everything was delivered %s after the restart; a lease lasts 105 s", time.Since(again).Round(time.Millisecond))
	if missing := w.books.missing(); len(missing) > 0 {
		t.Errorf("%d deliveries are missing", len(missing))
	}
}

// hanging waits until so many deliveries are under way at least.
func (w *world) hanging(n int) error {
	return within(patience, 10*time.Millisecond, func() error {
		flying := 0
		for _, name := range w.set.orgs {
			ch, err := w.api.organisation(name)
			if err != nil {
				return err
			}
			flying += ch.InFlight
		}
		if flying < n {
			return fmt.Errorf("%d deliveries are under way, want %d", flying, n)
		}
		return nil
	})
}

// TestStartWithPending: with very many slots waiting the daemon delivers its
// first one within a second of listening, on a machine that does nothing else.
func TestStartWithPending(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{orgs: []string{"uni-big"}, users: opts.pending, paused: true, behaviour: receiver.Hang()})
	w.must(w.pingAll())
	w.must(within(patience+time.Duration(opts.pending)*200*time.Microsecond, 50*time.Millisecond, func() error {
		ch, err := w.api.organisation("uni-big")
		if err != nil {
			return err
		}
		if ch.Waiting != opts.pending {
			return fmt.Errorf("%d of %d slots wait", ch.Waiting, opts.pending)
		}
		return nil
	}))
	w.must(w.api.do(http.MethodPost, "/v1/organisations/uni-big/resume", "", nil, nil))
	w.daemon.kill()
	w.recv.Behave(receiver.OK())
	if _, posts, _, _ := w.books.numbers(); posts != 0 {
		t.Fatalf("%d POSTs were taken before", posts)
	}
	w.must(w.daemon.start())
	w.must(w.daemon.listening(patience))
	listens := time.Now()
	w.must(within(patience, time.Millisecond, func() error {
		if _, posts, _, _ := w.books.numbers(); posts == 0 {
			return errors.New("nothing is delivered")
		}
		return nil
	}))
	first := time.Since(listens)
	t.Logf("with %d slots waiting the first delivery came %s after listening", opts.pending, first.Round(time.Millisecond))
	if opts.claims() && first > time.Second {
		t.Errorf("the first delivery came %s after listening, want at most 1 s", first)
	}
	w.must(within(patience, 10*time.Millisecond, func() error {
		if _, posts, _, _ := w.books.numbers(); posts < min(1000, opts.pending/2) {
			return fmt.Errorf("only %d deliveries", posts)
		}
		return nil
	}))
}

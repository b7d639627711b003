package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/sim"
)

// TestOutage: while Redis is away, ORCID's own sender (the simulator, 500 pings
// a second) never counts a failed attempt, and afterwards everybody is told of
// everything. The long version of an outage is -chaos.outage=60s.
func TestOutage(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]struct{ take, giveBack func(*world) error }{
		"killed": {
			func(w *world) error { w.redis.Kill(); return nil },
			func(w *world) error { return w.redis.Restart() },
		},
		"frozen": {
			func(w *world) error { return w.redis.Freeze() },
			func(w *world) error { return w.redis.Thaw() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setting{orgs: []string{"uni-a", "uni-b"}, users: 500})
			if _, err := w.sim.RegisterAll(clientID, w.url); err != nil {
				t.Fatal(err)
			}
			// What is acknowledged is written, also if Redis is killed.
			w.must(w.rdb.ConfigSet(t.Context(), "appendfsync", "always").Err())
			w.sim.PauseSender(false)
			l := w.startSender()
			rest(2 * time.Second)
			began := time.Now()
			w.must(away.take(w))
			rest(opts.outage)
			if n, err := w.metric("dispatchd_spool_pings"); err != nil || n == 0 {
				t.Errorf("%v pings in the spool while Redis is away, %v", n, err)
			}
			ended := time.Now()
			w.must(away.giveBack(w))
			rest(2 * time.Second)
			l.stop()
			w.must(w.allTold())
			w.noneFailed(t, began, ended)
		})
	}
}

// startSender lets ORCID ping every user once a second, in four bursts, as after
// a re-index.
func (w *world) startSender() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	l.workers.Go(func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			w.sim.MassReindex(len(w.users)/4, true)
			w.sim.IndexOnce()
			w.sim.SendOnce(ctx)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return l
}

// allTold waits until every organisation got a delivery that began after the
// last ping of each user was sent, and the books balance. A claim whose answer
// came from a frozen Redis when nobody waited for it any more holds its slot
// until its lease ends (55 s here): the short version takes these as told.
func (w *world) allTold() error {
	last := map[int]time.Time{}
	for _, e := range w.sim.Ledger(0) {
		if e.Kind == sim.KindPost && e.Status == 204 {
			last[w.index[e.ORCID()]] = e.Time()
		}
	}
	if len(last) == 0 {
		return errors.New("no ping was taken")
	}
	for u, at := range last {
		w.books.pinged(u, at, 204)
	}
	long := opts.outage >= time.Minute
	return within(100*time.Second, 50*time.Millisecond, func() error {
		missing, leased := w.books.missing(), 0
		for _, name := range w.set.orgs {
			ch, err := w.api.organisation(name)
			if err != nil {
				return err
			}
			leased += ch.InFlight
		}
		book, err := w.api.ledger()
		if err != nil {
			return err
		}
		if long && len(missing)+leased > 0 {
			return fmt.Errorf("%d deliveries are missing, %d under a lease", len(missing), leased)
		}
		if !book.Balanced || book.Pending != int64(leased) || book.Spool.Waiting != 0 {
			return fmt.Errorf("pending %d, %d of them under a lease, in the spool %d, differences %q", book.Pending, leased, book.Spool.Waiting, book.Differences)
		}
		for k := range missing {
			if waits, err := w.waits(w.set.orgs[k.org], w.users[k.user]); err != nil || !waits {
				return errors.Join(fmt.Errorf("%s was not told of %s, and no slot waits", w.set.orgs[k.org], w.users[k.user]), err)
			}
		}
		return nil
	})
}

// noneFailed checks ORCID's side and shows how long it waited for its answers.
func (w *world) noneFailed(t *testing.T, began, ended time.Time) {
	t.Helper()
	var start, during, peace []time.Duration
	failed := map[orcid.ID]string{}
	for _, e := range w.sim.Ledger(0) {
		if e.Kind != sim.KindPost {
			continue
		}
		if e.Status != 204 {
			failed[e.ORCID()] = fmt.Sprintf("%d %s", e.Status, e.Error)
		}
		switch at := e.Time(); {
		case at.Before(began) || at.After(ended):
			peace = append(peace, e.Took)
		case at.Before(began.Add(time.Second)):
			start = append(start, e.Took)
		default:
			during = append(during, e.Took)
		}
	}
	if len(failed) > 0 {
		t.Errorf("%d users have a failed attempt at ORCID: %v", len(failed), failed)
	}
	// How fast ORCID's sender is on a busy machine is not what this is about.
	if want := len(w.users) / 4; len(during) < want {
		t.Errorf("only %d pings came while Redis was away, want %d at least", len(during), want)
	}
	t.Logf("Redis away for %s: %d pings, none failed; p99 (max) of the answer: first second %s, then %s, in peace %s",
		ended.Sub(began).Round(time.Second), len(start)+len(during), p99(start), p99(during), p99(peace))
}

func p99(list []time.Duration) string {
	if len(list) == 0 {
		return "none"
	}
	slices.Sort(list)
	return fmt.Sprintf("%s (%s)", list[len(list)*99/100].Round(10*time.Microsecond), list[len(list)-1].Round(10*time.Microsecond))
}

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"dispatchd/internal/sim/receiver"
)

// The first users belong to everybody and are pinged only to see whether
// deliveries work.
const probes = 64

// maxRecovery is how soon after a fault deliveries must work again.
func (o options) maxRecovery() time.Duration {
	if o.claims() {
		return 10 * time.Second
	}
	return patience
}

// tally is a row of the table.
type tally struct {
	rounds, acked, lost, excused, dups, leased int
	recovery                                   []time.Duration
}

// TestChaos strikes the daemon and its Redis under load and checks after each
// fault that nothing acknowledged was lost.
func TestChaos(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{
		orgs: []string{"uni-a", "uni-b", "uni-c"}, users: probes + 400, smallDisk: true, clock: true, timeout: "1s",
		behaviour: receiver.Slow(8*time.Millisecond, receiver.OK()), // so that some are in flight
		belongs: func(u, o int) bool {
			return u < probes || o == 0 && u%3 != 2 || o == 1 && u%2 == 0 || o == 2 && (u%5 == 0 || u%6 == 5)
		},
	})
	seed := opts.seed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (again with -chaos.seed=%d -chaos.rounds=%d)", seed, seed, opts.rounds)
	rng := rand.New(rand.NewPCG(seed, 1))
	all := faults(w)
	c := &chaos{t: t, w: w, rng: rng, rows: map[string]*tally{}, faultOf: map[int]fault{}}
	c.began = time.Now()
	w.must(c.warmUp())
	for _, i := range plan(all, rng, opts.rounds) {
		if !c.round(all[i]) {
			break
		}
	}
	if !t.Failed() && opts.rounds > 0 {
		c.allOfIt()
	}
	t.Logf("%s\n%s", time.Since(c.began).Round(time.Second), c.table(all))
}

// plan lists the faults to strike, in random order: in the short version as
// often as each says, otherwise each at least once and then by their share.
func plan(all []fault, rng *rand.Rand, rounds int) []int {
	var out, lots []int
	for i, f := range all {
		if f.skip != "" || f.strike == nil || !strings.Contains(f.name, opts.only) {
			continue
		}
		n := f.short
		if rounds > 0 {
			n = 1
			if f.share == 0 { // takes long
				n = 1 + rounds/150
			}
		}
		for range n {
			out = append(out, i)
		}
		for range f.share {
			lots = append(lots, i)
		}
	}
	for len(lots) > 0 && len(out) < rounds {
		out = append(out, lots[rng.IntN(len(lots))])
	}
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	if rounds == 0 {
		// The copy must be old enough: last, so that nobody waits for that.
		slices.SortStableFunc(out, func(a, b int) int { return all[a].late - all[b].late })
	}
	slices.SortStableFunc(out, func(a, b int) int { return bit(all[a].last) - bit(all[b].last) })
	return out
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// chaos is one run of TestChaos.
type chaos struct {
	t          *testing.T
	w          *world
	rng        *rand.Rand
	began      time.Time
	rows       map[string]*tally
	faultOf    map[int]fault // by number of the round
	goroutines float64       // in peace
	memory     float64
}

func (c *chaos) load() *load { return c.w.startLoad(c.rng, probes, 300) }

// warmUp measures what the daemon needs in peace and keeps a copy of Redis.
func (c *chaos) warmUp() error {
	l := c.load()
	rest(700 * time.Millisecond)
	l.stop()
	if err := c.settle(&strike{}, &tally{}); err != nil {
		return err
	}
	m, err := c.w.api.metrics()
	if err != nil {
		return err
	}
	c.goroutines, c.memory = m["go_goroutines"], m["process_resident_memory_bytes"]
	if c.goroutines == 0 {
		return errors.New("/metrics has no go_goroutines")
	}
	return c.w.backupRedis()
}

// round strikes once under load and checks everything after it.
func (c *chaos) round(f fault) bool {
	n := c.w.books.next()
	c.faultOf[n] = f
	row := c.rows[f.name]
	if row == nil {
		row = &tally{}
		c.rows[f.name] = row
	}
	acked, _, _, _ := c.w.books.numbers()
	row.rounds++
	s := &strike{w: c.w, rng: c.rng}
	l := c.load()
	rest(s.between(150*time.Millisecond, 350*time.Millisecond))
	began := time.Now()
	defer func() {
		c.t.Logf("%7.2fs  %-24s %6.2f s, recovered in %.2f s", time.Since(c.began).Seconds(), f.name, time.Since(began).Seconds(), last(row.recovery).Seconds())
	}()
	err := f.strike(s)
	if err == nil {
		var took time.Duration
		took, err = c.recovers(s.over)
		row.recovery = append(row.recovery, took)
	}
	l.stop()
	if err == nil {
		err = c.settle(s, row)
	}
	if err == nil {
		err = c.sound()
	}
	now, _, _, _ := c.w.books.numbers()
	row.acked += now - acked
	if err != nil {
		c.t.Errorf("round %d, %s (fault began %s ago): %v", n, f.name, time.Since(began).Round(time.Millisecond), err)
	}
	return err == nil
}

// recovers measures how long after the fault a new ping is told to everybody.
func (c *chaos) recovers(over time.Time) (time.Duration, error) {
	u := c.w.nextProbe()
	err := within(opts.maxRecovery()-time.Since(over), 10*time.Millisecond, func() error {
		if !c.w.books.pingedAfter(u, over) {
			status, err := c.w.ping(u)
			if err != nil {
				return err
			}
			if status != http.StatusNoContent {
				return fmt.Errorf("a ping after the fault is answered %d", status)
			}
		}
		if !c.w.books.told(u) {
			return errors.New("a ping made after the fault is not told to everybody")
		}
		return nil
	})
	return time.Since(over), err
}

// settle waits until everything is delivered but what is under a lease of a
// daemon that is gone, and then counts what is missing.
func (c *chaos) settle(s *strike, row *tally) error {
	var missing map[pair]ping
	leased := 0
	err := within(patience, 50*time.Millisecond, func() error {
		book, err := c.w.api.ledger()
		if err != nil {
			return err
		}
		if book.Spool.Waiting > 0 {
			return fmt.Errorf("%d pings wait in the spool", book.Spool.Waiting)
		}
		missing = c.w.books.missing()
		leased = 0
		short := map[int]int{}
		for k := range missing {
			short[k.org]++
		}
		for o, name := range c.w.set.orgs {
			ch, err := c.w.api.organisation(name)
			if err != nil {
				return err
			}
			if ch.Waiting > 0 {
				return fmt.Errorf("%s: %d deliveries wait, %d in flight", name, ch.Waiting, ch.InFlight)
			}
			leased += ch.InFlight
			if short[o] > ch.InFlight+ch.Dead {
				err = fmt.Errorf("%s misses %d deliveries, but only %d are in flight and %d dead", name, short[o], ch.InFlight, ch.Dead)
			}
			if err != nil && !c.excused(s, missing) {
				return err
			}
		}
		if !book.Balanced {
			return fmt.Errorf("the books do not balance: %q", book.Differences)
		}
		return nil
	})
	row.leased = max(row.leased, leased)
	lost := 0
	for k, p := range missing {
		name, id := c.w.set.orgs[k.org], c.w.users[k.user]
		// The slot first: one that has just gone was delivered, and the books
		// hear of that in a moment.
		waits, werr := c.w.waits(name, id)
		if werr != nil {
			return werr
		}
		if waits || within(time.Second, 10*time.Millisecond, func() error {
			if _, still := c.w.books.missing()[k]; still {
				return errors.New("missing")
			}
			return nil
		}) == nil {
			continue
		}
		if !p.sent.Before(s.lossFrom) && !p.sent.After(s.lossTo) {
			row.excused++
			continue
		}
		lost++
		err = errors.Join(err, fmt.Errorf("LOST: %s was not told of the ping of %s sent %s, acknowledged %s, and no slot waits",
			name, id, p.sent.Format(stamp), p.acked.Format(stamp)))
	}
	row.lost += lost
	if row.excused > 0 {
		c.w.books.forgive(s.lossFrom, s.lossTo)
	}
	return err
}

const stamp = "15:04:05.000000"

// excused reports whether all that is missing falls into the second that Redis
// may lose.
func (c *chaos) excused(s *strike, missing map[pair]ping) bool {
	for _, p := range missing {
		if p.sent.Before(s.lossFrom) || p.sent.After(s.lossTo) {
			return false
		}
	}
	return len(missing) > 0
}

// sound checks what must hold at any quiet moment.
func (c *chaos) sound() error {
	var errs []error
	m, err := c.w.api.metrics()
	if err != nil {
		return err
	}
	panics := 0
	for name, v := range m {
		if strings.HasPrefix(name, "dispatchd_panics_total{") {
			panics++
			if v != 0 {
				errs = append(errs, fmt.Errorf("%s is %v", name, v))
			}
		}
	}
	if panics == 0 {
		errs = append(errs, errors.New("/metrics has no dispatchd_panics_total"))
	}
	if n := sum(c.w.sim.Counters().Requests["delete"]); n != 0 {
		errs = append(errs, fmt.Errorf("%d DELETEs at ORCID", n))
	}
	_, _, _, wrong := c.w.books.numbers()
	if len(wrong) > 0 {
		errs = append(errs, fmt.Errorf("%d wrong POSTs, such as %s", len(wrong), wrong[0]))
	}
	for n, f := range c.faultOf {
		if d := c.w.books.dupsOf(n); d > f.most(len(c.w.set.orgs)) {
			errs = append(errs, fmt.Errorf("%d duplicates of deliveries of round %d (%s), more than can have been in flight", d, n, f.name))
		}
	}
	if err := c.backToBase(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// keptGoroutines is how many that delivered something are kept for the next.
const keptGoroutines = 128

// backToBase waits until goroutines and memory are near what peace needs. The
// callback listener keeps the goroutine of a connection that has ended for up to
// 20 s: a long freeze leaves one for every ping that was given up.
func (c *chaos) backToBase() error {
	return within(patience, 200*time.Millisecond, func() error {
		m, err := c.w.api.metrics()
		if err != nil {
			return err
		}
		if n := m["go_goroutines"]; n > 1.5*c.goroutines+50+keptGoroutines {
			return fmt.Errorf("%v goroutines, in peace %v", n, c.goroutines)
		}
		if n := m["process_resident_memory_bytes"]; n > 2*c.memory+64<<20 {
			return fmt.Errorf("%v MB of memory, in peace %v", n/1e6, c.memory/1e6)
		}
		return nil
	})
}

// allOfIt waits until every lease of every killed daemon has ended: then nothing
// may be missing at all, and everybody is registered.
func (c *chaos) allOfIt() {
	if err := within(lease+30*time.Second, 500*time.Millisecond, func() error {
		if n := len(c.w.books.missing()); n > 0 {
			return fmt.Errorf("%d deliveries are missing", n)
		}
		book, err := c.w.api.ledger()
		if err != nil {
			return err
		}
		if book.Pending != 0 || !book.Balanced {
			return fmt.Errorf("%d slots pending, differences %q", book.Pending, book.Differences)
		}
		return nil
	}); err != nil {
		c.t.Errorf("after every lease has ended: %v", err)
	}
	if err := within(90*time.Second, 500*time.Millisecond, func() error {
		if n := c.w.sim.Counters().Webhooks; n != len(c.w.users) {
			return fmt.Errorf("%d of %d users are registered", n, len(c.w.users))
		}
		return nil
	}); err != nil {
		c.t.Error(err)
	}
	if err := c.sound(); err != nil {
		c.t.Error(err)
	}
	k := c.w.sim.Counters().Requests
	c.t.Logf("at ORCID: PUT %v, DELETE %v, token %v", k["put"], k["delete"], k["token"])
}

// table shows what happened, fault by fault.
func (c *chaos) table(all []fault) string {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "fault\trounds\tacked\tlost\tredis' second\tduplicates\tmost left leased\trecovery median\tmax")
	var total tally
	for _, f := range all {
		if f.skip != "" {
			fmt.Fprintf(tw, "%s\tskipped: %s\n", f.name, f.skip)
			continue
		}
		r := c.rows[f.name]
		if r == nil {
			continue
		}
		for n, struck := range c.faultOf {
			if struck.name == f.name {
				r.dups += c.w.books.dupsOf(n)
			}
		}
		r.print(tw, f.name)
		total.rounds += r.rounds
		total.acked += r.acked
		total.lost += r.lost
		total.excused += r.excused
		total.dups += r.dups
		total.leased = max(total.leased, r.leased)
		total.recovery = append(total.recovery, r.recovery...)
	}
	total.print(tw, "all")
	if err := tw.Flush(); err != nil {
		return err.Error()
	}
	return b.String()
}

func (r *tally) print(tw *tabwriter.Writer, name string) {
	slices.Sort(r.recovery)
	median, most := time.Duration(0), time.Duration(0)
	if n := len(r.recovery); n > 0 {
		median, most = r.recovery[n/2], r.recovery[n-1]
	}
	fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.2f s\t%.2f s\n",
		name, r.rounds, r.acked, r.lost, r.excused, r.dups, r.leased, median.Seconds(), most.Seconds())
}

func last(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1]
}

// nextProbe returns a user who was not probed for a while.
func (w *world) nextProbe() int {
	w.probe = w.probe%(probes-1) + 1 // user 0 is pinged while Redis is distrusted
	return w.probe
}

func (w *world) metric(name string) (float64, error) {
	m, err := w.api.metrics()
	if err != nil {
		return 0, err
	}
	v, ok := m[name]
	if !ok {
		return 0, fmt.Errorf("/metrics has no %s", name)
	}
	return v, nil
}

// backupRedis copies Redis's append-only file as an operator's backup would.
func (w *world) backupRedis() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// WAITAOF needs 7.2; a rewrite puts everything into the base file.
	if err := w.rdb.ConfigSet(ctx, "appendfsync", "always").Err(); err != nil {
		return err
	}
	rest(20 * time.Millisecond)
	w.backup = filepath.Join(w.t.TempDir(), "backup")
	if err := copyDir(filepath.Join(w.redis.Dir, "appendonlydir"), w.backup); err != nil {
		return err
	}
	w.backedUp = time.Now()
	return w.rdb.ConfigSet(ctx, "appendfsync", "everysec").Err()
}

// restoreRedis puts the copy back; Redis is not running.
func (w *world) restoreRedis() error {
	dir := filepath.Join(w.redis.Dir, "appendonlydir")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return copyDir(w.backup, dir)
}

func copyDir(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), raw, 0o600)
	})
}

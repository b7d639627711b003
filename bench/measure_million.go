package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// measureMillion: a million researchers of one organisation beside the usual
// workload: their import, what they cost, their million stuck slots, and a
// start with those.
func (b *bench) measureMillion(ctx context.Context) error {
	usual, err := b.usualRig(ctx)
	if err != nil {
		return err
	}
	r, err := b.startRig(ctx, rigOptions{name: "million", people: usual.people, firstPath: usual.people.Orgs})
	if err != nil {
		return err
	}
	defer r.stop()
	if err := b.importMany(ctx, r); err != nil {
		return err
	}
	// The same, but for what is stuck: what a million researchers cost is told by
	// "growth".
	clear, err := b.startRig(ctx, rigOptions{name: "clear", people: usual.people, firstPath: 2 * usual.people.Orgs})
	if err != nil {
		return err
	}
	defer clear.stop()
	if err := clear.putOrganisation(ctx, stuckOrg, 0); err != nil {
		return err
	}
	if _, err := clear.importUsers(ctx, stuckOrg, crowd(b.users, b.many), false); err != nil {
		return err
	}
	if err := b.stick(ctx, r); err != nil {
		return err
	}
	if err := b.besideStuck(ctx, clear, r); err != nil {
		return err
	}
	clear.stop()
	return b.startWithPending(ctx, r)
}

// stuckOrg is the number of the organisation of the million.
const stuckOrg = 9000

// crowd is the list of the million: researchers from on, one line at a time.
func crowd(from, count int) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		buf := []byte("orcid\n")
		for n := from; n < from+count; n++ {
			buf = append(person(n).Append(buf), '\n')
			if len(buf) > 1<<16 {
				if _, err := pw.Write(buf); err != nil {
					return // nobody reads on
				}
				buf = buf[:0]
			}
		}
		_, _ = pw.Write(buf) // likewise
		_ = pw.Close()       // never fails
	}()
	return pr
}

func (b *bench) importMany(ctx context.Context, r *rig) error {
	if err := r.putOrganisation(ctx, stuckOrg, 0); err != nil {
		return err
	}
	rss, _, err := r.process().memory()
	if err != nil {
		return err
	}
	if err := r.process().resetPeak(); err != nil {
		return err
	}
	began := time.Now()
	n, err := r.importUsers(ctx, stuckOrg, crowd(b.users, b.many), false)
	if err != nil {
		return err
	}
	took := time.Since(began)
	if n != b.many {
		return fmt.Errorf("%d of %d were imported", n, b.many)
	}
	_, peak, err := r.process().memory()
	if err != nil {
		return err
	}
	if !sleep(ctx, 5*time.Second) {
		return context.Cause(ctx)
	}
	idle, _, err := r.process().memory()
	if err != nil {
		return err
	}
	b.report.atLeast("import of "+number(float64(b.many))+" users", 50_000, "users/s", "CSV over the admin API", perSecond(n, took))
	b.report.atMost("daemon's growth during it", 50, "MB", "peak RSS against before", float64(peak-rss)/1e6)
	b.report.atMost("daemon's RSS with "+number(float64(b.many+b.users))+" users, idle", 60, "MB", "", float64(idle)/1e6)
	return nil
}

// stick pings every one of the million while their organisation is paused.
func (b *bench) stick(ctx context.Context, r *rig) error {
	if err := r.act(ctx, stuckOrg, "pause"); err != nil {
		return err
	}
	if err := b.prepare(ctx, r, b.users+b.many); err != nil {
		return err
	}
	before, err := r.redis.memory(ctx)
	if err != nil {
		return err
	}
	start, err := r.ledger(ctx)
	if err != nil {
		return err
	}
	if err := r.process().resetPeak(); err != nil {
		return err
	}
	run, err := b.ping(ctx, r.callback, Pings{From: b.users, Count: b.many})
	if err != nil {
		return err
	}
	at, err := r.settled(ctx, 2*time.Minute, func(l books) bool { return l.Pending-start.Pending >= int64(b.many) })
	if err != nil {
		return err
	}
	_, peak, err := r.process().memory()
	if err != nil {
		return err
	}
	if err := b.logEmpty(ctx, r); err != nil {
		return err
	}
	after, err := r.redis.memory(ctx)
	if err != nil {
		return err
	}
	const p = "million"
	b.report.atMost("Redis per pending slot", 220, "B", number(float64(b.many))+" slots of one organisation", (after-before)/float64(b.many))
	b.report.note(p, "pings for all of them, as fast as answers come", "204s/s", perSecond(run.Accepted, run.Elapsed))
	b.report.note(p, "pings to slots, until the last slot was there", "slots/s", perSecond(b.many, at.Sub(run.Start)))
	b.report.note(p, "daemon's peak RSS meanwhile", "MB", float64(peak)/1e6)
	return nil
}

// besideStuck: the usual organisations of the rig with the million stuck slots
// against those of the rig where nothing is stuck.
func (b *bench) besideStuck(ctx context.Context, clear, r *rig) error {
	var peaks []float64
	turn := func(x *rig) func() (latencies, error) {
		return func() (latencies, error) {
			if err := b.prepare(ctx, x, b.users); err != nil {
				return nil, err
			}
			d, err := b.deliver(ctx, x, Pings{Rate: 2000, For: b.steady * 2 / 3}, true)
			if err != nil {
				return nil, err
			}
			if x == r {
				peaks = append(peaks, float64(d.peak)/1e6)
			}
			return between(d.arrivals, b.cursor-d.run.Sent, d.run.Due), nil
		}
	}
	if _, err := turn(r)(); err != nil { // warm
		return err
	}
	// The million has made Redis's AOF grow, and what that wrote goes to the disk
	// that both of them use: both begin with a new file.
	for _, x := range []*rig{clear, r} {
		if err := x.redis.rewrite(ctx); err != nil {
			return err
		}
		if err := x.redis.rewritten(ctx); err != nil {
			return err
		}
	}
	syscall.Sync()
	c, err := b.compare(turn(clear), turn(r))
	if err != nil {
		return err
	}
	b.report.atMost("one organisation with "+number(float64(b.many))+" stuck slots: others' p99 / without", 1.25, "",
		fmt.Sprintf("without against without: %s", spreadOf(c.band...)), c.ratio...)
	b.report.note("million", "others' p99 without stuck slots", "ms", c.without...)
	b.report.note("million", "others' p99 beside stuck slots", "ms", c.with...)
	b.report.note("million", "daemon's peak RSS at 2,000 pings/s", "MB", peaks...)
	for i, x := range []*rig{clear, r} {
		if err := x.redis.rewrite(ctx); err != nil {
			return err
		}
		l, err := turn(x)()
		if err != nil {
			return err
		}
		b.report.note("million", "others' p99 "+[]string{"without", "beside"}[i]+" stuck slots while Redis rewrites its file", "ms", millis(l.percentile(0.99)))
		if err := x.redis.rewritten(ctx); err != nil {
			return err
		}
	}
	return nil
}

// startWithPending kills the daemon while the million is due and starts it.
func (b *bench) startWithPending(ctx context.Context, r *rig) error {
	var first, up []float64
	for range b.rounds {
		if err := r.act(ctx, stuckOrg, "resume"); err != nil {
			return err
		}
		r.kill()
		if err := b.receiver.call(ctx, "Reset", true, &struct{}{}); err != nil {
			return err
		}
		spawned := time.Now()
		ready := make(chan error, 1)
		go func() { ready <- r.startDaemon(ctx) }()
		if err := poll(ctx, 10*time.Second, time.Millisecond, func() error {
			c, err := net.DialTimeout("tcp", r.callback, time.Second) //nolint:noctx // loopback, bounded
			if err != nil {
				return err
			}
			return c.Close()
		}); err != nil {
			return err
		}
		listening := time.Now()
		var got Received
		if err := b.receiver.call(ctx, "Wait", Wait{1, 20 * time.Second}, &got); err != nil {
			return err
		}
		if err := <-ready; err != nil {
			return err
		}
		if err := r.act(ctx, stuckOrg, "pause"); err != nil {
			return err
		}
		if err := b.receiver.call(ctx, "Take", struct{}{}, &got); err != nil {
			return err
		}
		if len(got.Arrivals) == 0 {
			return fmt.Errorf("after the start: %w", errTooFew)
		}
		first = append(first, max(time.Unix(0, got.Arrivals[0].At).Sub(listening), 0).Seconds())
		up = append(up, listening.Sub(spawned).Seconds())
	}
	b.report.atMost("start with "+number(float64(b.many))+" pending: listening → first delivery", 1, "s", "after kill -9", first...)
	b.report.note("million", "process started → listening", "s", up...)
	return nil
}

// measureGrowth: throughput with many users and organisations against few.
func (b *bench) measureGrowth(ctx context.Context) error {
	if b.usual != nil {
		b.usual.stop()
		b.usual = nil
	}
	few, err := b.startRig(ctx, rigOptions{name: "few", people: population{Users: b.users / 10, Orgs: b.orgs}})
	if err != nil {
		return err
	}
	defer few.stop()
	began := time.Now()
	many, err := b.startRig(ctx, rigOptions{name: "many", people: population{Users: b.many, Orgs: b.manyOrgs}, firstPath: b.orgs})
	if err != nil {
		return err
	}
	defer many.stop()
	b.report.note("growth", fmt.Sprintf("making %s organisations and %s users", number(float64(b.manyOrgs)), number(float64(b.many))), "s", time.Since(began).Seconds())
	users := b.users
	defer func() { b.users = users }()
	rates, peaks := map[*rig][]float64{}, []float64{}
	for i := range b.rounds + 1 {
		for _, r := range []*rig{few, many} {
			// As many pings for both, each for another researcher.
			b.users, b.cursor = min(r.people.Users, users), 0
			if err := b.prepare(ctx, r, b.users); err != nil {
				return err
			}
			d, err := b.deliver(ctx, r, Pings{Count: users / 10}, false)
			if err != nil {
				return err
			}
			if i == 0 {
				continue // warm
			}
			rates[r] = append(rates[r], d.rate())
			if r == many {
				peaks = append(peaks, float64(d.peak)/1e6)
			}
		}
	}
	b.report.atLeast(fmt.Sprintf("throughput with %s users, %s organisations / with %s and %s", number(float64(b.many)), number(float64(b.manyOrgs)),
		number(float64(users/10)), number(float64(b.orgs))), 0.6, "", fmt.Sprintf("bursts of %s pings", number(float64(users/10))), ratios(rates[many], rates[few])...)
	b.report.atMost("daemon's RSS with "+number(float64(b.many))+" users at full load", 200, "MB", "", peaks...)
	b.report.note("growth", "few", "deliveries/s", rates[few]...)
	b.report.note("growth", "many", "deliveries/s", rates[many]...)
	return nil
}

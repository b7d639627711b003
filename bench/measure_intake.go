package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// backlogLimit is how long after a run its backlog may last.
const backlogLimit = 2 * time.Second

// measureIntake: durable 204s a second, with the fan-out at work and for the
// log alone, against a server that only answers.
func (b *bench) measureIntake(ctx context.Context) error {
	everysec, err := b.intakeRig(ctx, "intake", "everysec")
	if err != nil {
		return err
	}
	rate, err := b.sustained(ctx, everysec)
	if err != nil {
		return err
	}
	const p = "intake"
	var bare, fan, log, backlog, cpu []float64
	for range b.rounds {
		n, err := b.bare204(ctx)
		if err != nil {
			return err
		}
		bare = append(bare, n)
		before, err := everysec.usage()
		if err != nil {
			return err
		}
		run, late, err := b.fanned(ctx, everysec, rate)
		if err != nil {
			return err
		}
		after, err := everysec.usage()
		if err != nil {
			return err
		}
		fan, backlog = append(fan, perSecond(run.Accepted, run.Elapsed)), append(backlog, late.Seconds())
		cpu = append(cpu, after.since(before).sum().Seconds()/float64(run.Accepted)*1000)
		if n, err = b.logOnly(ctx, everysec); err != nil {
			return err
		}
		log = append(log, n)
	}
	everysec.stop()
	strict, err := b.intakeRig(ctx, "intake-always", "always")
	if err != nil {
		return err
	}
	defer strict.stop()
	var bareToo, always []float64
	for range b.rounds {
		n, err := b.bare204(ctx)
		if err != nil {
			return err
		}
		bareToo = append(bareToo, n)
		if n, err = b.logOnly(ctx, strict); err != nil {
			return err
		}
		always = append(always, n)
	}
	how := "as fast as answers come"
	if rate > 0 {
		how = "at the rate whose backlog is gone in 2 s"
	}
	b.report.atLeast("intake with fan-out / bare fasthttp 204", 0.40, "", how, ratios(fan, bare)...)
	b.report.atLeast("intake, log only / bare fasthttp 204", 0.65, "", "", ratios(log, bare)...)
	b.report.atLeast("intake, log only, appendfsync always / bare", 0.5, "", "", ratios(always, bareToo)...)
	b.report.note(p, "bare fasthttp server", "204s/s", append(bare, bareToo...)...)
	b.report.note(p, "dispatchd, fan-out running", "204s/s", fan...)
	b.report.note(p, "backlog of the log after the run", "s", backlog...)
	b.report.note(p, "daemon + Redis per 1,000 pings with fan-out", "CPU-s", cpu...)
	b.report.note(p, "dispatchd, log only", "204s/s", log...)
	b.report.note(p, "dispatchd, log only, appendfsync always", "204s/s", always...)
	return nil
}

// intakeRig has the usual workload and pauses every organisation: slots are
// made, nothing is posted. The sender has as many researchers again whom
// nobody knows.
func (b *bench) intakeRig(ctx context.Context, name, fsync string) (*rig, error) {
	people := population{Users: b.users, Orgs: b.orgs}
	if fsync == "always" {
		people.Users = 0 // log only
	}
	r, err := b.startRig(ctx, rigOptions{name: name, fsync: fsync, people: people})
	if err != nil {
		return nil, err
	}
	for o := range b.orgs {
		if err := r.act(ctx, o, "pause"); err != nil {
			return nil, err
		}
	}
	return r, b.prepare(ctx, r, 2*b.users)
}

func perSecond(n int, d time.Duration) float64 { return float64(n) / d.Seconds() }

func (b *bench) bare204(ctx context.Context) (float64, error) {
	run, err := b.ping(ctx, b.bareAddr, Pings{For: b.burst})
	return perSecond(run.Accepted, run.Elapsed), err
}

func (b *bench) logOnly(ctx context.Context, r *rig) (float64, error) {
	run, err := b.ping(ctx, r.callback, Pings{From: b.users, For: b.burst, Count: b.users * 9 / 10})
	if err != nil {
		return 0, err
	}
	if !sleep(ctx, 500*time.Millisecond) { // the reader of the log catches up
		return 0, context.Cause(ctx)
	}
	return perSecond(run.Accepted, run.Elapsed), nil
}

// logEmpty waits until the log is empty, which takes 5 s by design.
func (b *bench) logEmpty(ctx context.Context, r *rig) error {
	_, err := r.settled(ctx, 60*time.Second, func(l books) bool { return l.LogEntries == 0 })
	return err
}

// fanned pings researchers with organisations and returns how long after the
// last answer every slot was there.
func (b *bench) fanned(ctx context.Context, r *rig, rate float64) (Pinged, time.Duration, error) {
	before, err := r.ledger(ctx)
	if err != nil {
		return Pinged{}, 0, err
	}
	p := Pings{Rate: rate, For: b.burst}
	if rate == 0 {
		p.Count = b.users
	}
	run, err := b.ping(ctx, r.callback, p)
	if err != nil {
		return run, 0, err
	}
	ended := run.Start.Add(run.Elapsed)
	want := before.Targets + int64(r.people.targets(0, min(run.Accepted, b.users)))
	at, err := r.settled(ctx, 60*time.Second, func(l books) bool { return l.Targets >= want })
	if err != nil {
		return run, 0, err
	}
	return run, max(at.Sub(ended), 0), nil
}

var errNoRate = errors.New("no rate was found at which the backlog stays small")

// sustained finds out at which rate pings may come so that the fan-out keeps
// up; 0 says that it does with pings as fast as they are answered.
func (b *bench) sustained(ctx context.Context, r *rig) (float64, error) {
	rate := 0.0
	for range 6 {
		run, late, err := b.fanned(ctx, r, rate)
		if err != nil {
			return 0, err
		}
		if late <= backlogLimit*3/4 {
			return rate, nil
		}
		rate = float64(run.Accepted) / (run.Elapsed + late - backlogLimit/2).Seconds()
		b.say("intake: fan-out was %s behind; trying %.0f pings/s", late.Round(time.Millisecond), rate)
	}
	return 0, fmt.Errorf("intake: %w", errNoRate)
}

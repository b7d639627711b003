package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// delivered is one run from pings to outcomes.
type delivered struct {
	run        Pinged
	count      int
	took       time.Duration // from the first ping to the last outcome in Redis
	late       time.Duration // from the last ping to that
	used       usage
	peak, idle int64 // bytes, of the daemon
	arrivals   []Arrival
}

func (d delivered) rate() float64 { return float64(d.count) / d.took.Seconds() }

// per1000 is processor seconds per 1,000 deliveries.
func per1000(used time.Duration, count int) float64 { return used.Seconds() / float64(count) * 1000 }

// measureDeliveries: from the ping to the outcome in Redis as fast as it goes,
// beside clients that only post, and asynq: its worker alone, and doing all of it.
func (b *bench) measureDeliveries(ctx context.Context) error {
	r, err := b.usualRig(ctx)
	if err != nil {
		return err
	}
	rate, err := b.capacity(ctx, r)
	if err != nil {
		return err
	}
	b.say("deliveries: capacity about %.0f pings/s", rate)
	var fast, std, plain, queue, queueCPU, queueAll, queueAllCPU, ours, cpu, cpuDaemon, cpuRedis, late, offered []float64
	for range b.rounds {
		for kind, to := range map[string]*[]float64{"fasthttp": &fast, "net/http": &std} {
			n, err := b.post(ctx, kind)
			if err != nil {
				return err
			}
			*to = append(*to, n)
		}
		d, used, err := b.kept(ctx, r, &rate)
		if err != nil {
			return err
		}
		ours, late, offered = append(ours, d.rate()), append(late, d.late.Seconds()), append(offered, used)
		cpu = append(cpu, per1000(d.used.sum(), d.count))
		cpuDaemon = append(cpuDaemon, per1000(d.used.daemon, d.count))
		cpuRedis = append(cpuRedis, per1000(d.used.redis, d.count))
		n, c, err := b.asynqRun(ctx)
		if err != nil {
			return err
		}
		queue, queueCPU = append(queue, n), append(queueCPU, c)
		if n, c, err = b.asynqAll(ctx); err != nil {
			return err
		}
		queueAll, queueAllCPU = append(queueAll, n), append(queueAllCPU, c)
		if n, err = b.plainRun(ctx); err != nil {
			return err
		}
		plain = append(plain, n)
	}
	const p = "deliveries"
	b.report.atLeast("deliveries/s, ping to outcome / bare fasthttp client", 0.25, "", "", ratios(ours, fast)...)
	b.report.atLeast("deliveries/s / asynq worker", 5, "", "asynq only posts: its queue was filled before", ratios(ours, queue)...)
	b.report.atMost("CPU per 1,000 deliveries, daemon + Redis", 0.09, "CPU-s", "at full rate", cpu...)
	b.report.note(p, "dispatchd, ping to outcome", "deliveries/s", ours...)
	b.report.note(p, "pings offered", "pings/s", offered...)
	b.report.note(p, "backlog after the last ping", "s", late...)
	b.report.note(p, "daemon per 1,000", "CPU-s", cpuDaemon...)
	b.report.note(p, "Redis per 1,000", "CPU-s", cpuRedis...)
	b.report.note(p, "bare fasthttp client, 64 workers", "POSTs/s", fast...)
	b.report.note(p, "net/http client, 64 workers", "POSTs/s", std...)
	b.report.note(p, "plain pipelined Redis commands", "deliveries' worth/s", plain...)
	b.report.note(p, "asynq worker, 64 at once", "tasks/s", queue...)
	b.report.note(p, "asynq worker + Redis per 1,000", "CPU-s", queueCPU...)
	b.report.note(p, "asynq from ping to outcome", "tasks/s", queueAll...)
	b.report.note(p, "asynq from ping to outcome + Redis per 1,000", "CPU-s", queueAllCPU...)
	b.report.note(p, "deliveries/s / asynq from ping to outcome", "", ratios(ours, queueAll)...)
	return b.explain(ctx, r, rate)
}

// span takes the next count researchers of the usual workload.
func (b *bench) span(count int) (from int) {
	if b.cursor+count > b.users {
		b.cursor = 0
	}
	from = b.cursor
	b.cursor += count
	return from
}

// deliver pings and waits until everything is delivered and written.
func (b *bench) deliver(ctx context.Context, r *rig, p Pings, keep bool) (delivered, error) {
	var d delivered
	p.Keep = keep
	if p.Count == 0 {
		p.Count = int(p.Rate * p.For.Seconds())
	}
	p.Count = min(p.Count, b.users)
	p.From = b.span(p.Count)
	want := r.people.targets(p.From, p.From+p.Count)
	if err := b.receiver.call(ctx, "Reset", keep, &struct{}{}); err != nil {
		return d, err
	}
	before, err := r.ledger(ctx)
	if err != nil {
		return d, err
	}
	if err := r.process().resetPeak(); err != nil {
		return d, err
	}
	began, err := r.usage()
	if err != nil {
		return d, err
	}
	if d.run, err = b.ping(ctx, r.callback, p); err != nil {
		return d, err
	}
	if d.run.Accepted != p.Count {
		return d, fmt.Errorf("%d of %d pings were accepted", d.run.Accepted, p.Count)
	}
	var got Received
	if err := b.receiver.call(ctx, "Wait", Wait{want, time.Minute}, &got); err != nil {
		return d, err
	}
	at, err := r.settled(ctx, time.Minute, func(l books) bool { return l.Delivered-before.Delivered >= int64(want) && l.Pending == before.Pending })
	if err != nil {
		return d, err
	}
	ended, err := r.usage()
	if err != nil {
		return d, err
	}
	if keep {
		if err := b.receiver.call(ctx, "Take", struct{}{}, &got); err != nil {
			return d, err
		}
		d.arrivals = got.Arrivals
	}
	d.idle, d.peak, err = r.process().memory()
	d.count, d.took, d.late, d.used = want, at.Sub(d.run.Start), at.Sub(d.run.Start.Add(d.run.Elapsed)), ended.since(began)
	return d, err
}

// capacity finds the rate of pings that the daemon keeps up with, from a burst.
func (b *bench) capacity(ctx context.Context, r *rig) (float64, error) {
	// The first one warms connections, caches and the scripts of Redis up.
	if _, err := b.deliver(ctx, r, Pings{Count: min(5000, b.users/4)}, false); err != nil {
		return 0, err
	}
	d, err := b.deliver(ctx, r, Pings{Count: min(25_000, b.users/2)}, false)
	if err != nil {
		return 0, err
	}
	return float64(d.run.Accepted) / d.took.Seconds(), nil
}

// kept makes a run at the rate, a lower one if the backlog lasted too long.
func (b *bench) kept(ctx context.Context, r *rig, rate *float64) (delivered, float64, error) {
	for range 8 {
		d, err := b.deliver(ctx, r, Pings{Rate: *rate, For: b.steady}, false)
		if err != nil {
			return d, 0, err
		}
		offered := *rate
		if d.late <= backlogLimit {
			// What was to spare is offered next time.
			*rate *= 1 + 0.1*(1-d.late.Seconds()/backlogLimit.Seconds())
			return d, offered, nil
		}
		*rate = float64(d.run.Accepted) / d.took.Seconds()
		b.say("deliveries: %.0f pings/s left a backlog of %s; trying %.0f", offered, d.late.Round(time.Millisecond), *rate)
	}
	return delivered{}, 0, errBacklog
}

func (b *bench) post(ctx context.Context, kind string) (float64, error) {
	var out Posted
	err := b.poster.call(ctx, "Run", Posts{Kind: kind, URL: "http://" + b.receiverAddr + "/0", Workers: 64, For: b.burst}, &out)
	return float64(out.Count) / out.Elapsed.Seconds(), err
}

// plainRun writes plain commands to a Redis of its own.
func (b *bench) plainRun(ctx context.Context) (float64, error) {
	s, err := startRedis(ctx, filepath.Join(b.dir, "plain"), "everysec")
	if err != nil {
		return 0, err
	}
	defer s.wipe()
	var out Posted
	err = b.pipeliner.call(ctx, "Run", Pipelined{Addr: s.addr, Workers: 2, Batch: 100, For: b.burst / 2}, &out)
	return float64(out.Count) / out.Elapsed.Seconds(), err
}

func (s *server) wipe() {
	s.stop()
	_ = os.RemoveAll(s.dir) // the whole directory goes at the end
}

// asynqRun has an asynq worker post the same body, from a Redis of its own, and
// returns tasks a second and processor seconds per 1,000 with its Redis.
func (b *bench) asynqRun(ctx context.Context) (rate, cpu float64, err error) {
	s, err := startRedis(ctx, filepath.Join(b.dir, "asynq"), "everysec")
	if err != nil {
		return 0, 0, err
	}
	defer s.wipe()
	if raw, err := b.asynqCommand(ctx, s, "fill").CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("fill asynq's queue: %w: %s", err, raw)
	}
	before, err := s.process().cpu()
	if err != nil {
		return 0, 0, err
	}
	cmd := b.asynqCommand(ctx, s, "work")
	raw, err := cmd.Output()
	if err != nil {
		return 0, 0, fmt.Errorf("run asynq's worker: %w: %s", err, raw)
	}
	var out struct {
		Tasks   int     `json:"tasks"`
		Seconds float64 `json:"seconds"`
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return 0, 0, fmt.Errorf("read what asynq's worker says: %w", err)
	}
	cpu, err = asynqCPU(s, before, cmd, out.Tasks)
	return float64(out.Tasks) / out.Seconds, cpu, err
}

// asynqAll has asynq do the whole of it, from the ping to the outcome in Redis,
// with pings as fast as they are answered, and returns the same.
func (b *bench) asynqAll(ctx context.Context) (rate, cpu float64, err error) {
	s, err := startRedis(ctx, filepath.Join(b.dir, "asynq"), "everysec")
	if err != nil {
		return 0, 0, err
	}
	defer s.wipe()
	before, err := s.process().cpu()
	if err != nil {
		return 0, 0, err
	}
	cmd := b.asynqCommand(ctx, s, "all")
	cmd.Stderr, cmd.SysProcAttr = os.Stderr, dieWithParent()
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, fmt.Errorf("start asynq: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 0, 0, fmt.Errorf("start asynq: %w", err)
	}
	said := json.NewDecoder(pipe)
	var up struct {
		Listen string `json:"listen"`
	}
	if err := said.Decode(&up); err != nil {
		return 0, 0, fmt.Errorf("read where asynq listens: %w", errors.Join(err, cmd.Wait()))
	}
	// One task for every other ping, two for the rest.
	run, err := b.ping(ctx, up.Listen, Pings{Count: b.tasks * 2 / 3})
	if err != nil {
		return 0, 0, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	var end struct {
		Tasks int       `json:"tasks"`
		Ended time.Time `json:"ended"`
	}
	if err := errors.Join(said.Decode(&end), cmd.Wait()); err != nil {
		return 0, 0, fmt.Errorf("read what asynq says: %w", err)
	}
	cpu, err = asynqCPU(s, before, cmd, end.Tasks)
	return perSecond(end.Tasks, end.Ended.Sub(run.Start)), cpu, err
}

func (b *bench) asynqCommand(ctx context.Context, s *server, mode string) *exec.Cmd {
	return exec.CommandContext(ctx, b.asynq, "-mode", mode, "-redis", s.addr, "-url", "http://"+b.receiverAddr+"/0", //nolint:gosec // what was just built
		"-tasks", strconv.Itoa(b.tasks), "-workers", "64")
}

// asynqCPU is per1000 of a program of asynq's that has ended, and its Redis.
func asynqCPU(s *server, before time.Duration, cmd *exec.Cmd, tasks int) (float64, error) {
	after, err := s.process().cpu()
	return per1000(after-before+cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), tasks), err
}

// explain shows where the time goes at full rate: a profile of the daemon and
// what Redis spends on each command, in a run that counts for nothing else.
func (b *bench) explain(ctx context.Context, r *rig, rate float64) error {
	if err := r.redis.rdb.ConfigResetStat(ctx).Err(); err != nil {
		return fmt.Errorf("reset redis's statistics: %w", err)
	}
	profile := filepath.Join(b.dir, "deliveries.pprof")
	taken := make(chan error, 1)
	go func() {
		var raw []byte
		err := r.get(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(int(b.steady.Seconds()), 1)), &raw)
		if err == nil {
			err = os.WriteFile(profile, raw, 0o600)
		}
		taken <- err
	}()
	d, err := b.deliver(ctx, r, Pings{Rate: rate * 0.9, For: b.steady}, false)
	if err := errors.Join(err, <-taken); err != nil {
		return err
	}
	text, err := r.redis.rdb.Info(ctx, "commandstats").Result()
	if err != nil {
		return fmt.Errorf("ask redis for its statistics: %w", err)
	}
	b.report.Sections = append(b.report.Sections, section{"Where Redis's time goes (per delivery)", commandTable(parseCommandStats(text), d)})
	for _, how := range []struct{ title, flag string }{
		{"Where the daemon's time goes (functions themselves)", "-nodecount=25"},
		{"Where the daemon's time goes (with what they call)", "-nodecount=70"},
	} {
		args := []string{"tool", "pprof", "-top", how.flag}
		if strings.Contains(how.title, "call") {
			args = append(args, "-cum")
		}
		raw, err := exec.CommandContext(ctx, "go", append(args, b.binary, profile)...).Output() //nolint:gosec // our own arguments
		if err != nil {
			return fmt.Errorf("read the profile: %w", err)
		}
		b.report.Sections = append(b.report.Sections, section{how.title, string(raw)})
	}
	return nil
}

// commandTable lists the commands that Redis spent most on. Commands inside a
// script count for the script too: evalsha is the sum.
func commandTable(stats map[string]commandStat, d delivered) string {
	list := make([]commandStat, 0, len(stats))
	for _, s := range stats {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b commandStat) int { return int(b.Micro - a.Micro) })
	var out strings.Builder
	fmt.Fprintf(&out, "%d deliveries; Redis used %.1f µs of CPU for each, the daemon %.1f µs\n", d.count,
		float64(d.used.redis.Microseconds())/float64(d.count), float64(d.used.daemon.Microseconds())/float64(d.count))
	fmt.Fprintf(&out, "%-20s %12s %14s %14s\n", "command", "calls", "calls/delivery", "µs/delivery")
	for _, s := range list[:min(len(list), 14)] {
		fmt.Fprintf(&out, "%-20s %12.0f %14.3f %14.3f\n", s.Name, s.Calls, s.Calls/float64(d.count), s.Micro/float64(d.count))
	}
	return out.String()
}

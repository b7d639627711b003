package main

import (
	"context"
	"fmt"
	"time"
)

// between returns, for every arrival, the time since the ping for that
// researcher was due; first is the researcher of the first ping.
func between(arrivals []Arrival, first int, due []int64) latencies {
	out := make(latencies, 0, len(arrivals))
	for _, a := range arrivals {
		if i := a.Person - first; i >= 0 && i < len(due) {
			out = append(out, a.At-due[i])
		}
	}
	return out
}

// measureLatency: from when a ping was due to its 204 and to the receiver.
func (b *bench) measureLatency(ctx context.Context) error {
	r, err := b.usualRig(ctx)
	if err != nil {
		return err
	}
	type one struct {
		rate                    float64
		p50, p99, p999, answers []float64
	}
	runs := []*one{{rate: 200}, {rate: 1000}, {rate: 5000}}
	var bare, late, cpu []float64
	// Uncounted: whatever the run before left behind, and cold connections.
	if _, err := b.deliver(ctx, r, Pings{Rate: 1000, For: time.Second}, false); err != nil {
		return err
	}
	for range b.rounds {
		n, err := b.ping(ctx, b.bareAddr, Pings{Rate: 1000, For: b.steady / 2})
		if err != nil {
			return err
		}
		bare = append(bare, millis(latencies(n.Latency).percentile(0.99)))
		late = append(late, millis(n.LateP99))
		for _, x := range runs {
			d, err := b.deliver(ctx, r, Pings{Rate: x.rate, For: b.steady}, true)
			if err != nil {
				return fmt.Errorf("at %.0f pings/s: %w", x.rate, err)
			}
			q := between(d.arrivals, b.cursor-d.run.Sent, d.run.Due).quantiles()
			x.p50, x.p99, x.p999 = append(x.p50, millis(q.P50)), append(x.p99, millis(q.P99)), append(x.p999, millis(q.P999))
			x.answers = append(x.answers, millis(latencies(d.run.Latency).percentile(0.99)))
			if x.rate == 1000 {
				cpu = append(cpu, per1000(d.used.sum(), d.count))
			}
		}
	}
	b.report.atMost("ping → received at 200/s, p50", 3, "ms", "", runs[0].p50...)
	b.report.atMost("ping → received at 200/s, p99", 10, "ms", "", runs[0].p99...)
	b.report.atMost("ping → received at 5,000/s, p99", 25, "ms", "5,000 pings/s are 7,500 deliveries/s", runs[2].p99...)
	b.report.atMost("204 at 1,000 pings/s, p99", 5, "ms", "", runs[1].answers...)
	const p = "latency"
	for _, x := range runs {
		at := fmt.Sprintf("at %s pings/s", number(x.rate))
		b.report.note(p, "ping → received, p50, "+at, "ms", x.p50...)
		b.report.note(p, "ping → received, p99, "+at, "ms", x.p99...)
		b.report.note(p, "ping → received, p99.9, "+at, "ms", x.p999...)
		b.report.note(p, "204, p99, "+at, "ms", x.answers...)
	}
	b.report.note(p, "204 of the bare server, p99, at 1,000 pings/s", "ms", bare...)
	b.report.note(p, "lateness of the sender itself, p99", "ms", late...)
	b.report.note(p, "daemon + Redis per 1,000 deliveries at 1,000 pings/s", "CPU-s", cpu...)
	return nil
}

// measureSlow: one organisation whose receiver takes 50 ms, 64 at once.
func (b *bench) measureSlow(ctx context.Context) error {
	const concurrency, delay = 64, 50 * time.Millisecond
	r, err := b.startRig(ctx, rigOptions{name: "slow", people: population{Users: b.slow, Orgs: 1}, concurrency: concurrency})
	if err != nil {
		return err
	}
	defer r.stop()
	if err := b.prepare(ctx, r, b.slow); err != nil {
		return err
	}
	if err := b.behave(ctx, map[int]Manner{0: {Delay: delay}}); err != nil {
		return err
	}
	ideal := concurrency / delay.Seconds()
	var rates []float64
	for range b.rounds {
		if err := b.receiver.call(ctx, "Reset", true, &struct{}{}); err != nil {
			return err
		}
		if _, err := b.ping(ctx, r.callback, Pings{Count: b.slow}); err != nil {
			return err
		}
		var got Received
		if err := b.receiver.call(ctx, "Wait", Wait{b.slow, time.Minute}, &got); err != nil {
			return err
		}
		if err := b.receiver.call(ctx, "Take", struct{}{}, &got); err != nil {
			return err
		}
		if got.Count < b.slow {
			return fmt.Errorf("%d of %d: %w", got.Count, b.slow, errTooFew)
		}
		first, last := got.Arrivals[0].At, got.Arrivals[len(got.Arrivals)-1].At
		// The last ones take their 50 ms too.
		rates = append(rates, float64(got.Count)/(time.Duration(last-first)+delay).Seconds()/ideal)
		if _, err := r.settled(ctx, 10*time.Second, func(l books) bool { return l.Pending == 0 }); err != nil {
			return err
		}
	}
	b.report.atLeast("receiver of 50 ms, concurrency 64 / ideal", 0.95, "", fmt.Sprintf("ideal is %.0f/s", ideal), rates...)
	return b.behave(ctx, nil)
}

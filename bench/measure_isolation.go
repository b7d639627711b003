package main

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// troubled is how many organisations hang, and how many fail.
type troubled struct{ hang, fail int }

// measureIsolation: the latency of organisations that are well beside others
// that hang or fail, against a daemon of the same load where all are well.
func (b *bench) measureIsolation(ctx context.Context) error {
	people := population{Users: b.users, Orgs: b.isolated}
	well, err := b.isolationRig(ctx, "well", 0, people)
	if err != nil {
		return err
	}
	defer well.stop()
	ill, err := b.isolationRig(ctx, "ill", b.isolated, people)
	if err != nil {
		return err
	}
	defer ill.stop()
	b.cursor = 0
	tenth := troubled{b.isolated / 10, b.isolated / 10}
	if _, err := b.healthy(ctx, well, troubled{}, b.steady/2); err != nil { // warm
		return err
	}
	freeze(well)
	thaw(ill)
	// The first seconds, in which nobody knows yet who hangs.
	onset, err := b.healthy(ctx, ill, tenth, b.steady)
	if err != nil {
		return err
	}
	freeze(ill)
	turn := func(r *rig, t troubled) func() (latencies, error) {
		return func() (latencies, error) {
			thaw(r)
			defer freeze(r)
			return b.healthy(ctx, r, t, b.steady)
		}
	}
	c, err := b.compare(turn(well, troubled{}), turn(ill, tenth))
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%d organisations, %d hanging, %d failing: healthy p99 / untroubled", b.isolated, tenth.hang, tenth.fail)
	b.report.atMost(name, 1.25, "", fmt.Sprintf("untroubled against untroubled: %s", spreadOf(c.band...)), c.ratio...)
	const p = "isolation"
	b.report.note(p, "untroubled p99", "ms", c.without...)
	b.report.note(p, "healthy p99 beside the troubled", "ms", c.with...)
	b.report.note(p, "healthy p99 in the first seconds of the trouble", "ms", millis(onset.percentile(0.99)))
	b.report.note(p, "untroubled p99 / untroubled p99 of another round", "", c.band...)
	thaw(ill)
	many := troubled{hang: b.isolated * 2 / 5}
	l, err := b.healthy(ctx, ill, many, b.steady)
	if err != nil {
		return err
	}
	b.report.note(p, fmt.Sprintf("healthy p99 with %d hanging", many.hang), "ms", millis(l.percentile(0.99)))
	return b.behave(ctx, nil)
}

// compared are percentiles of the same load without a trouble and with it, a
// pair a round, and how far those without it are from each other.
type compared struct{ without, with, ratio, band []float64 }

// compare lets the two take turns, two of each in a round. One stall of the
// machine is a hundredth of one turn, so a p99 is of the two turns together.
func (b *bench) compare(without, with func() (latencies, error)) (compared, error) {
	var c compared
	for i := range b.rounds + 1 {
		var together [2]latencies
		for j := range 4 {
			which := (i + j) % 2
			l, err := []func() (latencies, error){without, with}[which]()
			if err != nil {
				return c, err
			}
			together[which] = append(together[which], l...)
		}
		a, z := millis(together[0].percentile(0.99)), millis(together[1].percentile(0.99))
		for _, other := range c.without {
			c.band = append(c.band, max(a, other)/min(a, other))
		}
		c.without, c.with, c.ratio = append(c.without, a), append(c.with, z), append(c.ratio, z/a)
	}
	return c, nil
}

// isolationRig posts to organisations from number first on at the receiver.
func (b *bench) isolationRig(ctx context.Context, name string, first int, people population) (*rig, error) {
	return b.startRig(ctx, rigOptions{name: name, people: people, timeout: "5s", firstPath: first})
}

func freeze(r *rig) { _ = r.cmd.Process.Signal(syscall.SIGSTOP) }

func thaw(r *rig) { _ = r.cmd.Process.Signal(syscall.SIGCONT) }

// healthy pings at 2,000 a second and returns the latency of those
// organisations that are well; the first of them hang or fail.
func (b *bench) healthy(ctx context.Context, r *rig, t troubled, lasts time.Duration) (latencies, error) {
	how := map[int]Manner{}
	for o := range t.hang + t.fail {
		if o < t.hang {
			how[r.firstPath+o] = Manner{Hang: true}
		} else {
			how[r.firstPath+o] = Manner{Status: 503}
		}
	}
	if err := b.behave(ctx, how); err != nil {
		return nil, err
	}
	if err := b.prepare(ctx, r, b.users); err != nil {
		return nil, err
	}
	if err := b.receiver.call(ctx, "Reset", true, &struct{}{}); err != nil {
		return nil, err
	}
	const rate = 2000
	count := min(int(rate*lasts.Seconds()), b.users)
	from := b.span(count)
	ill := t.hang + t.fail
	want := 0
	for n := from; n < from+count; n++ {
		first, second := r.people.orgsOf(n)
		if first >= ill {
			want++
		}
		if second >= ill {
			want++
		}
	}
	run, err := b.ping(ctx, r.callback, Pings{From: from, Rate: rate, Count: count, Keep: true})
	if err != nil {
		return nil, err
	}
	var got Received
	if err := b.receiver.call(ctx, "Wait", Wait{want, 20 * time.Second}, &got); err != nil {
		return nil, err
	}
	if err := b.receiver.call(ctx, "Take", struct{}{}, &got); err != nil {
		return nil, err
	}
	var of []Arrival
	for _, a := range got.Arrivals {
		// An organisation that was ill before may still have something to get;
		// it is not from this run.
		if a.Org >= r.firstPath+ill && a.Person >= from && a.Person < from+count {
			of = append(of, a)
		}
	}
	if len(of) < want {
		return nil, fmt.Errorf("the healthy got %d of %d: %w", len(of), want, errTooFew)
	}
	return between(of, from, run.Due), nil
}

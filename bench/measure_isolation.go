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
	lasts := b.steady * 3 / 4
	tenth := troubled{b.isolated / 10, b.isolated / 10}
	var untroubled, again, ratio, band, onset, p99 []float64
	if _, err := b.healthy(ctx, well, troubled{}, b.steady/2); err != nil { // warm
		return err
	}
	freeze(well)
	for i := range b.rounds {
		var turn [3]float64
		for j, r := range []*rig{well, ill, well} {
			t := troubled{}
			if r == ill {
				t = tenth
			}
			thaw(r)
			if r == ill && i == 0 {
				// The first seconds, in which nobody knows yet who hangs.
				q, err := b.healthy(ctx, r, t, lasts)
				if err != nil {
					return err
				}
				onset = append(onset, millis(q.P99))
			}
			q, err := b.healthy(ctx, r, t, lasts)
			if err != nil {
				return err
			}
			turn[j] = millis(q.P99)
			freeze(r)
		}
		untroubled, p99, again = append(untroubled, turn[0]), append(p99, turn[1]), append(again, turn[2])
		ratio = append(ratio, turn[1]/((turn[0]+turn[2])/2))
		band = append(band, max(turn[0], turn[2])/min(turn[0], turn[2]))
	}
	name := fmt.Sprintf("%d organisations, %d hanging, %d failing: healthy p99 / untroubled", b.isolated, tenth.hang, tenth.fail)
	b.report.atMost(name, 1.25, "", fmt.Sprintf("untroubled against untroubled: %s", spreadOf(band...)), ratio...)
	const p = "isolation"
	b.report.note(p, "untroubled p99", "ms", append(untroubled, again...)...)
	b.report.note(p, "healthy p99 beside the troubled", "ms", p99...)
	b.report.note(p, "healthy p99 in the first seconds of the trouble", "ms", onset...)
	b.report.note(p, "untroubled p99 / untroubled p99", "", band...)
	thaw(ill)
	many := troubled{hang: b.isolated * 2 / 5}
	q, err := b.healthy(ctx, ill, many, b.steady)
	if err != nil {
		return err
	}
	b.report.note(p, fmt.Sprintf("healthy p99 with %d hanging", many.hang), "ms", millis(q.P99))
	return b.behave(ctx, nil)
}

// isolationRig posts to organisations from number first on at the receiver.
func (b *bench) isolationRig(ctx context.Context, name string, first int, people population) (*rig, error) {
	return b.startRig(ctx, rigOptions{name: name, people: people, timeout: "5s", firstPath: first})
}

func freeze(r *rig) { _ = r.cmd.Process.Signal(syscall.SIGSTOP) }

func thaw(r *rig) { _ = r.cmd.Process.Signal(syscall.SIGCONT) }

// healthy pings at 2,000 a second and returns the latency of those
// organisations that are well; the first of them hang or fail.
func (b *bench) healthy(ctx context.Context, r *rig, t troubled, lasts time.Duration) (quantiles, error) {
	how := map[int]Manner{}
	for o := range t.hang + t.fail {
		if o < t.hang {
			how[r.firstPath+o] = Manner{Hang: true}
		} else {
			how[r.firstPath+o] = Manner{Status: 503}
		}
	}
	if err := b.behave(ctx, how); err != nil {
		return quantiles{}, err
	}
	if err := b.prepare(ctx, r, b.users); err != nil {
		return quantiles{}, err
	}
	if err := b.receiver.call(ctx, "Reset", true, &struct{}{}); err != nil {
		return quantiles{}, err
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
		return quantiles{}, err
	}
	var got Received
	if err := b.receiver.call(ctx, "Wait", Wait{want, 20 * time.Second}, &got); err != nil {
		return quantiles{}, err
	}
	if err := b.receiver.call(ctx, "Take", struct{}{}, &got); err != nil {
		return quantiles{}, err
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
		return quantiles{}, fmt.Errorf("the healthy got %d of %d: %w", len(of), want, errTooFew)
	}
	return between(of, from, run.Due).quantiles(), nil
}

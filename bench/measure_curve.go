package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// load is what one rate of the curve gave.
type load struct {
	Offered  float64 `json:"pings_per_second"`
	AnswerMS float64 `json:"answer_p99_ms"`
	P50MS    float64 `json:"received_p50_ms"`
	P99MS    float64 `json:"received_p99_ms"`
	// BacklogS is how long after the last ping the last outcome was in Redis.
	BacklogS float64 `json:"backlog_seconds"`
}

// curveShares are the rates of the curve, as shares of what the daemon keeps up
// with: from idle to twice too much.
var curveShares = []float64{0.05, 0.25, 0.5, 0.7, 0.85, 1, 1.25, 1.5, 2}

// measureCurve: latency against offered load, up to saturation and beyond it,
// where the queue grows, pings are still answered, and none is refused (deliver
// fails when one is).
func (b *bench) measureCurve(ctx context.Context) error {
	r, err := b.usualRig(ctx)
	if err != nil {
		return err
	}
	full, err := b.capacity(ctx, r)
	if err != nil {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%10s %12s %14s %14s %14s\n", "pings/s", "204 p99 ms", "received p50", "received p99", "backlog s")
	for _, share := range curveShares {
		d, err := b.deliver(ctx, r, Pings{Rate: full * share, For: b.burst * 3 / 5}, true)
		if err != nil {
			return fmt.Errorf("at %.0f pings/s: %w", full*share, err)
		}
		q := between(d.arrivals, b.cursor-d.run.Sent, d.run.Due).quantiles()
		l := load{
			Offered: full * share, AnswerMS: millis(latencies(d.run.Latency).percentile(0.99)),
			P50MS: millis(q.P50), P99MS: millis(q.P99), BacklogS: max(d.late, 0).Seconds(),
		}
		b.report.Curve = append(b.report.Curve, l)
		fmt.Fprintf(&text, "%10.0f %12.1f %14.1f %14.1f %14.2f\n", l.Offered, l.AnswerMS, l.P50MS, l.P99MS, l.BacklogS)
		if !sleep(ctx, 200*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	b.report.Capacity = full
	b.report.Sections = append(b.report.Sections, section{"Latency against offered load (docs/latency.svg); nothing was refused", text.String()})
	return nil
}

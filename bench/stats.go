package main

import (
	"math"
	"slices"
	"time"
)

// spread is what the rounds of one measurement gave.
type spread struct {
	Min    float64   `json:"min"`
	Median float64   `json:"median"`
	Max    float64   `json:"max"`
	Rounds []float64 `json:"rounds"`
}

// spreadOf summarises rounds in the order in which they were made. Rounds that
// could not be measured (NaN) are left out of the summary.
func spreadOf(rounds ...float64) spread {
	valid := slices.DeleteFunc(slices.Clone(rounds), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
	if len(valid) == 0 {
		return spread{}
	}
	slices.Sort(valid)
	return spread{Min: valid[0], Median: medianOf(valid), Max: valid[len(valid)-1], Rounds: valid}
}

// medianOf returns the median of sorted values; the mean of the middle two when
// their number is even.
func medianOf(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return math.NaN()
	}
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// ratios divides round by round: a round and its baseline ran side by side.
func ratios(of, by []float64) []float64 {
	out := make([]float64, min(len(of), len(by)))
	for i := range out {
		out[i] = of[i] / by[i]
	}
	return out
}

// latencies are durations in nanoseconds, unsorted.
type latencies []int64

// percentile returns the smallest value that at least p (0 to 1) of the values
// do not exceed: the nearest-rank method. Nothing gives 0.
func (l latencies) percentile(p float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	sorted := slices.Clone(l)
	slices.Sort(sorted)
	return sorted.rank(p)
}

// rank is percentile of what is sorted already.
func (l latencies) rank(p float64) time.Duration {
	i := int(math.Ceil(p*float64(len(l)))) - 1
	return time.Duration(l[min(max(i, 0), len(l)-1)])
}

// quantiles are the percentiles that are reported.
type quantiles struct{ P50, P90, P99, P999, Max time.Duration }

func (l latencies) quantiles() quantiles {
	if len(l) == 0 {
		return quantiles{}
	}
	s := slices.Clone(l)
	slices.Sort(s)
	return quantiles{s.rank(0.5), s.rank(0.9), s.rank(0.99), s.rank(0.999), time.Duration(s[len(s)-1])}
}

// intended is when the i-th ping of an open-loop run is to be sent, in
// nanoseconds after its start. Latency is counted from here and not from when
// the sender got round to it: a server that stalls the sender must not thereby
// hide the pings that it delayed (coordinated omission).
func intended(i int, rate float64) int64 {
	return int64(float64(i) / rate * float64(time.Second))
}

// millis is a duration as a number for tables.
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

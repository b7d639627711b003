package main

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestPercentileIsNearestRank(t *testing.T) {
	t.Parallel()
	var hundred latencies
	for i := 100; i >= 1; i-- {
		hundred = append(hundred, int64(i))
	}
	for p, want := range map[float64]time.Duration{0: 1, 0.005: 1, 0.01: 1, 0.011: 2, 0.5: 50, 0.9: 90, 0.99: 99, 0.991: 100, 1: 100} {
		if got := hundred.percentile(p); got != want {
			t.Errorf("p%v = %d, want %d", p*100, got, want)
		}
	}
	if hundred[0] != 100 {
		t.Error("percentile sorted its input")
	}
	if got := (latencies{7}).quantiles(); got != (quantiles{7, 7, 7, 7, 7}) {
		t.Errorf("one value: %+v", got)
	}
	if (latencies{}).percentile(0.5) != 0 || (latencies{}).quantiles() != (quantiles{}) {
		t.Error("nothing is not 0")
	}
	if got := hundred.quantiles(); got != (quantiles{50, 90, 99, 100, 100}) {
		t.Errorf("%+v", got)
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	got := spreadOf(3, math.NaN(), 1, 2, math.Inf(1))
	if got.Min != 1 || got.Median != 2 || got.Max != 3 || !slices.Equal(got.Rounds, []float64{1, 2, 3}) {
		t.Errorf("%+v", got)
	}
	if got := spreadOf(4, 1); got.Median != 2.5 {
		t.Errorf("median of two: %v", got.Median)
	}
	if got := spreadOf(); got.Rounds != nil {
		t.Errorf("of nothing: %+v", got)
	}
	if got := ratios([]float64{10, 30}, []float64{20, 10, 5}); !slices.Equal(got, []float64{0.5, 3}) {
		t.Errorf("ratios %v", got)
	}
}

func TestIntended(t *testing.T) {
	t.Parallel()
	for i, want := range map[int]time.Duration{0: 0, 1: 5 * time.Millisecond, 200: time.Second, 1_000_000: 5000 * time.Second} {
		if got := time.Duration(intended(i, 200)); got != want {
			t.Errorf("ping %d at %s, want %s", i, got, want)
		}
	}
}

// TestStallIsNotHidden plays a sender of one connection that is stalled once
// for 100 ms at 100 pings a second: ten pings are late, and they are counted
// from when they should have gone.
func TestStallIsNotHidden(t *testing.T) {
	t.Parallel()
	const service = int64(time.Millisecond)
	var corrected, naive latencies
	free := int64(0)
	for i := range 100 {
		due := intended(i, 100)
		begin := max(due, free)
		took := service
		if i == 50 {
			took = int64(100 * time.Millisecond)
		}
		free = begin + took
		corrected, naive = append(corrected, free-due), append(naive, free-begin)
	}
	if got := naive.percentile(0.95); got != time.Millisecond {
		t.Errorf("what the sender sees: p95 %s", got)
	}
	if got := corrected.percentile(0.95); got < 50*time.Millisecond {
		t.Errorf("corrected p95 is %s, the stall is hidden", got)
	}
}

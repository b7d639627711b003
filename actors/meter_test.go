package actors

import (
	"testing"
	"time"
)

func TestAMeterForgetsWhatIsOld(t *testing.T) {
	t.Parallel()
	var m meter
	at := time.Unix(1_800_000_000, 0)
	if got := m.speed(at); got != 0 {
		t.Errorf("nothing happened at %v a second", got)
	}
	for second := range 30 {
		for range 5 {
			m.add(at.Add(time.Duration(second) * time.Second))
		}
	}
	for after, want := range map[int]float64{30: 5, 34: 3, 40: 0, 400: 0} {
		if got := m.speed(at.Add(time.Duration(after) * time.Second)); got != want {
			t.Errorf("%d s after the beginning: %v a second, want %v", after, got, want)
		}
	}
	var young meter
	for range 6 {
		young.add(at)
	}
	if got := young.speed(at.Add(2 * time.Second)); got != 3 {
		t.Errorf("two seconds after six at once: %v a second, want 3", got)
	}
}

package actors

import (
	"sync"
	"time"
)

// meterSpan is over how many whole seconds a speed is measured.
const meterSpan = 10

// meter counts what happens second by second. The zero value is ready.
type meter struct {
	mu    sync.Mutex
	since int64 // second of the first count
	at    [meterSpan + 1]int64
	n     [meterSpan + 1]int
}

// add counts one.
func (m *meter) add(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	second := now.Unix()
	if m.since == 0 {
		m.since = second
	}
	i := second % int64(len(m.n))
	if m.at[i] != second {
		m.at[i], m.n[i] = second, 0
	}
	m.n[i]++
}

// speed returns how many a second there were over the last whole seconds.
func (m *meter) speed(now time.Time) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	second, sum := now.Unix(), 0
	for i, at := range m.at {
		if at < second && at >= second-meterSpan {
			sum += m.n[i]
		}
	}
	span := min(second-m.since, meterSpan)
	if m.since == 0 || span <= 0 {
		return 0
	}
	return float64(sum) / float64(span)
}

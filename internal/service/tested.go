package service

import (
	"sync"
	"time"
)

// testEvery is how often one organisation may be sent a test event.
const testEvery = 10 * time.Second

// testedAt remembers when each organisation was last sent a test event.
type testedAt struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// claim returns how long to wait, or zero and notes the test.
func (t *testedAt) claim(id string, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, at := range t.last {
		if now.Sub(at) >= testEvery {
			delete(t.last, other)
		}
	}
	if at, ok := t.last[id]; ok {
		return testEvery - now.Sub(at)
	}
	t.last[id] = now
	return 0
}

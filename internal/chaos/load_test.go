package chaos

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// load is ORCID's traffic: workers that ping one user after the other.
type load struct {
	cancel  context.CancelFunc
	workers sync.WaitGroup
}

// loadWorkers share the users: no user is pinged by two at once.
const loadWorkers = 8

// startLoad begins to ping the users from first on, in random order, so many a
// second.
func (w *world) startLoad(rng *rand.Rand, first int, rate float64) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	every := time.Duration(float64(time.Second) * loadWorkers / rate)
	for k := range loadWorkers {
		var mine []int
		for u := first + k; u < len(w.users); u += loadWorkers {
			mine = append(mine, u)
		}
		rng.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
		l.workers.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for i := 0; ; i++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				_, _ = w.ping(mine[i%len(mine)]) // the books count what was not answered
			}
		})
	}
	return l
}

// stop ends the load; pings under way are booked before it returns.
func (l *load) stop() {
	l.cancel()
	l.workers.Wait()
}

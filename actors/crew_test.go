package actors

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestCrew(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]*crew{"kept": newCrew(), "zero value": {}} {
		var done atomic.Int64
		hold := make(chan struct{})
		var begun sync.WaitGroup
		begun.Add(2 * mostIdle)
		for range 2 * mostIdle { // all at once: nobody waits for another
			c.do(func() {
				begun.Done()
				<-hold
				done.Add(1)
			})
		}
		begun.Wait()
		close(hold)
		for range 1000 {
			var one sync.WaitGroup
			one.Add(1)
			c.do(func() { done.Add(1); one.Done() })
			one.Wait()
		}
		c.end()
		if done.Load() != 2*mostIdle+1000 || c.idle > mostIdle {
			t.Errorf("%s: %d jobs done, %d idle", name, done.Load(), c.idle)
		}
	}
}

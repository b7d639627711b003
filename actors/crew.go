package actors

import "sync"

// crew runs short jobs in goroutines that are kept for the next job: a delivery
// needs a deep stack, and growing a new one costs as much as the delivery's own
// work. Nothing ever waits for a goroutine: there is always one more. The zero
// value keeps none.
type crew struct {
	members sync.WaitGroup
	jobs    chan func() // without buffer: taken only by who has nothing to do
	quit    chan struct{}

	mu   sync.Mutex
	idle int
}

// mostIdle bounds those kept; what needs more at once pays for new stacks.
const mostIdle = 128

func newCrew() *crew { return &crew{jobs: make(chan func()), quit: make(chan struct{})} }

// do runs job, which must not panic, soon and elsewhere.
func (c *crew) do(job func()) {
	select {
	case c.jobs <- job:
	default:
		c.members.Go(func() { c.work(job) })
	}
}

func (c *crew) work(job func()) {
	for {
		job()
		if !c.rest(1) {
			return
		}
		select {
		case job = <-c.jobs:
			c.rest(-1)
		case <-c.quit:
			return
		}
	}
}

// rest counts one more or less of the idle; it refuses the surplus.
func (c *crew) rest(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.jobs == nil || n > 0 && c.idle >= mostIdle {
		return false
	}
	c.idle += n
	return true
}

// end lets go those who have nothing to do, and the others when they have done
// it; it returns when all are gone.
func (c *crew) end() {
	if c.quit != nil {
		close(c.quit)
	}
	c.members.Wait()
}

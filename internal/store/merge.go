package store

import (
	"context"
	"sync"
)

// merger joins concurrent calls of one verb into batches: whoever comes first
// starts a flush, whatever queues up meanwhile goes together in the next one.
// Nothing ever waits for company, so an idle verb costs one round trip.
type merger[Q, R any] struct {
	// flush does a whole batch; it returns one result and one error per entry.
	flush func(ctx context.Context, batch []Q) ([]R, []error)
	// max is the most entries of one batch.
	max int
	// parallel is the most flushes at once.
	parallel int

	mu     sync.Mutex
	queue  []waiting[Q, R]
	active int
	done   sync.WaitGroup
}

type waiting[Q, R any] struct {
	q   Q
	out chan merged[R]
}

type merged[R any] struct {
	r   R
	err error
}

// Do queues q and waits for its result. When ctx ends first the call may still
// take effect.
func (m *merger[Q, R]) Do(ctx context.Context, q Q) (R, error) {
	w := waiting[Q, R]{q: q, out: make(chan merged[R], 1)}
	m.mu.Lock()
	m.queue = append(m.queue, w)
	if m.active < m.parallel {
		m.active++
		m.done.Add(1)
		go m.run()
	}
	m.mu.Unlock()
	select {
	case r := <-w.out:
		return r.r, r.err
	case <-ctx.Done():
		var zero R
		return zero, context.Cause(ctx)
	}
}

// run flushes until the queue is empty.
func (m *merger[Q, R]) run() {
	defer m.done.Done()
	for {
		m.mu.Lock()
		n := min(len(m.queue), m.max)
		if n == 0 {
			m.active--
			m.mu.Unlock()
			return
		}
		batch := m.queue[:n:n]
		m.queue = append([]waiting[Q, R](nil), m.queue[n:]...)
		m.mu.Unlock()

		qs := make([]Q, n)
		for i, w := range batch {
			qs[i] = w.q
		}
		// A batch belongs to many callers; none of their contexts may end it.
		rs, errs := m.flush(context.Background(), qs)
		for i, w := range batch {
			w.out <- merged[R]{rs[i], errs[i]}
		}
	}
}

// wait returns when no flush is running.
func (m *merger[Q, R]) wait() { m.done.Wait() }

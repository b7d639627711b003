package store

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
)

// merger joins concurrent calls of one verb into batches: whoever comes first
// flushes at once and by itself, whatever queues up meanwhile goes together in
// the next flush. Nothing ever waits for company, so an idle verb costs one
// round trip and wakes no other goroutine.
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

// Do returns the result of q. When ctx ends first the call may still take
// effect; one that flushes by itself returns when Redis has answered, or with
// the time limit of that.
func (m *merger[Q, R]) Do(ctx context.Context, q Q) (R, error) {
	w := waiting[Q, R]{q: q, out: make(chan merged[R], 1)}
	m.mu.Lock()
	m.queue = append(m.queue, w)
	first := m.active < m.parallel
	if first {
		m.active++
		m.done.Add(1)
	}
	m.mu.Unlock()
	if first {
		m.lead()
	}
	select {
	case r := <-w.out:
		return r.r, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-w.out: // also when its flush outlived ctx: a claim that nobody takes would lie for long
		return r.r, r.err
	default:
		var zero R
		return zero, context.Cause(ctx)
	}
}

// lead flushes for the caller and whoever queues with it.
func (m *merger[Q, R]) lead() {
	// Who is about to call too goes along: when many deliveries end at once,
	// one flush instead of two. With nobody about, this does nothing.
	runtime.Gosched()
	batch := m.next()
	if batch == nil {
		return
	}
	// Deferred: a panic, which the caller may recover, must not leave the others
	// waiting for ever. They are not for the caller to do.
	defer func() {
		if batch := m.next(); batch != nil {
			go m.run(batch)
		}
	}()
	m.put(batch)
}

// run flushes until the queue is empty.
func (m *merger[Q, R]) run(batch []waiting[Q, R]) {
	for ; batch != nil; batch = m.next() {
		m.put(batch)
	}
}

// next takes the next batch, nil when the queue is empty.
func (m *merger[Q, R]) next() []waiting[Q, R] {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) == 0 {
		m.active--
		m.done.Done()
		return nil
	}
	n := min(len(m.queue), m.max)
	batch := m.queue[:n:n]
	m.queue = append([]waiting[Q, R](nil), m.queue[n:]...)
	return batch
}

// put flushes a batch. It belongs to many callers; none of their contexts may
// end it.
func (m *merger[Q, R]) put(batch []waiting[Q, R]) {
	qs := make([]Q, len(batch))
	for i, w := range batch {
		qs[i] = w.q
	}
	rs, errs := make([]R, len(batch)), slices.Repeat([]error{errFlush}, len(batch)) // should flush panic
	defer func() {
		for i, w := range batch {
			w.out <- merged[R]{rs[i], errs[i]}
		}
	}()
	rs, errs = m.flush(context.Background(), qs)
}

var errFlush = errors.New("the call panicked")

// wait returns when no flush is running.
func (m *merger[Q, R]) wait() { m.done.Wait() }

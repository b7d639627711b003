package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/intake/spool"
)

// outcome is where a ping went.
type outcome uint8

const (
	nowhere outcome = iota
	inLog
	inSpool
)

var (
	errRedisWait = errors.New("redis did not answer in time")
	errSpoolWait = errors.New("the disk did not finish in time")
	errPanic     = errors.New("panic")
)

// writer makes pings durable, in groups: at most Options.Lanes are written at
// once, and while they are the next one gathers. Whoever finds a lane free writes
// at once and by itself, so that a ping alone wakes no other goroutine. Nobody
// waits for a group to fill: that would halve the throughput.
type writer struct {
	o       *Options
	logger  *slog.Logger
	metrics *metrics
	breaker breaker
	mode    mode

	pool   sync.Pool // of *waiting
	groups sync.Pool // of *group
	lanes  sync.WaitGroup
	done   chan struct{} // closed when stop has ended

	mu      sync.Mutex
	queue   []*waiting
	busy    int // lanes that write
	stopped bool
}

// waiting is a handler that waits for its ping to be durable.
type waiting struct {
	ping event.Ping
	done chan outcome // of one place
}

// group is what goes into the log as one entry.
type group struct {
	members []*waiting
	pings   []event.Ping
}

func newWriter(o *Options, logger *slog.Logger, m *metrics) *writer {
	w := &writer{
		o: o, logger: logger, metrics: m,
		breaker: breaker{probeAfter: o.ProbeAfter},
		done:    make(chan struct{}),
	}
	w.pool.New = func() any { return &waiting{done: make(chan outcome, 1)} }
	w.groups.New = func() any { return new(group) }
	w.mode.logger = logger
	return w
}

// write returns when the ping is durable, or when it cannot be made so.
func (w *writer) write(p event.Ping) outcome {
	x := w.pool.Get().(*waiting)
	x.ping = p
	w.mu.Lock()
	if w.stopped {
		w.mu.Unlock()
		return nowhere
	}
	w.queue = append(w.queue, x)
	free := w.busy < w.o.Lanes
	if free {
		w.busy++
		w.lanes.Add(1)
	}
	w.mu.Unlock()
	if free {
		w.lead()
	}
	out := <-x.done
	w.pool.Put(x)
	return out
}

// lead writes the caller's ping and those queued with it.
func (w *writer) lead() {
	// Who is about to queue too goes along. With nobody about, this does nothing.
	runtime.Gosched()
	g := w.next()
	if g == nil {
		return
	}
	// Deferred: a panic, which the handler recovers, must not keep the lane. The
	// others need not wait for this ping's handler.
	defer func() {
		if g := w.next(); g != nil {
			go w.lane(g)
		}
	}()
	w.put(g)
}

// stop returns when everything queued is written; later pings are refused.
func (w *writer) stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.lanes.Wait()
	close(w.done)
}

// wait returns when stop has, or with an error when ctx ends first.
func (w *writer) wait(ctx context.Context) error {
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the callback listener to stop: %w", context.Cause(ctx))
	}
}

// lane writes one group after the other until nothing is queued.
func (w *writer) lane(g *group) {
	for ; g != nil; g = w.next() {
		w.put(g)
	}
}

// next takes the next group; without one the lane is free again.
func (w *writer) next() *group {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.busy--
		w.lanes.Done()
		return nil
	}
	g := w.groups.Get().(*group)
	n := min(len(w.queue), maxGroup)
	g.members = append(g.members[:0], w.queue[:n]...)
	left := copy(w.queue, w.queue[n:])
	clear(w.queue[left:])
	w.queue = w.queue[:left]
	g.pings = g.pings[:0]
	for _, x := range g.members {
		g.pings = append(g.pings, x.ping)
	}
	return g
}

// put makes a group durable and tells its handlers.
func (w *writer) put(g *group) {
	out := w.commit(g.pings)
	for _, x := range g.members {
		x.done <- out
	}
	clear(g.members)
	w.groups.Put(g)
	if out != nowhere {
		w.o.OnTaken()
	}
}

// commit writes the pings to the log; to the spool while Redis is away or must
// not be trusted; and to neither only when both fail.
func (w *writer) commit(pings []event.Ping) outcome {
	guardErr := w.protect(w.o.Guard)
	tried, unsure := false, false
	why := guardErr
	if guardErr == nil && w.breaker.allow(w.o.Now()) {
		tried = true
		err := w.append(pings)
		if err == nil {
			return inLog
		}
		unsure = errors.Is(err, errPanic) || spool.OutcomeUnknown(err)
		why = err
	}
	spoolErr := w.spool(pings, unsure)
	if spoolErr == nil {
		w.mode.set(ToSpool, why, w.o.Now())
		return inSpool
	}
	// The breaker may be open for a Redis that is back. A wait is better than
	// a refusal.
	if guardErr == nil && !tried {
		if why = w.append(pings); why == nil {
			return inLog
		}
	}
	w.mode.set(Refusing, fmt.Errorf("%w; %w", why, spoolErr), w.o.Now())
	return nowhere
}

func (w *writer) append(pings []event.Ping) error {
	err := w.protect(func() error {
		ctx, cancel := context.WithTimeoutCause(context.Background(), w.o.RedisWait, errRedisWait)
		defer cancel()
		return w.o.Log.Append(ctx, pings)
	})
	if err != nil {
		w.breaker.fail(w.o.Now())
		return err
	}
	w.breaker.succeed()
	w.mode.set(ToLog, nil, w.o.Now())
	return nil
}

func (w *writer) spool(pings []event.Ping, unsure bool) error {
	return w.protect(func() error {
		ctx, cancel := context.WithTimeoutCause(context.Background(), w.o.SpoolWait, errSpoolWait)
		defer cancel()
		if unsure {
			return w.o.Spool.PutUnsure(ctx, pings)
		}
		return w.o.Spool.Put(ctx, pings)
	})
}

// protect makes a panic of f an error: in a lane it would end the process and
// every ping that waits.
func (w *writer) protect(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			w.metrics.panics.Inc()
			w.logger.Error("panic", "err", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: %v", errPanic, r)
		}
	}()
	return f()
}

func (w *writer) logWorks() {
	w.breaker.succeed()
	if w.protect(w.o.Guard) == nil {
		w.mode.set(ToLog, nil, w.o.Now())
	}
}

func (w *writer) state() State { return w.mode.get() }

// breaker remembers that Redis failed, so that only one ping waits for it.
type breaker struct {
	probeAfter time.Duration

	mu      sync.Mutex
	open    bool
	probeAt time.Time
}

// allow reports whether to try Redis now. While the breaker is open that is
// one group after each probeAfter: the Drainer usually knows before
// (LogWorks), but it may be stopped.
func (b *breaker) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return true
	}
	if now.Before(b.probeAt) {
		return false
	}
	b.probeAt = now.Add(b.probeAfter)
	return true
}

func (b *breaker) fail(now time.Time) {
	b.mu.Lock()
	b.open, b.probeAt = true, now.Add(b.probeAfter)
	b.mu.Unlock()
}

func (b *breaker) succeed() {
	b.mu.Lock()
	b.open = false
	b.mu.Unlock()
}

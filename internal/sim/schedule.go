package sim

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

// schedule holds when (virtual) each loop is due next.
type schedule struct {
	index, reindex, send, traffic time.Time
}

// begin sets the first passes: the indexer a period after the start, the
// sender at the offset that ORCID's cron has in each period.
func (s *schedule) begin(start time.Time, o Options) {
	s.index = start.Add(o.IndexPeriod)
	s.reindex = start.Add(o.IndexPeriod * 3 / 2)
	s.send = start.Add(o.WebhookPeriod)
	if off := cronOffset % o.WebhookPeriod; off > 0 {
		s.send = start.Add(off)
	}
}

// task is one of the loops.
type task int

const (
	taskIndex task = iota
	taskReindex
	taskSend
	taskTraffic
	taskNone
)

// at returns when a task is due; the lock is held.
func (s *schedule) at(t task) time.Time {
	return [...]time.Time{s.index, s.reindex, s.send, s.traffic}[t]
}

// next returns the earliest task; the indexer goes before the sender.
func (s *schedule) next() (task, time.Time) {
	best, due := taskNone, time.Time{}
	for t := taskIndex; t < taskNone; t++ {
		if at := s.at(t); !at.IsZero() && (best == taskNone || at.Before(due)) {
			best, due = t, at
		}
	}
	return best, due
}

// done sets when a task is due again: the first of its times after now, since
// a scheduler that is late skips runs rather than making up for them.
func (r *Registry) done(t task, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.nextDue
	switch t {
	case taskIndex:
		s.index = after(s.index, r.opts.IndexPeriod, now)
	case taskReindex:
		s.reindex = after(s.reindex, r.opts.IndexPeriod*3/2, now)
	case taskSend:
		s.send = after(s.send, r.opts.WebhookPeriod, now)
	case taskTraffic, taskNone:
	}
}

// after returns the first of due + n*period, n ≥ 1, that is after now.
func after(due time.Time, period time.Duration, now time.Time) time.Time {
	late := max(now.Sub(due), 0)
	return due.Add(late - late%period + period)
}

// do makes one pass of a task.
func (r *Registry) do(ctx context.Context, t task) {
	switch t {
	case taskIndex:
		r.index(&r.pending, indexPending)
	case taskReindex:
		r.index(&r.reindex, indexAgain)
	case taskSend:
		r.SendOnce(ctx)
	case taskTraffic:
		r.trafficOnce()
	case taskNone:
	}
}

// Shift moves the clock forward by d without running any pass.
func (r *Registry) Shift(d time.Duration) { r.clock.shift(d) }

// SetSpeed changes how many virtual seconds pass in a real one.
func (r *Registry) SetSpeed(speed float64) error {
	if !(speed > 0) || math.IsInf(speed, 0) {
		return fmt.Errorf("speed must be above 0 (got %v)", speed)
	}
	r.clock.setSpeed(speed)
	return nil
}

// Advance moves the clock forward by d. On a manual clock it runs every pass
// of the indexer and the sender that comes due on the way, in order, each at
// its own time and to its end. On a running clock Run does that, late as they
// are.
func (r *Registry) Advance(d time.Duration) { r.AdvanceContext(context.Background(), d) }

// AdvanceContext is Advance that stops when ctx ends.
func (r *Registry) AdvanceContext(ctx context.Context, d time.Duration) {
	if !r.opts.Manual {
		r.clock.shift(d)
		return
	}
	r.advancing.Lock()
	defer r.advancing.Unlock()
	end := r.Now().Add(d)
	for ctx.Err() == nil {
		r.mu.Lock()
		t, due := r.nextDue.next()
		r.mu.Unlock()
		if t == taskNone || due.After(end) {
			break
		}
		r.clock.shift(due.Sub(r.Now()))
		r.do(ctx, t)
		r.done(t, r.Now())
	}
	r.clock.shift(end.Sub(r.Now()))
}

// Run turns the indexer's and the sender's loops on the virtual clock until
// ctx ends, and returns nil then. With a manual clock, or while another Run
// turns them, it only waits.
func (r *Registry) Run(ctx context.Context) error {
	if r.opts.Manual || !r.running.TryLock() {
		<-ctx.Done()
		return nil
	}
	defer r.running.Unlock()
	var wg sync.WaitGroup
	for t := taskIndex; t < taskNone; t++ {
		wg.Go(func() { r.loop(ctx, t) })
	}
	wg.Wait()
	return nil
}

// loop runs one task whenever it is due.
func (r *Registry) loop(ctx context.Context, t task) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		moved := r.clock.changed() // before looking, so that no change is missed
		r.mu.Lock()
		due := r.nextDue.at(t)
		r.mu.Unlock()
		wait := time.Hour
		if !due.IsZero() {
			wait = r.clock.until(due)
		}
		timer.Reset(max(wait, 0))
		select {
		case <-ctx.Done():
			return
		case <-moved:
			continue
		case <-timer.C:
		}
		if !due.IsZero() {
			r.do(ctx, t)
			r.done(t, r.Now())
		}
	}
}

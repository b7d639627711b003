package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dispatchd/internal/event"
)

// Log is the intake log in Redis. Append returns nil when the pings are safe
// there, and soon after ctx ends.
type Log interface {
	Append(ctx context.Context, pings []event.Ping) error
}

// writeTimeout bounds the Drainer's own writes to the spool, so that a disk
// that hangs does not hang Stop.
const writeTimeout = 5 * time.Second

// MaxBatch is the largest number of pings in one entry of the intake log.
const MaxBatch = 256

// DrainerOptions say how a spool is drained.
type DrainerOptions struct {
	Log Log
	// Guard returns an error while Redis must not be written to; nil means
	// never. It must not block.
	Guard func() error
	// OnAppended is called after each append, for intake's breaker
	// (intake.Server.LogWorks); nil means nothing. It must not block.
	OnAppended func()
	Rate       int           // pings a second at most; 0 means 2000
	Batch      int           // pings in one append, at most 256; 0 means 256
	Timeout    time.Duration // of one append; 0 means 2 s
	MinBackoff time.Duration // after the first failure; 0 means 100 ms
	MaxBackoff time.Duration // doubling ends here; 0 means 2 s
	Logger     *slog.Logger  // nil means none
	Registerer prometheus.Registerer
}

// Drainer moves what waits in a spool into the intake log, the longest waiting
// first. While it fails it tries one ping at a time: that is the probe which
// finds out that Redis is back.
type Drainer struct {
	spool   *Spool
	o       DrainerOptions
	logger  *slog.Logger
	metrics *metrics

	// Of the loop:
	appended []Item // in the log, but not yet taken out of the spool
	failing  bool
	drained  int // since the spool was last empty

	mu     sync.Mutex
	cancel context.CancelFunc // nil while stopped
	done   chan struct{}
}

// NewDrainer makes a Drainer of the spool.
func NewDrainer(s *Spool, o DrainerOptions) (*Drainer, error) {
	switch {
	case s == nil:
		return nil, errors.New("drainer needs a spool")
	case o.Log == nil:
		return nil, errors.New("drainer needs Log")
	case o.Rate < 0 || o.Timeout < 0 || o.MinBackoff < 0 || o.MaxBackoff < 0:
		return nil, errors.New("drainer: Rate, Timeout and backoff must not be negative")
	case o.Batch < 0 || o.Batch > MaxBatch:
		return nil, fmt.Errorf("drainer: Batch must be 0 to %d (got %d)", MaxBatch, o.Batch)
	}
	if o.Guard == nil {
		o.Guard = func() error { return nil }
	}
	if o.OnAppended == nil {
		o.OnAppended = func() {}
	}
	if o.Rate == 0 {
		o.Rate = 2000
	}
	if o.Batch == 0 {
		o.Batch = MaxBatch
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	if o.MinBackoff == 0 {
		o.MinBackoff = 100 * time.Millisecond
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	return &Drainer{spool: s, o: o, logger: o.Logger.With("component", "spool"), metrics: m}, nil
}

// Start begins to drain until ctx ends or Stop is called. While it runs, later
// calls do nothing.
func (d *Drainer) Start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancel != nil {
		select {
		case <-d.done: // its context ended
		default:
			return nil
		}
	}
	ctx, d.cancel = context.WithCancel(ctx)
	d.done = make(chan struct{})
	go d.run(ctx, d.done)
	return nil
}

// Stop ends draining and waits for the loop. It may be called at any time, and
// again.
func (d *Drainer) Stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancel == nil {
		return
	}
	d.cancel()
	<-d.done
	d.cancel = nil
}

func (d *Drainer) run(ctx context.Context, done chan struct{}) {
	defer close(done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	backoff := d.o.MinBackoff
	for ctx.Err() == nil {
		began := time.Now()
		n, err := d.guarded(ctx)
		var wait time.Duration
		switch {
		case ctx.Err() != nil || errors.Is(err, ErrClosed):
			return
		case err != nil:
			if !d.failing {
				d.logger.Warn("the spool waits: it cannot be drained now", "err", err, "waiting", d.spool.Len())
			}
			d.failing = true
			wait = backoff/2 + rand.N(backoff/2+1)
			backoff = min(2*backoff, d.o.MaxBackoff)
		case n == 0:
			if d.drained > 0 {
				d.logger.Info("the spool is drained", "pings", d.drained)
			}
			d.failing, d.drained, backoff = false, 0, d.o.MinBackoff
			select {
			case <-ctx.Done():
			case <-d.spool.put:
			}
			continue
		default:
			d.failing, backoff = false, d.o.MinBackoff
			d.drained += n
			wait = time.Duration(n)*time.Second/time.Duration(d.o.Rate) - time.Since(began)
		}
		if wait <= 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
}

// guarded is runOnce, with a panic made an error.
func (d *Drainer) guarded(ctx context.Context) (n int, err error) {
	defer func() {
		if r := recover(); r != nil {
			d.metrics.panics.Inc()
			err = fmt.Errorf("drain spool: panic: %v", r)
		}
	}()
	return d.runOnce(ctx)
}

// runOnce appends one batch and takes it out of the spool. It returns how many
// pings that were; 0 without an error means that none waits.
func (d *Drainer) runOnce(ctx context.Context) (int, error) {
	// What is in the log already must leave the spool before anything else is
	// appended, or it would be appended again.
	if err := d.takeOut(ctx); err != nil {
		return 0, err
	}
	if err := d.o.Guard(); err != nil {
		if d.spool.Len() == 0 {
			return 0, nil
		}
		return 0, fmt.Errorf("drain spool: %w", err)
	}
	size := d.o.Batch
	if d.failing {
		size = 1
	}
	items, err := d.spool.Next(ctx, size)
	if err != nil || len(items) == 0 {
		return 0, err
	}
	pings := make([]event.Ping, len(items))
	for i := range items {
		pings[i] = items[i].Ping
	}
	actx, cancel := context.WithTimeoutCause(ctx, d.o.Timeout, errAppendTimeout)
	err = d.o.Log.Append(actx, pings)
	cancel()
	if err != nil {
		if OutcomeUnknown(err) {
			// Counted at once: the process may not live until they are in.
			err = errors.Join(err, d.noteUnsure(ctx, len(items)))
		}
		return 0, fmt.Errorf("drain spool: %w", err)
	}
	d.appended = items
	d.o.OnAppended()
	if err := d.takeOut(ctx); err != nil {
		return 0, err
	}
	return len(items), nil
}

func (d *Drainer) noteUnsure(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), writeTimeout, errWriteTimeout)
	defer cancel()
	return d.spool.noteUnsure(ctx, n)
}

// takeOut takes what was appended out of the spool, also while stopping: what
// stays would be appended again.
func (d *Drainer) takeOut(ctx context.Context) error {
	if len(d.appended) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), writeTimeout, errWriteTimeout)
	defer cancel()
	if err := d.spool.Done(ctx, d.appended); err != nil {
		return err
	}
	d.appended = nil
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dispatchd/actors"
	"dispatchd/internal/event"
	"dispatchd/internal/fanout"
	"dispatchd/internal/intake/spool"
	"dispatchd/internal/monthly"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

// attachment is what works only with a Redis that is ours: fan-out, the
// actors, jobs, the drainer. It is started once, when Redis first answers; a
// Redis that goes away later is waited for by each part itself.
type attachment struct {
	mu      sync.Mutex
	problem string    // why it does not work; empty while it does
	since   time.Time // of problem
	started bool
	cancel  context.CancelFunc
	unwatch context.CancelFunc // ends catch-up, which needs the actors' permits
	running sync.WaitGroup
	system  *actors.System
	drainer *spool.Drainer
	fanout  atomic.Pointer[fanout.Reader] // read by every ping, so without the lock

	recovering sync.Mutex // one recovery at a time
	recovered  bool       // Redis is ours again, but not everything knows it yet
}

func (at *attachment) init() {
	at.problem, at.since = "Redis was not reached yet", time.Now()
}

func (at *attachment) state() (problem string, since time.Time) {
	at.mu.Lock()
	defer at.mu.Unlock()
	return at.problem, at.since
}

func (at *attachment) setProblem(p string) {
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.problem != p {
		at.problem, at.since = p, time.Now()
	}
}

func (at *attachment) isStarted() bool {
	at.mu.Lock()
	defer at.mu.Unlock()
	return at.started
}

// wakeFanout hints the reader of the intake log, once there is one.
func (a *app) wakeFanout(lane int) {
	if f := a.attached.fanout.Load(); f != nil {
		f.Wake(lane)
	}
}

// attachLoop attaches to Redis as soon as it answers. A Redis that answered and
// is not fit ends the daemon when it is the first answer (the operator is
// looking); later, as while it forgot, pings go on into the spool and the
// operator is told.
func (a *app) attachLoop(ctx context.Context) error {
	wait := 100 * time.Millisecond
	first, said := true, ""
	for {
		err := a.attach(ctx)
		var unfit *store.Unfit
		if ctx.Err() != nil {
			return nil //nolint:nilerr // cut off by shutdown
		}
		if err == nil {
			a.tellReady(ctx)
			return nil
		}
		switch {
		case errors.As(err, &unfit) && first:
			return err
		case errors.Is(err, store.ErrForgot):
			a.tellReady(ctx)
			return nil // forgot() has shouted; recoverLoss goes on from here
		case errors.Is(err, store.ErrAway):
			if first {
				a.log.Warn("redis does not answer; pings go to the spool until it does", "err", err)
			}
			a.attached.setProblem(awayWords(err))
		default:
			if said != err.Error() { // tried every two seconds, said once
				said = err.Error()
				a.log.Error("redis cannot be used yet", "err", err)
			}
			a.attached.setProblem(unusableWords(err))
		}
		if first {
			a.tellReady(ctx) // the spool takes the pings
		}
		first = false
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// unusableWords says what is wrong with a Redis that answers. What status shows
// is for the operator, who gets the cause and not the words for everybody.
func unusableWords(err error) string {
	if own := new(service.Error); errors.As(err, &own) && own.Code == service.CodeInternal && own.Err != nil {
		err = own.Err
	}
	return err.Error()
}

// awayWords says why Redis is away, as far as a person can do something else
// about it than start it.
func awayWords(err error) string {
	for _, word := range []string{"WRONGPASS", "NOAUTH", "NOPERM"} {
		if strings.Contains(err.Error(), word) {
			return "Redis refuses us (" + word + "): redis.username or redis.password_file is wrong"
		}
	}
	if said := store.NotNow(err); said != "" {
		return "Redis refuses work: " + said
	}
	return "Redis does not answer"
}

// attach takes Redis over and starts what works only with it.
func (a *app) attach(ctx context.Context) error {
	if err := a.store.Attach(ctx); err != nil {
		return err
	}
	for _, w := range a.store.Warnings() {
		a.log.Warn("redis", "warning", w)
	}
	return a.startAttached(ctx)
}

// startAttached fills the directory and starts the parts, or, when they run
// already (after a recovery), only makes them know the new state.
func (a *app) startAttached(ctx context.Context) error {
	if err := a.service.Load(ctx); err != nil {
		return err
	}
	changes, err := a.service.ApplyFile(ctx, service.By{Who: "file", From: "start"}, a.config.Load().Organisations)
	if err != nil {
		return fmt.Errorf("apply the organisations of the configuration file: %w", err)
	}
	for _, c := range changes {
		a.log.Info("organisation", "change", c)
	}
	clients, err := a.newClients(a.config.Load())
	if err != nil {
		return err
	}
	creds, locked, err := a.credentials(ctx, a.config.Load(), a.keys.Load(), clients, a.hub.Load())
	if err != nil {
		return err
	}
	a.useClients(clients)
	a.locks.Store(&locked)
	if err := a.knowFormer(ctx, a.config.Load()); err != nil {
		return err
	}
	at := &a.attached
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.started {
		at.problem = ""
		if err := at.system.SetCredentials(creds); err != nil {
			return err
		}
		return a.sweepMoved(ctx, creds, locked)
	}
	paused, err := a.service.RegistrationsPaused(ctx)
	if err != nil {
		return err
	}
	// Jobs do not run before service.Run below, when the actors know the bases.
	if err := a.sweepMoved(ctx, creds, locked); err != nil {
		return err
	}
	ended, err := a.store.EndLeases(ctx)
	if errors.Is(err, event.ErrIncomplete) {
		a.log.Warn("some of what was in flight when the daemon before this one died is due at the end of its lease only", "err", err)
	} else if err != nil {
		return err
	}
	if ended > 0 {
		a.log.Info("what was in flight when the daemon before this one died is due again; receivers may get it twice, with the same webhook-id", "deliveries", ended)
	}
	system, err := actors.Start(actors.Options{
		Paused: paused,
		Slots:  a.store, Mail: a.store, Users: watchedUsers{a.store, a.watch}, Directory: a.directory, Deliverer: a.router, Guard: a.store.Guard(),
		Notices: a.service.Notices(), Credentials: creds, Limits: limitsOf(a.config.Load()),
		Now: a.store.Now, Panics: a.metrics.panicked, Logger: a.log, Registerer: a.reg,
	})
	if err != nil {
		return fmt.Errorf("start the actors: %w", err)
	}
	undo := func(err error) error {
		stopCtx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return errors.Join(err, system.Stop(stopCtx))
	}
	reader, err := fanout.New(a.fanoutOptions())
	if err != nil {
		return undo(err)
	}
	drainer, err := spool.NewDrainer(a.spool, spool.DrainerOptions{
		Log: a.store, Guard: a.store.Guard().Err, Logger: a.log, Registerer: a.reg,
		OnAppended: a.intake.LogWorks,
	})
	if err != nil {
		return undo(err)
	}
	months, err := monthly.New(monthly.Options{
		Store: a.store, Directory: a.directory, Sender: summaries{a}, Logger: a.log, Panics: a.metrics.panicked,
	})
	if err != nil {
		return undo(err)
	}
	// They outlive the context that attached them: shutdown ends them in order.
	work, cancel := context.WithCancel(context.Background())
	if err := drainer.Start(work); err != nil {
		cancel()
		return undo(err)
	}
	at.cancel, at.system, at.drainer = cancel, system, drainer
	at.fanout.Store(reader)
	a.hints.system.Store(system)
	at.running.Go(func() { a.store.Keep(work) })
	at.running.Go(func() { reader.Run(work) })
	at.running.Go(func() { months.Run(work) })
	watching, unwatch := context.WithCancel(work)
	at.unwatch = unwatch
	at.running.Go(func() { a.watch.Run(watching) })
	at.running.Go(func() { a.taker.Run(watching) })
	at.running.Go(func() {
		a.wakeGuests(watching)
		a.guests.Run(watching)
	})
	at.running.Go(func() {
		if err := a.service.Run(work); err != nil && work.Err() == nil {
			a.log.Error("jobs do not run; restart dispatchd when redis works", "err", err)
		}
	})
	at.started, at.problem = true, ""
	a.log.Info("ready", "organisations", a.directory.Len(), "credentials", len(creds))
	return nil
}

// recoverLoss is `dispatchd recover --accept-loss`: a person says that what
// Redis lost is lost.
func (a *app) recoverLoss(ctx context.Context) error {
	at := &a.attached
	at.recovering.Lock()
	defer at.recovering.Unlock()
	if a.store.Guard().Forgot() {
		if err := a.recoverStore(ctx); err != nil {
			return service.Explain("recover", err)
		}
		a.log.Warn("recovered: this redis is ours as it is, what it lost is lost")
		at.recovered = true
	}
	if !at.recovered {
		return &service.Error{Code: service.CodeConflict, What: "Redis is the one this installation knows; there is nothing to recover."}
	}
	if err := a.watch.OweLost(ctx, credentialNames(a.config.Load())); err != nil {
		return service.Explain("note what is to be caught up", err)
	}
	if err := a.startAttached(ctx); err != nil {
		return service.Explain("go on after the recovery", err) // asked again, it goes on from here
	}
	at.recovered = false
	return nil
}

// recoverStore tries for a few seconds: a Redis that has just come back is
// remembered as absent by the connection pool for a moment, and the person who
// typed the command should not have to do it twice.
func (a *app) recoverStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		err := a.store.Recover(ctx)
		if !errors.Is(err, store.ErrAway) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// stop ends what takes new work out of Redis; deliveries under way get their
// time.
func (at *attachment) stop(ctx context.Context) error {
	at.mu.Lock()
	started, system, unwatch := at.started, at.system, at.unwatch
	at.mu.Unlock()
	if !started {
		return nil
	}
	unwatch()
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	if err := system.Stop(ctx); err != nil {
		return fmt.Errorf("stop the actors: %w", err)
	}
	return nil
}

// letGo tells the rest to begin nothing more, without waiting for it.
func (at *attachment) letGo() {
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.started {
		at.cancel()
	}
}

// stopLate ends the rest, after the last ping was taken.
func (at *attachment) stopLate(context.Context) error {
	at.mu.Lock()
	defer at.mu.Unlock()
	if !at.started {
		return nil
	}
	at.drainer.Stop()
	at.cancel()
	at.running.Wait()
	at.started = false
	return nil
}

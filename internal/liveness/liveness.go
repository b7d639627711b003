// Package liveness owns that no registration dies unseen: it asks ORCID's
// search which records changed without a ping (catch-up), looks again at new
// registrations, notes when pings may have been missed, makes registrations at
// risk anew, and probes our own public URL. It promises that a change which the
// search knows is told, that a restart neither forgets nor repeats a round, and
// that ORCID is asked within the one rate. The daemon runs it.
package liveness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
)

// Store is what liveness keeps and reads. Every call may fail while Redis is
// away; then the work goes on later from the last cursor.
type Store interface {
	// Fact and SetFact keep small texts by name; an empty one is none.
	Fact(ctx context.Context, name string) (string, error)
	SetFact(ctx context.Context, name, value string) error
	// Members and MemberCount tell the users of an organisation.
	Members(ctx context.Context, org, cursor string, n int) (ids []orcid.ID, next string, err error)
	MemberCount(ctx context.Context, org string) (int, error)
	// Users reads records, nil for a missing one; SaveUser fails with
	// event.ErrConflict when the record changed meanwhile.
	Users(ctx context.Context, ids []orcid.ID) ([]*event.User, error)
	SaveUser(ctx context.Context, u event.User, work time.Time) (version string, err error)
	// Append writes into the intake log.
	Append(ctx context.Context, pings []event.Ping) error

	AddChecks(ctx context.Context, list []event.Check) error
	// DueChecks finds those of a kind, earliest first, after the first skip of them.
	DueChecks(ctx context.Context, kind event.CheckKind, now time.Time, skip, limit int) ([]event.Check, error)
	DropChecks(ctx context.Context, list []event.Check) error
	Silences(ctx context.Context, credential string, ids []orcid.ID) ([]event.Silence, error)
	SetSilences(ctx context.Context, credential string, list map[orcid.ID]event.Silence) error

	// PingsOf returns each user's latest ping by each credential, zero for one that
	// is not kept; DropPings forgets them.
	PingsOf(ctx context.Context, ids []orcid.ID, credentials []string) ([][]time.Time, error)
	DropPings(ctx context.Context, id orcid.ID, credentials []string) error
}

// Directory knows the current organisations; what it returns must not be changed.
type Directory interface {
	Organisation(id string) (*org.Organisation, bool)
	All() []*org.Organisation
}

// ORCID asks the registry with a credential. Each call waits for its permit. An
// error that wraps *orcid.AnswerError carries what ORCID said.
type ORCID interface {
	ChangedSince(ctx context.Context, credential string, ids []orcid.ID, since time.Time) ([]orcid.ID, error)
	ChangedBetween(ctx context.Context, credential string, from, to time.Time, start, rows int) (ids []orcid.ID, total int, err error)
	LastModified(ctx context.Context, credential string, id orcid.ID) (time.Time, error)
}

// Options wires a Watcher. All but Tick and Registerer must be set.
type Options struct {
	Store     Store
	Directory Directory
	ORCID     ORCID
	// Credentials returns our names of the credentials that work is done for.
	Credentials func() []string
	// Every is how often each credential's users are searched for changes; 0:
	// only after an outage. Asked again and again, so that a reload takes effect.
	Every func() time.Duration
	// Guard is not nil while Redis must not be trusted; nothing is done then.
	Guard func() error
	// Gaps knows when pings may have been missed.
	Gaps *Gaps
	// Backlog returns when the oldest ping was accepted that is not fanned out yet,
	// wherever it waits; zero: none does.
	Backlog func(ctx context.Context) (time.Time, error)
	Now     func() time.Time // the time that everything stored is measured by
	Logger  *slog.Logger
	// Panics counts a recovered panic.
	Panics     func(component string)
	Registerer prometheus.Registerer
	// Tick is the pause between looks at what is due. Default 30 s.
	Tick time.Duration
}

// Watcher does the work. It is safe for concurrent use.
type Watcher struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
	kick    chan struct{}

	editing sync.Mutex // one edit of a progress at a time

	mu     sync.Mutex
	trials map[string]*trial                 // by what is tried: a credential, the checks
	pages  map[string]map[orcid.ID]time.Time // by credential, see pageOf
	judges map[string]*sync.Mutex            // by credential, see judging

	count Count

	atOnce int // how many checks are taken at once; fewer in tests

	waits atomic.Bool // for the backlog of pings

	changed   atomic.Bool // a registration, since the last count
	counted   time.Time   // of the real clock; the counting one's own, like the next
	countTook time.Duration
}

// trial is how something fares that is tried again and again.
type trial struct {
	running  bool
	failures int
	notUntil time.Time // of the real clock
	last     error
	since    time.Time // of the first of the failures
}

// New checks the options.
func New(o Options) (*Watcher, error) {
	if o.Store == nil || o.Directory == nil || o.ORCID == nil || o.Credentials == nil || o.Every == nil || o.Guard == nil ||
		o.Gaps == nil || o.Backlog == nil || o.Now == nil || o.Logger == nil || o.Panics == nil {
		return nil, errors.New("liveness: every option but Tick and Registerer must be set")
	}
	if o.Tick <= 0 {
		o.Tick = 30 * time.Second
	}
	return &Watcher{
		o: o, log: o.Logger.With("component", "liveness"), metrics: newMetrics(o.Registerer),
		kick: make(chan struct{}, 1), atOnce: checksAtOnce, trials: map[string]*trial{}, pages: map[string]map[orcid.ID]time.Time{}, judges: map[string]*sync.Mutex{},
	}, nil
}

// Kick makes Run look at what is due now. It does not block.
func (w *Watcher) Kick() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Run works until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(w.o.Tick)
	defer tick.Stop()
	for {
		w.look(ctx, wg.Go)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-w.kick:
		}
	}
}

// look starts what is due and does not run yet.
func (w *Watcher) look(ctx context.Context, start func(func())) {
	if w.o.Guard() != nil {
		return // the guard has told everybody
	}
	credentials := w.o.Credentials()
	w.try(ctx, "gaps", start, func(ctx context.Context) error { return w.handOver(ctx, credentials) })
	for _, c := range credentials {
		w.try(ctx, "credential "+c, start, func(ctx context.Context) error { return w.catchUp(ctx, c) })
	}
	w.try(ctx, "checks", start, w.runChecks)
	w.try(ctx, "counting", start, w.census)
}

// maxBacklog is how long ago a ping that waits to be fanned out may have come: who
// was pinged is known only after that, and a change counts as silent from 15 min on.
const maxBacklog = 5 * time.Minute

// behind reports whether pings wait that may tell of changes which would else be
// taken for silent ones: then nobody is judged.
func (w *Watcher) behind(ctx context.Context) (bool, error) {
	oldest, err := w.o.Backlog(ctx)
	if err != nil {
		return false, fmt.Errorf("see which pings wait: %w", err)
	}
	is := !oldest.IsZero() && oldest.Before(w.o.Now().Add(-maxBacklog))
	if was := w.waits.Swap(is); is && !was {
		w.log.Info("catch-up waits for pings that are still to be fanned out", "oldest", oldest)
	}
	return is, nil
}

// The pauses after failures.
const (
	firstRest = 30 * time.Second
	maxRest   = 15 * time.Minute
)

// try runs f unless it runs already or rests after a failure. A failure is
// logged once until f works again.
func (w *Watcher) try(ctx context.Context, what string, start func(func()), f func(context.Context) error) {
	w.mu.Lock()
	t := w.trials[what]
	if t == nil {
		t = &trial{}
		w.trials[what] = t
	}
	idle := !t.running && !time.Now().Before(t.notUntil)
	t.running = t.running || idle
	w.mu.Unlock()
	if !idle {
		return
	}
	start(func() {
		err := w.guarded(ctx, f)
		w.mu.Lock()
		defer w.mu.Unlock()
		t.running = false
		switch {
		case ctx.Err() != nil:
		case err == nil:
			if t.failures > 0 {
				w.log.Info("goes on", "doing", what, "failures", t.failures)
			}
			t.failures, t.notUntil, t.last = 0, time.Time{}, nil
		default:
			if t.failures == 0 {
				w.log.Warn("trying again later", "doing", what, "err", err)
				t.since = w.o.Now()
			}
			rest := min(firstRest<<min(t.failures, 10), maxRest)
			t.failures++
			t.last, t.notUntil = err, time.Now().Add(rest)
			w.metrics.failures.Inc()
		}
	})
}

func (w *Watcher) guarded(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.o.Panics("liveness")
			err = fmt.Errorf("panicked: %v", p)
		}
	}()
	return f(ctx)
}

// Failure is something that is tried again and again and does not work.
type Failure struct {
	What  string
	Err   error
	Since time.Time
}

// Failures lists what failed at least three times in a row, for status.
func (w *Watcher) Failures() []Failure {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []Failure
	for what, t := range w.trials {
		if t.failures >= 3 {
			out = append(out, Failure{what, t.last, t.since})
		}
	}
	return out
}

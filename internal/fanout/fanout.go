// Package fanout reads the intake log and turns every ping into one slot per
// organisation and channel that is owed the news. It promises that an entry
// leaves the log only after every partition took it, that applying an entry
// again changes nothing, that a failed look-up is never read as "unknown", and
// that what cannot be processed holds up nobody else.
package fanout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/register"
	"dispatchd/internal/store"
)

// Store is what fan-out needs of the store.
type Store interface {
	// ReadLog returns entries of a lane after an id, oldest first.
	ReadLog(ctx context.Context, lane int, after string, count int) ([]store.Entry, error)
	// LookUp returns one user (or nil, or a Damaged one) per id and notes the
	// ping's time. Any failure is an error for the whole call.
	LookUp(ctx context.Context, ids []orcid.ID, at []time.Time) ([]*event.User, error)
	// NotePings notes the latest pings of users whom several credentials have
	// registered; it may be repeated.
	NotePings(ctx context.Context, pings []event.Ping) error
	// Enqueue applies targets; a partition skips entries it has applied before.
	// With an error it returns what holds for the partitions that succeeded.
	Enqueue(ctx context.Context, lane int, targets []store.Target, quiet time.Duration) (map[event.ChannelKey]time.Time, error)
	// NoteMonths notes who changed, for the monthly summaries; it may be repeated.
	NoteMonths(ctx context.Context, list []store.Changed) error
	// Park durably sets aside what cannot be processed; ParkedIn lists it, and
	// Unpark forgets what was appended again.
	Park(ctx context.Context, lane int, items []store.Item, lines []string, at time.Time) error
	ParkedIn(ctx context.Context, lane int) ([]store.Parked, error)
	Unpark(ctx context.Context, list []store.Parked) (int, error)
	AppendItems(ctx context.Context, items []store.Item) error
	// RemoveEntries removes entries and counts them exactly once.
	RemoveEntries(ctx context.Context, lane int, list []store.Processed) error
	// TrimApplied forgets that entries before this time were applied.
	TrimApplied(ctx context.Context, lane int, before time.Time) error
	// Servers counts the servers of Redis that have answered; when it changes,
	// what was applied last may be gone.
	Servers() uint64
	Now() time.Time
}

// Directory answers for the current settings of organisations.
type Directory interface {
	Organisation(id string) (*org.Organisation, bool)
}

// Hints wakes whoever has to do with the news; it must not block.
type Hints interface {
	HintChannel(key event.ChannelKey, at time.Time)
	HintUser(id orcid.ID, express bool)
}

// Options wires a Reader.
type Options struct {
	Store     Store
	Directory Directory
	Hints     Hints
	// QuietPeriod is how long news waits after its first ping; asked per batch,
	// so that a reload takes effect. Zero delivers at once.
	QuietPeriod func() time.Duration
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
	// Batch is how many log entries are taken at once. Default 32.
	Batch int
	// KeepFor is how old an entry must be before it is removed, so that a
	// partition that fell back in a failover is fed again. Default 5 s.
	KeepFor time.Duration
	// Poll is how long the reader sleeps when nobody wakes it. Default 250 ms.
	Poll time.Duration
	// Panics counts a recovered panic.
	Panics func(component string)
}

// Reader fans one lane after the other out, each in its own goroutine.
type Reader struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
	wake    [store.Lanes]chan struct{}

	mu      sync.Mutex
	refused [store.Lanes]Refused
	// stuck says that trying what was set aside again was refused, and that this
	// was said; each is its lane's own.
	stuck [store.Lanes]bool
}

// New checks the options.
func New(o Options) (*Reader, error) {
	if o.Store == nil || o.Directory == nil || o.Hints == nil || o.QuietPeriod == nil || o.Logger == nil || o.Panics == nil {
		return nil, errors.New("fanout: Store, Directory, Hints, QuietPeriod, Logger and Panics must be set")
	}
	if o.Batch <= 0 {
		o.Batch = 32
	}
	if o.KeepFor <= 0 {
		o.KeepFor = 5 * time.Second
	}
	if o.Poll <= 0 {
		o.Poll = 250 * time.Millisecond
	}
	r := &Reader{o: o, log: o.Logger.With("component", "fanout"), metrics: newMetrics(o.Registerer)}
	for l := range r.wake {
		r.wake[l] = make(chan struct{}, 1)
	}
	return r, nil
}

// Wake says that a lane of the log has news. It does not block.
func (r *Reader) Wake(lane int) {
	select {
	case r.wake[lane] <- struct{}{}:
	default:
	}
}

// Run reads every lane until ctx ends.
func (r *Reader) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for lane := range store.Lanes {
		wg.Go(func() { r.runLane(ctx, lane) })
	}
	wg.Wait()
}

// runLane repeats passes; after an error it waits a little longer each time and
// begins the lane anew, because Redis may have fallen back.
func (r *Reader) runLane(ctx context.Context, lane int) {
	l := r.newLane(lane)
	wait := time.Duration(0)
	failures := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake[lane]:
			if failures > 0 { // news do not make a Redis that is away come back sooner
				select {
				case <-ctx.Done():
					return
				case <-timer.C:
				}
			}
		case <-timer.C:
		}
		more, err := r.pass(ctx, l)
		switch {
		case err != nil && ctx.Err() != nil:
			return
		case err != nil:
			if failures == 0 {
				r.log.Warn("fan-out waits", "lane", lane, "err", err)
			}
			failures++
			r.metrics.errors.Inc()
			wait = min(max(2*wait, 50*time.Millisecond), 2*time.Second)
			l = r.newLane(lane)
		default:
			if failures > 0 {
				r.log.Info("fan-out goes on", "lane", lane, "failures", failures)
			}
			failures = 0
			wait = r.o.Poll
			if more {
				wait = 0
			}
		}
		timer.Reset(wait)
	}
}

// lane is what one lane's reader knows. All of it can be made anew from Redis.
type lane struct {
	number  int
	after   string       // the last entry that was applied
	applied []appliedRow // applied, waiting to be old enough to be removed
	trimmed time.Time
	tried   time.Time // when what was set aside was tried again
	servers uint64    // Store.Servers when the lane was begun
	begun   time.Time
	refused Refused // since then
}

type appliedRow struct {
	at     time.Time
	counts store.Processed
}

func (r *Reader) newLane(n int) *lane {
	return &lane{number: n, servers: r.o.Store.Servers(), begun: r.o.Store.Now()}
}

// pass applies one batch and removes what is old enough. It reports whether
// more is likely waiting. A panic (a bug, or damaged state) becomes an error.
func (r *Reader) pass(ctx context.Context, l *lane) (more bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.o.Panics("fanout")
			err = fmt.Errorf("fan-out panicked: %v", p)
		}
	}()
	// Another server answers now, after a restart or a failover: a partition may
	// have fallen back, so everything that is still in the log is applied again.
	// What Redis refused is read again likewise.
	if r.o.Store.Servers() != l.servers || l.refused.Entries > 0 && r.o.Store.Now().Sub(l.begun) >= refusedRetry {
		*l = *r.newLane(l.number)
	}
	if !l.refused.Full {
		entries, err := r.o.Store.ReadLog(ctx, l.number, l.after, r.o.Batch)
		if err != nil {
			return false, err
		}
		if len(entries) > 0 {
			if err := r.applyEach(ctx, l, entries); err != nil {
				return false, err
			}
		}
		more = len(entries) == r.o.Batch && !l.refused.Full
	}
	r.tell(l, !more)
	if r.o.Store.Servers() != l.servers {
		return true, nil // since this pass began
	}
	if err := r.retire(ctx, l); err != nil {
		return false, err
	}
	if now := r.o.Store.Now(); now.Sub(l.tried) >= parkedRetry {
		l.tried = now
		if err := r.retryParked(ctx, l.number); err != nil {
			return false, err
		}
	}
	return more, nil
}

// apply looks the users up and enqueues what is owed.
func (r *Reader) apply(ctx context.Context, laneNo int, entries []store.Entry) ([]store.Processed, error) {
	var ids []orcid.ID
	var at []time.Time
	for _, e := range entries {
		for _, it := range e.Items {
			switch it.Kind {
			case store.KindCreated:
			case store.KindCaughtUp:
				// ORCID did not ping: the time of the user's latest ping must stay
				// true, or a registration that died would look alive.
				ids, at = append(ids, it.ORCID), append(at, time.Time{})
			default:
				ids, at = append(ids, it.ORCID), append(at, it.At)
			}
		}
	}
	var users []*event.User
	if len(ids) > 0 {
		var err error
		if users, err = r.o.Store.LookUp(ctx, ids, at); err != nil {
			return nil, fmt.Errorf("look users up: %w", err)
		}
		if len(users) != len(ids) {
			return nil, fmt.Errorf("look users up: %d answers for %d users", len(users), len(ids))
		}
	}
	counts := make([]store.Processed, len(entries))
	var targets []store.Target
	var stray []orcid.ID
	var park parking
	var shared []event.Ping
	next := 0
	for i, e := range entries {
		counts[i].ID = e.ID
		park.lines(e, &counts[i])
		for _, it := range e.Items {
			if it.Kind == store.KindCreated {
				counts[i].Announced++
				targets = appendTargets(targets, r.o.Directory, it.Subject, event.Created, it, e.ID)
				continue
			}
			u := users[next]
			next++
			if u != nil && u.Damaged {
				counts[i].Pings++
				counts[i].Parked++
				park.items = append(park.items, it)
				continue
			}
			if u != nil && it.Kind == store.KindPing && !event.IsHub(it.Subject) && u.Shared() {
				shared = append(shared, event.Ping{Credential: it.Subject, ORCID: it.ORCID, AcceptedAt: it.At})
			}
			before := len(targets)
			reason := owed(r.o.Directory, u, it, func(orgID string) {
				targets = appendTargets(targets, r.o.Directory, orgID, event.Updated, it, e.ID)
			})
			counts[i].Pings++
			switch {
			case len(targets) > before:
				counts[i].Told++
			case reason == unknown:
				counts[i].Unknown++
				r.metrics.unknown.Inc()
			case reason == notWanted:
				counts[i].NotWanted++
				r.metrics.notWanted.Inc()
				stray = append(stray, it.ORCID)
			default:
				counts[i].NoOrganisation++
				r.metrics.noOrganisation.Inc()
				stray = append(stray, it.ORCID)
			}
		}
	}
	if err := r.park(ctx, laneNo, park); err != nil {
		return nil, err
	}
	// What is noted besides keeps the entry when Redis refuses it, and nobody from
	// being told.
	var refused error
	if len(shared) > 0 {
		if refused = r.o.Store.NotePings(ctx, shared); refused != nil && !errors.Is(refused, store.ErrAnswered) {
			return nil, refused
		}
	}
	if len(targets) > 0 {
		// Before the entry may leave the log, like all that it causes.
		if months := mail(r.o.Directory, targets, r.o.Store.Now()); len(months) > 0 {
			if err := r.o.Store.NoteMonths(ctx, months); err != nil && !errors.Is(err, store.ErrAnswered) {
				return nil, err
			} else if err != nil {
				refused = err
			}
		}
		due, err := r.o.Store.Enqueue(ctx, laneNo, targets, r.o.QuietPeriod())
		for key, when := range due {
			r.o.Hints.HintChannel(key, when)
		}
		if err != nil {
			return nil, err
		}
	}
	// A ping that nobody wants is a row at ORCID that should not be there: its
	// user's actor compares and removes it.
	for _, id := range stray {
		r.o.Hints.HintUser(id, false)
	}
	return counts, refused
}

// retire removes entries that are old enough and forgets that they were
// applied.
func (r *Reader) retire(ctx context.Context, l *lane) error {
	limit := r.o.Store.Now().Add(-r.o.KeepFor)
	n := 0
	for n < len(l.applied) && n < 512 && l.applied[n].at.Before(limit) {
		n++
	}
	if n > 0 {
		gone := make([]store.Processed, n)
		for i := range gone {
			gone[i] = l.applied[i].counts
		}
		if err := r.o.Store.RemoveEntries(ctx, l.number, gone); err != nil {
			return err
		}
		// Not copied: append moves them to new room when this one is used up.
		l.applied = l.applied[n:]
	}
	if limit.Sub(l.trimmed) > 10*time.Second {
		// Only entries that are gone from the log may be forgotten: those before
		// the oldest one that waits to be removed, and never past what this
		// reader has reached (an earlier process may have applied more).
		before := limit
		if len(l.applied) > 0 && l.applied[0].at.Before(before) {
			before = l.applied[0].at
		}
		if l.refused.Entries > 0 && l.refused.Since.Before(before) {
			before = l.refused.Since
		}
		if reached := (store.Entry{ID: l.after}).Committed(); l.after != "" && reached.Before(before) {
			before = reached
		}
		// Refused, they stay: whoever needs them is refused too, and told of.
		if err := r.o.Store.TrimApplied(ctx, l.number, before); err != nil && !errors.Is(err, store.ErrAnswered) {
			return err
		}
		l.trimmed = limit
	}
	return nil
}

type reason int

const (
	told reason = iota
	unknown
	notWanted
	noOrganisation
)

// owed calls tell for every organisation that is owed a ping: affiliated and not
// muted, served by its credential (or the ping came by a callback of the Hub),
// enabled. Otherwise it says why nobody is.
func owed(dir Directory, u *event.User, it store.Item, tell func(orgID string)) reason {
	if u == nil {
		return unknown
	}
	why := notWanted
	for _, a := range u.Affiliations {
		o, ok := dir.Organisation(a.Org)
		// What the Hub registered for a user served all organisations at once.
		if !ok || a.Muted || !event.IsHub(it.Subject) && !register.Serves(o, u, a.AffiliatedAt, it.Subject, it.At) {
			continue
		}
		if !o.AnyEnabled() {
			if why == notWanted {
				why = noOrganisation
			}
			continue
		}
		why = told
		tell(a.Org)
	}
	return why
}

// appendTargets adds one target per channel that wants the type.
func appendTargets(to []store.Target, dir Directory, orgID string, t event.Type, it store.Item, entry string) []store.Target {
	o, ok := dir.Organisation(orgID)
	if !ok {
		return to
	}
	for _, ch := range event.Channels {
		if o.Wants(ch, t) {
			to = append(to, store.Target{Org: orgID, Channel: ch, ORCID: it.ORCID, Type: t, At: it.At, Entry: entry})
		}
	}
	return to
}

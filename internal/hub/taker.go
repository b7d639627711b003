package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// Store is where users and the work on their registrations are kept.
type Store interface {
	// ReadableUsers reads several records; a missing one is nil, and so is one that
	// is damaged, which is named.
	ReadableUsers(ctx context.Context, ids []orcid.ID) (users []*event.User, damaged []orcid.ID, err error)
	// SaveUser writes a record if it is still at its version, else it fails with
	// event.ErrConflict; work is when its registrations are to be looked at.
	SaveUser(ctx context.Context, u event.User, work time.Time) (version string, err error)
	// HubTaken says which of the Hub's users were taken over before, and
	// NoteHubTaken that these are.
	HubTaken(ctx context.Context, userIDs []int) ([]bool, error)
	NoteHubTaken(ctx context.Context, userIDs []int) error
}

// TakerOptions wire a Taker.
type TakerOptions struct {
	Store Store
	// Base returns the number of the base of the Hub's callback URLs that were
	// registered with a credential.
	Base   func(ctx context.Context, hubURL, credential string) (int, error)
	Now    func() time.Time
	Logger *slog.Logger
	// Registerer takes the metric; nil means none.
	Registerer prometheus.Registerer
	// Panics counts a recovered panic.
	Panics func(component string)
}

const (
	takeBatch = 500
	// lookAgain is how often users who were not there yet are looked for, and old
	// rows that are left are counted.
	lookAgain = 5 * time.Minute
	firstWait = time.Second
	maxWait   = time.Minute
)

// Taker puts the rows that the Hub registered at ORCID into our users' records,
// each once: from then on they are unregistered like any row that was replaced,
// ten minutes after the new one lives, and by the credential that owns them. What
// was taken is noted in the store, so that nothing is done twice over restarts.
// Users who are not ours (yet) are looked for again.
type Taker struct {
	o     TakerOptions
	rows  *prometheus.GaugeVec
	wake  chan struct{}
	mu    sync.Mutex
	set   *Callbacks // nil: there is nothing to take
	state Progress
}

// Progress is how far the Hub's rows are replaced.
type Progress struct {
	Rows    int // in the map
	NoUser  int // nobody of ours is affiliated
	Waiting int // at ORCID until the new registration has lived ten minutes
	Gone    int // replaced and unregistered
}

// NewTaker makes a Taker; Run runs it.
func NewTaker(o TakerOptions) (*Taker, error) {
	if o.Store == nil || o.Base == nil || o.Now == nil || o.Logger == nil || o.Panics == nil {
		return nil, errors.New("hub: Store, Base, Now, Logger and Panics must be set")
	}
	t := &Taker{o: o, wake: make(chan struct{}, 1), rows: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "dispatchd_hub_callbacks",
		Help: "The Hub's registrations in hub.legacy_map: no_user (nobody of ours), waiting (still at ORCID), gone (replaced).",
	}, []string{"state"})}
	t.o.Logger = o.Logger.With("component", "hub")
	if o.Registerer != nil {
		if err := o.Registerer.Register(t.rows); err != nil {
			return nil, fmt.Errorf("register the metric of the Hub's callbacks: %w", err)
		}
	}
	t.note(Progress{})
	return t, nil
}

// Set says what is to be taken over from now on; nil means nothing.
func (t *Taker) Set(c *Callbacks) {
	t.mu.Lock()
	t.set = c
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Progress returns how far it is, and until when the Hub's callbacks work; zero
// when there are none.
func (t *Taker) Progress() (p Progress, until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.set != nil {
		until = t.set.Until
	}
	return t.state, until
}

func (t *Taker) note(p Progress) {
	t.mu.Lock()
	t.state = p
	t.mu.Unlock()
	t.rows.WithLabelValues("no_user").Set(float64(p.NoUser))
	t.rows.WithLabelValues("waiting").Set(float64(p.Waiting))
	t.rows.WithLabelValues("gone").Set(float64(p.Gone))
}

// Run takes over and counts until ctx ends.
func (t *Taker) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	wait, failing := firstWait, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-timer.C:
		}
		p, err := t.runOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failing {
				t.o.Logger.Warn("the Hub's callbacks are taken over later", "err", err)
			}
			failing, wait = true, min(2*wait, maxWait)
		default:
			if old, _ := t.Progress(); old != p && p.Rows > 0 {
				t.o.Logger.Info("the Hub's callbacks", "no_user", p.NoUser, "still_at_orcid", p.Waiting, "gone", p.Gone)
			}
			t.note(p)
			failing, wait = false, firstWait
		}
		if failing {
			timer.Reset(wait)
		} else {
			timer.Reset(lookAgain)
		}
	}
}

// runOnce goes through the map once.
func (t *Taker) runOnce(ctx context.Context) (p Progress, err error) {
	defer func() {
		if v := recover(); v != nil {
			t.o.Panics("hub")
			err = fmt.Errorf("taking over panicked: %v", v)
		}
	}()
	t.mu.Lock()
	c := t.set
	t.mu.Unlock()
	if c == nil {
		return p, nil
	}
	p.Rows = len(c.Map.Rows)
	for batch := range slices.Chunk(c.Map.Rows, takeBatch) {
		if err := t.take(ctx, c, batch, &p); err != nil {
			return p, err
		}
	}
	return p, nil
}

// take takes one batch over. The record is written before it is noted: between
// the two a crash makes a row that is gone come back, and be unregistered once
// more, which ORCID answers 404.
func (t *Taker) take(ctx context.Context, c *Callbacks, batch []*Row, p *Progress) error {
	userIDs, ids := make([]int, len(batch)), make([]orcid.ID, len(batch))
	for i, r := range batch {
		userIDs[i], ids[i] = r.UserID, r.ORCID
	}
	taken, err := t.o.Store.HubTaken(ctx, userIDs)
	if err != nil {
		return err
	}
	users, damaged, err := t.o.Store.ReadableUsers(ctx, ids)
	if err != nil {
		return err
	}
	var done []int
	for i, r := range batch {
		switch u := users[i]; {
		case taken[i] && (u != nil && holds(u, r) || slices.Contains(damaged, r.ORCID)):
			p.Waiting++
		case taken[i]:
			p.Gone++
		case u == nil || len(u.Affiliations) == 0:
			p.NoUser++
		default:
			added, err := t.add(ctx, c, r)
			if err != nil {
				return err
			}
			if !added {
				p.NoUser++ // they have just left
				continue
			}
			p.Waiting++
			done = append(done, r.UserID)
		}
	}
	if len(done) == 0 {
		return nil
	}
	return t.o.Store.NoteHubTaken(ctx, done)
}

func holds(u *event.User, r *Row) bool {
	return slices.ContainsFunc(u.Registrations, func(x event.Registration) bool {
		return x.Credential == event.HubCredential(r.Credential) && x.Epoch == r.UserID
	})
}

// add writes the row into its user's record, and reports whether it stands there.
// The record is read again for each: the batch may hold two rows of one user.
func (t *Taker) add(ctx context.Context, c *Callbacks, r *Row) (bool, error) {
	base, err := t.o.Base(ctx, c.Base, r.Credential)
	if err != nil {
		return false, err
	}
	for {
		users, _, err := t.o.Store.ReadableUsers(ctx, []orcid.ID{r.ORCID})
		if err != nil {
			return false, err
		}
		u := users[0]
		switch {
		case u == nil || len(u.Affiliations) == 0:
			return false, nil
		case holds(u, r):
			return true, nil
		}
		// When the Hub registered it nobody knows; it was long ago.
		u.Registrations = append(u.Registrations, event.Registration{
			Credential: event.HubCredential(r.Credential), State: event.RegAlive, Epoch: r.UserID, Base: base,
		})
		slices.SortFunc(u.Registrations, func(a, b event.Registration) int {
			return cmp.Or(cmp.Compare(a.Credential, b.Credential), cmp.Compare(a.Epoch, b.Epoch))
		})
		if _, err = t.o.Store.SaveUser(ctx, *u, t.o.Now()); !errors.Is(err, event.ErrConflict) {
			return err == nil, err
		}
	}
}

// Package guest keeps the callbacks of organisations' own at ORCID: rows whose
// pings go to a URL of the organisation and never come to us. It promises that
// each is there while it is wanted, registered by the credential that serves the
// organisation, and is removed by the credential that owns it once the callback,
// its user or its organisation has left; the intent is durable before each
// request. A row whose credential is not configured any more waits for it, visibly,
// until the credential is back or the organisation is gone: then it is given up, and
// ORCID keeps it. A row that ORCID has given up on cannot be seen from here: whoever
// owns the URL DELETEs and PUTs it again. The service asks it to act at once,
// and a loop looks at every row once an hour.
package guest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/register"
)

// Store is where the rows are kept.
type Store interface {
	// Guests returns the rows of a user; one that cannot be read is Damaged.
	Guests(ctx context.Context, id orcid.ID) ([]event.Guest, error)
	// SaveGuest writes a row if it is still at its version, to be looked at again
	// then; a zero look removes it. An error that is event.ErrConflict says that
	// it changed. Of a Damaged row only the look is written.
	SaveGuest(ctx context.Context, g event.Guest, look time.Time) (event.Guest, error)
	// User reads one record; nil when there is none. An error that is
	// event.ErrDamaged says that it cannot be read.
	User(ctx context.Context, id orcid.ID) (*event.User, error)
}

// Directory knows the current settings of every organisation.
type Directory interface {
	Organisation(id string) (*org.Organisation, bool)
}

// ORCID makes one request with a credential, within the one rate for all. Its
// error says that no request was made.
type ORCID interface {
	Put(ctx context.Context, credential string, id orcid.ID, url string) (orcid.Answer, error)
	Delete(ctx context.Context, credential string, id orcid.ID, url string) (orcid.Answer, error)
}

// Due finds rows to be looked at.
type Due func(ctx context.Context, now time.Time, limit int) ([]Key, error)

// Key names a row.
type Key struct {
	ORCID orcid.ID
	URL   string
}

// Options wires a Keeper; all but Tick must be set.
type Options struct {
	Store     Store
	Due       Due
	Directory Directory
	ORCID     ORCID
	// Configured reports whether there is a credential of that name.
	Configured func(credential string) bool
	// Guard says why nothing may be unregistered; nil while all is well.
	Guard func() error
	Now   func() time.Time
	// Logger and Panics are told of what went wrong.
	Logger *slog.Logger
	Panics func(component string)
	// Tick is the pause between two looks for due rows. Default 5 s.
	Tick time.Duration
}

const (
	// lookEvery is how often a row is looked at that is as wanted.
	lookEvery = time.Hour
	// intentLease is when a row whose request was on its way at a crash is
	// looked at again, and pause when nothing could be asked.
	intentLease = 2 * time.Minute
	pause       = time.Minute
	// requestTimeout bounds waiting for a permit and the request.
	requestTimeout = 2 * time.Minute
	maxSteps       = 8
	batch          = 16 // rows of one partition in one look
	workers        = 4
	stripes        = 64
)

// Keeper looks after the rows. It is safe for concurrent use.
type Keeper struct {
	o        Options
	log      *slog.Logger
	stranded stranded
	damaged  damaged
	busy     [stripes]chan struct{} // one request at a time for a row
}

// New checks the options.
func New(o Options) (*Keeper, error) {
	if o.Store == nil || o.Due == nil || o.Directory == nil || o.ORCID == nil || o.Configured == nil || o.Guard == nil || o.Now == nil || o.Logger == nil || o.Panics == nil {
		return nil, errors.New("guest: Store, Due, Directory, ORCID, Configured, Guard, Now, Logger and Panics must be set")
	}
	if o.Tick <= 0 {
		o.Tick = 5 * time.Second
	}
	k := &Keeper{o: o, log: o.Logger.With("component", "guest")}
	for i := range k.busy {
		k.busy[i] = make(chan struct{}, 1)
	}
	return k, nil
}

// Run looks for due rows until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	tick := time.NewTicker(k.o.Tick)
	defer tick.Stop()
	said, failures := "", 0
	for {
		err := k.runOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if failures > 0 {
				k.log.Info("callbacks of organisations go on", "failures", failures)
			}
			said, failures = "", 0
		default:
			failures++
			if said != err.Error() {
				said = err.Error()
				k.log.Warn("callbacks of organisations wait", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// runOnce looks at every row that is due.
func (k *Keeper) runOnce(ctx context.Context) error {
	due, err := k.o.Due(ctx, k.o.Now(), batch) // with an error, some of them
	var wg sync.WaitGroup
	queue := make(chan Key)
	for range min(workers, len(due)) {
		wg.Go(func() {
			for key := range queue {
				if _, err := k.Settle(ctx, key.ORCID, key.URL); err != nil && ctx.Err() == nil {
					k.log.Debug("a callback is looked at again later", "orcid", key.ORCID, "err", err)
				}
			}
		})
	}
	for _, key := range due {
		queue <- key
	}
	close(queue)
	wg.Wait()
	return err
}

// Settle brings one row to what is wanted, now, and returns ORCID's last answer;
// the zero Answer when nothing had to be asked.
func (k *Keeper) Settle(ctx context.Context, id orcid.ID, url string) (last orcid.Answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			k.o.Panics("guest")
			err = fmt.Errorf("a look at a callback of %s panicked: %v", id, p)
		}
	}()
	h := fnv.New32a()
	_, _ = h.Write([]byte(id.String() + url)) // never fails (hash.Hash)
	busy := k.busy[h.Sum32()%stripes]
	select {
	case busy <- struct{}{}:
	case <-ctx.Done():
		return last, ctx.Err()
	}
	defer func() { <-busy }()
	for range maxSteps {
		answer, more, err := k.step(ctx, id, url)
		if answer != nil {
			last = *answer
		}
		if errors.Is(err, event.ErrConflict) {
			continue
		}
		if err != nil || !more {
			return last, err
		}
	}
	return last, nil
}

// step makes the next request for a row, if there is one to be made, and reports
// whether to look again at once.
func (k *Keeper) step(ctx context.Context, id orcid.ID, url string) (_ *orcid.Answer, more bool, err error) {
	g, credential, err := k.look(ctx, id, url)
	if g != nil && errors.Is(err, event.ErrDamaged) {
		return nil, false, k.putOff(ctx, g, err)
	}
	if err != nil || g == nil {
		return nil, false, err
	}
	now := k.o.Now()
	p := decide(*g, credential, now)
	if p.kind != 0 && !k.o.Configured(p.row.Registration.Credential) {
		return nil, false, k.wait(ctx, p.row, now)
	}
	if c, last := k.stranded.remove(Key{id, url}); last {
		k.log.Info("callbacks of organisations wait for a credential no more", "credential", c)
	}
	if p.kind == 0 {
		_, err := k.o.Store.SaveGuest(ctx, p.row, p.look)
		return nil, false, err
	}
	row, err := k.o.Store.SaveGuest(ctx, p.row, now.Add(intentLease))
	if err != nil {
		return nil, false, err
	}
	request := k.o.ORCID.Put
	if p.kind == register.Delete {
		request = k.o.ORCID.Delete
	}
	// Also when Redis turned out to have forgotten meanwhile.
	if err := k.o.Guard(); err != nil {
		return nil, false, fmt.Errorf("ask ORCID: %w", err)
	}
	asked, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := request(asked, row.Registration.Credential, id, url)
	// What ORCID said is written also when whoever asked has gone.
	ctx = context.WithoutCancel(ctx)
	if err != nil {
		_, serr := k.o.Store.SaveGuest(ctx, row, k.o.Now().Add(pause))
		return nil, false, errors.Join(fmt.Errorf("ask ORCID: %w", err), serr)
	}
	row, look, more := settle(row, p.kind, answer, k.o.Now())
	if answer.Detail != "" {
		k.log.Info("ORCID about a callback of an organisation", "orcid", id, "org", strings.Join(row.Orgs, ","), "credential", row.Registration.Credential, "operation", p.kind.String(), "err", answer.Detail)
	}
	_, err = k.o.Store.SaveGuest(ctx, row, look)
	if errors.Is(err, event.ErrConflict) {
		err, more = k.note(ctx, row), true
	}
	return &answer, more, err
}

// wait puts off a row whose credential is not configured; whoever changes the
// configuration has all rows looked at. When its organisation is gone, too, nobody
// is left who could want it.
func (k *Keeper) wait(ctx context.Context, row event.Guest, now time.Time) error {
	credential, key := row.Registration.Credential, Key{row.ORCID, row.URL}
	if row.Gone && !slices.ContainsFunc(row.Orgs, k.exists) {
		level := slog.LevelDebug
		if k.stranded.giveUp(credential) {
			level = slog.LevelWarn
		}
		k.log.Log(ctx, level, "callbacks of an organisation that was removed stay at ORCID: their credential is not configured, and no other may remove them",
			"org", strings.Join(row.Orgs, ","), "credential", credential)
		k.stranded.remove(key)
		_, err := k.o.Store.SaveGuest(ctx, row, time.Time{})
		return err
	}
	if k.stranded.add(key, credential, now) {
		k.log.Warn("callbacks of organisations wait for a credential that is not configured", "credential", credential)
	}
	_, err := k.o.Store.SaveGuest(ctx, row, now.Add(lookEvery))
	return err
}

// putOff has a row looked at later that cannot be settled because it, or the
// record of its user, is damaged: due, it would stand before the others for ever.
func (k *Keeper) putOff(ctx context.Context, g *event.Guest, why error) error {
	if _, err := k.o.Store.SaveGuest(ctx, *g, k.o.Now().Add(lookEvery)); err != nil {
		return err
	}
	switch {
	case g.Damaged && k.damaged.add(Key{g.ORCID, g.URL}):
		k.log.Warn("a callback of an organisation cannot be read; it is neither registered nor removed at ORCID", "orcid", g.ORCID, "err", why)
	case !g.Damaged && k.damaged.add(Key{ORCID: g.ORCID}): // once for all callbacks of the user
		k.log.Warn("callbacks of organisations wait, because the record of their user cannot be read", "orcid", g.ORCID, "err", why)
	}
	return why
}

// note writes what ORCID said into a row that was changed meanwhile.
func (k *Keeper) note(ctx context.Context, row event.Guest) error {
	list, err := k.o.Store.Guests(ctx, row.ORCID)
	if err != nil {
		return err
	}
	for _, g := range list {
		if g.URL != row.URL || g.Damaged {
			continue
		}
		g.Registration = row.Registration
		look := k.o.Now()
		if g.Gone && row.Registration.State == event.RegNone {
			look = time.Time{}
		}
		if _, err := k.o.Store.SaveGuest(ctx, g, look); err != nil {
			return err
		}
	}
	return nil
}

// look reads the row and finds the credential that is to own it; "" when it is
// to go. With event.ErrDamaged it returns the row, too, as far as it was read.
func (k *Keeper) look(ctx context.Context, id orcid.ID, url string) (*event.Guest, string, error) {
	list, err := k.o.Store.Guests(ctx, id)
	if err != nil {
		return nil, "", err
	}
	i := slices.IndexFunc(list, func(g event.Guest) bool { return g.URL == url })
	if i < 0 {
		// Nothing must be left that makes it due.
		_, err := k.o.Store.SaveGuest(ctx, event.Guest{ORCID: id, URL: url}, time.Time{})
		return nil, "", err
	}
	g := &list[i]
	if g.Damaged {
		return g, "", fmt.Errorf("a callback of %s: %w", id, event.ErrDamaged)
	}
	k.damaged.remove(Key{id, url})
	if g.Gone {
		return g, "", nil
	}
	u, err := k.o.Store.User(ctx, id)
	if err != nil {
		return g, "", err
	}
	k.damaged.remove(Key{ORCID: id})
	// A record that is not there says nothing: whoever leaves is marked as gone.
	if u != nil {
		left := slices.DeleteFunc(slices.Clone(g.Orgs), func(orgID string) bool {
			return !slices.ContainsFunc(u.Affiliations, func(a event.Affiliation) bool { return a.Org == orgID })
		})
		if len(left) == 0 {
			g.Gone = true
			return g, "", nil
		}
		g.Orgs = left
	}
	return g, k.credential(g), nil
}

// credential is which one is to own a row: the one that does, while it serves
// any of the organisations.
func (k *Keeper) credential(g *event.Guest) string {
	first := ""
	for _, orgID := range g.Orgs {
		o, ok := k.o.Directory.Organisation(orgID)
		if !ok || o.Credential == g.Registration.Credential {
			return g.Registration.Credential // or nobody knows, and it stays as it is
		}
		if first == "" {
			first = o.Credential
		}
	}
	return first
}

// exists reports whether there is such an organisation.
func (k *Keeper) exists(orgID string) bool {
	_, ok := k.o.Directory.Organisation(orgID)
	return ok
}

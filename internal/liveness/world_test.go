package liveness

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dispatchd/internal/directory"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
	"dispatchd/internal/sim"
	"dispatchd/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a watcher over a real redis and a simulated ORCID whose clock, moved
// by hand, is everybody's.
type world struct {
	t     *testing.T
	store *store.Store
	sim   *sim.Registry
	orcid *direct
	dir   *directory.Directory
	gaps  *beats
	watch *Watcher
	every time.Duration
	users []orcid.ID
	began time.Time // when everybody was registered

	appended chan struct{} // after something was appended to the intake log
}

var errBroken = errors.New("injected: ORCID is broken")

// direct asks the simulated ORCID without permits; after left calls it fails.
type direct struct {
	client *orcid.Client
	calls  atomic.Int64
	left   atomic.Int64
	broken string // a credential with which nothing can be searched
}

func (d *direct) call() error {
	if d.left.Add(-1) < 0 {
		return errBroken
	}
	d.calls.Add(1)
	return nil
}

func (d *direct) ChangedSince(ctx context.Context, credential string, ids []orcid.ID, since time.Time) ([]orcid.ID, error) {
	if credential == d.broken {
		return nil, errBroken
	}
	if err := d.call(); err != nil {
		return nil, err
	}
	return d.client.ChangedSince(ctx, ids, since)
}

func (d *direct) ChangedBetween(ctx context.Context, _ string, from, to time.Time, start, rows int) ([]orcid.ID, int, error) {
	if err := d.call(); err != nil {
		return nil, 0, err
	}
	return d.client.ChangedBetween(ctx, from, to, start, rows)
}

func (d *direct) LastModified(ctx context.Context, _ string, id orcid.ID) (time.Time, error) {
	if err := d.call(); err != nil {
		return time.Time{}, err
	}
	return d.client.LastModified(ctx, id)
}

// newWorld registers n users, half of them with both organisations, a few with
// one of another credential; then a week goes by.
func newWorld(t *testing.T, n int) *world {
	t.Helper()
	w := &world{t: t, dir: directory.New(), every: 24 * time.Hour, appended: make(chan struct{}, 1)}
	var err error
	w.sim, err = sim.New(sim.Options{Manual: true, Start: noon, RateLimit: -1, Seed: 7})
	w.must(err)
	srv := httptest.NewServer(w.sim.Handler())
	t.Cleanup(srv.Close)
	c := sim.DefaultClient()
	client, err := orcid.NewClient(orcid.ClientOptions{APIURL: srv.URL, SiteURL: srv.URL, ClientID: c.ID, ClientSecret: c.Secret})
	w.must(err)
	t.Cleanup(client.Close)
	w.orcid = &direct{client: client}
	w.orcid.left.Store(1 << 40)
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	w.must(err)
	w.store, err = store.New(store.Options{
		URL: redistest.Start(t).URL(), DataDir: t.TempDir(), Box: box, Logger: slog.New(slog.DiscardHandler), Now: w.sim.Now,
		OnAppended: func(int) {
			select {
			case w.appended <- struct{}{}:
			default:
			}
		},
	})
	w.must(err)
	t.Cleanup(func() { w.must(w.store.Close()) })
	w.must(w.store.Attach(t.Context()))
	for _, o := range []org.Organisation{
		{ID: "uni-a", Credential: "main", Webhook: org.Webhook{Enabled: true}},
		{ID: "uni-b", Credential: "main", Email: org.Email{Enabled: true}},
		{ID: "uni-off", Credential: "main"},
		{ID: "uni-other", Credential: "other", Webhook: org.Webhook{Enabled: true}},
	} {
		w.dir.Put(o)
	}
	w.users = w.sim.AddProfiles(n)
	w.affiliate("uni-a", w.users)
	w.affiliate("uni-b", w.users[:n/2])
	w.affiliate("uni-off", w.users[:1])
	w.register(w.users...)
	w.began = w.sim.Now()
	w.sim.Advance(7 * 24 * time.Hour)
	w.gaps = openBeats(t, filepath.Join(t.TempDir(), "outages.json"), w.sim.Now())
	w.restart()
	return w
}

// restart makes a new watcher, as a new process would.
func (w *world) restart() {
	w.t.Helper()
	var err error
	w.watch, err = New(Options{
		Store: w.store, Directory: w.dir, ORCID: w.orcid, Credentials: func() []string { return []string{"main"} },
		Every: func() time.Duration { return w.every }, Guard: func() error { return nil }, Gaps: w.gaps.Gaps, Backlog: w.backlog,
		Now: w.sim.Now, Logger: slog.New(slog.DiscardHandler), Panics: func(c string) { w.t.Errorf("%s panicked", c) },
	})
	w.must(err)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) affiliate(orgID string, ids []orcid.ID) {
	w.t.Helper()
	for part := range slices.Chunk(ids, 1000) {
		list := make([]store.Affiliated, len(part))
		for i, id := range part {
			list[i] = store.Affiliated{ORCID: id, Affiliation: event.Affiliation{Org: orgID}}
		}
		_, err := w.store.AffiliateAll(w.t.Context(), orgID, list, time.Time{})
		w.must(err)
	}
}

// register makes the users' registrations stand as ORCID confirmed them now.
func (w *world) register(ids ...orcid.ID) {
	w.t.Helper()
	for part := range slices.Chunk(ids, 1000) {
		users, err := w.store.Users(w.t.Context(), part)
		w.must(err)
		for _, u := range users {
			u.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 1, Base: 1, Changed: w.sim.Now().Truncate(time.Second)}}
			_, err := w.store.SaveUser(w.t.Context(), *u, time.Time{})
			w.must(err)
		}
	}
}

// change changes records and lets ORCID index them.
func (w *world) change(ids ...orcid.ID) {
	w.t.Helper()
	for _, id := range ids {
		w.must(w.sim.Change(id, "works", sim.Add))
	}
	w.sim.Advance(20 * time.Minute)
}

// ping notes pings of now, as fan-out does.
func (w *world) ping(ids ...orcid.ID) {
	w.t.Helper()
	at := make([]time.Time, len(ids))
	for i := range at {
		at[i] = w.sim.Now()
	}
	_, err := w.store.LookUp(w.t.Context(), ids, at)
	w.must(err)
}

func (w *world) backlog(ctx context.Context) (time.Time, error) { return w.store.OldestPing(ctx) }

// lookBack makes one round over what changed since then.
func (w *world) lookBack(since time.Time) {
	w.t.Helper()
	w.must(w.watch.Owe(w.t.Context(), []string{"main"}, since))
	w.must(w.watch.catchUp(w.t.Context(), "main"))
}

// told empties the intake log and says who is told of how often.
func (w *world) told() map[orcid.ID]int {
	w.t.Helper()
	out := map[orcid.ID]int{}
	for lane := range store.Lanes {
		entries, err := w.store.ReadLog(w.t.Context(), lane, "", 10_000)
		w.must(err)
		for _, e := range entries {
			for _, it := range e.Items {
				if it.Kind != store.KindCaughtUp || it.Subject != "main" {
					w.t.Errorf("the intake log has %+v", it)
				}
				out[it.ORCID]++
			}
			w.must(w.store.RemoveEntries(w.t.Context(), lane, []store.Processed{{ID: e.ID, Pings: len(e.Items), Told: len(e.Items)}}))
		}
	}
	return out
}

// wantTold checks that exactly these users were told of, once each.
func (w *world) wantTold(what string, ids ...orcid.ID) {
	w.t.Helper()
	got := w.told()
	for _, id := range ids {
		if got[id] != 1 {
			w.t.Errorf("%s: %s is told %d times, want once", what, id, got[id])
		}
		delete(got, id)
	}
	if len(got) > 0 {
		w.t.Errorf("%s: %d others are told: %v", what, len(got), got)
	}
}

// planned says how many registrations of the user there are.
func (w *world) rows(id orcid.ID) []event.Registration {
	w.t.Helper()
	u, err := w.store.User(w.t.Context(), id)
	w.must(err)
	return u.Registrations
}

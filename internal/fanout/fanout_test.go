package fanout

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
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
	"dispatchd/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testID(t testing.TB, base uint64) orcid.ID {
	t.Helper()
	id, err := orcid.FromBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOwedFollowsAffiliationCredentialAndSwitch(t *testing.T) {
	t.Parallel()
	dir := directory.New()
	for _, o := range []org.Organisation{
		{ID: "on-main", Credential: "main", Webhook: org.Webhook{Enabled: true}},
		{ID: "mail-main", Credential: "main", Email: org.Email{Enabled: true}},
		{ID: "off-main", Credential: "main"},
		{ID: "on-other", Credential: "other", Webhook: org.Webhook{Enabled: true}},
		{ID: "moved", Credential: "other", Former: []org.Former{{Credential: "main", Until: time.Now()}}, Webhook: org.Webhook{Enabled: true}},
	} {
		dir.Put(o)
	}
	user := func(orgs ...string) *event.User {
		u := &event.User{}
		for _, o := range orgs {
			u.Affiliations = append(u.Affiliations, event.Affiliation{Org: o})
		}
		return u
	}
	for name, c := range map[string]struct {
		user       *event.User
		credential string
		want       reason
		told       []string
	}{
		"nobody knows the user":            {nil, "main", unknown, nil},
		"no affiliation left":              {user(), "main", notWanted, nil},
		"only organisations of another":    {user("on-other"), "main", notWanted, nil},
		"organisation of the directory no": {user("gone"), "main", notWanted, nil},
		"affiliated but switched off":      {user("off-main"), "main", noOrganisation, nil},
		"one":                              {user("on-main"), "main", told, []string{"on-main"}},
		"each channel counts":              {user("off-main", "mail-main", "on-main"), "main", told, []string{"mail-main", "on-main"}},
		"muted":                            {muting(user("on-main"), "on-main"), "main", notWanted, nil},
		"muted by one only":                {muting(user("on-main", "mail-main"), "on-main"), "main", told, []string{"mail-main"}},
		"one that is moving":               {user("moved"), "main", told, []string{"moved"}},
		"each credential tells its own":    {user("on-main", "on-other"), "other", told, []string{"on-other"}},
	} {
		var got []string
		why := owed(dir, c.user, store.Item{Subject: c.credential}, func(o string) { got = append(got, o) })
		slices.Sort(got)
		if why != c.want || !slices.Equal(got, c.told) {
			t.Errorf("%s: %v %v, want %v %v", name, why, got, c.want, c.told)
		}
	}
}

// muting has the organisation mute the user.
func muting(u *event.User, org string) *event.User {
	for i := range u.Affiliations {
		u.Affiliations[i].Muted = u.Affiliations[i].Muted || u.Affiliations[i].Org == org
	}
	return u
}

// recorder notes hints.
type recorder struct {
	mu    sync.Mutex
	users map[orcid.ID]int
	chans map[event.ChannelKey]int
}

func (r *recorder) HintChannel(k event.ChannelKey, _ time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.chans[k]++
}

func (r *recorder) HintUser(id orcid.ID, _ bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users[id]++
}

// faulty lets chosen calls fail once, after or before they took effect.
type faulty struct {
	*store.Store
	failLookUp, failEnqueueAfter, failRemove bool

	lookUps atomic.Int64
}

var errInjected = errors.New("injected")

func (f *faulty) LookUp(ctx context.Context, ids []orcid.ID, at []time.Time) ([]*event.User, error) {
	f.lookUps.Add(1)
	if f.failLookUp {
		f.failLookUp = false
		return nil, errInjected
	}
	return f.Store.LookUp(ctx, ids, at)
}

func (f *faulty) Enqueue(ctx context.Context, lane int, ts []store.Target, quiet time.Duration) (map[event.ChannelKey]time.Time, error) {
	out, err := f.Store.Enqueue(ctx, lane, ts, quiet)
	if f.failEnqueueAfter {
		f.failEnqueueAfter = false
		return nil, errInjected
	}
	return out, err
}

func (f *faulty) RemoveEntries(ctx context.Context, lane int, list []store.Processed) error {
	if f.failRemove {
		f.failRemove = false
		return errInjected
	}
	return f.Store.RemoveEntries(ctx, lane, list)
}

type bundle struct {
	store *store.Store
	dir   *directory.Directory
	hints *recorder
	rd    *Reader
	f     *faulty
	redis *redistest.Server
}

func setup(t *testing.T, quiet, keep time.Duration) bundle {
	t.Helper()
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	srv := redistest.Start(t)
	st, err := store.New(store.Options{URL: srv.URL(), DataDir: t.TempDir(), Box: box, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	ctx := context.Background()
	if err := st.Attach(ctx); err != nil {
		t.Fatal(err)
	}
	b := bundle{redis: srv, store: st, dir: directory.New(), hints: &recorder{users: map[orcid.ID]int{}, chans: map[event.ChannelKey]int{}}, f: &faulty{Store: st}}
	for _, o := range []org.Organisation{
		{ID: "uni-a", Name: "A", Credential: "main", Owner: org.OwnedByAPI, Webhook: org.Webhook{Enabled: true, URL: "https://a.example/"}},
		{ID: "uni-b", Name: "B", Credential: "main", Owner: org.OwnedByAPI, TechnicalContact: "x@b.example", Webhook: org.Webhook{Enabled: true, URL: "https://b.example/"}, Email: org.Email{Enabled: true}},
		{ID: "uni-c", Name: "C", Credential: "other", Owner: org.OwnedByAPI, Webhook: org.Webhook{Enabled: true, URL: "https://c.example/"}},
	} {
		if err := st.SaveOrganisation(ctx, o); err != nil {
			t.Fatal(err)
		}
		b.dir.Put(o)
		for _, ch := range event.Channels {
			if err := st.SetChannel(ctx, o.ID, ch, o.Enabled(ch)); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.rd, err = New(Options{
		Store: b.f, Directory: b.dir, Hints: b.hints, QuietPeriod: func() time.Duration { return quiet }, Logger: log, KeepFor: keep,
		Panics: func(c string) { t.Errorf("%s panicked", c) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b bundle) affiliate(t *testing.T, id orcid.ID, orgs ...string) {
	t.Helper()
	for _, o := range orgs {
		if _, err := b.store.Affiliate(context.Background(), id, event.Affiliation{Org: o, AffiliatedAt: b.store.Now()}, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
}

// drain makes passes over every lane until the log is empty.
func (b bundle) drain(t *testing.T) (failures int) {
	t.Helper()
	ctx := context.Background()
	lanes := map[int]*lane{}
	for l := range store.Lanes {
		lanes[l] = b.rd.newLane(l)
	}
	for range 200 {
		for _, n := range slices.Sorted(maps.Keys(lanes)) {
			if _, err := b.rd.pass(ctx, lanes[n]); err != nil {
				if !errors.Is(err, errInjected) {
					t.Fatal(err)
				}
				failures++
				lanes[n] = b.rd.newLane(n)
			}
		}
		n, err := b.store.LogLength(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return failures
		}
	}
	t.Fatal("the log does not become empty")
	return failures
}

func (b bundle) waiting(t *testing.T) map[event.ChannelKey]int {
	t.Helper()
	var keys []event.ChannelKey
	for _, o := range b.dir.All() {
		for _, ch := range event.Channels {
			keys = append(keys, event.ChannelKey{Org: o.ID, Channel: ch})
		}
	}
	states, err := b.store.Channels(context.Background(), keys)
	if err != nil {
		t.Fatal(err)
	}
	out := map[event.ChannelKey]int{}
	for i, s := range states {
		if s.Waiting > 0 {
			out[keys[i]] = s.Waiting
		}
	}
	return out
}

func (b bundle) balanced(t *testing.T) store.Ledger {
	t.Helper()
	l, err := b.store.Ledger(context.Background(), []string{"uni-a", "uni-b", "uni-c"})
	if err != nil {
		t.Fatal(err)
	}
	if d := l.Differences(); len(d) > 0 {
		t.Errorf("the books do not balance: %v", d)
	}
	return l
}

func ping(t *testing.T, b bundle, credential string, ids ...orcid.ID) {
	t.Helper()
	var pings []event.Ping
	for _, id := range ids {
		pings = append(pings, event.Ping{Credential: credential, ORCID: id, AcceptedAt: b.store.Now()})
	}
	if err := b.store.Append(context.Background(), pings); err != nil {
		t.Fatal(err)
	}
}

func TestEveryPingBecomesOneSlotPerChannelOwed(t *testing.T) {
	t.Parallel()
	b := setup(t, time.Hour, time.Nanosecond)
	one, two, three, stranger := testID(t, 1), testID(t, 2), testID(t, 3), testID(t, 4)
	b.affiliate(t, one, "uni-a")
	b.affiliate(t, two, "uni-a", "uni-b", "uni-c")
	b.affiliate(t, three, "uni-c")
	ping(t, b, "main", one, two, three, stranger)
	ping(t, b, "main", two) // coalesces
	b.drain(t)
	want := map[event.ChannelKey]int{{Org: "uni-a", Channel: event.Webhook}: 2, {Org: "uni-b", Channel: event.Webhook}: 1, {Org: "uni-b", Channel: event.Email}: 1}
	if got := b.waiting(t); !maps.Equal(got, want) {
		t.Errorf("waiting %v, want %v", got, want)
	}
	l := b.balanced(t)
	if l.Processed != 5 || l.Told != 3 || l.Unknown != 1 || l.NotWanted != 1 || l.Coalesced != 3 {
		t.Errorf("ledger %+v", l)
	}
	if b.hints.users[three] == 0 || b.hints.users[one] != 0 {
		t.Errorf("a row that nobody wants must be looked at: %v", b.hints.users)
	}
	if b.hints.chans[event.ChannelKey{Org: "uni-b", Channel: event.Email}] == 0 {
		t.Error("the channels were not hinted")
	}
}

func TestFaultsNeitherLoseNorDouble(t *testing.T) {
	t.Parallel()
	for name, arm := range map[string]func(*faulty){
		"look-up fails":                    func(f *faulty) { f.failLookUp = true },
		"enqueue took effect, answer lost": func(f *faulty) { f.failEnqueueAfter = true },
		"removal fails":                    func(f *faulty) { f.failRemove = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, time.Hour, time.Nanosecond)
			id := testID(t, 1)
			b.affiliate(t, id, "uni-a", "uni-b")
			arm(b.f)
			ping(t, b, "main", id)
			if b.drain(t) != 1 {
				t.Fatal("the fault did not happen")
			}
			l := b.balanced(t)
			if l.Opened != 3 || l.Coalesced != 0 || l.Processed != 1 || l.Told != 1 {
				t.Errorf("opened %d coalesced %d processed %d told %d, want 3 0 1 1", l.Opened, l.Coalesced, l.Processed, l.Told)
			}
		})
	}
}

// TestARestartAppliesNothingTwice is a crash after fan-out and before removal:
// another reader, without memory, meets entries that were applied, and more of
// them than one batch.
func TestARestartAppliesNothingTwice(t *testing.T) {
	t.Parallel()
	b := setup(t, time.Hour, time.Hour)
	ctx := context.Background()
	id := testID(t, 1)
	b.affiliate(t, id, "uni-a")
	for range 100 {
		ping(t, b, "main", id)
	}
	for l := range store.Lanes {
		ln := b.rd.newLane(l)
		for more := true; more; {
			var err error
			if more, err = b.rd.pass(ctx, ln); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := b.balanced(t)
	if before.Opened != 1 || before.Coalesced != 99 {
		t.Fatalf("opened %d coalesced %d", before.Opened, before.Coalesced)
	}
	b.rd.o.KeepFor = time.Nanosecond
	b.rd.o.Batch = 7
	b.drain(t)
	after := b.balanced(t)
	if after.Opened != 1 || after.Coalesced != 99 || after.Processed != 100 {
		t.Errorf("after the restart: opened %d coalesced %d processed %d, want 1 99 100", after.Opened, after.Coalesced, after.Processed)
	}
}

func TestRunWorksWithoutHintsAndEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := setup(t, time.Hour, 10*time.Millisecond)
	b.rd.o.Poll = 5 * time.Millisecond
	id := testID(t, 1)
	b.affiliate(t, id, "uni-a")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.rd.Run(ctx)
	}()
	ping(t, b, "main", id)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := b.store.LogLength(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		<-tick.C
	}
	cancel()
	<-done
	if l := b.balanced(t); l.Told != 1 || l.Opened != 1 {
		t.Errorf("told %d opened %d, want 1 1", l.Told, l.Opened)
	}
}

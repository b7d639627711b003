package guest

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"dispatchd/internal/directory"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/register"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

const callback = "https://a.example/ping"

func TestDecide(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		state      event.RegState
		owner      string
		credential string
		kind       register.Kind
		asks       string // which credential
		removed    bool
	}{
		"new":                        {event.RegNone, "main", "main", register.Put, "main", false},
		"new, moved before it began": {event.RegNone, "main", "other", register.Put, "other", false},
		"new, taken back":            {event.RegNone, "main", "", 0, "", true},
		"intent is sent again":       {event.RegPutting, "main", "main", register.Put, "main", false},
		"intent, moved":              {event.RegPutting, "main", "other", register.Delete, "main", false},
		"intent, taken back":         {event.RegPutting, "main", "", register.Delete, "main", false},
		"alive":                      {event.RegAlive, "main", "main", 0, "", false},
		"alive, moved":               {event.RegAlive, "main", "other", register.Delete, "main", false},
		"alive, taken back":          {event.RegAlive, "main", "", register.Delete, "main", false},
		"going":                      {event.RegDeleting, "main", "", register.Delete, "main", false},
		"going, wanted again":        {event.RegDeleting, "main", "main", register.Delete, "main", false},
		"refused":                    {event.RegRefused, "main", "main", 0, "", false},
		"refused, moved":             {event.RegRefused, "main", "other", register.Put, "other", false},
		"refused, taken back":        {event.RegRefused, "main", "", 0, "", true},
	} {
		g := event.Guest{Orgs: []string{"uni-a"}, URL: callback, Registration: event.Registration{Credential: c.owner, State: c.state, Epoch: 1, Changed: noon}}
		p := decide(g, c.credential, noon)
		asks := ""
		if p.kind != 0 {
			asks = p.row.Registration.Credential
		}
		if p.kind != c.kind || asks != c.asks || (p.kind == 0 && p.look.IsZero()) != c.removed {
			t.Errorf("%s: %s with %q, look %s; want %s with %q", name, p.kind, asks, p.look, c.kind, c.asks)
		}
		g.Registration.RetryAt = noon.Add(time.Minute)
		if p := decide(g, c.credential, noon); p.kind == c.kind && c.state == p.row.Registration.State && c.kind != 0 {
			t.Errorf("%s: asked before ORCID wants to be", name)
		}
	}
}

// world is a store and an ORCID in memory, with faults.
type world struct {
	mu     sync.Mutex
	row    *event.Guest
	look   time.Time
	saves  int
	user   *event.User
	owner  string // at ORCID; "" none
	now    time.Time
	fail   func() error // of every call
	answer *orcid.Answer
	sent   []string
	off    string // a credential that is not configured
}

func (w *world) configured(credential string) bool { return credential != w.off }

func (w *world) Guests(context.Context, orcid.ID) ([]event.Guest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.row == nil {
		return nil, w.fail()
	}
	return []event.Guest{*w.row}, w.fail()
}

func (w *world) SaveGuest(_ context.Context, g event.Guest, look time.Time) (event.Guest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.fail(); err != nil {
		return g, err
	}
	if w.row == nil && g.Version != "" || w.row != nil && w.row.Version != g.Version {
		return g, event.ErrConflict
	}
	w.saves++
	if look.IsZero() {
		w.row = nil
		return g, nil
	}
	g.Version = strings.Repeat("v", w.saves)
	copied := g
	w.row, w.look = &copied, look
	return g, nil
}

func (w *world) User(context.Context, orcid.ID) (*event.User, error) { return w.user, w.fail() }

func (w *world) Put(_ context.Context, credential string, _ orcid.ID, _ string) (orcid.Answer, error) {
	return w.request("put "+credential, func() orcid.Answer {
		if w.owner != "" {
			return orcid.Answer{Kind: orcid.Exists, Status: 204}
		}
		w.owner = credential
		return orcid.Answer{Kind: orcid.Created, Status: 201}
	})
}

func (w *world) Delete(_ context.Context, credential string, _ orcid.ID, _ string) (orcid.Answer, error) {
	return w.request("delete "+credential, func() orcid.Answer {
		switch w.owner {
		case "":
			return orcid.Answer{Kind: orcid.NoSuchWebhook, Status: 404}
		case credential:
			w.owner = ""
			return orcid.Answer{Kind: orcid.Deleted, Status: 204}
		}
		return orcid.Answer{Kind: orcid.NotOurs, Status: 403}
	})
}

func (w *world) request(what string, do func() orcid.Answer) (orcid.Answer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.fail(); err != nil {
		return orcid.Answer{}, err
	}
	w.sent = append(w.sent, what)
	if w.answer != nil {
		return *w.answer, nil
	}
	return do(), nil
}

func newWorld(t interface{ Fatal(...any) }) (*world, *Keeper, *directory.Directory) {
	dir := directory.New()
	w := &world{now: noon, fail: func() error { return nil }, user: &event.User{Affiliations: []event.Affiliation{{Org: "uni-a"}}}}
	k, err := New(Options{
		Store: w, Directory: dir, ORCID: w, Configured: w.configured, Guard: func() error { return nil }, Now: func() time.Time { return w.now },
		Logger: slog.New(slog.DiscardHandler), Panics: func(string) { panic("panicked") }, Tick: time.Hour,
		Due: func(context.Context, time.Time, int) ([]Key, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.row == nil || w.look.After(w.now) {
				return nil, w.fail()
			}
			return []Key{{URL: callback}}, w.fail()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return w, k, dir
}

func serving(dir *directory.Directory, credential string) {
	dir.Put(org.Organisation{ID: "uni-a", Credential: credential})
}

// TestARowEndsAsWanted: whatever is changed and whatever fails, in the end ORCID
// has the row exactly while it is wanted, owned by the organisation's credential.
func TestARowEndsAsWanted(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, k, dir := newWorld(t)
		serving(dir, "main")
		ctx, credential := context.Background(), "main"
		w.row = &event.Guest{Orgs: []string{"uni-a"}, URL: callback, Version: "new", Registration: event.Registration{Credential: "main", Epoch: 1}}
		calls := 0
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				credential = rapid.SampledFrom([]string{"main", "other"}).Draw(t, "credential")
				serving(dir, credential)
			case 1, 2: // a crash at any call
				left := rapid.IntRange(0, 6).Draw(t, "calls until it fails")
				w.fail = func() error {
					if left--; left < 0 {
						return errors.New("away")
					}
					return nil
				}
			case 3:
				w.answer = &orcid.Answer{Kind: orcid.Unavailable, Status: 503}
			case 4:
				if w.row != nil {
					w.row.Gone = !w.row.Gone && rapid.Bool().Draw(t, "gone")
					w.row.Version += "x"
				}
			}
			_, _ = k.Settle(ctx, orcid.ID{}, callback) // it may fail
			w.fail, w.answer = func() error { return nil }, nil
			w.now = w.now.Add(time.Duration(rapid.IntRange(0, 7200).Draw(t, "seconds")) * time.Second)
			calls++
		}
		wanted := w.row != nil && !w.row.Gone
		w.now = w.now.Add(48 * time.Hour)
		if err := k.runOnce(ctx); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(48 * time.Hour)
		if err := k.runOnce(ctx); err != nil {
			t.Fatal(err)
		}
		switch {
		case wanted && (w.owner != credential || w.row.Registration.State != event.RegAlive || w.row.Registration.Credential != credential):
			t.Fatalf("owned by %q, want %q: %+v\n%v", w.owner, credential, w.row, w.sent)
		case !wanted && (w.owner != "" || w.row != nil):
			t.Fatalf("owned by %q: %+v\n%v", w.owner, w.row, w.sent)
		}
	})
}

func TestWhatIsAsWantedIsNotAskedFor(t *testing.T) {
	t.Parallel()
	w, k, dir := newWorld(t)
	serving(dir, "main")
	w.row = &event.Guest{Orgs: []string{"uni-a"}, URL: callback, Version: "new"}
	for range 5 {
		if _, err := k.Settle(context.Background(), orcid.ID{}, callback); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(2 * time.Hour)
	}
	if len(w.sent) != 1 {
		t.Errorf("requests: %v", w.sent)
	}
	// Nobody knows the organisation, or the record is not there: nothing is removed.
	dir.Remove("uni-a")
	w.user = nil
	if _, err := k.Settle(context.Background(), orcid.ID{}, callback); err != nil || len(w.sent) != 1 {
		t.Errorf("requests: %v %v", w.sent, err)
	}
	// The record says that the user is another's.
	w.user = &event.User{Affiliations: []event.Affiliation{{Org: "uni-b"}}}
	if _, err := k.Settle(context.Background(), orcid.ID{}, callback); err != nil || w.owner != "" || w.row != nil {
		t.Errorf("%v: %v %+v", err, w.sent, w.row)
	}
}

func TestNothingIsUnregisteredWhileRedisForgot(t *testing.T) {
	t.Parallel()
	w, k, dir := newWorld(t)
	serving(dir, "main")
	w.owner = "main"
	w.row = &event.Guest{Orgs: []string{"uni-a"}, URL: callback, Gone: true, Version: "v", Registration: event.Registration{Credential: "main", State: event.RegAlive, Epoch: 1}}
	k.o.Guard = func() error { return errors.New("redis forgot") }
	if _, err := k.Settle(context.Background(), orcid.ID{}, callback); err == nil || len(w.sent) != 0 {
		t.Errorf("%v: %v", err, w.sent)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w, k, dir := newWorld(t)
	serving(dir, "main")
	w.row = &event.Guest{Orgs: []string{"uni-a"}, URL: callback, Version: "new"}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { k.Run(ctx); close(done) }()
	deadline := time.Now().Add(time.Minute)
	for {
		w.mu.Lock()
		owner := w.owner
		w.mu.Unlock()
		if owner == "main" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it was not registered")
		}
		<-time.After(time.Millisecond)
	}
	cancel()
	<-done
}

// TestASharedRowStaysWithWhoOwnsIt while one of its organisations is served by
// the owner, and moves with the last.
func TestASharedRowStaysWithWhoOwnsIt(t *testing.T) {
	t.Parallel()
	w, k, dir := newWorld(t)
	serving(dir, "main")
	dir.Put(org.Organisation{ID: "uni-b", Credential: "other"})
	w.user.Affiliations = append(w.user.Affiliations, event.Affiliation{Org: "uni-b"})
	w.row = &event.Guest{Orgs: []string{"uni-b", "uni-a"}, URL: callback, Version: "new", Registration: event.Registration{Credential: "main", Epoch: 1}}
	settle := func(want ...string) {
		t.Helper()
		w.sent = nil
		if _, err := k.Settle(t.Context(), orcid.ID{}, callback); err != nil || !slices.Equal(w.sent, want) {
			t.Errorf("sent %v (%v), want %v", w.sent, err, want)
		}
	}
	settle("put main")
	settle()
	// One leaves without the row being told, as after a crash.
	w.user = &event.User{Affiliations: []event.Affiliation{{Org: "uni-b"}}}
	settle("delete main", "put other")
	if w.row == nil || !slices.Equal(w.row.Orgs, []string{"uni-b"}) || w.owner != "other" {
		t.Errorf("%+v of %s", w.row, w.owner)
	}
	w.user = &event.User{}
	settle("delete other")
	if w.row != nil || w.owner != "" {
		t.Errorf("%+v of %s", w.row, w.owner)
	}
}

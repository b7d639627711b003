package monthly

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func at(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDue(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, zone string
		sent       store.Month
		now        string
		owed       []store.Month
		next       string
	}{
		{"in the month", "", "2026-10", "2026-11-23T12:00:00Z", nil, "2026-12-01T08:00:00Z"},
		{"on the first, too early", "", "2026-10", "2026-12-01T07:59:59Z", nil, "2026-12-01T08:00:00Z"},
		{"on the first at eight", "", "2026-10", "2026-12-01T08:00:00Z", []store.Month{"2026-11"}, "2027-01-01T08:00:00Z"},
		{"sent", "", "2026-11", "2026-12-01T08:00:00Z", nil, "2027-01-01T08:00:00Z"},
		{"late by three weeks", "", "2026-10", "2026-12-22T08:00:00Z", []store.Month{"2026-11"}, "2027-01-01T08:00:00Z"},
		{"late by more than a month", "", "2026-10", "2027-01-15T08:00:00Z", []store.Month{"2026-11", "2026-12"}, "2027-02-01T08:00:00Z"},
		{"late by half a year", "", "2026-05", "2026-12-15T08:00:00Z", []store.Month{"2026-10", "2026-11"}, "2027-01-01T08:00:00Z"},
		{"new, before the first", "", "", "2026-11-23T12:00:00Z", []store.Month{"2026-10"}, "2026-12-01T08:00:00Z"},
		{"over the year", "", "2026-11", "2027-01-01T09:00:00Z", []store.Month{"2026-12"}, "2027-02-01T08:00:00Z"},
		{"Auckland is ahead", "Pacific/Auckland", "2026-10", "2026-11-30T19:00:00Z", []store.Month{"2026-11"}, "2026-12-31T19:00:00Z"},
		{"Honolulu is behind", "Pacific/Honolulu", "2026-10", "2026-12-01T17:59:00Z", nil, "2026-12-01T18:00:00Z"},
		{"Honolulu, eight o'clock", "Pacific/Honolulu", "2026-10", "2026-12-01T18:00:00Z", []store.Month{"2026-11"}, "2027-01-01T18:00:00Z"},
		{"a clock that went back", "", "2026-12", "2026-11-23T12:00:00Z", nil, "2026-12-01T08:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			owed, next := due(&org.Organisation{Timezone: c.zone}, c.sent, at(t, c.now))
			if !slices.Equal(owed, c.owed) || !next.Equal(at(t, c.next)) {
				t.Errorf("%v, next %s; want %v, %s", owed, next, c.owed, c.next)
			}
		})
	}
}

// world is a store and a mail server in memory, in the time of the bubble.
type world struct {
	mu     sync.Mutex
	sent   map[string]store.Month
	months map[store.Month][]store.Changed
	users  map[orcid.ID]*event.User
	// damaged are users whose record cannot be read.
	damaged []orcid.ID
	orgs    []*org.Organisation
	mails   []event.Summary
	holds   map[event.Hold]store.HoldInfo
	fail    error
	unsaid  bool // the mail goes out, but what we hear is an error
	away    error
	log     bytes.Buffer // to be read when the loop has stopped
}

func (w *world) Now() time.Time { return time.Now() }

func (w *world) All() []*org.Organisation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.orgs)
}

func (w *world) MonthUsers(_ context.Context, _ string, m store.Month, skip, n int) ([]store.Changed, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.months[m]
	list = list[min(skip, len(list)):]
	return list[:min(n, len(list))], w.away
}

func (w *world) MonthSent(_ context.Context, o string) (store.Month, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent[o], w.away
}

func (w *world) SetMonthSent(_ context.Context, o string, m store.Month) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away == nil {
		w.sent[o] = m
	}
	return w.away
}

func (w *world) Channels(_ context.Context, keys []event.ChannelKey) ([]store.ChannelState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(keys) != 1 || keys[0].Channel != event.Email {
		return nil, errors.New("asked for other channels than e-mail")
	}
	return []store.ChannelState{{Holds: w.holds}}, w.away
}

func (w *world) ReadableUsers(_ context.Context, ids []orcid.ID) (users []*event.User, damaged []orcid.ID, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	users = make([]*event.User, len(ids))
	for i, id := range ids {
		if slices.Contains(w.damaged, id) {
			damaged = append(damaged, id)
			continue
		}
		users[i] = w.users[id]
	}
	return users, damaged, w.away
}

func (w *world) SendSummary(_ context.Context, _ *org.Organisation, s event.Summary) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail == nil || w.unsaid {
		w.mails = append(w.mails, s)
	}
	return w.fail
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) got() []event.Summary {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.mails)
}

func id(t *testing.T, n uint64) orcid.ID {
	t.Helper()
	v, err := orcid.FromBase(n)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// newWorld begins in a bubble's time: 1 January 2000, midnight UTC.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		sent: map[string]store.Month{}, months: map[store.Month][]store.Changed{}, users: map[orcid.ID]*event.User{},
		orgs: []*org.Organisation{{ID: "uni-a", Name: "University A", Email: org.Email{Enabled: true, Monthly: true}}},
	}
	for n := range uint64(3) {
		u := id(t, n+1)
		w.users[u] = &event.User{ORCID: u, Affiliations: []event.Affiliation{{Org: "uni-a", Name: "Jo"}, {Org: "uni-b", Name: "Other"}}}
		w.months["2000-01"] = append(w.months["2000-01"], store.Changed{Org: "uni-a", Month: "2000-01", ORCID: u, At: time.Date(2000, 1, 5, 0, 0, int(n), 0, time.UTC)})
	}
	return w
}

func run(t *testing.T, w *world) (stop func()) {
	t.Helper()
	l, err := New(Options{Store: w, Directory: w, Sender: w, Logger: slog.New(slog.NewTextHandler(&w.log, nil)), Panics: func(string) { t.Error("panic") }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(ctx) })
	return func() { cancel(); wg.Wait() }
}

func sleepUntil(year int, month time.Month, day, hour, minute int) {
	time.Sleep(time.Until(time.Date(year, month, day, hour, minute, 0, 0, time.UTC)))
	synctest.Wait()
}

func TestTheFirstOfTheMonth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer run(t, w)()
		sleepUntil(2000, 2, 1, 7, 58)
		if n := len(w.got()); n != 0 {
			t.Fatalf("%d mails before eight", n)
		}
		w.set(func() { delete(w.users, id(t, 2)) }) // left on the last day
		sleepUntil(2000, 2, 1, 8, 2)
		mails := w.got()
		if len(mails) != 1 || len(mails[0].Users) != 2 || mails[0].ID != "month_uni-a_2000-01" || mails[0].Month != time.January || mails[0].Year != 2000 {
			t.Fatalf("%+v", mails)
		}
		if u := mails[0].Users[1]; u.ORCID != id(t, 3) || u.Who.Org != "uni-a" || !u.At.Equal(time.Date(2000, 1, 5, 0, 0, 2, 0, time.UTC)) {
			t.Errorf("%+v", u)
		}
		sleepUntil(2000, 4, 2, 0, 0) // February and March had no changes
		if n := len(w.got()); n != 1 {
			t.Errorf("%d mails", n)
		}
		if w.sent["uni-a"] != "2000-03" {
			t.Errorf("sent up to %s", w.sent["uni-a"])
		}
	})
}

// TestTheSameIDUntilItIsNoted: the mail server fails for days, the daemon
// restarts, Redis goes away after the mail: every try has the same id, and none
// follows once it is noted.
func TestTheSameIDUntilItIsNoted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fail = errors.New("mail server away")
		stop := run(t, w)
		sleepUntil(2000, 2, 3, 0, 0)
		stop()
		w.set(func() { w.unsaid = true })
		stop = run(t, w)
		sleepUntil(2000, 2, 3, 3, 0)
		stop()
		w.set(func() { w.fail = nil })
		stop = run(t, w)
		sleepUntil(2000, 2, 5, 0, 0)
		stop()
		mails := w.got()
		if len(mails) < 2 {
			t.Fatalf("%d mails", len(mails))
		}
		for _, m := range mails {
			if m.ID != mails[0].ID || len(m.Users) != 3 {
				t.Errorf("%+v", m)
			}
		}
		stop = run(t, w)
		sleepUntil(2000, 2, 20, 0, 0)
		stop()
		if n := len(w.got()); n != len(mails) {
			t.Errorf("%d mails more after it was noted", n-len(mails))
		}
	})
}

func TestLateIsNotLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.sent["uni-a"] = "1999-12"
		w.months["2000-02"] = w.months["2000-01"][:1]
		sleepUntil(2000, 3, 20, 0, 0) // the daemon was down for two firsts
		defer run(t, w)()
		synctest.Wait()
		mails := w.got()
		if len(mails) != 2 || mails[0].Month != time.January || mails[1].Month != time.February {
			t.Fatalf("%+v", mails)
		}
	})
}

func TestWhoWantsNoneGetsNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.orgs[0].Email.Monthly = false
		b := *w.orgs[0]
		b.ID, b.Email = "uni-b", org.Email{Monthly: true}
		w.orgs = append(w.orgs, &b)
		defer run(t, w)()
		sleepUntil(2000, 2, 20, 0, 0)
		if n := len(w.got()); n != 0 {
			t.Errorf("%d mails", n)
		}
	})
}

// TestNothingIsMailedWhileSomebodyHasStoppedIt, as by the unsubscribe link of an
// organisation of the file. It is made up for after that.
func TestNothingIsMailedWhileSomebodyHasStoppedIt(t *testing.T) {
	t.Parallel()
	for _, hold := range []event.Hold{event.HoldSuspend, event.HoldPause} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.holds = map[event.Hold]store.HoldInfo{hold: {Until: event.Forever}}
			defer run(t, w)()
			sleepUntil(2000, 2, 20, 0, 0)
			if n := len(w.got()); n != 0 || len(w.sent) != 0 {
				t.Fatalf("%s: %d mails, noted %v", hold, n, w.sent)
			}
			// A rest of the channel that ends by itself keeps no summary.
			w.set(func() { w.holds = map[event.Hold]store.HoldInfo{event.HoldRate: {Until: event.Forever}} })
			sleepUntil(2000, 2, 20, 1, 5)
			if mails := w.got(); len(mails) != 1 || mails[0].Month != time.January {
				t.Errorf("%s: after the end of it: %+v", hold, mails)
			}
		})
	}
}

// TestADamagedRecordKeepsNobodyElsesSummary: the summary goes without them, and
// who they are is said once, however often the mail is tried.
func TestADamagedRecordKeepsNobodyElsesSummary(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damaged []uint64
		mails   int
	}{"one": {[]uint64{2}, 1}, "all": {[]uint64{1, 2, 3}, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				for _, n := range c.damaged {
					w.damaged = append(w.damaged, id(t, n))
				}
				w.fail = errors.New("mail server away")
				stop := run(t, w)
				sleepUntil(2000, 2, 1, 12, 0)
				w.set(func() { w.fail = nil })
				sleepUntil(2000, 2, 3, 0, 0)
				stop()
				if mails := w.got(); len(mails) != c.mails || c.mails > 0 && len(mails[0].Users) != 2 {
					t.Errorf("%+v", mails)
				}
				if w.sent["uni-a"] != "2000-01" {
					t.Errorf("sent up to %q", w.sent["uni-a"])
				}
				said := w.log.String()
				for _, u := range w.damaged {
					if strings.Count(said, u.String()) != 1 {
						t.Errorf("%s is not named once: %s", u, said)
					}
				}
				if strings.Count(said, "cannot be read") != 1 {
					t.Error(said)
				}
			})
		})
	}
}

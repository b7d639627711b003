package actors

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// in makes a planInput in which uni-a (main), uni-b (other), off (disabled) and
// lost (credential not configured) exist.
func in(u event.User) planInput {
	orgs := map[string]*org.Organisation{
		"uni-a": {ID: "uni-a", Credential: "main", Webhook: org.Webhook{Enabled: true}},
		"uni-b": {ID: "uni-b", Credential: "other", Email: org.Email{Enabled: true}},
		"off":   {ID: "off", Credential: "main"},
		"lost":  {ID: "lost", Credential: "gone", Webhook: org.Webhook{Enabled: true}},
	}
	return planInput{
		user: u, now: t0,
		organisation: func(id string) (*org.Organisation, bool) { o, ok := orgs[id]; return o, ok },
		base: func(c string) (int, bool) {
			n, ok := map[string]int{"main": 1, "other": 2, "hub:main": 7, "hub:other": 8}[c]
			return n, ok
		},
		blocked: func(string) (time.Duration, bool) { return 0, false },
	}
}

func with(orgs []string, rows ...event.Registration) event.User {
	u := event.User{ORCID: id(7), Registrations: rows}
	for _, o := range orgs {
		u.Affiliations = append(u.Affiliations, event.Affiliation{Org: o})
	}
	return u
}

// mutedBy has the organisation mute the user.
func mutedBy(u event.User, org string) event.User {
	for i := range u.Affiliations {
		u.Affiliations[i].Muted = u.Affiliations[i].Org == org
	}
	return u
}

func TestPlanUser(t *testing.T) {
	t.Parallel()
	alive := func(c string, base int) event.Registration {
		return event.Registration{Credential: c, State: event.RegAlive, Epoch: 1, Base: base, Changed: t0.Add(-time.Hour)}
	}
	fresh := func(c string, base int) event.Registration {
		r := alive(c, base)
		r.Changed = t0.Add(-time.Minute)
		return r
	}
	ofHub := func(c string) event.Registration {
		return event.Registration{Credential: event.HubCredential(c), State: event.RegAlive, Epoch: 4711, Base: 7}
	}
	refusing := func(names ...string) func(*planInput) {
		return func(p *planInput) {
			p.blocked = func(c string) (time.Duration, bool) { return 5 * time.Minute, slices.Contains(names, c) }
		}
	}
	for _, c := range []struct {
		name    string
		user    event.User
		change  func(*planInput)
		step    string // "" for none
		again   time.Duration
		blocked []string
	}{
		{name: "new", user: with([]string{"uni-a"}), step: "put main"},
		{name: "as wanted", user: with([]string{"uni-a"}, alive("main", 1))},
		{name: "only disabled", user: with([]string{"off"}, alive("main", 1)), step: "delete main"},
		{name: "muted", user: mutedBy(with([]string{"uni-a"}, alive("main", 1)), "uni-a"), step: "delete main"},
		{name: "muted by one of two", user: mutedBy(with([]string{"uni-a", "uni-b"}, alive("main", 1)), "uni-b")},
		{name: "nobody left", user: with(nil, alive("main", 1)), step: "delete main"},
		{name: "another base", user: with([]string{"uni-a"}, alive("main", 9)), step: "put main"},
		{name: "e-mail counts", user: with([]string{"uni-b"}), step: "put other"},
		{name: "an unknown organisation stops DELETE", user: with([]string{"nobody"}, alive("main", 1)), again: unsurePause},
		{name: "but not PUT", user: with([]string{"nobody", "uni-a"}, alive("other", 2)), step: "put main", again: -1},
		{name: "a credential not configured", user: with([]string{"lost"}), again: unknownPause, blocked: []string{"gone"}},
		{name: "its rows are not unwanted", user: with([]string{"lost"}, alive("gone", 3)), again: -2},
		{name: "nor can they be deleted", user: with(nil, alive("gone", 3)), again: unknownPause, blocked: []string{"gone"}},
		{name: "in trouble", user: with([]string{"uni-a"}), change: refusing("main"), again: 5 * time.Minute, blocked: []string{"main"}},
		{name: "the other goes on", user: with([]string{"uni-a", "uni-b"}), change: refusing("main"), step: "put other", again: -1, blocked: []string{"main"}},
		{name: "a row of the Hub beside a new one", user: with([]string{"uni-a"}, fresh("main", 1), ofHub("main")), again: hubOverlap - time.Minute},
		{name: "beside one that lives long enough", user: with([]string{"uni-a"}, alive("main", 1), ofHub("main")), step: "delete hub:main"},
		{name: "beside one that another organisation lacks", user: with([]string{"uni-a", "uni-b"}, alive("main", 1), ofHub("main")), step: "put other"},
		{name: "as long as it cannot be had", user: with([]string{"uni-a", "uni-b"}, alive("main", 1), ofHub("main")), change: refusing("other"), again: 5 * time.Minute, blocked: []string{"other"}},
		{name: "registered by a credential that nobody wants", user: with([]string{"uni-a"}, ofHub("other")), step: "put main"},
		{name: "and then", user: with([]string{"uni-a"}, alive("main", 1), ofHub("other")), step: "delete hub:other"},
		{name: "of somebody who left", user: with(nil, ofHub("main")), step: "delete hub:main"},
		{name: "of an unknown organisation", user: with([]string{"nobody"}, ofHub("main")), again: unsurePause},
		{name: "in trouble with nothing to do", user: with([]string{"uni-a"}, alive("main", 1)), change: refusing("main")},
	} {
		p := in(c.user)
		if c.change != nil {
			c.change(&p)
		}
		got := planUser(p)
		step := ""
		if got.ok {
			step = got.step.Kind.String() + " " + got.step.Credential
		}
		again := time.Duration(0)
		if !got.again.IsZero() {
			again = got.again.Sub(t0)
		}
		switch c.again {
		case -1: // does not matter, there is a step
			again = -1
		case -2: // its base cannot be known, so it may want a replacement; not now
			if again != 0 && again < unknownPause {
				t.Errorf("%s: again after %s", c.name, again)
			}
			again, got.blocked = -2, nil
		}
		if step != c.step || again != c.again || !slices.Equal(got.blocked, c.blocked) {
			t.Errorf("%s: step %q, again %s, blocked %v; want %q, %s, %v", c.name, step, again, got.blocked, c.step, c.again, c.blocked)
		}
	}
	u := with([]string{"uni-a", "uni-b"})
	u.Affiliations[0].Announce, u.Affiliations[1].Announce = true, true
	p := in(u)
	p.announced = map[string]bool{"uni-b": true}
	if got := planUser(p); len(got.announce) != 1 || got.announce[0].Org != "uni-a" || got.ok {
		t.Errorf("announce comes first: %+v", got)
	}
}

func TestANewUserIsAnnouncedAndRegistered(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		b.users.affiliate(id(1), true, "uni-a")
		b.sys.HintUser(id(1), true)
		sleep(time.Second)
		if got := fmt.Sprint(b.users.rows(id(1)), b.users.told(), b.orcid.list()[0].op); got != "[main/1 alive] [uni-a 0000-0000-0000-001X]PUT" {
			b.Errorf("got %s", got)
		}
		if u, work := b.users.record(id(1)); u.Affiliations[0].Announce || !work.IsZero() || len(b.orcid.list()) != 1 {
			b.Errorf("left: %+v, work %v", u, work)
		}
		// The organisation leaves: DELETE, and the record goes.
		b.users.change(id(1), func(u *event.User) { u.Affiliations = nil })
		sleep(time.Second) // found without a hint
		records, _ := b.users.sizes()
		if got := b.orcid.list(); len(got) != 2 || got[1].op != "DELETE" || records != 0 {
			b.Errorf("requests %v, %d records", got, records)
		}
		if b.sys.busyUsers.Load() != 0 {
			b.Error("a user is busy for ever")
		}
	})
}

func TestTheIntentIsDurableBeforeTheRequest(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.orcid.took = time.Minute
		b.start(deliverFunc(delivered))
		b.users.affiliate(id(1), false, "uni-a")
		b.sys.HintUser(id(1), false)
		sleep(time.Second)
		_, work := b.users.record(id(1))
		if got := b.users.rows(id(1)); !slices.Equal(got, []string{"main/1 putting"}) || work.IsZero() {
			b.Errorf("while the request is on its way: %v, work %s", got, work)
		}
		b.stop() // cut off: the next start sends it again, with the same epoch
		b.orcid.takes(0)
		b.users.mu.Lock()
		b.users.work[id(1)] = time.Now()
		b.users.mu.Unlock()
		b.start(deliverFunc(delivered))
		sleep(time.Second)
		if got := b.orcid.list(); len(got) != 2 || got[1].epoch != 1 || got[1].op != "PUT" {
			b.Errorf("requests %v", got)
		}
		if got := b.users.rows(id(1)); !slices.Equal(got, []string{"main/1 alive"}) {
			b.Errorf("in the end: %v", got)
		}
	})
}

func TestStopLetsAnAnswerBeNoted(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.orcid.took = 3 * time.Second
		b.start(deliverFunc(delivered))
		b.users.affiliate(id(1), false, "uni-a")
		b.sys.HintUser(id(1), false)
		sleep(time.Second)
		b.stop()
		if got := b.users.rows(id(1)); !slices.Equal(got, []string{"main/1 alive"}) {
			b.Errorf("after stop: %v", got)
		}
	})
}

func TestAConflictKeepsBothChanges(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.orcid.took = 2 * time.Second
		b.enable("uni-b", "main")
		b.start(deliverFunc(delivered))
		b.users.affiliate(id(1), false, "uni-a")
		b.sys.HintUser(id(1), true)
		sleep(time.Second)
		b.users.change(id(1), func(u *event.User) {
			u.Affiliations = append(u.Affiliations, event.Affiliation{Org: "uni-b"})
		})
		sleep(5 * time.Second)
		u, work := b.users.record(id(1))
		if len(u.Affiliations) != 2 || len(b.orcid.list()) != 1 || !slices.Equal(b.users.rows(id(1)), []string{"main/1 alive"}) {
			b.Errorf("%+v after %v", u, b.orcid.list())
		}
		if !work.IsZero() {
			b.Errorf("work left: %v", work)
		}
	})
}

// TestAnAnswerIsNotedOfTheStepThatItAnswers: the save that notes it has the next
// step's intent in it, too. When that save meets another change, the answer must
// not be taken for one to the next step, whose row would stay at ORCID.
func TestAnAnswerIsNotedOfTheStepThatItAnswers(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.orcid.took = 2 * time.Second
		b.start(deliverFunc(delivered))
		b.users.change(id(1), func(u *event.User) {
			u.Registrations = []event.Registration{
				{Credential: "main", State: event.RegAlive, Epoch: 1, Base: 1},
				{Credential: "main", State: event.RegAlive, Epoch: 2, Base: 1},
			}
		})
		b.sys.HintUser(id(1), true)
		sleep(time.Second) // the first request is on its way
		b.users.change(id(1), func(u *event.User) { u.LastPing = time.Now() })
		sleep(time.Minute)
		got := map[int]int{}
		for _, r := range b.orcid.list() {
			if r.op != "DELETE" {
				b.Errorf("%s of epoch %d", r.op, r.epoch)
			}
			got[r.epoch]++
		}
		if got[1] != 1 || got[2] != 1 || len(b.users.rows(id(1))) != 0 {
			b.Errorf("DELETEs by epoch %v, rows left %v; want one of each and none", got, b.users.rows(id(1)))
		}
	})
}

func TestSettingsThatChangeDuringThePassAreNotMissed(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		b.dir.set(org.Organisation{ID: "uni-a", Credential: "main"})
		b.users.affiliate(id(1), false, "uni-a")
		// The organisation is enabled after the plan, before its save clears the
		// work that was set because of it.
		b.users.mu.Lock()
		b.users.onSave = func(event.User) { b.enable("uni-a", "main") }
		b.users.mu.Unlock()
		b.sys.HintUser(id(1), false)
		sleep(time.Second)
		if len(b.orcid.list()) != 1 {
			b.Error("the user is not registered")
		}
	})
}

func TestNothingIsUnregisteredWhileRedisIsNotTrusted(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		forgot := errors.New("forgot")
		b.guard.err.Store(&forgot)
		b.users.change(id(1), func(u *event.User) {
			u.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 1, Base: 1}}
		})
		b.sys.HintUser(id(1), true)
		sleep(10 * time.Minute)
		if len(b.orcid.list()) != 0 {
			b.Errorf("requests %v", b.orcid.list())
		}
		b.guard.err.Store(nil)
		sleep(10 * time.Minute)
		if got := b.orcid.list(); len(got) != 1 || got[0].op != "DELETE" {
			b.Errorf("requests %v", got)
		}
	})
}

func TestARefusedRowDoesNotKeepTheRecordForEver(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.users.change(id(1), func(u *event.User) {
			u.Registrations = []event.Registration{{Credential: "main", State: event.RegRefused, Epoch: 1, Base: 1}}
		})
		b.start(deliverFunc(delivered))
		sleep(time.Minute)
		if u, err := b.users.User(b.Context(), id(1)); err != nil || u != nil {
			b.Errorf("nobody has this user, and the record stays: %+v %v", u, err)
		}
	})
}

func TestRedisAwayCostsTimeOnly(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		away := b.users.setAway
		b.users.affiliate(id(1), false, "uni-a")
		b.orcid.takes(time.Second)
		b.sys.HintUser(id(1), true)
		sleep(500 * time.Millisecond)
		away(true) // between the request and its note
		sleep(5 * time.Second)
		away(false)
		sleep(5 * time.Second)
		if got := b.users.rows(id(1)); !slices.Equal(got, []string{"main/1 alive"}) || len(b.orcid.list()) != 1 {
			b.Errorf("rows %v after %d requests", got, len(b.orcid.list()))
		}
		away(true)
		b.sys.HintUser(id(1), true)
		sleep(10 * time.Minute)
		if n := b.log.count("users with work cannot be looked for; trying again"); n != 2 {
			b.Errorf("%d lines about two outages", n)
		}
		away(false)
		b.users.affiliate(id(2), false, "uni-a")
		sleep(15 * time.Second)
		if got := b.users.rows(id(2)); !slices.Equal(got, []string{"main/1 alive"}) {
			b.Errorf("after the outage: %v", got)
		}
	})
}

func TestAReplacementIsDeletedTenMinutesLater(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		b.users.affiliate(id(1), false, "uni-a")
		b.users.change(id(1), func(u *event.User) {
			u.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 4, Base: 9, Changed: time.Now()}}
		})
		sleep(9 * time.Minute)
		if got := b.users.rows(id(1)); !slices.Equal(got, []string{"main/4 alive", "main/5 alive"}) {
			b.Errorf("after 9 minutes: %v", got)
		}
		sleep(2 * time.Minute)
		got := b.orcid.list()
		if len(got) != 2 || got[1].op != "DELETE" || got[1].epoch != 4 {
			b.Errorf("requests %v", got)
		}
	})
}

// TestAProcessThatWasKilledDelaysNobody: the leases of its intents are not waited
// for, but the pauses that ORCID asked for are.
func TestAProcessThatWasKilledDelaysNobody(t *testing.T) {
	bubble(t, func(b *bundle) {
		now := time.Now()
		for i := range uint64(3) {
			b.users.affiliate(id(i+1), false, "uni-a")
			b.users.change(id(i+1), func(u *event.User) {
				u.Registrations = []event.Registration{{Credential: "main", State: event.RegPutting, Epoch: 1, Base: 1, Changed: now}}
				if i == 2 {
					u.Registrations[0].Tries, u.Registrations[0].Status, u.Registrations[0].RetryAt = 1, 503, now.Add(time.Minute)
				}
			})
			b.users.mu.Lock()
			b.users.work[id(i+1)] = now.Add(intentLease)
			if i == 2 {
				b.users.work[id(i+1)] = now.Add(time.Minute)
			}
			b.users.mu.Unlock()
		}
		b.start(deliverFunc(delivered))
		sleep(5 * time.Second)
		if n := len(b.orcid.list()); n != 2 {
			b.Errorf("%d requests after five seconds, want those of the two that were cut off", n)
		}
		sleep(50 * time.Second)
		if n := len(b.orcid.list()); n != 2 {
			b.Errorf("%d requests before ORCID's pause has ended", n)
		}
		sleep(10 * time.Second)
		if n := b.users.countState(event.RegAlive); n != 3 {
			b.Errorf("%d registrations live", n)
		}
	})
}

package liveness

import (
	"testing"
	"time"

	"dispatchd/internal/event"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestTheWayWithFewerCallsIsTaken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		users, changes int
		slices         bool
	}{
		"nobody":                              {0, 0, false},
		"a small hub":                         {600, 10, false},
		"a small hub and a busy day":          {30_000, 400_000, false}, // 100 calls against 573
		"a small hub and a short outage":      {30_000, 17_000, true},   // 100 against 26
		"a million and a day":                 {1_000_000, 400_000, true},
		"a million and a re-index of all":     {1_000_000, 25_000_000, false},
		"all of ORCID and a day":              {20_000_000, 400_000, true},
		"one call is never more than a slice": {300, 0, false},
		"three calls for what one tells":      {900, 0, true},
	} {
		if got := bySlices(c.users, c.changes); got != c.slices {
			t.Errorf("%s: by slices is %v, want %v", name, got, c.slices)
		}
	}
}

func TestCountingChangesIsWorthACall(t *testing.T) {
	t.Parallel()
	for users, want := range map[int]bool{0: false, 900: false, 901: true, 1_000_000: true} {
		if got := worthCounting(users); got != want {
			t.Errorf("%d users: %v, want %v", users, got, want)
		}
	}
}

func TestRoundsAreDueOnceAndCoverEverything(t *testing.T) {
	t.Parallel()
	const every = 24 * time.Hour
	var p progress
	if !p.begin("main", every, noon) || p.Round != nil {
		t.Fatalf("a new credential begins a round at once: %+v", p)
	}
	if p.Done.After(noon) || p.Done.Before(noon.Add(-every)) {
		t.Fatalf("the first round would be at %s", p.Done.Add(every))
	}
	first := p.Done.Add(every)
	if p.begin("main", every, first.Add(-time.Second)); p.Round != nil {
		t.Fatal("a round before its time")
	}
	before := p.Done
	if p.begin("main", every, first); p.Round == nil || p.Round.Why != whyTimer || !p.Round.Since.Equal(before.Add(-overlap)) {
		t.Fatalf("the first round is %+v, want one since %s", p.Round, before.Add(-overlap))
	}
	if p.begin("main", every, first.Add(time.Hour)) {
		t.Fatal("a round is begun while one is under way")
	}
	p.owe(first.Add(-10 * time.Minute))
	p.finish()
	if !p.Done.Equal(first) {
		t.Fatalf("done until %s, want %s", p.Done, first)
	}
	p.begin("main", every, first.Add(time.Hour))
	if p.Round == nil || p.Round.Why != whyOutage || !p.Round.Since.Equal(first.Add(-10*time.Minute-overlap)) || !p.Owed.IsZero() {
		t.Fatalf("what is owed is not made up for: %+v", p)
	}
	p.finish()
	if !p.Done.Equal(first) {
		t.Fatal("a round over an outage only counts for all changes")
	}
	p.owe(first.Add(-time.Hour))
	p.owe(first)
	p.begin("main", every, first.Add(every))
	if p.Round == nil || p.Round.Why != whyTimer || !p.Round.Since.Equal(first.Add(-time.Hour-overlap)) || !p.Owed.IsZero() {
		t.Fatalf("a round that is due does not cover what is owed: %+v", p.Round)
	}
}

func TestWithoutTimerOnlyOutagesAreCaughtUp(t *testing.T) {
	t.Parallel()
	p := progress{Done: noon}
	if p.begin("main", 0, noon.Add(1000*time.Hour)) {
		t.Fatalf("a round without a reason: %+v", p.Round)
	}
	p.owe(noon)
	if p.begin("main", 0, noon.Add(time.Hour)); p.Round == nil {
		t.Fatal("an outage is not caught up with")
	}
}

func TestAClockThatIsSetBackStopsNoRound(t *testing.T) {
	t.Parallel()
	p := progress{Done: noon.Add(1000 * time.Hour)}
	if !p.begin("main", 24*time.Hour, noon) || p.Round == nil || !p.Round.Since.Equal(noon.Add(-afterLoss-overlap)) {
		t.Fatalf("the round is %+v, want one over the last two days", p.Round)
	}
	p.finish()
	if p.begin("main", 24*time.Hour, noon.Add(24*time.Hour)); p.Round == nil || p.Round.Why != whyTimer {
		t.Fatalf("a day later: %+v", p)
	}
}

func TestCredentialsSpreadOverTheDay(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{}
	for _, c := range []string{"main", "a", "b", "c", "uni-auckland", "uni-otago"} {
		s := stagger(c, 24*time.Hour)
		if s < 0 || s >= 24*time.Hour || s != stagger(c, 24*time.Hour) {
			t.Errorf("%s begins %s after the others", c, s)
		}
		seen[s.Truncate(time.Minute)] = true
	}
	if len(seen) < 6 {
		t.Errorf("only %d different times", len(seen))
	}
}

func TestSlicesAimAtOnePage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		width time.Duration
		n     int
		want  time.Duration
	}{
		"right":           {time.Hour, sliceRows, time.Hour},
		"empty":           {time.Hour, 0, 4 * time.Hour},
		"twice as many":   {time.Hour, 2 * sliceRows, 30 * time.Minute},
		"far too many":    {time.Hour, 100 * sliceRows, 15 * time.Minute},
		"never under 1 s": {time.Second, 100 * sliceRows, time.Second},
	} {
		if got := nextWidth(c.width, c.n); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := firstWidth(24*time.Hour, 0); got != 24*time.Hour {
		t.Errorf("the first slice of a window without changes is %s", got)
	}
	if got := firstWidth(24*time.Hour, 10*sliceRows); got != 144*time.Minute {
		t.Errorf("the first slice is %s, want 2h24m", got)
	}
}

func TestWhatAMissingPingSays(t *testing.T) {
	t.Parallel()
	since := noon.Add(-24 * time.Hour)
	alive := []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 1, Changed: since.Add(-time.Hour)}}
	fresh := []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 2, Changed: since.Add(time.Hour)}}
	putting := []event.Registration{{Credential: "main", State: event.RegPutting, Epoch: 1, Changed: since.Add(-time.Hour)}}
	once := event.Silence{At: noon.Add(-23 * time.Hour), Count: 1}
	for name, c := range map[string]struct {
		user   event.User
		before event.Silence
		risk   bool
		want   verdict
	}{
		"the first time":                      {event.User{Registrations: alive}, event.Silence{}, false, verdict{silence: event.Silence{At: noon, Count: 1}}},
		"the first time after a long outage":  {event.User{Registrations: alive}, event.Silence{}, true, verdict{silence: event.Silence{At: noon, Count: 1}, watch: true}},
		"the second time in a row":            {event.User{Registrations: alive}, once, false, verdict{silence: event.Silence{At: noon}, rearm: true}},
		"a ping came between":                 {event.User{Registrations: alive, LastPing: once.At.Add(time.Hour)}, once, false, verdict{silence: event.Silence{At: noon, Count: 1}}},
		"a ping before both":                  {event.User{Registrations: alive, LastPing: once.At.Add(-time.Hour)}, once, true, verdict{silence: event.Silence{At: noon}, rearm: true}},
		"registered during the window":        {event.User{Registrations: fresh}, once, true, verdict{silence: event.Silence{At: noon}}},
		"not registered yet":                  {event.User{Registrations: putting}, once, true, verdict{silence: event.Silence{At: noon}}},
		"not registered with this credential": {event.User{}, once, true, verdict{silence: event.Silence{At: noon}}},
	} {
		if got := judge(&c.user, "main", c.before, since, noon, c.risk); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestUntilWhenChangesAreKnown(t *testing.T) {
	t.Parallel()
	serves := func(o string) bool { return o != "elsewhere" }
	u := event.User{
		LastPing: noon.Add(-10 * time.Hour),
		Affiliations: []event.Affiliation{
			{Org: "elsewhere", AffiliatedAt: noon}, {Org: "0", AffiliatedAt: noon.Add(-9 * time.Hour), Muted: true}, {Org: "b", AffiliatedAt: noon.Add(-5 * time.Hour)}, {Org: "a", AffiliatedAt: noon.Add(-7 * time.Hour)},
		},
	}
	if got := firstOrg(&u, serves); got != "a" {
		t.Errorf("the first organisation that is told: %q", got)
	}
	if got, want := knownUntil(&u, "main", event.Silence{}, serves), noon.Add(-7*time.Hour); !got.Equal(want) {
		t.Errorf("until the first affiliation: %s, want %s", got, want)
	}
	if got, want := knownUntil(&u, "main", event.Silence{At: noon.Add(-2 * time.Hour)}, serves), noon.Add(-2*time.Hour); !got.Equal(want) {
		t.Errorf("until it was found last: %s, want %s", got, want)
	}
	u.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Changed: noon}, {Credential: "other", State: event.RegAlive, Epoch: 9, Changed: noon.Add(time.Hour)}}
	if got, want := knownUntil(&u, "main", event.Silence{}, serves), noon.Add(-overlap); !got.Equal(want) {
		t.Errorf("until the registration's check: %s, want %s", got, want)
	}
	u.LastPing = noon
	if got := knownUntil(&u, "main", event.Silence{}, serves); !got.Equal(noon) {
		t.Errorf("until the last ping: %s, want %s", got, noon)
	}
}

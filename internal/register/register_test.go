package register

import (
	"slices"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.Date(2026, 11, 23, 2, 5, 32, 0, time.UTC)

func testUser(rows ...event.Registration) event.User {
	id, err := orcid.ParseStrict("0000-0002-1825-0097")
	if err != nil {
		panic(err)
	}
	return event.User{ORCID: id, Registrations: rows}
}

func row(credential string, epoch, base int, state event.RegState, changed time.Duration) event.Registration {
	return event.Registration{Credential: credential, Epoch: epoch, Base: base, State: state, Changed: t0.Add(changed)}
}

func later(r event.Registration, retry time.Duration, tries, status int) event.Registration {
	r.RetryAt, r.Tries, r.Status = t0.Add(retry), tries, status
	return r
}

const (
	none    = event.RegNone
	putting = event.RegPutting
	living  = event.RegAlive
	leaving = event.RegDeleting
	refusal = event.RegRefused
)

func TestNext(t *testing.T) {
	t.Parallel()
	const old = -time.Hour
	for name, tt := range map[string]struct {
		rows   []event.Registration
		wanted Wanted
		want   Step // Kind 0 when none is coming either
		again  time.Duration
	}{
		"nobody wants anything":  {nil, nil, Step{}, 0},
		"wanted, nothing there":  {nil, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 1, Base: 3}, 0},
		"wanted and alive":       {[]event.Registration{row("a", 1, 3, living, old)}, Wanted{"a": 3}, Step{}, 0},
		"crash during a PUT":     {[]event.Registration{row("a", 2, 3, putting, 0)}, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3, From: putting}, 0},
		"PUT failed, waiting":    {[]event.Registration{later(row("a", 2, 3, putting, 0), time.Minute, 1, 503)}, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3, From: putting}, time.Minute},
		"PUT failed, waited":     {[]event.Registration{later(row("a", 2, 3, putting, 0), -time.Minute, 1, 503)}, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3, From: putting}, 0},
		"another base":           {[]event.Registration{row("a", 1, 2, living, old)}, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, 0},
		"another base in a PUT":  {[]event.Registration{row("a", 1, 2, putting, 0)}, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, 0},
		"replaced a minute ago":  {[]event.Registration{row("a", 1, 2, living, old), row("a", 2, 3, living, -time.Minute)}, Wanted{"a": 3}, Step{Kind: Delete, Credential: "a", Epoch: 1, Base: 2, From: living}, 9*time.Minute + time.Second},
		"replaced long ago":      {[]event.Registration{row("a", 1, 2, living, old), row("a", 2, 3, living, old)}, Wanted{"a": 3}, Step{Kind: Delete, Credential: "a", Epoch: 1, Base: 2, From: living}, 0},
		"replacing, not alive":   {[]event.Registration{row("a", 1, 2, living, old), later(row("a", 2, 3, putting, 0), time.Minute, 1, 503)}, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3, From: putting}, time.Minute},
		"replacement refused":    {[]event.Registration{row("a", 1, 2, living, old), row("a", 2, 3, refusal, old)}, Wanted{"a": 3}, Step{}, 0},
		"base there and back":    {[]event.Registration{row("a", 1, 3, living, old), row("a", 2, 4, putting, 0)}, Wanted{"a": 3}, Step{Kind: Delete, Credential: "a", Epoch: 2, Base: 4, From: putting}, 0},
		"crash during a DELETE":  {[]event.Registration{row("a", 1, 2, leaving, old), row("a", 2, 3, living, old)}, Wanted{"a": 3}, Step{Kind: Delete, Credential: "a", Epoch: 1, Base: 2, From: leaving}, 0},
		"wanted again":           {[]event.Registration{row("a", 1, 3, leaving, 0)}, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, 0},
		"wanted again, resting":  {[]event.Registration{later(row("a", 1, 3, leaving, 0), time.Minute, 1, 429)}, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, time.Minute},
		"wanted again, odd":      {[]event.Registration{later(row("a", 1, 3, leaving, 0), time.Hour, 1, 418)}, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, 0},
		"refused":                {[]event.Registration{row("a", 1, 3, refusal, old)}, Wanted{"a": 3}, Step{}, 0},
		"refused, another base":  {[]event.Registration{row("a", 1, 2, refusal, old)}, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, 0},
		"planned":                {[]event.Registration{row("a", 1, 3, living, old), row("a", 2, 3, none, 0)}, Wanted{"a": 3}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, 0},
		"planned, another base":  {[]event.Registration{row("a", 1, 3, living, old), row("a", 2, 3, none, 0)}, Wanted{"a": 4}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 4}, 0},
		"not wanted, alive":      {[]event.Registration{row("a", 1, 3, living, old)}, nil, Step{Kind: Delete, Credential: "a", Epoch: 1, Base: 3, From: living}, 0},
		"not wanted, putting":    {[]event.Registration{row("a", 1, 3, putting, old)}, nil, Step{Kind: Delete, Credential: "a", Epoch: 1, Base: 3, From: putting}, 0},
		"not wanted, deleting":   {[]event.Registration{later(row("a", 1, 3, leaving, old), time.Minute, 1, 503)}, nil, Step{Kind: Delete, Credential: "a", Epoch: 1, Base: 3, From: leaving}, time.Minute},
		"not wanted, refused":    {[]event.Registration{row("a", 1, 3, refusal, old), row("a", 2, 3, none, old)}, nil, Step{}, 0},
		"PUT goes before DELETE": {[]event.Registration{row("a", 1, 3, living, old)}, Wanted{"b": 3}, Step{Kind: Put, Credential: "b", Epoch: 1, Base: 3}, 0},
		"now goes before later":  {[]event.Registration{row("a", 1, 3, living, old), later(row("b", 1, 3, putting, 0), time.Minute, 1, 503)}, Wanted{"b": 3}, Step{Kind: Delete, Credential: "a", Epoch: 1, Base: 3, From: living}, 0},
		"two wait":               {[]event.Registration{later(row("a", 1, 3, putting, 0), time.Hour, 1, 503), later(row("b", 1, 3, putting, 0), time.Minute, 1, 503)}, Wanted{"a": 3, "b": 3}, Step{Kind: Put, Credential: "b", Epoch: 1, Base: 3, From: putting}, time.Minute},
	} {
		step, ok, again := Next(testUser(tt.rows...), tt.wanted, t0)
		var wantAgain time.Time
		if tt.again != 0 {
			wantAgain = t0.Add(tt.again)
			tt.want.NotBefore = wantAgain
		}
		if wantOK := tt.want.Kind != 0 && tt.again == 0; step != tt.want || ok != wantOK || !again.Equal(wantAgain) {
			t.Errorf("%s: got %+v, %v, %s; want %+v, %v, %s", name, step, ok, again, tt.want, wantOK, wantAgain)
		}
	}
}

func TestNextOfSkipsCredentialsInTrouble(t *testing.T) {
	t.Parallel()
	u := testUser(row("a", 1, 3, putting, 0), row("b", 1, 3, living, -time.Hour))
	usable := func(c string) bool { return c != "a" }
	if s, ok, _ := NextOf(u, Wanted{"a": 3}, nil, t0, usable); !ok || s.Credential != "b" || s.Kind != Delete {
		t.Errorf("got %+v, %v; want the DELETE of b", s, ok)
	}
	if s, ok, again := NextOf(u, Wanted{"a": 3, "b": 3, "c": 1}, nil, t0, func(string) bool { return false }); ok || !again.IsZero() {
		t.Errorf("got %+v, %v, %s; want nothing", s, ok, again)
	}
}

// TestAFormerCredentialGoesOnUntilItsHeirLives for ten minutes: never a gap.
func TestAFormerCredentialGoesOnUntilItsHeirLives(t *testing.T) {
	t.Parallel()
	old := row("a", 1, 3, living, -time.Hour)
	put := Step{Kind: Put, Credential: "b", Epoch: 1, Base: 4}
	del := Step{Kind: Delete, Credential: "a", Epoch: 1, Base: 3, From: living}
	from := func(s Step, state event.RegState) Step { s.From = state; return s }
	for name, tt := range map[string]struct {
		rows  []event.Registration
		heirs []string
		want  Step
		again time.Duration
	}{
		"moved":                  {[]event.Registration{old}, []string{"b"}, put, 0},
		"ORCID refuses for now":  {[]event.Registration{old, later(row("b", 1, 4, putting, 0), time.Minute, 1, 503)}, []string{"b"}, from(put, putting), time.Minute},
		"ORCID refuses for good": {[]event.Registration{old, row("b", 1, 4, refusal, 0)}, []string{"b"}, Step{}, 0},
		"a minute ago":           {[]event.Registration{old, row("b", 1, 4, living, -time.Minute)}, []string{"b"}, del, 9*time.Minute + time.Second},
		"long ago":               {[]event.Registration{old, row("b", 1, 4, living, -11*time.Minute)}, []string{"b"}, del, 0},
		"nobody takes over":      {[]event.Registration{old, row("b", 1, 4, living, -time.Minute)}, nil, del, 0},
		"two take over":          {[]event.Registration{old, row("b", 1, 4, living, -11*time.Minute), row("c", 1, 4, putting, 0)}, []string{"b", "c"}, Step{Kind: Put, Credential: "c", Epoch: 1, Base: 4, From: putting}, 0},
		// It may be there still, and be the only one that ORCID pings.
		"on its way out before": {[]event.Registration{row("a", 1, 3, leaving, -time.Hour), later(row("b", 1, 4, putting, 0), time.Minute, 1, 503)}, []string{"b"}, from(put, putting), time.Minute},
		"replaced just before": {
			[]event.Registration{row("a", 1, 3, leaving, -time.Hour), row("a", 2, 3, living, -time.Minute), later(row("b", 1, 4, putting, 0), time.Minute, 1, 503)},
			[]string{"b"},
			from(put, putting), time.Minute,
		},
		"on its way out, long ago": {[]event.Registration{row("a", 1, 3, leaving, -time.Hour), row("b", 1, 4, living, -11*time.Minute)}, []string{"b"}, from(del, leaving), 0},
	} {
		wanted := Wanted{"b": 4}
		if slices.Contains(tt.heirs, "c") {
			wanted["c"] = 4
		}
		step, ok, again := NextOf(testUser(tt.rows...), wanted, Heirs{"a": tt.heirs}, t0, nil)
		var wantAgain time.Time
		if tt.again != 0 {
			wantAgain = t0.Add(tt.again)
			tt.want.NotBefore = wantAgain
		}
		if wantOK := tt.want.Kind != 0 && tt.again == 0; step != tt.want || ok != wantOK || !again.Equal(wantAgain) {
			t.Errorf("%s: got %+v, %v, %s; want %+v, %v, %s", name, step, ok, again, tt.want, wantOK, wantAgain)
		}
	}
}

// TestWhoIsServedByAPing of which credential, while an organisation moves.
func TestWhoIsServedByAPing(t *testing.T) {
	t.Parallel()
	moved := t0.Add(-time.Hour)
	o := &org.Organisation{Credential: "b", Former: []org.Former{{Credential: "a", Until: moved}}}
	for name, tt := range map[string]struct {
		rows       []event.Registration
		affiliated time.Duration // after the move
		credential string
		want       bool
	}{
		"the present one":        {nil, time.Minute, "b", true},
		"a strange one":          {nil, -time.Hour, "c", false},
		"nothing registered yet": {nil, -time.Hour, "a", true},
		"came after the move":    {nil, time.Minute, "a", false},
		"not confirmed":          {[]event.Registration{row("b", 1, 4, putting, 0)}, -time.Hour, "a", true},
		"confirmed just now":     {[]event.Registration{row("b", 1, 4, living, -time.Minute)}, -time.Hour, "a", true},
		"confirmed long ago":     {[]event.Registration{row("b", 1, 4, living, -11*time.Minute)}, -time.Hour, "a", false},
		"confirmed, made anew":   {[]event.Registration{row("b", 1, 4, living, -time.Hour), row("b", 2, 4, living, -time.Minute)}, -time.Hour, "a", false},
	} {
		u := testUser(tt.rows...)
		if got := Serves(o, &u, moved.Add(tt.affiliated), tt.credential, t0); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestIntend(t *testing.T) {
	t.Parallel()
	now := t0.Add(1500 * time.Millisecond)
	at := func(r event.Registration) event.Registration { r.Changed = t0.Add(time.Second); return r }
	for name, tt := range map[string]struct {
		rows []event.Registration
		step Step
		want []event.Registration
	}{
		"first":                   {nil, Step{Kind: Put, Credential: "a", Epoch: 1, Base: 3}, []event.Registration{at(row("a", 1, 3, putting, 0))}},
		"in order":                {[]event.Registration{row("a", 1, 2, living, 0), row("b", 1, 2, living, 0)}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, []event.Registration{row("a", 1, 2, living, 0), at(row("a", 2, 3, putting, 0)), row("b", 1, 2, living, 0)}},
		"drops what was refused":  {[]event.Registration{row("a", 1, 2, refusal, 0), row("b", 1, 2, refusal, 0)}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, []event.Registration{at(row("a", 2, 3, putting, 0)), row("b", 1, 2, refusal, 0)}},
		"planned":                 {[]event.Registration{row("a", 2, 2, none, 0)}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, []event.Registration{at(row("a", 2, 3, putting, 0))}},
		"again":                   {[]event.Registration{later(row("a", 2, 3, putting, 0), 0, 4, 503)}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, []event.Registration{later(row("a", 2, 3, putting, 0), 0, 4, 503)}},
		"PUT of a living row":     {[]event.Registration{row("a", 2, 3, living, 0)}, Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}, []event.Registration{row("a", 2, 3, living, 0)}},
		"DELETE":                  {[]event.Registration{row("a", 2, 3, living, 0)}, Step{Kind: Delete, Credential: "a", Epoch: 2, Base: 3}, []event.Registration{at(row("a", 2, 3, leaving, 0))}},
		"DELETE after a PUT":      {[]event.Registration{later(row("a", 2, 3, putting, 0), 0, 4, 503)}, Step{Kind: Delete, Credential: "a", Epoch: 2, Base: 3}, []event.Registration{at(row("a", 2, 3, leaving, 0))}},
		"DELETE again":            {[]event.Registration{later(row("a", 2, 3, leaving, 0), 0, 4, 503)}, Step{Kind: Delete, Credential: "a", Epoch: 2, Base: 3}, []event.Registration{later(row("a", 2, 3, leaving, 0), 0, 4, 503)}},
		"DELETE without a row":    {nil, Step{Kind: Delete, Credential: "a", Epoch: 2, Base: 3}, nil},
		"DELETE of a refused row": {[]event.Registration{row("a", 2, 3, refusal, 0)}, Step{Kind: Delete, Credential: "a", Epoch: 2, Base: 3}, []event.Registration{row("a", 2, 3, refusal, 0)}},
	} {
		before := slices.Clone(tt.rows)
		got := Intend(testUser(tt.rows...), tt.step, now)
		if d := cmp.Diff(tt.want, got.Registrations); d != "" {
			t.Errorf("%s: (-want +got)\n%s", name, d)
		}
		if d := cmp.Diff(before, tt.rows); d != "" {
			t.Errorf("%s changed its argument:\n%s", name, d)
		}
	}
}

func TestRearm(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		rows, want []event.Registration
	}{
		"nothing there":     {nil, nil},
		"another's":         {[]event.Registration{row("b", 1, 3, living, 0)}, []event.Registration{row("b", 1, 3, living, 0)}},
		"alive":             {[]event.Registration{row("a", 4, 3, living, 0), row("b", 1, 3, living, 0)}, []event.Registration{row("a", 4, 3, living, 0), row("a", 5, 3, none, time.Hour), row("b", 1, 3, living, 0)}},
		"refused":           {[]event.Registration{row("a", 4, 3, refusal, 0)}, []event.Registration{row("a", 5, 3, none, time.Hour)}},
		"still to be PUT":   {[]event.Registration{later(row("a", 4, 3, putting, 0), 3*time.Hour, 5, 418)}, []event.Registration{{Credential: "a", Epoch: 4, Base: 3, State: putting, Changed: t0, Tries: 5, Status: 418}}},
		"told to rest":      {[]event.Registration{later(row("a", 4, 3, putting, 0), 3*time.Hour, 5, 429)}, []event.Registration{later(row("a", 4, 3, putting, 0), 3*time.Hour, 5, 429)}},
		"planned already":   {[]event.Registration{row("a", 4, 3, living, 0), row("a", 5, 3, none, 0)}, []event.Registration{row("a", 4, 3, living, 0), row("a", 5, 3, none, 0)}},
		"on its way out":    {[]event.Registration{row("a", 4, 3, leaving, 0)}, []event.Registration{row("a", 4, 3, leaving, 0)}},
		"while replaced by": {[]event.Registration{row("a", 4, 3, living, 0), row("a", 5, 3, putting, 0)}, []event.Registration{row("a", 4, 3, living, 0), row("a", 5, 3, putting, 0)}},
	} {
		before := slices.Clone(tt.rows)
		got := Rearm(testUser(tt.rows...), "a", t0.Add(time.Hour))
		if d := cmp.Diff(tt.want, got.Registrations); d != "" {
			t.Errorf("%s: (-want +got)\n%s", name, d)
		}
		if d := cmp.Diff(before, tt.rows); d != "" {
			t.Errorf("%s changed its argument:\n%s", name, d)
		}
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	for state, want := range map[event.RegState]bool{none: true, refusal: true, putting: false, living: false, leaving: false} {
		u := testUser(row("a", 1, 1, state, 0))
		if Empty(u) != want {
			t.Errorf("%s: empty %v, want %v", state, !want, want)
		}
		u.Affiliations = []event.Affiliation{{Org: "uni-a"}}
		if Empty(u) {
			t.Errorf("%s: a user with an affiliation is empty", state)
		}
	}
	if !Empty(testUser()) {
		t.Error("a user with nothing is not empty")
	}
}

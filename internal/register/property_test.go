package register

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// key names a row at ORCID: its URL is made of exactly these.
type key struct {
	credential  string
	epoch, base int
}

// world is ORCID's truth, the durable record, and what a correct history may
// cost.
type world struct {
	t        interface{ Fatalf(string, ...any) }
	draw     *rapid.T // nil when nothing is left to chance
	now      time.Time
	user     event.User        // as it is saved
	wanted   Wanted            // as the organisations want it
	heirs    Heirs             // where organisations moved to
	rows     map[key]time.Time // at ORCID, since when
	needs    int               // registrations that anything asked for
	puts     int               // PUTs that came
	requests int               // PUTs and DELETEs that were sent
	wasted   int               // crashes and failures so far
	sent     map[string]int    // requests per row of the record and kind
	rest     map[key]time.Time // do not send before
}

// failures of one turn, in the order in which they strike.
const (
	calm              = iota
	crashBeforeSave   // the intent is lost
	crashBeforeSend   // the intent is saved, nothing was sent
	crashBeforeSettle // ORCID did it, nobody noted
	answerLost        // ORCID did it, the answer did not come
	requestLost       // ORCID never heard of it
	unavailable       // 503, Retry-After 2 h
	oddAnswer         // a page of some proxy
	lastFailure
)

// turn runs the actor's loop once. It reports whether a step was due.
func (w *world) turn(failure int) bool {
	step, ok, again := NextOf(w.user, w.wanted, w.heirs, w.now, nil)
	if !ok {
		if !again.IsZero() && !again.After(w.now) {
			w.t.Fatalf("nothing now, but again at %s, which is past", again)
		}
		return false
	}
	before := clone(w.user)
	intent := Intend(w.user, step, w.now)
	if d := cmp.Diff(before, w.user, ids); d != "" {
		w.t.Fatalf("Intend changed its argument:\n%s", d)
	}
	if failure == crashBeforeSave {
		return true
	}
	w.user = intent
	w.checkRecord()
	if failure == crashBeforeSend {
		return true
	}
	answer := w.request(step, failure)
	if failure != calm {
		w.wasted++
	}
	if failure == crashBeforeSettle {
		return true
	}
	settled, v := Settle(w.user, step, answer, w.now)
	w.user = settled
	w.checkRecord()
	k := key{step.Credential, step.Epoch, step.Base}
	switch v.Outcome {
	case RetryAt:
		if !v.At.After(w.now) || v.At.Before(w.now.Add(answer.RetryAfter)) {
			w.t.Fatalf("retry at %s, now %s, asked to rest %s", v.At, w.now, answer.RetryAfter)
		}
		w.rest[k] = v.At
	case Done:
		delete(w.rest, k)
		if step.Kind == Delete {
			delete(w.sent, fmt.Sprint(Put, k))
			delete(w.sent, fmt.Sprint(Delete, k))
		}
	default:
		w.t.Fatalf("%s for %+v", v.Outcome, answer)
	}
	return true
}

// request is ORCID, and the place where the promises are checked.
func (w *world) request(s Step, failure int) orcid.Answer {
	k := key{s.Credential, s.Epoch, s.Base}
	if until := w.rest[k]; w.now.Before(until) {
		w.t.Fatalf("%s of %+v at %s, before %s", s.Kind, k, w.now, until)
	}
	i := find(w.user.Registrations, s)
	if i < 0 || w.user.Registrations[i].Base != s.Base || w.user.Registrations[i].State != intentOf(s.Kind) {
		w.t.Fatalf("%s of %+v without an intent in the record: %+v", s.Kind, k, w.user.Registrations)
	}
	w.requests++
	w.sent[fmt.Sprint(s.Kind, k)]++
	if n := w.sent[fmt.Sprint(s.Kind, k)]; n > 1+w.wasted {
		w.t.Fatalf("%s of %+v was sent %d times after %d mishaps", s.Kind, k, n, w.wasted)
	}
	if s.Kind == Put {
		w.puts++
	}
	if base, wants := w.wanted[s.Credential]; wants && s.Kind == Delete {
		w.checkReplaced(k, base)
	}
	if _, wants := w.wanted[s.Credential]; !wants && s.Kind == Delete {
		w.checkInherited(k)
	}
	switch failure {
	case requestLost:
		return orcid.Answer{Kind: orcid.Unreachable}
	case unavailable:
		return orcid.Answer{Kind: orcid.Unavailable, Status: 503, RetryAfter: 2 * time.Hour}
	case oddAnswer:
		return orcid.Answer{Kind: orcid.Unexpected, Status: 404}
	}
	_, there := w.rows[k]
	a := orcid.Answer{Kind: orcid.NoSuchWebhook, Status: 404}
	switch {
	case s.Kind == Put && there:
		a = orcid.Answer{Kind: orcid.Exists, Status: 204}
	case s.Kind == Put:
		a = orcid.Answer{Kind: orcid.Created, Status: 201}
		w.rows[k] = w.now
	case there:
		a = orcid.Answer{Kind: orcid.Deleted, Status: 204}
		delete(w.rows, k)
	}
	if failure == answerLost {
		return orcid.Answer{Kind: orcid.Unreachable}
	}
	return a
}

// checkReplaced fails unless another row of the credential with the wanted base
// has lived at ORCID for ten minutes.
func (w *world) checkReplaced(k key, base int) {
	for other, since := range w.rows {
		if other.credential == k.credential && other.epoch != k.epoch && other.base == base && !since.Add(overlap).After(w.now) {
			return
		}
	}
	w.t.Fatalf("DELETE of %+v, which is wanted (base %d), at %s without a living replacement: %v", k, base, w.now, w.rows)
}

// checkInherited fails unless every credential that takes over from this one has
// had a row at ORCID for ten minutes.
func (w *world) checkInherited(k key) {
heirs:
	for _, heir := range w.heirs[k.credential] {
		for other, since := range w.rows {
			if other.credential == heir && !since.Add(overlap).After(w.now) {
				continue heirs
			}
		}
		w.t.Fatalf("DELETE of %+v at %s although %s has not taken over: %v", k, w.now, heir, w.rows)
	}
}

// checkRecord fails when the record is out of order, or ORCID holds a row that
// the record does not.
func (w *world) checkRecord() {
	rows := w.user.Registrations
	for i := 1; i < len(rows); i++ {
		a, b := rows[i-1], rows[i]
		if a.Credential > b.Credential || a.Credential == b.Credential && a.Epoch >= b.Epoch {
			w.t.Fatalf("rows out of order: %+v", rows)
		}
	}
	for k := range w.rows {
		if !slices.ContainsFunc(rows, func(r event.Registration) bool {
			return key{r.Credential, r.Epoch, r.Base} == k && atORCID(r)
		}) {
			w.t.Fatalf("ORCID holds %+v, the record is %+v", k, rows)
		}
	}
}

// settleDown runs without mishaps until nothing is left to do.
func (w *world) settleDown() {
	for range 200 {
		if w.turn(calm) {
			continue
		}
		_, _, again := NextOf(w.user, w.wanted, w.heirs, w.now, nil)
		if again.IsZero() {
			w.checkGoal()
			return
		}
		w.now = again
	}
	w.t.Fatalf("no rest after 200 turns: %+v", w.user.Registrations)
}

func (w *world) checkGoal() {
	got := map[string]int{}
	for k := range w.rows {
		if _, twice := got[k.credential]; twice {
			w.t.Fatalf("two rows for %s: %v", k.credential, w.rows)
		}
		got[k.credential] = k.base
	}
	if d := cmp.Diff(map[string]int(w.wanted), got); d != "" {
		w.t.Fatalf("ORCID is not as wanted (-want +got):\n%s", d)
	}
	if Empty(w.user) != (len(w.wanted) == 0) {
		w.t.Fatalf("empty %v with %d wanted: %+v", Empty(w.user), len(w.wanted), w.user)
	}
}

// change lets somebody want something else, or asks to re-arm.
func (w *world) change() {
	c := rapid.SampledFrom([]string{"a", "b"}).Draw(w.draw, "credential")
	switch rapid.IntRange(0, 4).Draw(w.draw, "change") {
	case 0:
		w.leave(c)
	case 4: // the organisation moves to the other credential
		to := map[string]string{"a": "b", "b": "a"}[c]
		base, wants := w.wanted[c]
		if !wants {
			break
		}
		w.leave(c)
		if _, already := w.wanted[to]; !already {
			w.needs++
			w.wanted[to] = base
		}
		w.heirs[c] = []string{to}
	case 1, 2:
		base := rapid.IntRange(1, 3).Draw(w.draw, "base")
		if now, wants := w.wanted[c]; !wants || now != base {
			w.needs++
		}
		w.wanted[c] = base
	case 3:
		w.needs++
		before := clone(w.user)
		after := Rearm(w.user, c, w.now)
		if d := cmp.Diff(before, w.user, ids); d != "" {
			w.t.Fatalf("Rearm changed its argument:\n%s", d)
		}
		w.user = after
		for k := range w.rest { // an operator may end a wait of our own
			i := find(w.user.Registrations, Step{Credential: k.credential, Epoch: k.epoch})
			if k.credential == c && i >= 0 && !resting(w.user.Registrations[i]) {
				delete(w.rest, k)
			}
		}
		w.checkRecord()
	}
}

// leave makes nobody want the credential, nor anything of it, any more.
func (w *world) leave(c string) {
	delete(w.wanted, c)
	for former, heirs := range w.heirs {
		if slices.Contains(heirs, c) {
			delete(w.heirs, former)
		}
	}
}

var ids = cmp.Comparer(func(a, b orcid.ID) bool { return a == b })

func clone(u event.User) event.User {
	u.Registrations = slices.Clone(u.Registrations)
	return u
}

func newWorld(t *rapid.T) *world {
	return &world{
		t: t, draw: t, now: t0, user: testUser(), wanted: Wanted{}, heirs: Heirs{}, rows: map[key]time.Time{},
		sent: map[string]int{}, rest: map[key]time.Time{},
	}
}

func (w *world) wait() {
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 20*60_000).Draw(w.draw, "ms")) * time.Millisecond)
}

func TestWithoutMishapsEachNeedCostsOnePut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 12).Draw(t, "changes") {
			w.change()
			w.wait()
			for range rapid.IntRange(0, 4).Draw(t, "turns") {
				w.turn(calm)
			}
		}
		w.settleDown()
		if w.puts > w.needs {
			t.Fatalf("%d PUTs for %d needs", w.puts, w.needs)
		}
	})
}

func TestMishapsAnywhereEndWell(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 25).Draw(t, "events") {
			if rapid.IntRange(0, 2).Draw(t, "change or turn") == 0 {
				w.change()
			}
			w.wait()
			w.turn(rapid.IntRange(0, lastFailure-1).Draw(t, "failure"))
		}
		w.settleDown()
		if w.puts > w.needs+w.wasted {
			t.Fatalf("%d PUTs for %d needs and %d mishaps", w.puts, w.needs, w.wasted)
		}
	})
}

func TestOneCrashCostsOneRequestAtMost(t *testing.T) {
	t.Parallel()
	// A life of three requests: PUT; another base: PUT, and later DELETE.
	live := func(crash, at int) *world {
		w := newWorld(nil)
		w.t = t
		w.wanted["a"], w.needs = 1, 1
		for turn := range 12 {
			if len(w.rows) == 1 {
				w.wanted["a"] = 2
			}
			mode := calm
			if turn == at {
				mode = crash
			}
			if !w.turn(mode) {
				if _, _, again := NextOf(w.user, w.wanted, w.heirs, w.now, nil); !again.IsZero() {
					w.now = again
				}
			}
		}
		w.checkGoal()
		return w
	}
	if w := live(calm, 0); w.requests != 3 {
		t.Fatalf("%d requests without a crash, want 3", w.requests)
	}
	for _, crash := range []int{crashBeforeSave, crashBeforeSend, crashBeforeSettle} {
		repeated := 0
		for at := range 6 {
			w := live(crash, at)
			if w.requests > 4 {
				t.Errorf("a crash of kind %d in turn %d: %d requests instead of 3", crash, at, w.requests)
			}
			repeated = max(repeated, w.requests-3)
		}
		if (repeated == 1) != (crash == crashBeforeSettle) {
			t.Errorf("a crash of kind %d repeats %d requests", crash, repeated)
		}
	}
}

// TestFromAnyRecord starts from records that no history of ours explains, with
// ORCID's rows as they may be behind them.
func TestFromAnyRecord(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for _, c := range []string{"a", "b"} {
			if rapid.Bool().Draw(t, "wanted") {
				w.wanted[c] = rapid.IntRange(1, 2).Draw(t, "base")
			}
			for epoch := 1; epoch <= 4; epoch++ {
				if rapid.Bool().Draw(t, "row") {
					continue
				}
				r := event.Registration{
					Credential: c, Epoch: epoch, Base: rapid.IntRange(1, 2).Draw(t, "base"),
					State:   event.RegState(rapid.IntRange(0, 3).Draw(t, "state")),
					Changed: t0.Add(-time.Duration(rapid.IntRange(0, 1200).Draw(t, "age")) * time.Second),
				}
				if r.State != none && rapid.Bool().Draw(t, "tried") {
					r.Tries, r.Status, r.RetryAt = 1, 503, t0.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "retry"))*time.Second)
				}
				w.user.Registrations = append(w.user.Registrations, r)
				if r.State == living || atORCID(r) && rapid.Bool().Draw(t, "there") {
					w.rows[key{c, epoch, r.Base}] = r.Changed
				}
			}
		}
		w.wasted = 1 // a row in between may have been sent before
		w.settleDown()
	})
}

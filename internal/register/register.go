// Package register decides what is to be registered at ORCID: pure functions
// from a user's record, what is wanted and ORCID's answers to the next request
// and the next record. It owns no state; the user's actor calls it.
//
// The actor's loop is: Next → Intend → save → send → Settle → save. It may stop
// anywhere and begin again with Next: at most one request is sent twice.
package register

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// overlap is how long an old registration stays beside its living replacement:
// what ORCID has in hand for the old URL arrives within it.
const overlap = 10 * time.Minute

// Wanted says which credentials want the user registered, and the number of the
// entry of the base table from which their URL is to be built now.
type Wanted map[string]int

// Heirs says which credentials take over from one that is not wanted any more,
// because an organisation moved to them. Its rows stay until theirs live.
type Heirs map[string][]string

// Kind is what a Step asks of ORCID.
type Kind uint8

// The kinds of steps.
const (
	Put    Kind = iota + 1 // register
	Delete                 // unregister
)

// String returns the word that logs and people see.
func (k Kind) String() string {
	switch k {
	case Put:
		return "put"
	case Delete:
		return "delete"
	}
	return "kind-" + strconv.Itoa(int(k))
}

// Step is one request to ORCID about one registration.
type Step struct {
	Kind       Kind
	Credential string
	Epoch      int
	Base       int
	// NotBefore is when the step may be done at the earliest; zero means now.
	NotBefore time.Time
	// From is the registration's state before the step, RegNone when it is new.
	// It tells a first request from one that repeats an intent.
	From event.RegState
}

// Next returns the one step to do now for u. When there is none now but there
// will be, ok is false, step is the coming one and again says when to look; a
// zero again means that u is as wanted.
func Next(u event.User, wanted Wanted, now time.Time) (step Step, ok bool, again time.Time) {
	return NextOf(u, wanted, nil, now, nil)
}

// NextOf is Next for those credentials only that usable reports true for, so
// that a credential in trouble holds up no other. A nil usable takes all. A
// credential with heirs keeps its rows until the heirs' have lived for a while.
func NextOf(u event.User, wanted Wanted, heirs Heirs, now time.Time, usable func(credential string) bool) (step Step, ok bool, again time.Time) {
	var best *Step
	consider := func(s Step) {
		if !s.NotBefore.After(now) {
			s.NotBefore = time.Time{}
		}
		if usable != nil && !usable(s.Credential) || best != nil && !before(s, *best) {
			return
		}
		best = &s
	}
	byCredential := map[string][]event.Registration{}
	for _, r := range u.Registrations {
		byCredential[r.Credential] = append(byCredential[r.Credential], r)
	}
	for credential, rows := range byCredential {
		if base, want := wanted[credential]; want {
			forWanted(credential, base, rows, consider)
			continue
		}
		free, inherited := time.Time{}, true
		for _, heir := range heirs[credential] {
			since, living := LivesSince(u, heir)
			inherited = inherited && living
			free = latest(free, replacedAt(since))
		}
		for _, r := range rows {
			// Also one that was on its way out before there were heirs: it may be
			// the only one that ORCID has told of a change by now.
			if inherited && atORCID(r) {
				consider(removal(r, latest(free, r.RetryAt)))
			}
		}
	}
	for credential, base := range wanted {
		if len(byCredential[credential]) == 0 {
			consider(Step{Kind: Put, Credential: credential, Epoch: 1, Base: base})
		}
	}
	switch {
	case best == nil:
		return Step{}, false, time.Time{}
	case best.NotBefore.IsZero():
		return *best, true, time.Time{}
	}
	return *best, false, best.NotBefore
}

// forWanted considers the steps for one wanted credential that has rows.
func forWanted(credential string, base int, rows []event.Registration, consider func(Step)) {
	var current *event.Registration
	top, rest := 0, time.Time{}
	for i := range rows {
		r := &rows[i]
		top = max(top, r.Epoch)
		if resting(*r) {
			rest = latest(rest, r.RetryAt)
		}
		// A row on its way out, or with another URL than the one wanted, is not
		// what we want, whatever its epoch. A planned one takes any base.
		fits := r.State == event.RegNone || r.Base == base && r.State != event.RegDeleting
		if fits && (current == nil || r.Epoch > current.Epoch) {
			current = r
		}
	}
	switch {
	case current == nil:
		// A new URL is no way around a rest that ORCID asked for.
		consider(Step{Kind: Put, Credential: credential, Epoch: top + 1, Base: base, NotBefore: rest})
	case current.State == event.RegNone || current.State == event.RegPutting:
		consider(Step{
			Kind: Put, Credential: credential, Epoch: current.Epoch, Base: base,
			NotBefore: latest(current.RetryAt, rest), From: current.State,
		})
	case current.State == event.RegAlive:
		replaced := replacedAt(current.Changed)
		for _, r := range rows {
			if r.Epoch != current.Epoch && atORCID(r) {
				consider(removal(r, latest(replaced, r.RetryAt)))
			}
		}
	}
	// Refused: nothing until somebody asks (Rearm), and older rows go on serving.
}

// replacedAt is when what came before a registration may go that lives since then;
// one second more than the overlap, because Changed has whole seconds.
func replacedAt(since time.Time) time.Time {
	if since.IsZero() {
		return since
	}
	return since.Add(overlap + time.Second)
}

// LivesSince reports whether ORCID has confirmed a registration of the user with
// the credential, and since when pings come through one.
func LivesSince(u event.User, credential string) (since time.Time, living bool) {
	for _, r := range u.Registrations {
		if r.Credential == credential && r.State == event.RegAlive && (!living || r.Changed.Before(since)) {
			since, living = r.Changed, true
		}
	}
	return since, living
}

// Serves reports whether a ping that came with the credential tells the user's
// organisation: of the credential that serves it, or of one that served it
// before as long as ORCID may ping only that one.
func Serves(o *org.Organisation, u *event.User, affiliated time.Time, credential string, pinged time.Time) bool {
	if o.Credential == credential {
		return true
	}
	if !o.ServedBefore(credential, affiliated) {
		return false
	}
	since, living := LivesSince(*u, o.Credential)
	return !living || pinged.Before(replacedAt(since))
}

func removal(r event.Registration, notBefore time.Time) Step {
	return Step{Kind: Delete, Credential: r.Credential, Epoch: r.Epoch, Base: r.Base, NotBefore: notBefore, From: r.State}
}

// before orders steps: what may be done earlier, then registering before
// unregistering (it is what brings pings), then a fixed order.
func before(a, b Step) bool {
	return cmp.Or(
		a.NotBefore.Compare(b.NotBefore),
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Credential, b.Credential),
		cmp.Compare(a.Epoch, b.Epoch),
	) < 0
}

// atORCID reports whether ORCID may hold the row.
func atORCID(r event.Registration) bool {
	return r.State == event.RegPutting || r.State == event.RegAlive || r.State == event.RegDeleting
}

// resting reports whether the row waits because ORCID had too much to do.
func resting(r event.Registration) bool {
	return r.Status == http.StatusTooManyRequests || r.Status == http.StatusServiceUnavailable
}

// Empty reports whether the record of u may be removed: nobody is told about
// the user, and ORCID holds no row of ours. Before that the record has to stay,
// since a row is DELETEd only while it stands in one.
func Empty(u event.User) bool {
	return len(u.Affiliations) == 0 && !slices.ContainsFunc(u.Registrations, atORCID)
}

// Intend returns u with the intent of the step in it, to be saved before the
// request is sent. A step that does not fit the record any more changes nothing.
func Intend(u event.User, s Step, now time.Time) event.User {
	u.Registrations = slices.Clone(u.Registrations)
	i := find(u.Registrations, s)
	switch s.Kind {
	case Put:
		if i < 0 {
			// What was refused or only planned before has nothing at ORCID.
			u.Registrations = slices.DeleteFunc(u.Registrations, func(r event.Registration) bool {
				return r.Credential == s.Credential && !atORCID(r)
			})
			u.Registrations = insert(u.Registrations, event.Registration{Credential: s.Credential, Epoch: s.Epoch})
			i = find(u.Registrations, s)
		}
		if r := &u.Registrations[i]; r.State == event.RegNone {
			enter(r, event.RegPutting, now)
			r.Base = s.Base
		}
	case Delete:
		if i >= 0 && (u.Registrations[i].State == event.RegAlive || u.Registrations[i].State == event.RegPutting) {
			enter(&u.Registrations[i], event.RegDeleting, now)
		}
	}
	return u
}

// Rearm returns u with a new registration planned for the credential, with a
// new epoch; the old one goes once the new one has lived for a while. It also
// makes a refused registration try again, and ends a back-off, but not a rest
// that ORCID asked for. A credential without registration, or whose
// registration is on its way out, needs none: Next sees to it.
func Rearm(u event.User, credential string, now time.Time) event.User {
	u.Registrations = slices.Clone(u.Registrations)
	top := -1
	for i, r := range u.Registrations {
		if r.Credential == credential && (top < 0 || r.Epoch > u.Registrations[top].Epoch) {
			top = i
		}
	}
	if top < 0 {
		return u
	}
	r := &u.Registrations[top]
	switch r.State {
	case event.RegPutting:
		if !resting(*r) {
			r.RetryAt = time.Time{} // its PUT is still to come: no second row for it
		}
	case event.RegAlive, event.RegRefused:
		planned := event.Registration{Credential: credential, Epoch: r.Epoch + 1, Base: r.Base}
		enter(&planned, event.RegNone, now)
		if r.State == event.RegRefused {
			*r = planned
		} else {
			u.Registrations = insert(u.Registrations, planned)
		}
	}
	return u
}

// enter puts the registration into a state that nothing has failed in yet.
func enter(r *event.Registration, state event.RegState, now time.Time) {
	r.State, r.Changed = state, now.Truncate(time.Second)
	r.Tries, r.Status, r.RetryAt = 0, 0, time.Time{}
}

func find(rows []event.Registration, s Step) int {
	return slices.IndexFunc(rows, func(r event.Registration) bool {
		return r.Credential == s.Credential && r.Epoch == s.Epoch
	})
}

// insert keeps rows ordered by credential and epoch.
func insert(rows []event.Registration, r event.Registration) []event.Registration {
	i, _ := slices.BinarySearchFunc(rows, r, func(a, b event.Registration) int {
		return cmp.Or(cmp.Compare(a.Credential, b.Credential), cmp.Compare(a.Epoch, b.Epoch))
	})
	return slices.Insert(rows, i, r)
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

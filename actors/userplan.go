package actors

import (
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/register"
)

// unsurePause is when a user is looked at again whose organisation nobody knows.
const unsurePause = time.Hour

// planInput is all that planUser looks at.
type planInput struct {
	user event.User
	now  time.Time
	// organisation finds current settings.
	organisation func(id string) (*org.Organisation, bool)
	// base finds the current base of a credential; false when it is not
	// configured.
	base func(credential string) (int, bool)
	// blocked says for how long a credential need not be asked.
	blocked func(credential string) (time.Duration, bool)
	// announced holds the organisations whose CREATED was announced already.
	announced map[string]bool
}

// hubOverlap is how long every registration of ours must have lived before one of
// the Hub goes; one second more than is promised, because Changed has whole ones.
const hubOverlap = 10*time.Minute + time.Second

// replaced reports whether all the user's credentials have registrations that
// have lived long enough for those of the Hub to go, which served all of them. If
// they will have, it is looked again then.
func replaced(in planInput, wanted register.Wanted, p *plan) bool {
	var free time.Time
	for credential := range wanted {
		i := slices.IndexFunc(in.user.Registrations, func(r event.Registration) bool {
			return r.Credential == credential && r.State == event.RegAlive
		})
		if i < 0 {
			return false // when it lives the plan is made anew
		}
		if t := in.user.Registrations[i].Changed.Add(hubOverlap); t.After(free) {
			free = t
		}
	}
	if free.After(in.now) {
		p.again = earliest(p.again, free)
		return false
	}
	return true
}

// plan is what is to be done next for a user.
type plan struct {
	announce []event.Affiliation // not in the intake log yet; comes before all else
	step     register.Step       // when ok
	ok       bool
	// again is when to look next when there is neither; zero means never.
	again time.Time
	// blocked are the credentials that have a step to do and cannot.
	blocked []string
}

// planUser decides what is to be done next for a user. A credential in trouble
// or not configured holds up no other; and nothing is unregistered for a user
// who is affiliated with an organisation that nobody knows.
func planUser(in planInput) plan {
	var p plan
	wanted, heirs, unsure := register.Wanted{}, register.Heirs{}, false
	for _, a := range in.user.Affiliations {
		if a.Announce && !in.announced[a.Org] {
			p.announce = append(p.announce, a)
		}
		o, ok := in.organisation(a.Org)
		if !ok {
			unsure = true
			continue
		}
		if !o.AnyEnabled() || a.Muted {
			continue
		}
		// A credential that is not configured is wanted all the same: its rows
		// must not be taken for unwanted ones.
		wanted[o.Credential], _ = in.base(o.Credential)
		for _, f := range o.Former {
			if o.ServedBefore(f.Credential, a.AffiliatedAt) {
				heirs[f.Credential] = append(heirs[f.Credential], o.Credential)
			}
		}
	}
	if len(p.announce) > 0 {
		return p
	}
	if unsure {
		p.again = in.now.Add(unsurePause)
	}
	usable := map[string]bool{}
	consider := func(credential string) {
		if _, seen := usable[credential]; seen {
			return
		}
		_, isWanted := wanted[credential]
		_, known := in.base(credential)
		var (
			wait    time.Duration
			blocked bool
		)
		switch {
		case unsure && !isWanted, event.IsHub(credential) && !replaced(in, wanted, &p):
			usable[credential] = false
			return
		case !known:
			wait, blocked = unknownPause, true
		default:
			wait, blocked = in.blocked(credential)
		}
		usable[credential] = !blocked
		if !blocked {
			return
		}
		_, ok, again := register.NextOf(in.user, wanted, heirs, in.now, func(c string) bool { return c == credential })
		until := in.now.Add(wait)
		switch {
		case ok:
			p.blocked = append(p.blocked, credential)
			p.again = earliest(p.again, until)
		case again.After(until):
			p.again = earliest(p.again, again)
		case !again.IsZero():
			p.again = earliest(p.again, until)
		}
	}
	for _, r := range in.user.Registrations {
		consider(r.Credential)
	}
	for credential := range wanted {
		consider(credential)
	}
	var again time.Time
	p.step, p.ok, again = register.NextOf(in.user, wanted, heirs, in.now, func(c string) bool { return usable[c] })
	p.again = earliest(p.again, again)
	return p
}

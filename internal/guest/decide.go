package guest

import (
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/register"
)

// plan is what is to be done for a row.
type plan struct {
	kind register.Kind // 0: nothing now
	row  event.Guest   // with the intent in it
	look time.Time     // when to look again; zero: the row is removed
}

// decide says what is to be done for a row that the credential is to own; an
// empty one means that the row is to go. ORCID keeps one row for a user and a
// URL, and only its owner may remove it, so a change of credential is a DELETE
// by the old one first.
func decide(g event.Guest, credential string, now time.Time) plan {
	r := &g.Registration
	if r.State == event.RegNone || r.State == event.RegRefused && r.Credential != credential {
		*r = event.Registration{Credential: credential, Epoch: 1, Changed: r.Changed}
	}
	mine := credential != "" && r.Credential == credential
	kind, to := register.Kind(0), r.State
	switch r.State {
	case event.RegNone, event.RegPutting, event.RegAlive:
		switch {
		case credential == "" && r.State == event.RegNone:
			return plan{row: g} // nothing of it is at ORCID
		case !mine:
			kind, to = register.Delete, event.RegDeleting
		case r.State != event.RegAlive:
			kind, to = register.Put, event.RegPutting
		}
	case event.RegDeleting:
		kind = register.Delete
	case event.RegRefused:
		if credential == "" {
			return plan{row: g}
		}
	}
	if kind == 0 {
		return plan{row: g, look: now.Add(lookEvery)}
	}
	if to != r.State {
		*r = event.Registration{Credential: r.Credential, Epoch: 1, State: to, Changed: now.Truncate(time.Second)}
	}
	if r.RetryAt.After(now) {
		return plan{row: g, look: r.RetryAt}
	}
	return plan{kind: kind, row: g}
}

// settle is the row after ORCID's answer, when to look again (zero: the row is
// removed), and whether that is now.
func settle(g event.Guest, kind register.Kind, a orcid.Answer, now time.Time) (_ event.Guest, look time.Time, more bool) {
	step := register.Step{Kind: kind, Credential: g.Registration.Credential, Epoch: 1, From: g.Registration.State}
	u, v := register.Settle(event.User{ORCID: g.ORCID, Registrations: []event.Registration{g.Registration}}, step, a, now)
	if len(u.Registrations) == 0 {
		g.Registration = event.Registration{Epoch: 1, Changed: now.Truncate(time.Second)}
		if g.Gone {
			return g, time.Time{}, false
		}
		return g, now, true // another credential is to own it
	}
	g.Registration = u.Registrations[0]
	switch v.Outcome {
	case register.RetryAt:
		if v.At.After(now) {
			return g, v.At, false
		}
		return g, now.Add(pause), false
	case register.CredentialTrouble:
		return g, now.Add(5 * pause), false
	case register.Done, register.Refused:
	}
	return g, now.Add(lookEvery), false
}

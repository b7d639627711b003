package register

import (
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// How long to wait after failures. Trouble that passes by itself is met with
// short waits, answers that nobody expected with long ones.
const (
	firstWait = 30 * time.Second
	maxWait   = time.Hour
	firstSlow = time.Hour
	maxSlow   = 24 * time.Hour
	// jitterPart of a wait is added at most, so that a million users who failed
	// together do not come back together.
	jitterPart = 5
	// maxTries bounds the count, not the tries: it keeps a record small.
	maxTries = 200
)

// Outcome is what follows from an answer.
type Outcome uint8

// The outcomes.
const (
	Done              Outcome = iota // the step is through: look with Next what comes then
	RetryAt                          // try again at Verdict.At
	CredentialTrouble                // stop asking with this credential: nothing is wrong with the user
	Refused                          // ORCID will not register this user; Rearm tries again
)

// String returns the word that logs and people see.
func (o Outcome) String() string {
	switch o {
	case Done:
		return "done"
	case RetryAt:
		return "retry"
	case CredentialTrouble:
		return "credential-trouble"
	case Refused:
		return "refused"
	}
	return "outcome-" + strconv.Itoa(int(o))
}

// Verdict is what follows from ORCID's answer to a step.
type Verdict struct {
	Outcome Outcome
	// At is when to try again; set when Outcome is RetryAt.
	At time.Time
	// Kind and Detail are the answer's, for one line in the log; Detail is
	// empty when the step succeeded as it should.
	Kind   orcid.Kind
	Detail string
	// Drift says how ORCID's rows were not as our record had them; empty when
	// they were. It is counted; the step has mended it.
	Drift Drift
}

// Drift is a way in which ORCID's rows and our record differ.
type Drift string

// The drifts that an answer can show.
const (
	RowMissing Drift = "row_missing" // DELETE of a living registration: 404
	RowForeign Drift = "row_foreign" // DELETE: 403, another client owns it
	RowExisted Drift = "row_existed" // first PUT of a URL: 204, it was there
	// RowMadeLate: 201 to a PUT whose intent stood without a failed try, where
	// 204 was to be expected: the first had not reached ORCID. Harmless.
	RowMadeLate Drift = "row_made_late"
)

// Drifts lists every drift, for metrics.
var Drifts = [...]Drift{RowMissing, RowForeign, RowExisted, RowMadeLate}

// Settle returns u after ORCID's answer to the step, to be saved, and what
// follows. An answer to a step that does not fit the record any more changes
// nothing but is judged all the same. Errors of the client become answers by
// orcid.AnswerOf.
func Settle(u event.User, s Step, a orcid.Answer, now time.Time) (event.User, Verdict) {
	v := Verdict{Kind: a.Kind, Detail: a.Detail}
	effect := judge(s, a.Kind, &v)
	u.Registrations = slices.Clone(u.Registrations)
	i := find(u.Registrations, s)
	if i >= 0 && s.From == event.RegPutting && a.Kind == orcid.Created && u.Registrations[i].Tries+u.Registrations[i].Status == 0 {
		v.Drift = RowMadeLate
	}
	if i < 0 || u.Registrations[i].State != intentOf(s.Kind) {
		if v.Outcome == RetryAt {
			v.At = now // nothing to repeat: Next says what is to be done instead
		}
		return u, v
	}
	r := &u.Registrations[i]
	switch effect {
	case alive:
		enter(r, event.RegAlive, now)
	case gone:
		u.Registrations = slices.Delete(u.Registrations, i, i+1)
	case refused:
		enter(r, event.RegRefused, now)
		r.Status = a.Status
	case trouble:
		// The intent stays as it is, uncounted: with the credential mended it is
		// simply sent again.
		r.Status = a.Status
	case unknown:
		v.At = now
	case retry, retrySlowly:
		r.Tries, r.Status = min(r.Tries+1, maxTries), a.Status
		wait := backoff(u.ORCID, s, r.Tries, effect)
		r.RetryAt = wholeSecond(now.Add(max(wait, a.RetryAfter)))
		v.At = r.RetryAt
	}
	return u, v
}

func intentOf(k Kind) event.RegState {
	if k == Put {
		return event.RegPutting
	}
	return event.RegDeleting
}

// effect is what an answer does to its row.
type effect uint8

const (
	alive effect = iota
	gone
	refused
	trouble
	retry
	retrySlowly
	unknown // the request was given up by ourselves
)

// judge is the table of what each kind of answer means for each kind of step.
func judge(s Step, kind orcid.Kind, v *Verdict) effect {
	switch kind {
	case orcid.Created, orcid.Exists:
		if s.Kind != Put {
			break
		}
		// 204 after a crash is our own row. On a first PUT somebody registered
		// the URL before; nobody can guess it, so it was us and our record lost it.
		if kind == orcid.Exists && s.From == event.RegNone {
			v.Drift = RowExisted
		}
		return alive
	case orcid.Deleted, orcid.NoSuchWebhook, orcid.NotOurs:
		if s.Kind != Delete {
			break
		}
		switch {
		case kind == orcid.NotOurs:
			v.Drift = RowForeign
		case kind == orcid.NoSuchWebhook && s.From == event.RegAlive:
			v.Drift = RowMissing
		}
		return gone
	case orcid.Abandoned:
		if s.Kind == Delete {
			return gone // it dies at ORCID by itself; nothing more can be done
		}
	case orcid.NoSuchRecord:
		if s.Kind == Delete {
			return gone // no record, no row
		}
		v.Outcome = Refused
		return refused
	case orcid.BadURI:
		if s.Kind != Put {
			break
		}
		v.Outcome = Refused
		return refused
	case orcid.Unauthorized, orcid.NoScope, orcid.ClientLocked, orcid.BadCredential:
		v.Outcome = CredentialTrouble
		return trouble
	case orcid.RateLimited, orcid.Unavailable, orcid.Unreachable:
		v.Outcome = RetryAt
		return retry
	case orcid.Cancelled:
		v.Outcome = RetryAt
		return unknown
	case orcid.Unexpected, orcid.OK, orcid.Redirected, orcid.Conflict:
	}
	v.Outcome = RetryAt
	return retrySlowly
}

// backoff returns how long to wait after the given number of failures: doubling,
// with a jitter that is always the same for the same user, row and number, and
// never makes it shorter.
func backoff(id orcid.ID, s Step, tries int, e effect) time.Duration {
	wait, limit := firstWait, maxWait
	if e == retrySlowly {
		wait, limit = firstSlow, maxSlow
	}
	for range min(tries-1, 16) {
		wait = min(2*wait, limit)
	}
	h := fnv.New64a()
	_, _ = h.Write(id.Append(nil)) // never fails (hash.Hash)
	_, _ = h.Write([]byte(s.Credential + strconv.Itoa(s.Epoch) + "/" + strconv.Itoa(tries)))
	return wait + time.Duration(h.Sum64()%uint64(wait/jitterPart))
}

// wholeSecond rounds up: a record keeps seconds, and must not come early.
func wholeSecond(t time.Time) time.Time {
	if w := t.Truncate(time.Second); w.Before(t) {
		return w.Add(time.Second)
	}
	return t
}

package liveness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// hit is a user whose record ORCID's search says has changed.
type hit struct {
	user    *event.User
	silence event.Silence // before
	known   time.Time     // until when changes are known
	counts  bool          // says something about the registration
	since   time.Time     // what was asked for
	at      time.Time     // when it changed, where the record was read; else zero
}

// found deals with the changes that a round found.
func (w *Watcher) found(ctx context.Context, credential string, r *round, users []*event.User) error {
	one := w.judging(credential)
	one.Lock()
	defer one.Unlock()
	hits, err := w.hitsOf(ctx, credential, users, r.Since)
	if err != nil {
		return err
	}
	for i := range hits {
		hits[i].counts = true
	}
	read := w.pageOf(credential)
	told, err := w.settle(ctx, credential, hits, reader{func() { w.called(r) }, read})
	if err != nil {
		return err
	}
	clear(read)
	r.Found += len(hits)
	r.Told += told
	return nil
}

// judging returns the lock under which the users of a credential are judged, from
// reading what is known of them to noting what they were told: a round and a
// check may come upon the same change at the same time.
func (w *Watcher) judging(credential string) *sync.Mutex {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.judges[credential] == nil {
		w.judges[credential] = &sync.Mutex{}
	}
	return w.judges[credential]
}

// reader is what it takes to read records: whom to tell of each call, and what
// was read before the last failure, so that the next attempt gets further.
type reader struct {
	called func()
	read   map[orcid.ID]time.Time
}

// pageOf returns what was read of the page that a credential's round is at. Only
// the round uses it, and there is one at a time.
func (w *Watcher) pageOf(credential string) map[orcid.ID]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pages[credential] == nil {
		w.pages[credential] = map[orcid.ID]time.Time{}
	}
	return w.pages[credential]
}

func (w *Watcher) hitsOf(ctx context.Context, credential string, users []*event.User, since time.Time) ([]hit, error) {
	silences, err := w.o.Store.Silences(ctx, credential, idsOf(users))
	if err != nil {
		return nil, err
	}
	if err := w.byCredential(ctx, credential, users); err != nil {
		return nil, err
	}
	serves := w.serves(credential)
	hits := make([]hit, len(users))
	for i, u := range users {
		hits[i] = hit{user: u, silence: silences[i], since: since, known: knownUntil(u, credential, silences[i], serves)}
	}
	return hits, nil
}

// settle tells of every hit that no ping told of, and returns how many. It may
// be repeated: what was told once is known then.
func (w *Watcher) settle(ctx context.Context, credential string, hits []hit, by reader) (told int, err error) {
	var missed, doubtful []hit
	for _, h := range hits {
		if h.known.Before(h.since) {
			missed = append(missed, h)
		} else {
			doubtful = append(doubtful, h)
		}
	}
	missed, fresh, err := w.settled(ctx, credential, missed, by)
	if err != nil {
		return 0, err
	}
	later, again, err := w.ask(ctx, credential, doubtful, by)
	if err != nil {
		return 0, err
	}
	missed, again = append(missed, later...), append(again, fresh...)
	w.metrics.changes.WithLabelValues(resultUnderWay).Add(float64(len(again)))
	w.metrics.changes.WithLabelValues(resultPinged).Add(float64(len(doubtful) - len(later) - len(again) + len(fresh)))
	now := w.o.Now()
	checks := make([]event.Check, 0, len(again))
	for _, h := range again {
		checks = append(checks, event.Check{Kind: event.CheckBaseline, ORCID: h.user.ORCID, Credential: credential, At: now.Add(settle)})
	}
	// The order matters: told before it counts as known, watched before the
	// silence is noted.
	if err := w.tell(ctx, credential, missed, now); err != nil {
		return 0, err
	}
	silences := make(map[orcid.ID]event.Silence, len(missed))
	var rearm []*event.User
	for _, h := range missed {
		v := verdict{silence: event.Silence{At: now, Count: h.silence.Count}}
		// A baseline check that was made late finds what came long after the
		// registration, too.
		if r := newest(h.user, credential); h.counts || r != nil && h.at.After(r.Changed.Add(settle)) {
			v = judge(h.user, credential, h.silence, latest(h.since, h.at), now, w.o.Gaps.long(h.since, now))
		}
		silences[h.user.ORCID] = v.silence
		if v.watch {
			checks = append(checks, event.Check{Kind: event.CheckAtRisk, ORCID: h.user.ORCID, Credential: credential, At: now.Add(pingWait)})
		}
		if v.rearm {
			rearm = append(rearm, h.user)
		}
	}
	if err := w.o.Store.AddChecks(ctx, checks); err != nil {
		return 0, err
	}
	for _, u := range rearm {
		if _, err := w.rearm(ctx, u.ORCID, credential, reasonSilent); err != nil {
			return 0, err
		}
	}
	return len(missed), w.o.Store.SetSilences(ctx, credential, silences)
}

// settled parts hits into those whose last change is old enough that its ping
// does not come any more, and those that are to be looked at again: during a
// re-index of all of ORCID there are many.
func (w *Watcher) settled(ctx context.Context, credential string, hits []hit, by reader) (old, fresh []hit, err error) {
	for part := range slices.Chunk(hits, orcid.MaxSearchIDs) {
		ids := make([]orcid.ID, len(part))
		for i, h := range part {
			ids[i] = h.user.ORCID
		}
		changed, err := w.o.ORCID.ChangedSince(ctx, credential, ids, w.o.Now().Add(-settle))
		if err != nil {
			return nil, nil, err
		}
		by.called()
		for _, h := range part {
			if slices.Contains(changed, h.user.ORCID) {
				fresh = append(fresh, h)
			} else {
				old = append(old, h)
			}
		}
	}
	return old, fresh, nil
}

// maxTell bounds one entry of the intake log.
const maxTell = 256

// tell writes the changes into the intake log.
func (w *Watcher) tell(ctx context.Context, credential string, missed []hit, now time.Time) error {
	for part := range slices.Chunk(missed, maxTell) {
		pings := make([]event.Ping, len(part))
		for i, h := range part {
			pings[i] = event.Ping{Credential: credential, ORCID: h.user.ORCID, AcceptedAt: now, CaughtUp: true}
		}
		if err := w.o.Store.Append(ctx, pings); err != nil {
			return err
		}
	}
	for _, h := range missed {
		result := resultTold
		if !h.counts {
			result = resultRegistered
		}
		w.metrics.changes.WithLabelValues(result).Inc()
	}
	return nil
}

// worthNarrowing is from how many doubtful hits on one more search is made to
// spare reading records.
const worthNarrowing = 3

// ask finds out whose record changed after what is known of it. A change that is
// so new that its ping may still come is to be looked at again.
func (w *Watcher) ask(ctx context.Context, credential string, doubtful []hit, by reader) (missed, again []hit, err error) {
	broken := 0
	slices.SortFunc(doubtful, func(a, b hit) int {
		return cmp.Or(a.known.Compare(b.known), cmp.Compare(a.user.ORCID.Base(), b.user.ORCID.Base()))
	})
	for part := range slices.Chunk(doubtful, orcid.MaxSearchIDs) {
		if len(part) > worthNarrowing {
			ids := make([]orcid.ID, len(part))
			for i, h := range part {
				ids[i] = h.user.ORCID
			}
			// Whoever did not change since the earliest of them did not change
			// since their own.
			changed, err := w.o.ORCID.ChangedSince(ctx, credential, ids, part[0].known)
			if err != nil {
				return nil, nil, err
			}
			by.called()
			part = slices.DeleteFunc(slices.Clone(part), func(h hit) bool { return !slices.Contains(changed, h.user.ORCID) })
		}
		for _, h := range part {
			at, err := w.lastModified(ctx, credential, h.user.ORCID, by)
			h.at = at
			if unreadable(err) {
				if broken++; broken >= maxBroken {
					return nil, nil, err
				}
				err = nil // at is zero
			} else {
				broken = 0
			}
			switch {
			case err != nil:
				return nil, nil, err
			case at.IsZero(), at.After(h.known) && at.Before(w.o.Now().Add(-settle)):
				missed = append(missed, h)
			case at.After(h.known):
				again = append(again, h)
			}
		}
	}
	return missed, again, nil
}

// maxBroken is how many records in a row may not be readable before it is
// ORCID that is broken, not a record.
const maxBroken = 3

// unreadable reports whether ORCID itself fails at a record. One that always
// does must not stop the round for ever.
func unreadable(err error) bool {
	var answer *orcid.AnswerError
	return errors.As(err, &answer) && (answer.Answer.Kind == orcid.Unexpected || answer.Answer.Status == http.StatusInternalServerError)
}

// lastModified returns when a record changed; zero when ORCID shows it to nobody
// (locked, deactivated, deprecated): better told once more than never.
func (w *Watcher) lastModified(ctx context.Context, credential string, id orcid.ID, by reader) (time.Time, error) {
	if at, ok := by.read[id]; ok {
		return at, nil
	}
	at, err := w.o.ORCID.LastModified(ctx, credential, id)
	var answer *orcid.AnswerError
	if err == nil || errors.As(err, &answer) {
		by.called()
	}
	if answer != nil {
		switch answer.Answer.Kind { //nolint:exhaustive // the others are failures
		case orcid.Conflict, orcid.Redirected, orcid.NoSuchRecord:
			at, err = time.Time{}, nil
		}
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("see when the record of %s changed: %w", id, err)
	}
	if by.read != nil {
		by.read[id] = at
	}
	return at, nil
}

package liveness

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

const (
	// checksAtOnce is how many checks are taken at once.
	checksAtOnce = 3000
	// mostSkipped bounds how many checks of credentials in trouble are gone past.
	mostSkipped = 100_000
	// justNow bounds how long after ORCID confirmed a registration its record is
	// saved for that.
	justNow = 2 * time.Minute
)

// Registered is called with every record whose registrations changed. It notes
// that those which ORCID has just confirmed are to be looked at once more, and
// forgets what was kept of those that go. The caller saves the record after it, so
// that a crash between the two forgets nothing.
func (w *Watcher) Registered(ctx context.Context, u *event.User) error {
	w.changed.Store(true)
	var list []event.Check
	for i := range u.Registrations {
		r := &u.Registrations[i]
		if r.State == event.RegAlive && r.Changed.After(w.o.Now().Add(-justNow)) {
			list = append(list, event.Check{Kind: event.CheckBaseline, ORCID: u.ORCID, Credential: r.Credential, At: r.Changed.Add(settle)})
		}
	}
	if err := w.forgetPings(ctx, u); err != nil {
		return err
	}
	if len(list) == 0 {
		return nil
	}
	return w.o.Store.AddChecks(ctx, list)
}

// runChecks makes the checks that are due.
func (w *Watcher) runChecks(ctx context.Context) error {
	err := w.runKind(ctx, event.CheckBaseline)
	if rerr := w.runKind(ctx, event.CheckAtRisk); err == nil {
		err = rerr
	}
	return err
}

// runKind makes those of a kind. A credential in trouble holds up no other: its
// checks, which stay where they are, are gone past.
func (w *Watcher) runKind(ctx context.Context, kind event.CheckKind) error {
	failing, skip := map[string]error{}, 0
	for {
		if behind, err := w.behind(ctx); err != nil || behind {
			return err
		}
		due, err := w.o.Store.DueChecks(ctx, kind, w.o.Now(), skip, w.atOnce)
		if err != nil {
			return err
		}
		byCredential := map[string][]event.Check{}
		for _, c := range due {
			byCredential[c.Credential] = append(byCredential[c.Credential], c)
		}
		configured := w.o.Credentials()
		for credential, list := range byCredential {
			left := len(list)
			switch {
			case !slices.Contains(configured, credential):
				// Gone, or ORCID is not asked with it: nobody waits for this check.
				if err := w.postpone(ctx, list); err != nil {
					return err
				}
				left = 0
			case failing[credential] == nil:
				if left, err = w.check(ctx, credential, list); err != nil {
					failing[credential] = err
				}
			}
			skip += left
		}
		// With nobody left to make checks for there is nothing to go past them for,
		// and going far past them costs Redis more with each step.
		if len(due) < w.atOnce || len(failing) > 0 && len(failing) == len(configured) || skip > mostSkipped {
			for _, credential := range slices.Sorted(maps.Keys(failing)) {
				return fmt.Errorf("checks of %s: %w", credential, failing[credential]) // one line for status
			}
			return nil
		}
	}
}

// postpone moves checks that cannot be made now.
func (w *Watcher) postpone(ctx context.Context, list []event.Check) error {
	later := slices.Clone(list)
	for i := range later {
		later[i].At = w.o.Now().Add(time.Hour)
	}
	return w.o.Store.AddChecks(ctx, later)
}

// check makes the checks of one credential, and returns how many are left.
func (w *Watcher) check(ctx context.Context, credential string, list []event.Check) (left int, err error) {
	left = len(list)
	for part := range slices.Chunk(list, orcid.MaxSearchIDs) {
		var baseline, risk []event.Check
		for _, c := range part {
			if c.Kind == event.CheckAtRisk {
				risk = append(risk, c)
			} else {
				baseline = append(baseline, c)
			}
		}
		if err := w.checkBaseline(ctx, credential, baseline); err != nil {
			return left, err
		}
		if err := w.checkRisk(ctx, credential, risk); err != nil {
			return left, err
		}
		if err := w.o.Store.DropChecks(ctx, part); err != nil {
			return left, err
		}
		left -= len(part)
	}
	return left, nil
}

// checkBaseline asks whether records changed around the time of their
// registration: ORCID replays nothing.
func (w *Watcher) checkBaseline(ctx context.Context, credential string, list []event.Check) error {
	at := make(map[orcid.ID]time.Time, len(list))
	ids := make([]orcid.ID, len(list))
	for i, c := range list {
		ids[i], at[c.ORCID] = c.ORCID, c.At.Add(-settle-overlap)
	}
	users, err := w.o.Store.Users(ctx, ids)
	if err != nil {
		return err
	}
	serves := w.serves(credential)
	users = slices.DeleteFunc(users, func(u *event.User) bool { return u == nil || firstOrg(u, serves) == "" })
	if len(users) == 0 {
		return nil
	}
	since := at[users[0].ORCID]
	for _, u := range users {
		if t := at[u.ORCID]; t.Before(since) {
			since = t
		}
	}
	changed, err := w.o.ORCID.ChangedSince(ctx, credential, idsOf(users), since)
	if err != nil {
		return err
	}
	w.metrics.calls.Inc()
	one := w.judging(credential)
	one.Lock()
	defer one.Unlock()
	hits, err := w.hitsOf(ctx, credential, among(users, changed), since)
	if err != nil {
		return err
	}
	for i := range hits {
		// Nobody was to be told of what was before the affiliation; the record
		// says what came when.
		h := &hits[i]
		h.known = latest(h.known, latest(at[h.user.ORCID], since))
	}
	_, err = w.settle(ctx, credential, hits, reader{called: w.metrics.calls.Inc})
	return err
}

// checkRisk makes registrations anew that stayed silent.
func (w *Watcher) checkRisk(ctx context.Context, credential string, list []event.Check) error {
	ids := make([]orcid.ID, len(list))
	for i, c := range list {
		ids[i] = c.ORCID
	}
	users, err := w.o.Store.Users(ctx, ids)
	if err != nil {
		return err
	}
	if err := w.byCredential(ctx, credential, users); err != nil {
		return err
	}
	for i, u := range users {
		found := list[i].At.Add(-pingWait)
		if u == nil || u.LastPing.After(found) {
			continue // it lives
		}
		if r := newest(u, credential); r == nil || r.State != event.RegAlive || r.Changed.After(found) {
			continue // it was made anew meanwhile, or is not wanted
		}
		if _, err := w.rearm(ctx, u.ORCID, credential, reasonAtRisk); err != nil {
			return err
		}
	}
	return nil
}

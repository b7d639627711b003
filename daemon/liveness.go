package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"dispatchd/internal/callback"
	"dispatchd/internal/event"
	"dispatchd/internal/intake"
	"dispatchd/internal/liveness"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

// gapsFile stands in data_dir.
const gapsFile = "outages.json"

// soonExpired is how long before its end a certificate is a problem.
const soonExpired = 14 * 24 * time.Hour

// setLiveness builds what keeps registrations alive; it starts with startLiveness
// (what needs no Redis) and startAttached.
func (a *app) setLiveness() error {
	var err error
	a.gaps, err = liveness.OpenGaps(liveness.GapOptions{
		Path: filepath.Join(a.stateDir, gapsFile), Write: store.WriteFile,
		Taking:   func() bool { return a.intake.State().Mode != intake.Refusing },
		Expected: a.anybodyEnabled,
		Now:      a.store.Now, Logger: a.log, Registerer: a.reg,
	})
	if err != nil {
		return err
	}
	a.prober, err = liveness.NewProber(liveness.ProbeOptions{
		URL:    func() (string, error) { return a.keys.Load().ProbeURL(a.config.Load().PublicURL) },
		Header: callback.ProbeHeader, Logger: a.log, Registerer: a.reg,
	})
	if err != nil {
		return err
	}
	a.watch, err = liveness.New(liveness.Options{
		Store: readable{a.store}, Directory: a.directory, ORCID: searcher{a},
		Credentials: func() []string { return credentialNames(a.config.Load()) },
		Every:       func() time.Duration { return a.config.Load().ORCID.CatchUp },
		Guard:       func() error { return a.store.Guard().Err() },
		Gaps:        a.gaps, Backlog: a.oldestPing, Now: a.store.Now, Logger: a.log, Panics: a.metrics.panicked, Registerer: a.reg,
		Tick: a.o.lookEvery,
	})
	return err
}

// oldestPing is when the oldest ping was accepted that waits in the spool or in the
// intake log.
func (a *app) oldestPing(ctx context.Context) (time.Time, error) {
	oldest, err := a.store.OldestPing(ctx)
	if st := a.spool.Stats(); st.Waiting > 0 && (oldest.IsZero() || st.Oldest.Before(oldest)) {
		oldest = st.Oldest
	}
	return oldest, err
}

// anybodyEnabled reports whether any organisation is to be told of anything.
func (a *app) anybodyEnabled() bool {
	return slices.ContainsFunc(a.directory.All(), (*org.Organisation).AnyEnabled)
}

// startLiveness notes from now on that pings are taken, and probes.
func (a *app) startLiveness() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { a.gaps.Run(ctx) })
	running.Go(func() { a.prober.Run(ctx) })
	a.stop.push("liveness", func(context.Context) error {
		cancel()
		running.Wait()
		return nil
	})
}

// watchedUsers is the store as the actors see it: a registration that ORCID has
// just confirmed is also noted to be looked at again.
type watchedUsers struct {
	*store.Store
	watch *liveness.Watcher
}

// SaveUser implements actors.Users.
func (w watchedUsers) SaveUser(ctx context.Context, u event.User, work time.Time) (string, error) {
	if err := w.watch.Registered(ctx, &u); err != nil {
		return "", err
	}
	return w.Store.SaveUser(ctx, u, work)
}

// searcher asks ORCID within the one rate.
type searcher struct{ a *app }

// ChangedSince implements liveness.ORCID.
func (s searcher) ChangedSince(ctx context.Context, credential string, ids []orcid.ID, since time.Time) (changed []orcid.ID, err error) {
	err = s.with(ctx, credential, func(c *orcid.Client) error {
		changed, err = c.ChangedSince(ctx, ids, since)
		return err
	})
	return changed, err
}

// ChangedBetween implements liveness.ORCID.
func (s searcher) ChangedBetween(ctx context.Context, credential string, from, to time.Time, start, rows int) (ids []orcid.ID, total int, err error) {
	err = s.with(ctx, credential, func(c *orcid.Client) error {
		ids, total, err = c.ChangedBetween(ctx, from, to, start, rows)
		return err
	})
	return ids, total, err
}

// LastModified implements liveness.ORCID.
func (s searcher) LastModified(ctx context.Context, credential string, id orcid.ID) (at time.Time, err error) {
	err = s.with(ctx, credential, func(c *orcid.Client) error {
		at, err = c.LastModified(ctx, id)
		return err
	})
	return at, err
}

// with makes one request with a permit. What ORCID says goes into the rate.
func (s searcher) with(ctx context.Context, credential string, call func(*orcid.Client) error) error {
	system, client := s.a.hints.system.Load(), s.a.orcid.client(credential)
	if system == nil || client == nil {
		return fmt.Errorf("credential %s: nothing works with it yet", credential)
	}
	done, err := system.Permit(ctx, credential, false)
	if err != nil {
		return err
	}
	var answer orcid.Answer
	defer func() { done(answer) }() // also when call panics
	err = call(client)
	answer = orcid.AnswerOf(err)
	if onlyReading(err, answer) {
		// It may still register: only catch-up cannot work, and says so.
		answer = orcid.Answer{Kind: orcid.Unexpected, Status: answer.Status}
	}
	return err
}

// onlyReading reports whether ORCID refuses the credential the reading of public
// records only.
func onlyReading(err error, answer orcid.Answer) bool {
	var refused *orcid.CredentialError
	return errors.As(err, &refused) && refused.Reason == orcid.InvalidScope || answer.Kind == orcid.NoScope
}

// client returns the client of a credential; nil when there is none yet.
func (oc *orcidClients) client(name string) *orcid.Client {
	oc.mu.Lock()
	defer oc.mu.Unlock()
	if e := oc.byName[name]; e != nil {
		return e.client
	}
	return nil
}

// wanted says how many registrations are wanted and how many of them do not live.
func (a *app) wanted() (wanted, missing int, at time.Time) {
	c := a.watch.Counted()
	return c.Wanted, c.Missing, c.At
}

// lifeProblems lists what endangers registrations.
func (a *app) lifeProblems() []service.Problem {
	var out []service.Problem
	probe := a.prober.State()
	switch {
	case probe.Err != nil:
		out = append(out, service.Problem{
			What: "ORCID cannot reach us: " + probe.Err.Error(), Since: probe.Since,
			Cost: "pings fail; ORCID gives up on a webhook for ever after about 26 h of failures",
			Do:   "mend DNS, certificate or proxy of " + a.config.Load().PublicURL + "; it is tried every 5 minutes",
		})
	case !probe.Expires.IsZero() && time.Until(probe.Expires) < soonExpired:
		out = append(out, service.Problem{
			What: "the certificate of public_url ends on " + probe.Expires.UTC().Format(time.DateOnly),
			Cost: "from then on every ping fails", Do: "renew it",
		})
	}
	out = append(out, a.silenceProblems()...)
	for _, f := range a.watch.Failures() {
		out = append(out, service.Problem{
			What: "catch-up does not work (" + f.What + "): " + f.Err.Error(), Since: f.Since,
			Cost: "changes that ORCID did not ping stay unknown", Do: "it is tried again by itself; dispatchd credential list",
		})
	}
	if locks := a.locks.Load(); locks != nil {
		for _, name := range slices.Sorted(keysOf(*locks)) {
			out = append(out, service.Problem{
				What: "credential " + name + ": " + lockedWhat, Cost: lockedCost, Do: lockedDo,
			})
		}
	}
	return out
}

// worthTelling is from which part of ORCID's patience on an outage is shown: five
// minutes of an update are none.
const worthTelling = 0.02

// silenceProblems says that pings are missing, or were.
func (a *app) silenceProblems() []service.Problem {
	var out []service.Problem
	if b := a.gaps.Budget(); b.Used >= worthTelling {
		p := service.Problem{
			What: fmt.Sprintf("pings were not taken for %s: %.0f %% of the about 26 h after which ORCID gives up on a webhook for ever",
				b.Gap.To.Sub(b.Gap.From).Round(time.Minute), 100*b.Used),
			Since: b.Gap.From, Cost: "what changed meanwhile is told late, by catch-up",
			Do: "nothing: ORCID repeats its pings for up to 6 h; then this line goes",
		}
		if b.Used >= longOutage {
			p.Cost = "ORCID may have given up on researchers who changed meanwhile; catch-up tells of them and makes their registrations anew"
			p.Do = "nothing: it is done within 7 h; dispatchd registration status"
		}
		if !b.Over {
			p.Do = "see why pings are refused (dispatchd health), before ORCID gives up"
		}
		out = append(out, p)
	}
	if q := a.gaps.Quiet(); q.Overdue {
		out = append(out, service.Problem{
			What:  fmt.Sprintf("no ping came for more than ten times the usual pause of %s", q.Usual.Round(time.Second)),
			Since: q.Last, Cost: "changes may stay unknown until the next catch-up",
			Do: "see whether ORCID reaches public_url and has trouble of its own (https://status.orcid.org); dispatchd credential list",
		})
	}
	return out
}

// longOutage is from which part of its patience on ORCID may have given up on
// somebody.
const longOutage = 0.75

// readable leaves users out whose stored record is damaged: they must not stop
// catch-up for the others. Fan-out and status shout about them.
type readable struct{ *store.Store }

// Users implements liveness.Store.
func (r readable) Users(ctx context.Context, ids []orcid.ID) ([]*event.User, error) {
	users, _, err := r.ReadableUsers(ctx, ids)
	return users, err
}

package actors

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/register"
)

func (a *userActor) wake(c actor.Context, m wake) {
	a.epoch = m.epoch
	// Before Redis is read: a hint that comes after this causes another wake.
	c.Send(a.parent, awake{a.key, m.epoch})
	upgrade := m.news.express && !a.express
	a.express = a.express || m.news.express
	switch a.phase {
	case phaseIdle:
		a.load()
	case phaseWaiting:
		a.dirty = true
		if upgrade {
			a.ask()
		}
	default:
		a.dirty = true
	}
}

// call runs f, which makes one call of a port, and sends what it returns.
func (a *userActor) call(base context.Context, timeout time.Duration, f func(ctx context.Context) any, panicked any) {
	self, result := a.self, panicked
	a.sys.spawnGo(func() {
		ctx, cancel := context.WithTimeout(base, timeout)
		defer cancel()
		result = f(ctx)
	}, func(bool) { a.sys.send(self, result) })
}

// load begins a pass, or begins it again.
func (a *userActor) load() {
	if a.sys.stopping.Load() && a.answer == nil {
		return // the record has the work
	}
	if !a.busy {
		a.busy = true
		a.sys.busyUsers.Add(1)
	}
	a.phase, a.dirty = phaseLoading, false
	run, id, users := a.run, a.id, a.sys.opt.Users
	a.call(a.ctx, callTimeout, func(ctx context.Context) any {
		u, err := users.User(ctx, id)
		return loaded{run, u, err}
	}, loaded{run: run, err: errPanicked})
}

func (a *userActor) loaded(m loaded) {
	switch {
	case m.run != a.run || a.phase != phaseLoading:
	case m.err != nil:
		a.rest(m.err, "read")
	case m.user == nil:
		a.answer = nil
		a.idle()
	default:
		a.user = *m.user
		a.user.ORCID = a.id
		if a.answer != nil {
			// The record changed while the request was on its way: what ORCID
			// said is noted in what it is now.
			a.user, _ = register.Settle(a.user, a.answers, *a.answer, a.sys.now())
		}
		a.advance()
	}
}

func (a *userActor) plan() plan {
	s := a.sys
	return planUser(planInput{
		user:         a.user,
		now:          s.now(),
		organisation: s.opt.Directory.Organisation,
		base: func(credential string) (int, bool) {
			c, ok := (*s.creds.Load())[credential]
			return c.BaseID, ok && c.Locked == ""
		},
		blocked: func(credential string) (time.Duration, bool) {
			return s.board.blocked(credential, time.Now(), s.tuning.probeEvery)
		},
		announced: a.announced,
	})
}

// advance does what comes next with the record in hand.
func (a *userActor) advance() {
	p := a.plan()
	a.recheck = false
	switch {
	case len(p.announce) > 0:
		a.announce(p.announce)
	case p.ok && !a.sys.stopping.Load():
		now := a.sys.now()
		a.step, a.stepping = p.step, true
		a.user = register.Intend(a.user, p.step, now)
		a.save(now.Add(intentLease))
	case p.ok:
		a.stepping = false
		a.save(a.sys.now())
	default:
		for _, credential := range p.blocked {
			a.sys.send(a.sys.credentials.Load(), remember{credential, a.id})
		}
		if register.Empty(a.user) {
			// Nobody is told and ORCID holds no row of ours: a row that ORCID
			// refused must not keep the record for ever.
			a.user.Registrations = nil
		}
		a.stepping, a.recheck = false, true
		a.save(p.again)
	}
}

// announce writes CREATED for new affiliations into the intake log. The flags
// are cleared by the save that follows; a crash in between announces again,
// which coalesces.
func (a *userActor) announce(list []event.Affiliation) {
	a.phase = phaseAnnouncing
	run, id, users, now := a.run, a.id, a.sys.opt.Users, a.sys.now()
	a.call(a.ctx, callTimeout, func(ctx context.Context) any {
		m := announced{run: run}
		for _, f := range list {
			at := f.AffiliatedAt
			if at.IsZero() {
				at = now
			}
			if m.err = users.Announce(ctx, f.Org, []orcid.ID{id}, at); m.err != nil {
				break
			}
			m.orgs = append(m.orgs, f.Org)
		}
		return m
	}, announced{run: run, err: errPanicked})
}

func (a *userActor) announcedDone(m announced) {
	if m.run != a.run || a.phase != phaseAnnouncing {
		return
	}
	if a.announced == nil {
		a.announced = map[string]bool{}
	}
	for _, o := range m.orgs {
		a.announced[o] = true
	}
	if m.err != nil {
		a.rest(m.err, "announce")
		return
	}
	a.advance()
}

// save writes the record with the time of its next work.
func (a *userActor) save(work time.Time) {
	a.phase = phaseSaving
	if len(a.announced) > 0 {
		a.user.Affiliations = slices.Clone(a.user.Affiliations)
		for i := range a.user.Affiliations {
			if f := &a.user.Affiliations[i]; a.announced[f.Org] {
				f.Announce = false
			}
		}
	}
	run, u, users := a.run, a.user, a.sys.opt.Users
	// s.io: an outcome is written also while the daemon stops.
	a.call(a.sys.io, callTimeout, func(ctx context.Context) any {
		version, err := users.SaveUser(ctx, u, work)
		return saved{run, version, err}
	}, saved{run: run, err: errPanicked})
}

func (a *userActor) saved(m saved) {
	if m.run != a.run || a.phase != phaseSaving {
		return
	}
	if errors.Is(m.err, event.ErrConflict) {
		if a.failures++; a.failures <= maxRests {
			a.load()
			return
		}
	}
	if m.err != nil {
		a.rest(m.err, "save")
		return
	}
	a.user.Version = m.version
	a.answer, a.failures = nil, 0
	// The flags are cleared: one that is set later is of somebody who has left
	// and come back, and is owed another CREATED.
	a.announced = nil
	a.letGo()
	switch {
	case a.stepping:
		a.asked = ticket{id: a.id, since: time.Now()}
		a.ask()
	case a.dirty:
		a.load()
	case a.recheck && !a.sys.stopping.Load() && a.plan().ok:
		// Settings changed after the plan was made; the save may have cleared the
		// work that was set because of it.
		a.advance()
	default:
		a.idle()
	}
}

// ask asks for a permit, and again until there is an answer: it may have been
// lost with a credentialActor that panicked.
func (a *userActor) ask() {
	a.phase = phaseWaiting
	run, self, s, credential := a.run, a.self, a.sys, a.step.Credential
	a.asked.express = a.express
	a.asked.answer = func(granted bool, at time.Time) {
		if granted {
			s.send(self, permit{run, credential})
		} else {
			s.send(self, denied{run, at})
		}
	}
	s.send(s.credentials.Load(), askPermit{credential, a.asked})
	a.arm(s.tuning.askAgain)
}

func (a *userActor) arm(d time.Duration) {
	a.stopTimer()
	self, m, s := a.self, tick{a.run}, a.sys
	a.timer = time.AfterFunc(d, func() { s.send(self, m) })
}

func (a *userActor) stopTimer() {
	if a.timer != nil {
		a.timer.Stop()
	}
}

// rested: the timer of resting or of waiting for a permit.
func (a *userActor) rested(m tick) {
	switch {
	case m.run != a.run:
	case a.phase == phaseResting:
		a.load()
	case a.phase == phaseWaiting:
		a.ask()
	}
}

// spend accounts for a permit.
func (a *userActor) spend(credential string, used bool, answer orcid.Answer) {
	a.sys.send(a.sys.credentials.Load(), spent{
		credential: credential, key: ticketKey{id: a.id}, used: used,
		kind: answer.Kind, status: answer.Status, retryAfter: answer.RetryAfter, trouble: troubleOf(answer),
	})
}

func (a *userActor) permit(m permit) {
	if m.run != a.run || a.phase != phaseWaiting {
		if a.phase != phaseRequesting { // there the permit in use is accounted for
			a.spend(m.credential, false, orcid.Answer{})
		}
		return
	}
	a.stopTimer()
	cred, ok := (*a.sys.creds.Load())[a.step.Credential]
	if err := a.sys.opt.Guard.Err(); err != nil || !ok {
		// A Redis that forgot must not make us unregister anybody, and what we
		// do could not be noted.
		a.spend(m.credential, false, orcid.Answer{})
		a.rest(err, "register")
		return
	}
	if !a.sys.flights.begin() {
		a.spend(m.credential, false, orcid.Answer{})
		return // stopping: the record has the intent
	}
	a.holding = a.step.Credential
	a.phase = phaseRequesting
	run, id, step := a.run, a.id, a.step
	a.call(a.sys.post, requestTimeout, func(ctx context.Context) any {
		request := cred.Registrar.Put
		if step.Kind == register.Delete {
			request = cred.Registrar.Delete
		}
		answer, err := request(ctx, id, step.Epoch, step.Base)
		if err != nil {
			answer = orcid.AnswerOf(err)
		}
		return answered{run, answer}
	}, answered{run, orcid.Answer{Kind: orcid.Unexpected, Detail: errPanicked.Error()}})
}

// denied: the credential cannot be used; the intent stays in the record.
func (a *userActor) denied(m denied) {
	if m.run != a.run || a.phase != phaseWaiting {
		return
	}
	a.stopTimer()
	a.stepping = false
	a.savePutOff(m.until)
}

// savePutOff saves the record as it is, to be looked at again then.
func (a *userActor) savePutOff(until time.Time) {
	if next := a.plan(); next.ok && next.step.Credential != a.step.Credential {
		a.advance() // another credential may be asked meanwhile
		return
	}
	a.save(until)
}

func (a *userActor) answered(m answered) {
	if m.run != a.run || a.phase != phaseRequesting {
		return
	}
	a.spend(a.step.Credential, true, m.answer)
	if m.answer.Kind == orcid.Cancelled {
		a.letGo() // we stop; the intent is in the record, and sent again
		a.rest(context.Canceled, "register")
		return
	}
	var v register.Verdict
	a.user, v = register.Settle(a.user, a.step, m.answer, a.sys.now())
	a.answer, a.answers = &m.answer, a.step
	switch {
	case v.Outcome == register.Refused:
		a.sys.log.Info("ORCID refuses to register a user", "orcid", a.key, "credential", a.step.Credential, "err", v.Detail)
	case v.Outcome == register.RetryAt:
		a.sys.log.Debug("a request to ORCID is tried again", "orcid", a.key, "credential", a.step.Credential, "operation", a.step.Kind.String(), "at", v.At, "err", v.Detail)
	case v.Drift != "":
		a.sys.metrics.drift.WithLabelValues(string(v.Drift)).Inc()
		level := slog.LevelInfo
		if v.Drift == register.RowMadeLate {
			level = slog.LevelDebug // dozens after a kill
		}
		a.sys.log.Log(a.ctx, level, "ORCID's rows are not as the record had them", "orcid", a.key, "credential", a.step.Credential, "operation", a.step.Kind.String(), "drift", v.Drift)
	}
	a.advance()
}

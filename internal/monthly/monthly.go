// Package monthly owns the summary that an organisation gets on the first of a
// month by e-mail: whose records changed in the month before. It promises that
// every month is told at least once, however late, and under the same
// Message-ID; which month was told is kept in Redis.
package monthly

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

const (
	every     = time.Minute // between passes
	askAgain  = time.Hour   // an organisation that is owed nothing is asked again
	failFirst = time.Minute // after the first failure; doubles
	failMax   = time.Hour
	page      = 1000
	// monthsOwed is how many months back a summary is still made up for; the
	// store keeps its users about as long.
	monthsOwed = 2
	maxNamed   = 20 // of those left out, in the log
)

// Store is what the loop needs of the store.
type Store interface {
	MonthUsers(ctx context.Context, org string, m store.Month, skip, n int) ([]store.Changed, error)
	MonthSent(ctx context.Context, org string) (store.Month, error)
	SetMonthSent(ctx context.Context, org string, m store.Month) error
	// Channels tells, in the order of keys, what holds channels.
	Channels(ctx context.Context, keys []event.ChannelKey) ([]store.ChannelState, error)
	// ReadableUsers reads several records; a missing one is nil, and so is one that
	// cannot be read, which is named.
	ReadableUsers(ctx context.Context, ids []orcid.ID) (users []*event.User, damaged []orcid.ID, err error)
	Now() time.Time
}

// Directory lists the organisations as they are now.
type Directory interface {
	All() []*org.Organisation
}

// Sender mails one summary. It returns within its own time limit.
type Sender interface {
	SendSummary(ctx context.Context, o *org.Organisation, s event.Summary) error
}

// Options wires a Loop; all must be set.
type Options struct {
	Store     Store
	Directory Directory
	Sender    Sender
	Logger    *slog.Logger
	// Panics counts a recovered panic.
	Panics func(component string)
}

// Loop sends summaries when they are due.
type Loop struct {
	o     Options
	log   *slog.Logger
	state map[string]state // by organisation; all of it may be lost
}

// state is when an organisation is looked at again.
type state struct {
	at       time.Time
	zone     string // a changed zone changes what is due
	failures int
}

// New checks the options.
func New(o Options) (*Loop, error) {
	if o.Store == nil || o.Directory == nil || o.Sender == nil || o.Logger == nil || o.Panics == nil {
		return nil, errors.New("monthly: Store, Directory, Sender, Logger and Panics must be set")
	}
	return &Loop{o: o, log: o.Logger.With("component", "monthly"), state: map[string]state{}}, nil
}

// Run sends what is due until ctx ends.
func (l *Loop) Run(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		l.runOnce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// runOnce looks at every organisation that wants summaries.
func (l *Loop) runOnce(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			l.o.Panics("monthly")
			l.log.Error("the monthly summaries panicked; they go on in a minute", "err", fmt.Sprint(p))
		}
	}()
	for _, o := range l.o.Directory.All() {
		if ctx.Err() != nil {
			return
		}
		if !o.Email.Enabled || !o.Email.Monthly {
			delete(l.state, o.ID)
			continue
		}
		st := l.state[o.ID]
		if st.zone == o.Timezone && l.o.Store.Now().Before(st.at) {
			continue
		}
		st.zone = o.Timezone
		next, err := l.organisation(ctx, o)
		switch {
		case err == nil:
			st.at, st.failures = next, 0
		case ctx.Err() != nil:
			return
		default:
			if st.failures == 0 {
				l.log.Warn("a monthly summary waits; it is tried again", "org", o.ID, "err", err)
			}
			st.failures++
			st.at = l.o.Store.Now().Add(min(failFirst<<min(st.failures-1, 10), failMax))
		}
		l.state[o.ID] = st
	}
}

// organisation sends what one organisation is owed and returns when to look
// again.
func (l *Loop) organisation(ctx context.Context, o *org.Organisation) (time.Time, error) {
	sent, err := l.o.Store.MonthSent(ctx, o.ID)
	if err != nil {
		return time.Time{}, err
	}
	now := l.o.Store.Now()
	owed, next := due(o, sent, now)
	if len(owed) > 0 {
		stopped, err := l.stopped(ctx, o.ID)
		if err != nil || stopped {
			return now.Add(askAgain), err
		}
	}
	for _, m := range owed {
		if err := l.send(ctx, o, m); err != nil {
			return time.Time{}, err
		}
		if err := l.o.Store.SetMonthSent(ctx, o.ID, m); err != nil {
			return time.Time{}, err
		}
	}
	if again := now.Add(askAgain); again.Before(next) {
		next = again
	}
	return next, nil
}

// stopped reports whether a person has to resume the e-mail of an organisation:
// who unsubscribed or paused it gets no summary either.
func (l *Loop) stopped(ctx context.Context, orgID string) (bool, error) {
	states, err := l.o.Store.Channels(ctx, []event.ChannelKey{{Org: orgID, Channel: event.Email}})
	if err != nil {
		return false, err
	}
	for _, state := range states {
		for _, h := range []event.Hold{event.HoldPause, event.HoldSuspend} {
			if state.Holds[h].Until.After(l.o.Store.Now()) {
				return true, nil
			}
		}
	}
	return false, nil
}

// due returns the months whose summary is owed, the earliest first, and when the
// next one will be. Without any that was sent only the last month is owed: what
// was before was wanted by nobody.
func due(o *org.Organisation, sent store.Month, now time.Time) (owed []store.Month, next time.Time) {
	local := now.In(o.Zone())
	year, month, _ := local.Date()
	this := store.MonthOf(time.Date(year, month, 1, 0, 0, 0, 0, time.UTC))
	last := this.Add(-1)
	next = o.SummaryDue(year, month)
	if at := o.SummaryDue(year, month-1); now.Before(at) {
		next, last = at, last.Add(-1)
	}
	for m := last; m > sent && len(owed) < monthsOwed; m = m.Add(-1) {
		owed = append(owed, m)
		if sent == "" {
			break
		}
	}
	slices.Reverse(owed)
	return owed, next
}

// send mails the summary of one month; of a month without changes there is none.
// Who cannot be read is left out: one damaged record must not keep all others'.
func (l *Loop) send(ctx context.Context, o *org.Organisation, m store.Month) error {
	first, err := time.Parse("2006-01", string(m))
	if err != nil {
		return fmt.Errorf("read the month %q: %w", m, err)
	}
	sum := event.Summary{ID: "month_" + o.ID + "_" + string(m), Year: first.Year(), Month: first.Month()}
	var leftOut []orcid.ID
	for skip := 0; ; skip += page {
		list, err := l.o.Store.MonthUsers(ctx, o.ID, m, skip, page)
		if err != nil {
			return err
		}
		ids := make([]orcid.ID, len(list))
		for i, c := range list {
			ids[i] = c.ORCID
		}
		users, damaged, err := l.o.Store.ReadableUsers(ctx, ids)
		if err != nil {
			return err
		}
		leftOut = append(leftOut, damaged...)
		for i, u := range users {
			if u == nil {
				continue
			}
			// Who has left meanwhile is not told of any more.
			j := slices.IndexFunc(u.Affiliations, func(a event.Affiliation) bool { return a.Org == o.ID })
			if j >= 0 {
				sum.Users = append(sum.Users, event.SummaryUser{ORCID: ids[i], Who: u.Affiliations[j], At: list[i].At})
			}
		}
		if len(list) < page {
			break
		}
	}
	if len(sum.Users) > 0 {
		if err := l.o.Sender.SendSummary(ctx, o, sum); err != nil {
			return err
		}
		l.log.Info("the summary of a month was sent", "org", o.ID, "month", string(m), "users", len(sum.Users))
	}
	// Only now, or every try of the mail would say it.
	if len(leftOut) > 0 {
		l.log.Warn("users whose record cannot be read are not in the summary of a month",
			"org", o.ID, "month", string(m), "count", len(leftOut), "orcids", leftOut[:min(len(leftOut), maxNamed)])
	}
	return nil
}

package service

import (
	"context"
	"errors"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

// retimeAgain is how long after the first pass waiting mail is looked at once
// more: what fan-out had decided by the old mode is then in, and what was under
// way has ended.
const retimeAgain = 90 * time.Second

// needsRetime reports whether mail that waits is due at another time now.
func needsRetime(old, next *org.Organisation) bool {
	if old == nil || !next.Email.Enabled {
		return false
	}
	if old.Email.Digest() != next.Email.Digest() {
		return true
	}
	return next.Email.Digest() && (old.Email.Mode != next.Email.Mode || old.Timezone != next.Timezone)
}

// retimeJob makes waiting mail due as email.mode says, now and once more a
// little later. When the second pass is due is noted in the job.
func (s *Service) retimeJob(ctx context.Context, j *store.Job) error {
	again, err := time.Parse(time.RFC3339Nano, j.Args["again"])
	second := err == nil
	if wait := again.Sub(s.o.Store.Now()); second && wait > 0 { // after a restart
		return &errLater{errSecondPass, min(wait, retimeAgain)}
	}
	if err := s.retime(ctx, j.Org); err != nil || second {
		return err
	}
	j.Args = map[string]string{"again": s.o.Store.Now().Add(retimeAgain).Format(time.RFC3339Nano)}
	if err := s.saveCursor(ctx, j); err != nil {
		return err
	}
	return &errLater{errSecondPass, retimeAgain}
}

// errSecondPass is why a job that retimes is not done yet.
var errSecondPass = errors.New("waiting mail is looked at once more")

func (s *Service) retime(ctx context.Context, id string) error {
	o, ok := s.o.Directory.Organisation(id)
	if !ok {
		return nil
	}
	now := s.o.Store.Now()
	due, earlier := o.NextDigest(now), false
	if due.IsZero() {
		due, earlier = now, true
	}
	next, err := s.o.Store.Retime(ctx, o.ID, due, earlier)
	if err != nil {
		return err
	}
	if !next.IsZero() {
		s.o.Hints.HintChannel(event.ChannelKey{Org: o.ID, Channel: event.Email}, next)
	}
	return nil
}

// mailChanged makes what waits follow changed e-mail settings. The new settings
// are saved and known already.
func (s *Service) mailChanged(ctx context.Context, old *org.Organisation, next *org.Organisation, job *store.Job) error {
	if job != nil {
		s.startJob(*job)
	}
	if old == nil || old.Email.PerHour() == next.Email.PerHour() {
		return nil
	}
	at, err := s.o.Store.SetHold(ctx, next.ID, event.Email, event.HoldRate, time.Time{}, "")
	if err != nil {
		return Explain("end the wait for email.max_per_hour", err)
	}
	if !at.IsZero() {
		s.o.Hints.HintChannel(event.ChannelKey{Org: next.ID, Channel: event.Email}, at)
	}
	return nil
}

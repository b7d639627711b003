package service

import (
	"context"
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
// little later.
func (s *Service) retimeJob(ctx context.Context, j *store.Job) error {
	if err := s.retime(ctx, j.Org); err != nil {
		return err
	}
	id := j.Org
	s.jobs.wg.Go(func() {
		t := time.NewTimer(retimeAgain)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := s.retime(ctx, id); err != nil && ctx.Err() == nil {
			s.log.Warn("mail that came while email.mode was changed may be due by the old one", "org", id, "err", err)
		}
	})
	return nil
}

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

package service

import (
	"context"
	"fmt"
	"time"

	"dispatchd/internal/event"
)

// Pause lets the deliveries of a channel wait until Resume; an empty channel
// means all. It works for organisations of the file too: it is no setting.
func (s *Service) Pause(ctx context.Context, by By, id string, ch event.Channel, reason string) error {
	return s.hold(ctx, by, id, ch, event.HoldPause, event.Forever, reason, "paused")
}

// Resume ends a pause and a suspension: a person has acted.
func (s *Service) Resume(ctx context.Context, by By, id string, ch event.Channel) error {
	if err := s.setHold(ctx, id, ch, event.HoldPause, time.Time{}, ""); err != nil {
		return err
	}
	return s.hold(ctx, by, id, ch, event.HoldSuspend, time.Time{}, "", "resumed")
}

// hold sets or ends a hold and writes the one line about it.
func (s *Service) hold(ctx context.Context, by By, id string, ch event.Channel, h event.Hold, until time.Time, reason, word string) error {
	if err := s.setHold(ctx, id, ch, h, until, reason); err != nil {
		return err
	}
	s.audit(by, word, "org", id, "channel", ch, "reason", reason)
	return nil
}

func (s *Service) setHold(ctx context.Context, id string, ch event.Channel, h event.Hold, until time.Time, reason string) error {
	if _, err := s.get(id); err != nil {
		return err
	}
	for _, one := range event.Channels {
		if ch != "" && ch != one {
			continue
		}
		next, err := s.o.Store.SetHold(ctx, id, one, h, until, reason)
		if err != nil {
			return Explain("hold the channel", err)
		}
		if !next.IsZero() {
			s.o.Hints.HintChannel(event.ChannelKey{Org: id, Channel: one}, next)
		}
	}
	return nil
}

// Test posts a test event to the organisation's webhook, at most once in 10 s.
func (s *Service) Test(ctx context.Context, by By, id string) (TestAnswer, error) {
	o, err := s.get(id)
	if err != nil {
		return TestAnswer{}, err
	}
	if o.Webhook.URL == "" {
		return TestAnswer{}, &Error{Code: CodeInvalid, What: fmt.Sprintf("Organisation %q has no webhook URL.", id), Do: "Set webhook.url first."}
	}
	if wait := s.tested.claim(id, time.Now()); wait > 0 {
		return TestAnswer{}, &Error{Code: CodeRateLimited, What: "A test event was sent a moment ago.", Do: fmt.Sprintf("Try again in %s.", wait.Round(time.Second))}
	}
	s.audit(by, "test event sent", "org", id)
	return s.o.Tester.Test(ctx, o), nil
}

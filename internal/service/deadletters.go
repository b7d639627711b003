package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// DeadLetterPage is one page of dead letters of a channel.
type DeadLetterPage struct {
	DeadLetters []store.DeadLetter `json:"dead_letters"`
	Next        string             `json:"next,omitempty"`
}

// DeadLetters returns a page of what was given up on.
func (s *Service) DeadLetters(ctx context.Context, orgID string, ch event.Channel, cursor string, n int) (DeadLetterPage, error) {
	if _, err := s.get(orgID); err != nil {
		return DeadLetterPage{}, err
	}
	list, next, err := s.o.Store.DeadLetters(ctx, orgID, ch, cursor, n)
	if err != nil {
		return DeadLetterPage{}, Explain("list dead letters", err)
	}
	if list == nil {
		list = []store.DeadLetter{}
	}
	return DeadLetterPage{list, next}, nil
}

// Attempts returns the latest attempts of a channel, newest first.
func (s *Service) Attempts(ctx context.Context, orgID string, ch event.Channel, n int) ([]event.Attempt, error) {
	if _, err := s.get(orgID); err != nil {
		return nil, err
	}
	list, err := s.o.Store.Attempts(ctx, orgID, ch, n)
	if err != nil {
		return nil, Explain("read the attempts", err)
	}
	if list == nil {
		list = []event.Attempt{}
	}
	return list, nil
}

// LastDay returns how many attempts of an organisation ended in each of the last
// 24 hours, the oldest first.
func (s *Service) LastDay(ctx context.Context, orgID string) ([store.DayHours]store.Hour, error) {
	if _, err := s.get(orgID); err != nil {
		return [store.DayHours]store.Hour{}, err
	}
	day, err := s.o.Store.LastDay(ctx, orgID)
	if err != nil {
		return day, Explain("read the last day", err)
	}
	return day, nil
}

// Replay tries dead letters again: one, those since a time, or all. It is a
// job, so that it goes on after a restart; concurrency limits hold as always.
func (s *Service) Replay(ctx context.Context, by By, orgID string, sel store.Selection) (store.Job, error) {
	if _, err := s.get(orgID); err != nil {
		return store.Job{}, err
	}
	j := newJob(jobReplay, orgID, s.o.Store.Now())
	// What dies after this moment is not part of the job: a receiver that goes
	// on refusing must not keep it going for ever.
	j.Args = map[string]string{"until": j.Created.Format(time.RFC3339Nano)}
	if !sel.ORCID.IsZero() {
		j.Args["orcid"] = sel.ORCID.String()
	}
	if !sel.Since.IsZero() {
		j.Args["since"] = sel.Since.Format(time.RFC3339Nano)
	}
	if err := s.o.Store.SaveJob(ctx, j); err != nil {
		return store.Job{}, Explain("note the job", err)
	}
	s.audit(by, "replay asked for", "org", orgID, "orcid", j.Args["orcid"], "since", j.Args["since"])
	s.startJob(j)
	return j, nil
}

func (s *Service) replayJob(ctx context.Context, j *store.Job) error {
	var sel store.Selection
	var err error
	if v := j.Args["orcid"]; v != "" {
		if sel.ORCID, err = orcid.Parse(v); err != nil {
			return fmt.Errorf("read the job's orcid: %w", err)
		}
	}
	if v := j.Args["since"]; v != "" {
		if sel.Since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return fmt.Errorf("read the job's since: %w", err)
		}
	}
	if v := j.Args["until"]; v != "" {
		if sel.Until, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return fmt.Errorf("read the job's until: %w", err)
		}
	}
	disabled := 0
	for _, ch := range event.Channels {
		for more := true; more; {
			var n int
			n, more, err = s.o.Store.Replay(ctx, j.Org, ch, sel, jobBatch)
			if errors.Is(err, store.ErrDisabled) {
				disabled++
				break
			}
			if err != nil {
				return fmt.Errorf("replay: %w", err)
			}
			j.Done += int64(n)
			if n > 0 {
				s.o.Hints.HintChannel(event.ChannelKey{Org: j.Org, Channel: ch}, s.o.Store.Now())
			}
			if err := s.saveCursor(ctx, j); err != nil {
				return err
			}
		}
	}
	if disabled == len(event.Channels) {
		return fmt.Errorf("replay: %w", store.ErrDisabled)
	}
	return nil
}

// Purge throws dead letters away and returns how many.
func (s *Service) Purge(ctx context.Context, by By, orgID string, sel store.Selection) (int, error) {
	if _, err := s.get(orgID); err != nil {
		return 0, err
	}
	total, err := s.purge(ctx, orgID, sel)
	// Also when it failed: what was purged until then is gone, and more may be
	// when Redis did not answer.
	s.audit(by, "dead letters purged", "org", orgID, "count", total, "complete", err == nil)
	return total, Explain("purge dead letters", err)
}

func (s *Service) purge(ctx context.Context, orgID string, sel store.Selection) (total int, err error) {
	for _, ch := range event.Channels {
		for more := true; more; {
			var n int
			if n, more, err = s.o.Store.Purge(ctx, orgID, ch, sel, jobBatch); err != nil {
				return total, err
			}
			total += n
		}
	}
	return total, nil
}

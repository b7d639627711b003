package cli

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

type deliveryLogCmd struct {
	Org     string `arg:"" help:"The organisation."`
	Channel string `help:"webhook or email." enum:"${channels}" default:"webhook"`
	Answers bool   `help:"Also show what was kept of the receivers' answers to failed attempts, or what would be sent in shadow mode."`
	paging
}

// Run implements the command.
func (c *deliveryLogCmd) Run(s *session) error {
	var list []event.Attempt
	next, err := s.pages(c.paging, at("organisations", c.Org, "attempts"), func(raw []byte) (string, error) {
		var page struct {
			Attempts []event.Attempt `json:"attempts"`
			Next     string          `json:"next"`
		}
		if err := s.decode(raw, &page); err != nil {
			return "", err
		}
		list = append(list, page.Attempts...)
		return page.Next, nil
	}, "channel", c.Channel)
	if err != nil || s.JSON {
		return err
	}
	if len(list) == 0 {
		s.say("The log of %s (%s) has no attempts.", c.Org, c.Channel)
		return nil
	}
	s.attemptTable("", list, c.Answers)
	s.goOn(fmt.Sprintf("dispatchd delivery log %s --channel %s", c.Org, c.Channel), next)
	return nil
}

// attemptTable lists attempts; why one failed stands under it.
func (s *session) attemptTable(indent string, list []event.Attempt, answers bool) {
	const form = "%-15s  %-19s  %-7s  %5s  %6s  %7s  %s\n"
	s.printf(indent+form, "START", "ORCID", "TYPE", "TRY", "STATUS", "TOOK", "RESULT")
	for _, a := range list {
		s.printf(indent+form, day(a.Start), about(a), clip(safe(string(a.Type)), 7), strconv.Itoa(a.Number), statusWord(a.Status), span(a.Duration), safe(string(a.Result)))
		if a.Error != "" {
			wrap(s.env.Stdout, indent+"    ", indent+"    ", a.Error)
		}
		if answers && a.Excerpt != "" {
			what := "answer: "
			if a.Result == event.Shadow {
				what = "would be sent: "
			}
			wrap(s.env.Stdout, indent+"    "+what, indent+"    "+strings.Repeat(" ", len(what)), a.Excerpt)
		}
	}
}

// deadLetter is a dead letter as the API shows it.
type deadLetter struct {
	ORCID    orcid.ID     `json:"orcid"`
	Types    []event.Type `json:"types"`
	DiedAt   time.Time    `json:"died_at"`
	Attempts int          `json:"attempts"`
	Status   int          `json:"status"`
	Reason   string       `json:"reason"`
}

type deliveryListCmd struct {
	Org     string `arg:"" help:"The organisation."`
	Dead    bool   `help:"List dead letters, which is done anyhow; what waits is only counted, with the reasons."`
	Channel string `help:"webhook or email." enum:"${channels}" default:"webhook"`
	paging
}

// Run implements the command.
func (c *deliveryListCmd) Run(s *session) error {
	var list []deadLetter
	next, err := s.pages(c.paging, at("organisations", c.Org, "dead-letters"), func(raw []byte) (string, error) {
		var page struct {
			DeadLetters []deadLetter `json:"dead_letters"`
			Next        string       `json:"next"`
		}
		if err := s.decode(raw, &page); err != nil {
			return "", err
		}
		list = append(list, page.DeadLetters...)
		return page.Next, nil
	}, "channel", c.Channel)
	if err != nil || s.JSON {
		return err
	}
	var v service.View
	if _, err := s.ask(http.MethodGet, at("organisations", c.Org), nil, &v); err != nil {
		return err
	}
	s.showWaits(v, event.Channel(c.Channel))
	if len(list) == 0 {
		s.say("%s has no dead letters (%s).", c.Org, c.Channel)
		return nil
	}
	const form = "%-20s  %-19s  %-16s  %5s  %6s\n"
	s.printf(form, "DIED", "ORCID", "TYPES", "TRIES", "STATUS")
	for _, d := range list {
		s.printf(form, clock(d.DiedAt), d.ORCID, clip(safe(joinTypes(d.Types)), 16), strconv.Itoa(d.Attempts), statusWord(d.Status))
		wrap(s.env.Stdout, "    ", "    ", d.Reason)
	}
	s.goOn(fmt.Sprintf("dispatchd delivery list %s --channel %s", c.Org, c.Channel), next)
	if next == "" {
		s.printf("Try them again: dispatchd delivery replay %s\n", safe(c.Org))
	}
	return nil
}

// chosen says which dead letters are meant. What is given and empty, as of a
// script whose variable is, is a mistake and does not choose everybody's.
type chosen struct {
	Org   string  `arg:"" help:"The organisation."`
	ID    *string `arg:"" optional:"" name:"orcid" help:"Only this researcher's. Default: everybody's."`
	Since *string `help:"Only those that died since: a time such as 2026-11-23T00:00:00Z, or an age such as 24h." placeholder:"WHEN"`
}

// body reads the choice.
func (c *chosen) body(now time.Time) (map[string]any, error) {
	in := map[string]any{}
	if c.ID != nil {
		id, err := researcher(*c.ID)
		if err != nil {
			return nil, err
		}
		in["orcid"] = id
	}
	if c.Since == nil {
		return in, nil
	}
	if d, err := time.ParseDuration(*c.Since); err == nil && d > 0 {
		in["since"] = now.Add(-d).UTC()
		return in, nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02 15:04:05Z", time.DateOnly} {
		if t, err := time.Parse(form, *c.Since); err == nil {
			in["since"] = t.UTC()
			return in, nil
		}
	}
	return nil, usage("--since must be a time such as 2026-11-23T00:00:00Z or an age such as 24h (got %q)", clip(*c.Since, 60))
}

type deliveryReplayCmd struct{ chosen }

// Run implements the command.
func (c *deliveryReplayCmd) Run(s *session) error {
	in, err := c.body(s.now())
	if err != nil {
		return err
	}
	var job store.Job
	if show, err := s.ask(http.MethodPost, at("organisations", c.Org, "dead-letters", "replay"), in, &job); !show {
		return err
	}
	s.say("Being replayed as job %s; `dispatchd job list` shows how far it is.", job.ID)
	return nil
}

type deliveryPurgeCmd struct {
	chosen
	Yes bool `help:"Do not ask." short:"y"`
}

// Run implements the command.
func (c *deliveryPurgeCmd) Run(s *session) error {
	in, err := c.body(s.now())
	if err != nil {
		return err
	}
	if err := s.confirm(c.Yes, fmt.Sprintf("This throws dead letters of %s away for good; the organisation is never told of them.", c.Org), c.Org); err != nil {
		return err
	}
	var out struct {
		Purged int `json:"purged"`
	}
	if show, err := s.ask(http.MethodPost, at("organisations", c.Org, "dead-letters", "purge"), in, &out); !show {
		return err
	}
	s.printf("Purged %s.\n", count(out.Purged, "dead letter", "dead letters"))
	return nil
}

// about is whom an attempt was about.
func about(a event.Attempt) string {
	if a.Users > 0 {
		return clip(count(a.Users, "researcher", "researchers"), 19)
	}
	return a.ORCID.String()
}

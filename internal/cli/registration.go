package cli

import (
	"fmt"
	"net/http"
	"time"

	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

type registrationCmd struct {
	Status registrationStatusCmd `cmd:"" help:"Where the rows at ORCID stand."`
	Rearm  registrationRearmCmd  `cmd:"" help:"Make registrations anew: of one researcher, of an organisation, or all."`
	Sync   registrationSyncCmd   `cmd:"" help:"Compare every registration with what is wanted."`
	Pause  registrationPauseCmd  `cmd:"" help:"Register and unregister nobody; pings and deliveries go on."`
	Resume registrationResumeCmd `cmd:"" help:"End a pause."`
}

type registrationStatusCmd struct {
	Follow bool `help:"Show the progress until nothing is left to do." short:"f"`
}

// followEvery is how often a progress bar is drawn anew.
const followEvery = time.Second

// Run implements the command.
func (c *registrationStatusCmd) Run(s *session) error {
	if c.Follow && s.JSON {
		return usage("--follow shows a person how it goes on; with --json ask again")
	}
	var report service.RegistrationReport
	if show, err := s.ask(http.MethodGet, at("registrations"), nil, &report); !show {
		return err
	}
	s.showStanding(report)
	if !c.Follow || report.Sweep.Left == 0 {
		if report.Sweep.Left > 0 {
			s.printf("%s\n", progress(report, s.room(s.env.Stdout)))
		}
		return nil
	}
	return s.follow(report)
}

// follow shows the progress of a sweep, over itself on a terminal and a line for
// every tenth elsewhere, until nothing is left.
func (s *session) follow(report service.RegistrationReport) error {
	terminal := s.env.IsTerminal(s.env.Stdout)
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	shown := int64(-1)
	erase := func() {
		if terminal {
			s.printf(eraseLine) // whatever is said next begins a line
		}
	}
	for report.Sweep.Left > 0 {
		if terminal {
			s.printf(eraseLine+"%s", progress(report, s.room(s.env.Stdout)))
		} else if tenth := 10 * done(report.Sweep) / report.Sweep.Total; tenth != shown {
			shown = tenth
			s.printf("%s\n", progress(report, s.room(s.env.Stdout)))
		}
		select {
		case <-s.ctx.Done():
			erase()
			return s.ctx.Err()
		case <-tick.C:
		}
		report = service.RegistrationReport{}
		if _, err := s.ask(http.MethodGet, at("registrations"), nil, &report); err != nil {
			erase()
			return err
		}
	}
	erase()
	s.printf("Nothing is left to do.\n")
	return nil
}

// showStanding says how many registrations are in which state.
func (s *session) showStanding(r service.RegistrationReport) {
	if !r.CountedAt.IsZero() {
		s.printf("Wanted %s, of which %s not alive (counted %s ago)\n", number(r.Wanted), number(r.Missing), age(s.now(), r.CountedAt))
	}
	s.printf("At ORCID: %s\n", states(r.States, r.Paused))
	if anew := r.States["none"]; anew > 0 || r.AtRisk > 0 {
		s.printf("To be made anew %s, at risk %s\n", number(anew), number(r.AtRisk))
	}
}

// done is how much of a sweep is through.
func done(w service.Sweep) int64 { return max(w.Total-w.Left, 0) }

// progress is how far a sweep is in one line.
func progress(r service.RegistrationReport, room int) string {
	w := r.Sweep
	left := ""
	switch {
	case r.Paused:
		left = "paused"
	case w.SecondsLeft > 0:
		left = "about " + span(time.Duration(w.SecondsLeft*float64(time.Second)))
	}
	return progressLine(room, float64(done(w))/float64(w.Total), w.Total > 0,
		word{number(w.Left) + " left", 2}, word{fmt.Sprintf("%.1f/s", w.Speed), 1}, word{left, 3})
}

type registrationRearmCmd struct {
	ID  string `arg:"" optional:"" name:"orcid" help:"The researcher's ORCID iD."`
	Org string `help:"All researchers of this organisation." placeholder:"ID"`
	All bool   `help:"Everybody. This also gives up callback keys that are lost."`
	Yes bool   `help:"Do not ask." short:"y"`
}

// Run implements the command.
func (c *registrationRearmCmd) Run(s *session) error {
	in := map[string]any{}
	if c.ID != "" {
		id, err := researcher(c.ID)
		if err != nil {
			return err
		}
		in["orcid"] = id.String()
	}
	if c.Org != "" {
		in["org"] = c.Org
	}
	if c.All {
		in["all"] = true
	}
	if len(in) != 1 {
		return usage("say whose registrations: an ORCID iD, --org ID or --all")
	}
	if c.All {
		if err := s.confirm(c.Yes, "This registers everybody at ORCID anew, two requests each; ORCID does not like that without need.", "all"); err != nil {
			return err
		}
	}
	var job store.Job
	if show, err := s.ask(http.MethodPost, at("registrations", "rearm"), in, &job); !show {
		return err
	}
	switch {
	case c.ID != "" && job.Done == 0:
		s.say("%s has no registration that could be made anew; `dispatchd user show %s` shows why.", c.ID, c.ID)
	case c.ID != "":
		s.say("%s is registered anew.", c.ID)
	default:
		s.say("Being made anew as job %s, at the pace of ORCID's rate; `dispatchd job list` shows how far it is.", job.ID)
	}
	return nil
}

type registrationSyncCmd struct{}

// Run implements the command.
func (*registrationSyncCmd) Run(s *session) error {
	var job store.Job
	if show, err := s.ask(http.MethodPost, at("registrations", "sync"), nil, &job); !show {
		return err
	}
	s.say("Being compared as job %s; `dispatchd job list` shows how far it is.", job.ID)
	return nil
}

type registrationPauseCmd struct{}

// Run implements the command.
func (*registrationPauseCmd) Run(s *session) error {
	if show, err := s.ask(http.MethodPost, at("registrations", "pause"), nil, nil); !show {
		return err
	}
	s.printf("Paused: nobody is registered or unregistered until `dispatchd registration resume`.\n")
	return nil
}

type registrationResumeCmd struct{}

// Run implements the command.
func (*registrationResumeCmd) Run(s *session) error {
	if show, err := s.ask(http.MethodPost, at("registrations", "resume"), nil, nil); !show {
		return err
	}
	s.printf("Registering goes on.\n")
	return nil
}

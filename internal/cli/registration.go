package cli

import (
	"net/http"

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

type registrationStatusCmd struct{}

// Run implements the command.
func (*registrationStatusCmd) Run(s *session) error {
	var report service.RegistrationReport
	if show, err := s.ask(http.MethodGet, at("registrations"), nil, &report); !show {
		return err
	}
	s.printf("%s\n", states(report.States, report.Paused))
	return nil
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
		s.printf("%s has no registration that could be made anew; `dispatchd user show %s` shows why.\n", safe(c.ID), safe(c.ID))
	case c.ID != "":
		s.printf("%s is registered anew.\n", safe(c.ID))
	default:
		s.printf("Being made anew as job %s, at the pace of ORCID's rate; `dispatchd job list` shows how far it is.\n", safe(job.ID))
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
	s.printf("Being compared as job %s; `dispatchd job list` shows how far it is.\n", safe(job.ID))
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

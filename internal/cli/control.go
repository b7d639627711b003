package cli

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

type reloadCmd struct{}

// Run implements the command.
func (*reloadCmd) Run(s *session) error {
	var out struct {
		Changes []string `json:"changes"`
	}
	if show, err := s.ask(http.MethodPost, at("reload"), nil, &out); !show {
		return err
	}
	if len(out.Changes) == 0 {
		s.printf("Reloaded; nothing changed.\n")
		return nil
	}
	s.printf("Reloaded:\n")
	for _, c := range out.Changes {
		wrap(s.env.Stdout, "  ", "    ", c)
	}
	return nil
}

type levelCmd struct {
	Level string `arg:"" optional:"" enum:",debug,info,warn,error" default:"" help:"debug, info, warn or error. Default: only show it."`
}

// Run implements the command.
func (c *levelCmd) Run(s *session) error {
	var out struct {
		Level string `json:"level"`
	}
	if c.Level == "" {
		if show, err := s.ask(http.MethodGet, at("log-level"), nil, &out); !show {
			return err
		}
		s.printf("The log level is %s.\n", out.Level)
		return nil
	}
	if show, err := s.ask(http.MethodPut, at("log-level"), map[string]string{"level": c.Level}, &out); !show {
		return err
	}
	s.printf("The log level is %s until the next reload or restart.\n", out.Level)
	return nil
}

type recoverCmd struct {
	AcceptLoss bool `help:"What Redis lost is lost. Restore it from its backup instead, if there is one."`
}

// Run implements the command.
func (c *recoverCmd) Run(s *session) error {
	if !c.AcceptLoss {
		return usage("recover makes the Redis that answers now the true one, as it is; what it lost is lost.\nSay so with: dispatchd recover --accept-loss")
	}
	if show, err := s.ask(http.MethodPost, at("recover"), map[string]bool{"accept_loss": true}, nil); !show {
		return err
	}
	s.printf("Recovered: work goes on with the Redis there is.\n")
	return nil
}

type credentialListCmd struct{}

// Run implements the command.
func (*credentialListCmd) Run(s *session) error {
	list, show, err := s.credentials()
	if !show {
		return err
	}
	if len(list) == 0 {
		s.printf("There are no ORCID credentials: write [orcid.credential.NAME] into the configuration file.\n")
		return nil
	}
	s.credentialTable(s.now(), list)
	return nil
}

func (s *session) credentials() ([]service.CredentialState, bool, error) {
	var out struct {
		Credentials []service.CredentialState `json:"credentials"`
	}
	show, err := s.ask(http.MethodGet, at("credentials"), nil, &out)
	return out.Credentials, show, err
}

// credentialTable lists credentials; what is wrong with one stands under it.
func (s *session) credentialTable(now time.Time, list []service.CredentialState) {
	var rows [][]string
	for _, c := range list {
		rows = append(rows, []string{c.Name, c.State, age(now, c.Since), strconv.FormatFloat(c.Rate, 'f', -1, 64), number(c.Waiting)})
	}
	table(s.env.Stdout, "", []column{
		{title: "CREDENTIAL", least: 10}, {title: "STATE", least: 8}, {title: "SINCE", right: true}, {title: "RATE/S", right: true}, {title: "WAITING", right: true},
	}, rows)
	for _, c := range list {
		if c.Detail != "" && c.State != "ok" {
			wrap(s.env.Stdout, "  ", "    ", c.Name+": "+c.Detail)
		}
	}
}

type credentialShowCmd struct {
	Name string `arg:"" help:"Our name of the credential."`
}

// Run implements the command. With --json it shows all, since the API has no
// other list, but fails all the same when there is none of that name.
func (c *credentialShowCmd) Run(s *session) error {
	if s.JSON {
		var all struct {
			Credentials []service.CredentialState `json:"credentials"`
		}
		return s.check(http.MethodGet, at("credentials"), &all, nil, func() bool {
			return slices.ContainsFunc(all.Credentials, func(one service.CredentialState) bool { return one.Name == c.Name })
		})
	}
	list, _, err := s.credentials()
	if err != nil {
		return err
	}
	for _, one := range list {
		if one.Name != c.Name {
			continue
		}
		for _, line := range [][2]string{
			{"name", one.Name},
			{"state", one.State},
			{"detail", one.Detail},
			{"since", clock(one.Since)},
			{"rate per second", strconv.FormatFloat(one.Rate, 'f', -1, 64)},
			{"waiting", number(one.Waiting)},
		} {
			wrap(s.env.Stdout, fmt.Sprintf("%-17s", line[0]), "                 ", orDash(line[1]))
		}
		return nil
	}
	return fmt.Errorf("there is no credential %q; `dispatchd credential list` shows them all", c.Name)
}

type jobListCmd struct{}

// Run implements the command.
func (*jobListCmd) Run(s *session) error {
	var out struct {
		Jobs []store.Job `json:"jobs"`
	}
	if show, err := s.ask(http.MethodGet, at("jobs"), nil, &out); !show {
		return err
	}
	if len(out.Jobs) == 0 {
		s.printf("There are no jobs.\n")
		return nil
	}
	var rows [][]string
	for _, j := range out.Jobs {
		done := number(j.Done)
		if j.Total > 0 {
			done += "/" + number(j.Total)
		}
		rows = append(rows, []string{j.ID, orDash(j.Org), j.State, done, age(s.now(), j.Updated)})
	}
	table(s.env.Stdout, "", []column{
		{title: "JOB", least: 12}, {title: "ORGANISATION", least: 12}, {title: "STATE"}, {title: "DONE", right: true}, {title: "UPDATED", right: true},
	}, rows)
	for _, j := range out.Jobs {
		if j.Error != "" {
			wrap(s.env.Stdout, "  ", "    ", j.ID+": "+j.Error)
		}
	}
	return nil
}

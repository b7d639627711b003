package cli

import (
	"fmt"
	"net/http"
	"slices"

	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

type jobShowCmd struct {
	ID string `arg:"" name:"job" help:"The job, as in the list."`
}

// Run implements the command.
func (c *jobShowCmd) Run(s *session) error {
	var j store.Job
	if show, err := s.ask(http.MethodGet, at("jobs", c.ID), nil, &j); !show {
		return err
	}
	s.showJob(j)
	return nil
}

func (s *session) showJob(j store.Job) {
	done := number(j.Done)
	if j.Total > 0 {
		done += " of " + number(j.Total)
	}
	lines := [][2]string{
		{"job", j.ID},
		{"kind", j.Kind},
		{"organisation", j.Org},
		{"state", j.State},
		{"done", done},
		{"failed tries", number(j.Failed)},
		{"began", clock(j.Created)},
		{"last step", clock(j.Updated) + " (" + age(s.now(), j.Updated) + " ago)"},
		{"error", j.Error},
	}
	keys := make([]string, 0, len(j.Args))
	for key := range j.Args {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		lines = append(lines, [2]string{key, j.Args[key]})
	}
	for _, line := range lines {
		wrap(s.env.Stdout, fmt.Sprintf("%-17s", clip(safe(line[0]), 16)), "                 ", orDash(line[1]))
	}
}

type jobCancelCmd struct {
	ID string `arg:"" name:"job" help:"The job, as in the list."`
}

// Run implements the command.
func (c *jobCancelCmd) Run(s *session) error {
	var j store.Job
	if show, err := s.ask(http.MethodPost, at("jobs", c.ID, "cancel"), nil, &j); !show {
		return err
	}
	s.printf("Cancelled; what it has done stays.\n\n")
	s.showJob(j)
	return nil
}

type credentialTestCmd struct {
	Name string `arg:"" help:"Our name of the credential."`
}

// Run implements the command. Like every check it ends with 1 when all is not
// well.
func (c *credentialTestCmd) Run(s *session) error {
	var t service.CredentialTest
	return s.check(http.MethodPost, at("credentials", c.Name, "test"), &t, func() {
		if t.OK {
			s.printf("ORCID gives %s a token for /webhook (%s).\n", safe(t.Name), span(t.Duration))
		} else {
			wrap(s.env.Stdout, "", "  ", "ORCID gives "+t.Name+" no token: "+t.Error)
		}
	}, func() bool { return t.OK })
}

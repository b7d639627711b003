package cli

import (
	"fmt"
	"net/http"

	"dispatchd/internal/service"
)

type orgMoveCmd struct {
	ID         string `arg:"" help:"The organisation."`
	Credential string `help:"The ORCID credential that is to serve it." required:"" placeholder:"NAME"`
}

// Run implements the command.
func (c *orgMoveCmd) Run(s *session) error {
	var v service.View
	in := map[string]string{"credential": c.Credential}
	if show, err := s.ask(http.MethodPost, at("organisations", c.ID, "move"), in, &v); !show {
		return err
	}
	wrap(s.env.Stdout, "", "", fmt.Sprintf("%s moves to credential %s. Its %s registered anew at the pace of ORCID's rate; "+
		"each goes on being served by the old credential until then.", v.ID, v.Credential, count(v.Users, "user is", "users are")))
	s.printf("`dispatchd registration status` shows how far it is.\n")
	return nil
}

package cli

import (
	"net/http"
	"net/url"
	"strconv"

	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
)

// paging are the flags of long lists.
type paging struct {
	Limit  int    `help:"How many to show, 1 to 1000." default:"100"`
	Cursor string `help:"Where to go on; shown at the end of a list." placeholder:"CURSOR"`
	All    bool   `help:"Show everything. With --json: one JSON document a page."`
}

// query gives the page as a query string.
func (p paging) query(cursor string, more ...string) string {
	q := url.Values{"limit": {strconv.Itoa(p.Limit)}}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	for i := 0; i+1 < len(more); i += 2 {
		if more[i+1] != "" {
			q.Set(more[i], more[i+1])
		}
	}
	return "?" + q.Encode()
}

// pages asks for one page, or with --all for every one; show returns the next
// cursor. Its result is where the list goes on, empty at its end.
func (s *session) pages(p paging, path string, show func(raw []byte) (next string, err error), more ...string) (string, error) {
	if p.Limit < 1 || p.Limit > 1000 {
		return "", usage("--limit must be 1 to 1000 (got %d)", p.Limit)
	}
	if p.All {
		p.Limit = 1000
	}
	c, err := s.client()
	if err != nil {
		return "", err
	}
	defer c.close()
	for cursor := p.Cursor; ; {
		raw, err := c.do(s.ctx, http.MethodGet, path+p.query(cursor, more...), nil)
		if s.JSON {
			if err := s.raw(raw, err); err != nil {
				return "", err
			}
		}
		if err != nil {
			return "", err
		}
		next, err := show(raw)
		if err != nil || next == "" || !p.All {
			return next, err
		}
		cursor = next
	}
}

type userListCmd struct {
	Org string `help:"The organisation." required:"" placeholder:"ID"`
	paging
}

// Run implements the command.
func (c *userListCmd) Run(s *session) error {
	var rows [][]string
	next, err := s.pages(c.paging, at("organisations", c.Org, "users"), func(raw []byte) (string, error) {
		var page service.UserPage
		if err := s.decode(raw, &page); err != nil {
			return "", err
		}
		for _, u := range page.Users {
			rows = append(rows, []string{
				u.ORCID.String(), orDash(u.Name), orDash(u.Email), u.Registration, age(s.now(), u.LastPing),
			})
		}
		return page.Next, nil
	})
	if err != nil || s.JSON {
		return err
	}
	if len(rows) == 0 {
		s.say("%s has no users: `dispatchd user import FILE --org %s`", c.Org, c.Org)
		return nil
	}
	table(s.env.Stdout, "", []column{
		{title: "ORCID"}, {title: "NAME", least: 8}, {title: "E-MAIL", least: 8}, {title: "AT ORCID"}, {title: "LAST PING", right: true},
	}, rows)
	s.goOn("dispatchd user list --org "+c.Org, next)
	return nil
}

// goOn says how a list goes on.
func (s *session) goOn(command, next string) {
	if next != "" {
		s.printf("… there is more:\n  %s --cursor %s\n", safe(command), safe(next))
	}
}

// researcher reads an iD from the command line.
func researcher(text string) (orcid.ID, error) {
	id, err := orcid.Parse(text)
	if err != nil {
		return id, usage("%s", err)
	}
	return id, nil
}

func nonEmpty(list ...string) (out []string) {
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

// statusWord is a status code; "-" when there was no answer.
func statusWord(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

type userAddCmd struct {
	ID    string `arg:"" name:"orcid" help:"The researcher's ORCID iD."`
	Org   string `help:"The organisation." required:"" placeholder:"ID"`
	Name  string `help:"The researcher's name, as the organisation gives it."`
	Email string `help:"The researcher's e-mail address, as the organisation gives it." placeholder:"ADDRESS"`
	EPPN  string `name:"eppn" help:"The researcher's eduPersonPrincipalName." placeholder:"EPPN"`
}

// Run implements the command.
func (c *userAddCmd) Run(s *session) error {
	id, err := researcher(c.ID)
	if err != nil {
		return err
	}
	var out struct {
		New bool `json:"new"`
	}
	in := service.Person{Email: c.Email, EPPN: c.EPPN, Name: c.Name}
	if show, err := s.ask(http.MethodPut, at("organisations", c.Org, "users", id.String()), in, &out); !show {
		return err
	}
	if out.New {
		s.say("%s is a user of %s now.", id, c.Org)
	} else {
		s.say("%s was a user of %s already; the data was updated.", id, c.Org)
	}
	return nil
}

type userRemoveCmd struct {
	ID  string `arg:"" name:"orcid" help:"The researcher's ORCID iD."`
	Org string `help:"The organisation." required:"" placeholder:"ID"`
}

// Run implements the command.
func (c *userRemoveCmd) Run(s *session) error {
	id, err := researcher(c.ID)
	if err != nil {
		return err
	}
	if show, err := s.ask(http.MethodDelete, at("organisations", c.Org, "users", id.String()), nil, nil); !show {
		return err
	}
	s.say("%s is not a user of %s any more.", id, c.Org)
	return nil
}

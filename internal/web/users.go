package web

import (
	"context"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"regexp"
	"strings"
	"time"

	"dispatchd/internal/look"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
)

const (
	usersShown = 50
	// maxUpload bounds a list; one of a million users fits.
	maxUpload  = 128 << 20
	uploadTime = 10 * time.Minute
	// badShown is how many bad lines the page lists.
	badShown = 200
)

// userForm is what stands in the form that adds a user.
type userForm struct{ ORCID, Name, Email, EPPN string }

// usersData is what the users page shows.
type usersData struct {
	Users    service.UserPage
	Total    int
	First    bool // this is the first page
	Form     userForm
	Problems []fieldProblem
	Bad      map[string]string
	Zone     *time.Location
	Rows     []userRow
}

type userRow struct {
	service.UserRow
	Badge look.Badge
}

// cursorForm is the store's; anything else in an address was typed by somebody.
var cursorForm = regexp.MustCompile(`^([0-9]{1,9}-(-1|[0-9]{1,18}))?$`)

func (p *Pages) usersPage(v visit) (reply, error) {
	return p.usersReply(v, http.StatusOK, userForm{}, nil)
}

func (p *Pages) usersReply(v visit, status int, form userForm, problems []fieldProblem) (reply, error) {
	cursor := v.URL.Query().Get("after")
	if !cursorForm.MatchString(cursor) {
		return reply{}, errNoPage
	}
	o, err := p.o.Service.Organisation(v.Context(), v.Org)
	if err != nil {
		return reply{}, err
	}
	list, err := p.o.Service.Users(v.Context(), v.Org, cursor, usersShown)
	if err != nil {
		return reply{}, err
	}
	d := usersData{Users: list, Total: o.Users, First: cursor == "", Form: form, Problems: problems, Bad: map[string]string{}, Zone: zoneOf(o.Timezone)}
	wanted := o.Webhook.Enabled || o.Email.Enabled
	for _, u := range list.Users {
		d.Rows = append(d.Rows, userRow{u, registrationBadge(u.Registration, wanted)})
	}
	for _, problem := range problems {
		d.Bad[problem.Field] = problem.Text
	}
	page := p.page(v, "Users", "/users")
	page.Failed = len(problems) > 0
	page.Data = d
	return reply{status: status, name: "users", page: page}, nil
}

// registrationBadge says whether ORCID tells us of somebody's changes.
func registrationBadge(state string, wanted bool) look.Badge {
	switch {
	case state == "alive":
		return look.Badge{Kind: look.OK, Text: "registered"}
	case state == "refused":
		return look.Badge{Kind: look.Bad, Text: "refused by ORCID"}
	case !wanted:
		return look.Badge{Text: "not registered"}
	}
	return look.Badge{Kind: look.Warn, Text: "being registered"}
}

func (p *Pages) addUser(v visit) (reply, error) {
	get := func(name string) string { return strings.TrimSpace(v.PostForm.Get(name)) }
	f := userForm{ORCID: get("orcid"), Name: get("name"), Email: get("email"), EPPN: get("eppn")}
	id, err := orcid.Parse(strings.TrimSuffix(f.ORCID, "/"))
	if err != nil {
		return p.usersReply(v, http.StatusBadRequest, f, []fieldProblem{{"orcid", sentence(plainly(err.Error()))}})
	}
	added, err := p.o.Service.AddUser(v.Context(), v.by, v.Org, id, service.Person{Email: f.Email, EPPN: f.EPPN, Name: f.Name})
	var e *service.Error
	if errors.As(err, &e) && e.Code == service.CodeInvalid {
		var problems []fieldProblem
		for _, problem := range e.Problems {
			field, _, _ := strings.Cut(problem.Why, " ")
			if field != "email" && field != "eppn" {
				field = "name"
			}
			problems = append(problems, fieldProblem{field, sentence(plainly(problem.Why))})
		}
		return p.usersReply(v, http.StatusBadRequest, f, problems)
	}
	if err != nil {
		return reply{}, err
	}
	if !added {
		return reply{to: "/users?done=known"}, nil
	}
	return reply{to: "/users?done=added"}, nil
}

// ofPath reads the researcher in the path.
func ofPath(v visit) (orcid.ID, error) {
	id, err := orcid.Parse(v.PathValue("orcid"))
	if err != nil {
		return id, errNoPage
	}
	return id, nil
}

func (p *Pages) removePage(v visit) (reply, error) {
	id, err := ofPath(v)
	if err != nil {
		return reply{}, err
	}
	page := p.page(v, "Remove a user", "/users")
	page.Data = id
	return reply{name: "remove", page: page}, nil
}

func (p *Pages) removeUser(v visit) (reply, error) {
	id, err := ofPath(v)
	if err != nil {
		return reply{}, err
	}
	if err := p.o.Service.RemoveUser(v.Context(), v.by, v.Org, id); err != nil {
		return reply{}, err
	}
	return reply{to: "/users?done=removed"}, nil
}

// uploadData is what became of a list.
type uploadData struct {
	Report   service.ImportReport
	Stopped  string // why the list was not read to its end
	More     int    // bad lines that are not listed
	Announce bool
}

// upload imports a list as it comes in: it is never held as a whole. The
// tick-box stands before the file in the form and so comes first.
func (p *Pages) upload(v visit) (reply, error) {
	bad := func(why string) (reply, error) {
		return p.usersReply(v, http.StatusBadRequest, userForm{}, []fieldProblem{{"list", why}})
	}
	parts, err := v.MultipartReader()
	if err != nil {
		return bad("Choose a file first.")
	}
	announce := false
	for {
		part, err := parts.NextPart()
		switch {
		case errors.Is(err, io.EOF):
			return bad("Choose a file first.")
		case err != nil:
			return reply{}, cutOff(err)
		}
		switch part.FormName() {
		case "announce":
			announce = true
		case "list":
			if part.FileName() == "" {
				return bad("Choose a file first.")
			}
			return p.importList(v, part, announce)
		}
	}
}

func cutOff(err error) error {
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return &apology{status: http.StatusRequestEntityTooLarge, what: "The file is too large", do: "Split it into several; what was read so far is imported."}
	}
	return &apology{status: http.StatusBadRequest, what: "The file did not arrive whole", do: "Try again; what was imported already does no harm."}
}

func (p *Pages) importList(v visit, list *multipart.Part, announce bool) (reply, error) {
	report, err := p.o.Service.Import(v.Context(), v.by, v.Org, list, service.CSV, announce, nil)
	d := uploadData{Report: report, Announce: announce, More: report.Bad - min(report.Bad, badShown)}
	d.Report.BadLines = d.Report.BadLines[:min(len(d.Report.BadLines), badShown)]
	var e *service.Error
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		d.Stopped = "The file is too large: it was read only so far."
	case errors.As(err, &e) && e.Code == service.CodeInvalid:
		d.Stopped = plainly(e.What)
		for _, problem := range e.Problems {
			d.Stopped += " " + sentence(plainly(problem.Why))
		}
	case errors.Is(err, context.Canceled):
		return reply{}, cutOff(err)
	case err != nil:
		return reply{}, err
	}
	page := p.page(v, "The list was imported", "/users")
	status := http.StatusOK
	if d.Stopped != "" {
		page.Title, page.Failed, status = "The list was imported only in part", true, http.StatusBadRequest
		if report.Lines == 0 {
			page.Title = "The list was not imported"
		}
	}
	page.Data = d
	return reply{status: status, name: "uploaded", page: page}, nil
}

package page

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/look"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

// shown is how many dead letters and attempts a page lists; the command line
// has all of them.
const shown = 25

type organisationData struct {
	service.View
	Now      time.Time
	Row      orgRow
	Channels []channelData
	Held     bool // something can be resumed
	Any      bool // a channel is enabled
	Dead     int
}

type channelData struct {
	service.Channel
	DeadLetters []store.DeadLetter
	Attempts    []event.Attempt
}

func (p *Page) organisation(w http.ResponseWriter, r *http.Request) error {
	return p.showOrganisation(w, r, http.StatusOK, nil)
}

// showOrganisation shows one organisation, with what was just done to it.
func (p *Page) showOrganisation(w http.ResponseWriter, r *http.Request, status int, notices []look.Notice) error {
	ctx, id := r.Context(), r.PathValue("id")
	v, err := p.o.Service.Organisation(ctx, id)
	if err != nil {
		return err
	}
	lately, err := p.o.Service.Lately(ctx, []string{id})
	if err != nil {
		return err
	}
	d := organisationData{View: v, Now: time.Now(), Row: rowOf(v, lately[0])}
	for _, c := range v.Channels {
		cd := channelData{Channel: c}
		if c.Dead > 0 {
			page, err := p.o.Service.DeadLetters(ctx, id, c.Channel, "", shown)
			if err != nil {
				return err
			}
			cd.DeadLetters = page.DeadLetters
		}
		if cd.Attempts, err = p.o.Service.Attempts(ctx, id, c.Channel, shown); err != nil {
			return err
		}
		d.Dead += c.Dead
		d.Any = d.Any || c.Enabled
		for _, h := range c.Holds {
			d.Held = d.Held || h.Hold == event.HoldPause || h.Hold == event.HoldSuspend // the others end by themselves only
		}
		if c.Enabled || c.Waiting+c.Dead > 0 || len(cd.Attempts) > 0 {
			d.Channels = append(d.Channels, cd)
		}
	}
	p.render(w, r, status, "organisation", look.Page{Title: v.Name, Notices: append(done(r, id), notices...), Data: d})
	return nil
}

// doneWords are what a redirect may say was done; nothing else comes from the
// address.
var doneWords = map[string]string{
	"paused":   "Paused: deliveries wait until you resume. Nothing is lost or unregistered.",
	"resumed":  "Resumed: what waited is being delivered.",
	"replayed": "The dead letters are being tried again.",
}

func done(r *http.Request, _ string) []look.Notice {
	if text, ok := doneWords[r.URL.Query().Get("done")]; ok {
		return []look.Notice{{Kind: look.OK, Text: text}}
	}
	return nil
}

// act does what a button of an organisation's page says.
func (p *Page) act(w http.ResponseWriter, r *http.Request) error {
	ctx, id := r.Context(), r.PathValue("id")
	var word string
	var err error
	switch r.PathValue("action") {
	case "pause":
		word, err = "paused", p.o.Service.Pause(ctx, by(r), id, "", r.PostFormValue("reason"))
	case "resume":
		word, err = "resumed", p.o.Service.Resume(ctx, by(r), id, "")
	case "replay":
		word = "replayed"
		_, err = p.o.Service.Replay(ctx, by(r), id, store.Selection{})
	case "test":
		return p.test(w, r)
	case "link":
		return p.link(w, r)
	default:
		p.sorry(w, r, http.StatusNotFound, "There is no such button.", "")
		return nil
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/organisations/"+url.PathEscape(id)+"?done="+word, http.StatusSeeOther)
	return nil
}

// test sends a test event and shows the answer.
func (p *Page) test(w http.ResponseWriter, r *http.Request) error {
	a, err := p.o.Service.Test(r.Context(), by(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	n := look.Notice{Kind: look.OK, Text: fmt.Sprintf("The receiver answered %d to the test event, after %s.", a.Status, a.Duration.Round(time.Millisecond))}
	if !a.OK {
		n = look.Notice{Kind: look.Bad, Text: "The test event was not taken: " + a.Error}
		if a.Excerpt != "" {
			n.Do = "It answered: " + a.Excerpt
		}
	}
	return p.showOrganisation(w, r, http.StatusOK, []look.Notice{n})
}

// link makes a link that signs in to the organisation's own pages. It stands on
// this answer only: it is as good as a password while it works.
func (p *Page) link(w http.ResponseWriter, r *http.Request) error {
	link, until, err := p.o.Service.OrgLink(r.Context(), by(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	n := look.Notice{
		Kind: look.OK, Text: "This link signs in once, until " + until.UTC().Format("15:04") + " UTC. Hand it to the organisation's contact only.",
		Link: &look.Link{Text: link, Href: link},
	}
	return p.showOrganisation(w, r, http.StatusOK, []look.Notice{n})
}

// actRegistrations pauses and resumes registering.
func (p *Page) actRegistrations(w http.ResponseWriter, r *http.Request) error {
	action := r.PathValue("action")
	if action != "pause" && action != "resume" {
		p.sorry(w, r, http.StatusNotFound, "There is no such button.", "")
		return nil
	}
	if err := p.o.Service.PauseRegistrations(r.Context(), by(r), action == "pause"); err != nil {
		return err
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

type researcherData struct {
	Asked   string
	Problem string
	Story   *service.Story
	Now     time.Time
}

// researcher searches for an iD and shows its whole story.
func (p *Page) researcher(w http.ResponseWriter, r *http.Request) error {
	d := researcherData{Asked: r.URL.Query().Get("orcid"), Now: time.Now()}
	title, status := "Researcher", http.StatusOK
	if d.Asked != "" {
		id, err := orcid.Parse(d.Asked)
		if err != nil {
			d.Problem, status = err.Error(), http.StatusBadRequest
		} else {
			story, err := p.o.Service.User(r.Context(), id)
			switch {
			case notFound(err):
				d.Problem, status = fmt.Sprintf("Nothing is known of %s.", id), http.StatusNotFound
			case err != nil:
				return err
			default:
				d.Asked, d.Story, title = id.String(), &story, id.String()
			}
		}
	}
	p.render(w, r, status, "researcher", look.Page{Title: title, Failed: d.Problem != "", Data: d})
	return nil
}

func notFound(err error) bool {
	var e *service.Error
	return errors.As(err, &e) && e.Code == service.CodeNotFound
}

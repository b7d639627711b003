package hubapi

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

// userBody says what became of an affiliation.
type userBody struct {
	ORCID orcid.ID `json:"orcid"`
	New   bool     `json:"new"`
}

// putUser affiliates a researcher, as an identity system does when one links
// their iD. The first time the organisation is told CREATED.
func (a *API) putUser(w http.ResponseWriter, c *call) error {
	var p service.Person
	if _, err := decode(w, c, &p, true); err != nil {
		return err
	}
	added, err := a.o.Service.AddUser(c.Context(), c.by(), c.org, c.route.orcid, p)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if added {
		status = http.StatusCreated
	}
	a.send(w, c, status, userBody{ORCID: c.route.orcid, New: added})
	return nil
}

// deleteUser ends the affiliation.
func (a *API) deleteUser(w http.ResponseWriter, c *call) error {
	if err := a.o.Service.RemoveUser(c.Context(), c.by(), c.org, c.route.orcid); err != nil {
		return noSuchUser(c, err)
	}
	a.send(w, c, http.StatusNoContent, nil)
	return nil
}

// The bounds of a page of attempts.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// attempts pages through the organisation's attempt log.
func (a *API) attempts(w http.ResponseWriter, c *call) error {
	q := c.URL.Query()
	limit, ch := defaultLimit, event.Webhook
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxLimit {
			return badRequest("limit must be 1 to %d.", maxLimit)
		}
		limit = n
	}
	if text := q.Get("channel"); text != "" {
		ch = event.Channel(text)
		if !slices.Contains(event.Channels[:], ch) {
			return badRequest("channel must be webhook or email.")
		}
	}
	page, err := a.o.Service.AttemptPage(c.Context(), c.org, ch, q.Get("cursor"), limit)
	if err != nil {
		return err
	}
	a.send(w, c, http.StatusOK, page)
	return nil
}

// test posts a test event to the organisation's URL and shows the answer.
func (a *API) test(w http.ResponseWriter, c *call) error {
	answer, err := a.o.Service.Test(c.Context(), c.by(), c.org)
	if err != nil {
		return err
	}
	a.send(w, c, http.StatusOK, answer)
	return nil
}

// replay tries dead letters again: of one user, since a time, or all.
func (a *API) replay(w http.ResponseWriter, c *call) error {
	var in struct {
		ORCID *string   `json:"orcid"`
		Since time.Time `json:"since"`
	}
	some, err := decode(w, c, &in, true)
	if err != nil {
		return err
	}
	if !some {
		return badRequest(`Send {"orcid":"0000-0002-1825-0097"}, {"since":"2026-11-23T00:00:00Z"}, or {} for all.`)
	}
	sel := store.Selection{Since: in.Since}
	if in.ORCID != nil { // an empty one is a mistake, not everybody
		if sel.ORCID, err = orcid.Parse(*in.ORCID); err != nil {
			return badRequest("orcid: %s.", err)
		}
	}
	job, err := a.o.Service.Replay(c.Context(), c.by(), c.org, sel)
	if err != nil {
		return err
	}
	a.send(w, c, http.StatusAccepted, jobBody{JobID: job.ID})
	return nil
}

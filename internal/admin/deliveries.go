package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// deadLetter is a dead letter as programs see it.
type deadLetter struct {
	ORCID    orcid.ID      `json:"orcid"`
	Channel  event.Channel `json:"channel"`
	Types    []event.Type  `json:"types"`
	FirstAt  time.Time     `json:"first_at"`  // when the first ping was accepted
	LatestAt time.Time     `json:"latest_at"` // when the latest ping was accepted
	DiedAt   time.Time     `json:"died_at"`
	Attempts int           `json:"attempts"`
	Status   int           `json:"status,omitempty"` // of the last attempt; missing when there was no answer
	Reason   string        `json:"reason"`
}

// part is what the lists of deliveries are asked for.
func part(r *http.Request) (page, event.Channel, error) {
	q, err := query(r, "cursor", "limit", "channel")
	if err != nil {
		return page{}, "", err
	}
	p, err := pageOf(q)
	if err != nil {
		return page{}, "", err
	}
	ch, err := channelOf("channel", q.Get("channel"), event.Webhook)
	return p, ch, err
}

func (s *Server) deadLetters(w http.ResponseWriter, r *http.Request) error {
	p, ch, err := part(r)
	if err != nil {
		return err
	}
	if !match(`^([0-9]{1,18}-[0-9]{1,15})?$`, p.cursor) {
		return badCursor()
	}
	list, err := s.o.Service.DeadLetters(r.Context(), r.PathValue("id"), ch, p.cursor, p.limit)
	if err != nil {
		return err
	}
	out := make([]deadLetter, len(list.DeadLetters))
	for i, d := range list.DeadLetters {
		out[i] = deadLetter(d)
	}
	answer := struct {
		DeadLetters []deadLetter `json:"dead_letters"`
		Next        string       `json:"next,omitempty"`
	}{out, list.Next}
	return s.send(w, r, http.StatusOK, answer)
}

func (s *Server) attempts(w http.ResponseWriter, r *http.Request) error {
	p, ch, err := part(r)
	if err != nil {
		return err
	}
	list, err := s.o.Service.AttemptPage(r.Context(), r.PathValue("id"), ch, p.cursor, p.limit)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, list)
}

// given is a part of a choice; nothing in it, as of a script whose variable is
// empty, is a mistake and does not choose everything.
type given[T any] struct {
	is bool
	of T
}

// UnmarshalJSON implements json.Unmarshaler.
func (g *given[T]) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		return errors.New("null chooses nothing; leave the key out to choose all")
	}
	g.is = true
	return json.Unmarshal(raw, &g.of)
}

// selection reads which dead letters are meant. The body must be there, so that
// nobody purges everything by forgetting it.
func selection(w http.ResponseWriter, r *http.Request) (store.Selection, error) {
	var in *struct {
		ORCID given[string]    `json:"orcid"`
		Since given[time.Time] `json:"since"`
	}
	var sel store.Selection
	some, err := decode(w, r, &in)
	if err != nil {
		return sel, err
	}
	if !some || in == nil {
		return sel, needed(`{"orcid":"0000-0002-1825-0097"}, {"since":"2026-11-23T00:00:00Z"}, or {} for all`)
	}
	if in.ORCID.is {
		if sel.ORCID, err = orcid.Parse(in.ORCID.of); err != nil {
			return sel, bad("orcid", err.Error())
		}
	}
	sel.Since = in.Since.of
	return sel, nil
}

// replay answers 202 with the job that does it.
func (s *Server) replay(w http.ResponseWriter, r *http.Request) error {
	sel, err := selection(w, r)
	if err != nil {
		return err
	}
	job, err := s.o.Service.Replay(r.Context(), by(r), r.PathValue("id"), sel)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusAccepted, job)
}

func (s *Server) purge(w http.ResponseWriter, r *http.Request) error {
	sel, err := selection(w, r)
	if err != nil {
		return err
	}
	n, err := s.o.Service.Purge(r.Context(), by(r), r.PathValue("id"), sel)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, map[string]int{"purged": n})
}

package admin

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
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

// maxAttempts bounds how far back the attempt log is paged.
const maxAttempts = 100_000

// attempts pages through the attempt log. It grows at its head while somebody
// reads, so a cursor names an attempt and not a position.
func (s *Server) attempts(w http.ResponseWriter, r *http.Request) error {
	p, ch, err := part(r)
	if err != nil {
		return err
	}
	want := p.limit + 1
	if p.cursor != "" {
		want = maxAttempts
	}
	list, err := s.o.Service.Attempts(r.Context(), r.PathValue("id"), ch, want)
	if err != nil {
		return err
	}
	if p.cursor != "" {
		if list, err = behind(list, p.cursor); err != nil {
			return err
		}
	}
	answer := struct {
		Attempts []event.Attempt `json:"attempts"`
		Next     string          `json:"next,omitempty"`
	}{Attempts: orEmpty(list)}
	if len(list) > p.limit {
		answer.Attempts = list[:p.limit]
		answer.Next = attemptCursor(list[p.limit-1])
	}
	return s.send(w, r, http.StatusOK, answer)
}

// attemptCursor names an attempt: when it began, its number, its delivery.
func attemptCursor(a event.Attempt) string {
	return fmt.Sprintf("%d.%d.%s", a.Start.UnixNano(), a.Number, a.DeliveryID)
}

// behind returns the attempts after the one that the cursor names. When that
// one has left the log, so has everything older: then those that began before.
func behind(list []event.Attempt, cursor string) ([]event.Attempt, error) {
	nanos, rest, _ := strings.Cut(cursor, ".")
	start, err := strconv.ParseInt(nanos, 10, 64)
	if err != nil || rest == "" || len(cursor) > 200 {
		return nil, badCursor()
	}
	if i := slices.IndexFunc(list, func(a event.Attempt) bool { return attemptCursor(a) == cursor }); i >= 0 {
		return list[i+1:], nil
	}
	return slices.DeleteFunc(list, func(a event.Attempt) bool { return cmp.Compare(a.Start.UnixNano(), start) >= 0 }), nil
}

// selection reads which dead letters are meant. The body must be there, so that
// nobody purges everything by forgetting it.
func selection(w http.ResponseWriter, r *http.Request) (store.Selection, error) {
	var in struct {
		ORCID string    `json:"orcid"`
		Since time.Time `json:"since"`
	}
	var sel store.Selection
	some, err := decode(w, r, &in)
	if err != nil {
		return sel, err
	}
	if !some {
		return sel, needed(`{"orcid":"0000-0002-1825-0097"}, {"since":"2026-11-23T00:00:00Z"}, or {} for all`)
	}
	if in.ORCID != "" {
		if sel.ORCID, err = orcid.Parse(in.ORCID); err != nil {
			return sel, bad("orcid", err.Error())
		}
	}
	sel.Since = in.Since
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

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

type userShowCmd struct {
	ID string `arg:"" name:"orcid" help:"The researcher's ORCID iD."`
}

// Run implements the command.
func (c *userShowCmd) Run(s *session) error {
	id, err := researcher(c.ID)
	if err != nil {
		return err
	}
	var story service.Story
	if show, err := s.ask(http.MethodGet, at("users", id.String()), nil, &story); !show {
		return err
	}
	s.printf("%s, last ping %s\n", story.ORCID, clock(story.LastPing))
	w := s.env.Stdout
	if story.Damaged {
		wrap(w, "", "  ", "The stored record is damaged: nobody is told about this researcher. Erase it and add the researcher again.")
	}
	if !story.Suppressed.IsZero() {
		text := "Asked to be erased on " + clock(story.Suppressed) + "; on the suppression list until `dispatchd user unsuppress " + id.String() + "`."
		if story.Erasing {
			text = "Is being erased since " + clock(story.Suppressed) + "; `dispatchd job list` shows how far it is."
		}
		wrap(w, "", "  ", text)
	}
	s.showRegistrations(story)
	s.showCallbacks(story.Callbacks)
	for _, a := range story.Affiliations {
		s.showAffiliation(a)
	}
	return nil
}

func (s *session) showRegistrations(story service.Story) {
	w := s.env.Stdout
	if len(story.Registrations) == 0 {
		s.printf("\nNot registered at ORCID.\n")
	} else {
		s.printf("\n")
		var rows [][]string
		for _, r := range story.Registrations {
			rows = append(rows, []string{r.Credential, r.State, clock(r.Since), strconv.Itoa(r.Epoch), tries(r.Tries), statusWord(r.Status), day(r.RetryAt)})
		}
		table(w, "", []column{
			{title: "CREDENTIAL", least: 8},
			{title: "AT ORCID"},
			{title: "SINCE"},
			{title: "EPOCH", right: true},
			{title: "FAILED", right: true},
			{title: "STATUS", right: true},
			{title: "NEXT TRY"},
		}, rows)
	}
	if len(story.History) > 0 {
		s.printf("\nWhat happened to them:\n")
		var rows [][]string
		for _, h := range story.History {
			rows = append(rows, []string{clock(h.At), h.Credential, strconv.Itoa(h.Epoch), historyWords(h)})
		}
		table(w, "  ", []column{{title: "WHEN"}, {title: "CREDENTIAL", least: 8}, {title: "EPOCH", right: true}, {title: "WHAT", least: 12}}, rows)
	}
	for _, v := range story.Watched {
		if !v.LastPing.IsZero() {
			wrap(w, "", "  ", fmt.Sprintf("The latest ping by %s came on %s.", v.Credential, clock(v.LastPing)))
		}
		if !v.Due.IsZero() {
			wrap(w, "", "  ", fmt.Sprintf("Catch-up looks at the registration with %s on %s.", v.Credential, clock(v.Due)))
		}
		if !v.Silent.IsZero() {
			wrap(w, "", "  ", fmt.Sprintf("A change was found on %s that ORCID had not told %s.", clock(v.Silent), v.Credential))
		}
	}
}

// tries writes how often something failed in at most six columns.
func tries(n int) string {
	if n < 1_000_000 {
		return strconv.Itoa(n)
	}
	return strconv.Itoa(n/1_000_000) + "M"
}

// historyWords says for people what happened.
func historyWords(h store.History) string {
	text := map[string]string{
		store.HistoryPlanned: "to be registered anew",
		store.HistoryAlive:   "registered",
		store.HistoryFailing: "ORCID could not do it",
		store.HistoryRefused: "ORCID refuses it",
		store.HistoryRemove:  "to be unregistered",
		store.HistoryGone:    "unregistered",
	}[h.What]
	if text == "" {
		text = h.What
	}
	if h.Status != 0 {
		text += " (" + strconv.Itoa(h.Status) + ")"
	}
	return text
}

// showCallbacks lists the callbacks of organisations' own.
func (s *session) showCallbacks(list []service.StoryCallback) {
	for _, c := range list {
		text := fmt.Sprintf("callback of %s, %s with %s since %s: %s", c.Org, c.State, orDash(c.Credential), clock(c.Since), c.URL)
		if c.Leaving {
			text += " (to be removed)"
		}
		if c.Waits != "" {
			text += ", waits for " + c.Waits
		}
		if c.Tries > 0 {
			text += fmt.Sprintf(", %s, ORCID said %s", count(c.Tries, "failed try", "failed tries"), statusWord(c.Status))
		}
		wrap(s.env.Stdout, "", "  ", text)
	}
}

func (s *session) showAffiliation(a service.StoryAffiliation) {
	w := s.env.Stdout
	s.printf("\n")
	if a.Former {
		wrap(w, "", "  ", a.Org+": not a user any more; this is left:")
	} else {
		who := strings.Join(nonEmpty(a.Name, a.Email, a.EPPN), ", ")
		wrap(w, "", "  ", fmt.Sprintf("%s, user since %s: %s", a.Org, clock(a.AffiliatedAt), orDash(who)))
	}
	if a.Muted {
		wrap(w, "  ", "    ", "muted: the organisation does not want to be told for now")
	}
	for _, slot := range a.Slots {
		text := fmt.Sprintf("%s: %s of %s waits, next try %s", slot.Channel, types(slot.Types), clock(slot.LatestAt), clock(slot.Due))
		if slot.InFlight {
			text = fmt.Sprintf("%s: %s of %s is being delivered", slot.Channel, types(slot.Types), clock(slot.LatestAt))
		}
		if slot.Attempts > 0 {
			text += ", " + count(slot.Attempts, "attempt", "attempts") + " so far"
		}
		wrap(w, "  ", "    ", text)
	}
	for _, d := range a.DeadLetters {
		text := fmt.Sprintf("%s: %s of %s was given up on %s after %s: %s", d.Channel, types(d.Types), clock(d.LatestAt), clock(d.DiedAt), count(d.Attempts, "attempt", "attempts"), d.Reason)
		wrap(w, "  ", "    ", text)
	}
	if len(a.Attempts) == 0 {
		s.printf("  no attempts in the log\n")
		return
	}
	s.attemptTable("  ", a.Attempts, false)
}

func types(list []event.Type) string {
	words := make([]string, len(list))
	for i, t := range list {
		words[i] = string(t)
	}
	return strings.Join(words, " and ")
}

type userExportCmd struct {
	ID string `arg:"" name:"orcid" help:"The researcher's ORCID iD."`
}

// Run implements the command.
func (c *userExportCmd) Run(s *session) error {
	id, err := researcher(c.ID)
	if err != nil {
		return err
	}
	var export json.RawMessage
	if show, err := s.ask(http.MethodGet, at("users", id.String(), "export"), nil, &export); !show {
		return err
	}
	var lined strings.Builder
	enc := json.NewEncoder(&lined)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(export); err != nil {
		return fmt.Errorf("write the export: %w", err)
	}
	s.printf("%s", lined.String())
	return nil
}

type userEraseCmd struct {
	ID   string        `arg:"" name:"orcid" help:"The researcher's ORCID iD."`
	Yes  bool          `help:"Do not ask." short:"y"`
	Wait time.Duration `help:"How long to wait for the end; it goes on without." default:"30s"`
}

// Run implements the command.
func (c *userEraseCmd) Run(s *session) error {
	id, err := researcher(c.ID)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("This removes every trace of %s here and unregisters it at ORCID; no organisation is told about it any more, and no import takes it again.", id)
	if err := s.confirm(c.Yes, what, id.String()); err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	defer cl.close()
	var e service.Erasure
	raw, err := s.erasureOf(cl, http.MethodDelete, at("users", id.String()), &e)
	for began := time.Now(); err == nil && e.Job.State == store.JobRunning && time.Since(began) < c.Wait; {
		select {
		case <-s.ctx.Done():
			return errors.New("interrupted; the erasure goes on by itself, `dispatchd job list` shows it")
		case <-time.After(500 * time.Millisecond):
		}
		raw, err = s.erasureOf(cl, http.MethodGet, at("erasures", e.Job.ID), &e)
	}
	if s.JSON {
		if err := s.raw(raw, err); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if !s.JSON {
		s.showErasure(id.String(), e)
	}
	if e.Job.State == store.JobFailed {
		return ExitCode(exitFail)
	}
	return nil
}

func (s *session) erasureOf(cl *client, method, path string, to *service.Erasure) ([]byte, error) {
	raw, err := cl.do(context.WithoutCancel(s.ctx), method, path, nil)
	if err != nil {
		return raw, err
	}
	*to = service.Erasure{}
	return raw, s.decode(raw, to)
}

func (s *session) showErasure(id string, e service.Erasure) {
	w := s.env.Stdout
	switch {
	case e.Job.State == store.JobFailed:
		wrap(w, "", "  ", id+" could not be erased: "+e.Job.Error)
	case e.Waiting != "":
		wrap(w, "", "  ", fmt.Sprintf("%s is being erased; it waits for %s. It goes on by itself, `dispatchd job list` shows it.", id, e.Waiting))
	default:
		s.printf("%s is erased.\n", id)
	}
	none := true
	for _, line := range []struct{ key, one, many string }{
		{"affiliations", "affiliation", "affiliations"},
		{"registrations", "registration at ORCID", "registrations at ORCID"},
		{"callbacks", "callback of an organisation at ORCID", "callbacks of organisations at ORCID"},
		{"slots", "delivery that waited", "deliveries that waited"},
		{"dead_letters", "dead letter", "dead letters"},
		{"attempts", "attempt in the logs", "attempts in the logs"},
		{"summaries", "entry of a monthly summary", "entries of monthly summaries"},
		{"checks", "note of catch-up", "notes of catch-up"},
		{"damaged_records", "damaged record, so its registrations were not known", "damaged records"},
	} {
		if n := e.Removed[line.key]; n > 0 {
			if none {
				s.printf("\nRemoved:\n")
				none = false
			}
			s.printf("  %s\n", count(n, line.one, line.many))
		}
	}
	switch {
	case none && e.Waiting != "":
		s.printf("\nNothing was removed yet.\n")
	case none:
		s.printf("\nNothing was to be removed.\n")
	}
	s.printf("\nWhat only goes with time:\n")
	for _, text := range e.AgesOut {
		wrap(w, "  - ", "    ", text)
	}
	s.printf("\nA keyed hash stays on the suppression list, so that no import takes it again.\n")
}

type userLiftCmd struct {
	ID string `arg:"" name:"orcid" help:"The researcher's ORCID iD."`
}

// Run implements the command.
func (c *userLiftCmd) Run(s *session) error {
	id, err := researcher(c.ID)
	if err != nil {
		return err
	}
	if show, err := s.ask(http.MethodDelete, at("suppressions", id.String()), nil, nil); !show {
		return err
	}
	s.printf("%s may be added again.\n", id)
	return nil
}

type userParkedCmd struct {
	Drop bool `help:"Throw away the lines of the log that cannot be read. News of damaged records stays."`
}

// Run implements the command.
func (c *userParkedCmd) Run(s *session) error {
	if c.Drop {
		var out struct {
			Dropped int `json:"dropped"`
		}
		if show, err := s.ask(http.MethodDelete, at("parked"), nil, &out); !show {
			return err
		}
		s.printf("%s dropped.\n", count(out.Dropped, "line", "lines"))
		return nil
	}
	var out struct {
		Parked []service.ParkedView `json:"parked"`
	}
	if show, err := s.ask(http.MethodGet, at("parked"), nil, &out); !show {
		return err
	}
	if len(out.Parked) == 0 {
		s.printf("Nothing is set aside.\n")
		return nil
	}
	for _, p := range out.Parked {
		if p.Line != "" {
			wrap(s.env.Stdout, "", "  ", clock(p.At)+"  damaged line: "+p.Line)
			continue
		}
		wrap(s.env.Stdout, "", "  ", fmt.Sprintf("%s  the record of %s is damaged (credential %s); tried again every minute", clock(p.At), p.ORCID, p.Credential))
	}
	return nil
}

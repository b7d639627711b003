package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/service"
)

type statusCmd struct{}

// mostShown is how many organisations status lists; `org list` has all.
const mostShown = 30

// Run implements the command.
func (*statusCmd) Run(s *session) error {
	var st service.Status
	return s.check(http.MethodGet, at("status"), &st, func() { s.showStatus(st) }, func() bool { return len(st.Problems) == 0 })
}

func (s *session) showStatus(st service.Status) {
	s.showProblems(st)
	users, waiting, dead, log, rows := number(st.Users), number(st.Pending), number(st.Dead), number(st.Log)+" entries", states(st.Registrations, st.Actors.Paused)
	if st.Unknown {
		users, waiting, dead, log, rows = "unknown", "unknown", "unknown", "unknown", "unknown"
	}
	s.printf("\nOrganisations %s · users %s · waiting %s · dead letters %s\n", number(st.Organisations), users, waiting, dead)
	s.printf("Intake log %s · spool %s pings", log, number(st.Spool.Waiting))
	if !st.Spool.Oldest.IsZero() {
		s.printf(" (oldest %s)", age(st.Time, st.Spool.Oldest))
	}
	s.printf("\n")
	var flying []string
	for _, ch := range event.Channels {
		flying = append(flying, fmt.Sprintf("%s %d", ch, st.Actors.InFlight[ch]))
	}
	s.printf("In flight: %s\n", strings.Join(flying, ", "))
	s.printf("Registrations: %s\n", rows)
	if len(st.Actors.Credentials) > 0 {
		s.printf("\n")
		s.credentialTable(st.Time, st.Actors.Credentials)
	}
	if len(st.Channels) == 0 {
		return
	}
	s.printf("\n")
	s.orgTable(st.Time, worstFirst(st.Channels)[:min(len(st.Channels), mostShown)])
	if more := len(st.Channels) - mostShown; more > 0 {
		s.printf("… and %s more, none of them worse: dispatchd org list\n", number(more))
	}
}

func (s *session) showProblems(st service.Status) {
	if len(st.Problems) == 0 {
		s.printf("No problems.\n")
		return
	}
	s.printf("%s:\n", count(len(st.Problems), "problem", "problems"))
	w := s.env.Stdout
	for i, p := range st.Problems {
		no := strconv.Itoa(i+1) + ". "
		indent := strings.Repeat(" ", len(no))
		wrap(w, no, indent, p.What)
		if !p.Since.IsZero() {
			s.printf("%ssince %s (%s)\n", indent, clock(p.Since), age(st.Time, p.Since))
		}
		if p.Cost != "" {
			wrap(w, indent+"cost: ", indent+"      ", p.Cost)
		}
		if p.Do != "" {
			// A command to be copied stays in one line.
			if strings.HasPrefix(p.Do, "dispatchd ") {
				s.printf("%snext: %s\n", indent, safe(p.Do))
			} else {
				wrap(w, indent+"next: ", indent+"      ", p.Do)
			}
		}
	}
}

// count writes a number with the right word.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// states lists what registrations are in, the usual one first.
func states(totals map[string]int64, paused bool) string {
	var parts []string
	for _, name := range []string{"alive", "putting", "deleting", "refused"} {
		parts = append(parts, name+" "+number(totals[name]))
	}
	text := strings.Join(parts, ", ")
	if paused {
		text += " (paused)"
	}
	return text
}

// worstFirst puts organisations that wait for somebody on top.
func worstFirst(list []service.View) []service.View {
	list = slices.Clone(list)
	badness := func(v service.View) (n int) {
		for _, c := range v.Channels {
			n += min(c.Dead, 1_000_000) + len(c.Holds)*1_000_000 + min(c.Waiting, 1)
		}
		return n
	}
	slices.SortStableFunc(list, func(a, b service.View) int { return badness(b) - badness(a) })
	return list
}

type healthCmd struct{}

// Run implements the command.
func (*healthCmd) Run(s *session) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	defer c.close()
	// It works without a token, so a wrong one must not matter either.
	raw, err := c.do(s.ctx, http.MethodGet, "/readyz", nil)
	var ready struct {
		OK     *bool `json:"ok"`
		Checks []struct {
			Name   string    `json:"name"`
			OK     bool      `json:"ok"`
			Detail string    `json:"detail"`
			Since  time.Time `json:"since"`
		} `json:"checks"`
	}
	if raw == nil || json.Unmarshal(raw, &ready) != nil || ready.OK == nil {
		if err == nil {
			err = fmt.Errorf("what answers at %s is not dispatchd's admin listener", c.shown)
		}
		return err
	}
	switch {
	case s.JSON:
		s.printf("%s", raw)
	default:
		word := "ready: pings can be stored durably"
		if !*ready.OK {
			word = "NOT READY: pings cannot be stored durably"
		}
		s.printf("%s\n", word)
		for _, check := range ready.Checks {
			mark := "ok      "
			if !check.OK {
				mark = "degraded"
			}
			text := check.Detail
			if !check.Since.IsZero() && !check.OK {
				text += ", since " + clock(check.Since)
			}
			wrap(s.env.Stdout, fmt.Sprintf("  %s  %-11s ", mark, safe(check.Name)), strings.Repeat(" ", 24), text)
		}
	}
	if !*ready.OK {
		return ExitCode(exitFail)
	}
	return nil
}

type ledgerCmd struct{}

// Run implements the command.
func (*ledgerCmd) Run(s *session) error {
	var l service.LedgerReport
	return s.check(http.MethodGet, at("ledger"), &l, func() { s.showLedger(l) }, func() bool { return l.Balanced })
}

// side is one side of an equation of the books.
type side struct {
	name  string
	items []item
}

type item struct {
	name string
	n    int64
}

// showLedger prints every equation with both sides.
func (s *session) showLedger(l service.LedgerReport) {
	var ignored int64
	for _, n := range l.Ignored {
		ignored += n
	}
	log := "in the intake log"
	if l.LogPartly {
		log += " (partly counted)"
	}
	s.equation("Pings", side{"came", []item{{"accepted", l.Accepted}, {"caught up", l.CaughtUp}}},
		side{"went", []item{{"processed", l.Processed}, {log, l.LogPings}}})
	s.equation("Announcements", side{"came", []item{{"announced", l.Announced}}},
		side{"went", []item{{"processed", l.AnnouncedProcessed}, {log, l.LogAnnouncements}}})
	s.equation("Processed pings", side{"came", []item{{"processed", l.Processed}}},
		side{"went", []item{{"told", l.Told}, {"unknown", l.Unknown}, {"not wanted", l.NotWanted}, {"no organisation", l.NoOrganisation}, {"set aside", l.Parked}}})
	s.equation("News", side{"came", []item{{"targets", l.Targets}, {"created", l.Created}, {"replayed", l.Replayed}}},
		side{"went", []item{{"opened", l.Opened}, {"opened again", -l.Requeued}, {"coalesced", l.Coalesced}, {"ignored", ignored}}})
	s.equation("Slots", side{"came", []item{{"opened", l.Opened}}}, side{"went", []item{
		{"delivered", l.Delivered},
		{"superseded", l.Superseded},
		{"cancelled", l.Cancelled},
		{"purged", l.Purged},
		{"dropped", l.Dropped},
		{"dead now", l.Dead},
		{"pending now", l.Pending},
	}})
	s.equation("Dead letters", side{"counted", []item{{"by the books", l.CountedDead}}}, side{"there are", []item{{"in the lists", l.Dead}}})
	s.equation("Spool", side{"came", []item{{"received", l.Spool.Received}}},
		side{"went", []item{{"drained", l.Spool.Drained}, {"coalesced", l.Spool.Coalesced}, {"waiting", l.Spool.Waiting}}})
	if l.Balanced {
		s.printf("\nThe books balance.\n")
		return
	}
	s.printf("\nTHE BOOKS DO NOT BALANCE:\n")
	for _, d := range l.Differences {
		wrap(s.env.Stdout, "  - ", "    ", d)
	}
	s.printf("Small differences while pings come in are on their way: look again in a moment.\n")
}

// equation prints both sides and by how much they differ; parts that are zero
// are left out.
func (s *session) equation(title string, left, right side) {
	if d := left.sum() - right.sum(); d != 0 {
		title += ": DIFFERS by " + number(d)
	}
	s.printf("%s\n", title)
	for _, sd := range []side{left, right} {
		first := fmt.Sprintf("  %-9s %13s", sd.name, number(sd.sum()))
		var parts []string
		for _, it := range sd.items {
			if it.n != 0 {
				parts = append(parts, number(it.n)+" "+it.name)
			}
		}
		switch {
		case len(sd.items) == 1:
			s.printf("%s %s\n", first, sd.items[0].name)
		case len(parts) == 0:
			s.printf("%s\n", first)
		default:
			text := strings.ReplaceAll(strings.Join(parts, " + "), "+ -", "− ")
			wrap(s.env.Stdout, first+" = ", strings.Repeat(" ", len(first)+3), text)
		}
	}
}

func (sd side) sum() (n int64) {
	for _, it := range sd.items {
		n += it.n
	}
	return n
}

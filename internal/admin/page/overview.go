package page

import (
	"cmp"
	"context"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/look"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

// at writes a moment.
func at(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04:05") }

// words are what the templates of this package need besides look's.
func words() template.FuncMap {
	return template.FuncMap{
		"at":   at,
		"why":  func(w service.Wait) string { return w.Words(look.Num[int], at) },
		"word": func(v any) string { return strings.ReplaceAll(fmt.Sprint(v), "_", " ") },
		"took": func(d time.Duration) string { return d.Round(time.Millisecond).String() },
	}
}

// mostProblems is how many problems are shown in full.
const mostProblems = 8

// overviewData is everything at a glance.
type overviewData struct {
	service.Status
	Worst         []service.Problem // the first of Problems
	More          int               // of Problems
	Now           time.Time
	Rows          []orgRow
	Credentials   []credentialRow
	Registrations look.Progress
	States        string
	Books         look.Badge
	Differences   []string
	Redis         look.Badge
}

// orgRow is one organisation in the list.
type orgRow struct {
	ID, Name                       string
	Users, Waiting, Dead, InFlight int
	Oldest                         time.Time
	Ratio                          string // of the newest attempts; empty: none
	State                          look.Badge
	Why                            string // it is held
	bad                            int    // the worst come first
}

type credentialRow struct {
	service.CredentialState
	Badge look.Badge
}

func (p *Page) overview(w http.ResponseWriter, r *http.Request) error {
	d := p.gather(r.Context())
	title := "Everything works"
	if n := len(d.Problems); n > 0 {
		title = look.Count(n, "problem", "problems")
	}
	p.render(w, r, http.StatusOK, "overview", look.Page{Title: title, Refresh: 15, Data: d})
	return nil
}

// gather asks for everything at once. What Redis does not answer is left out:
// the problems say so.
func (p *Page) gather(ctx context.Context) overviewData {
	var d overviewData
	var books service.LedgerReport
	var booksErr error
	var wg sync.WaitGroup
	wg.Go(func() { d.Status = p.o.Service.Status(ctx) })
	wg.Go(func() { books, booksErr = p.o.Service.Ledger(ctx) })
	wg.Wait()
	d.Now = d.Time
	d.Worst = d.Problems[:min(len(d.Problems), mostProblems)]
	d.More = len(d.Problems) - len(d.Worst)
	ids := make([]string, len(d.Channels))
	for i, v := range d.Channels {
		ids[i] = v.ID
	}
	ratios, err := p.o.Service.Lately(ctx, ids)
	if err != nil {
		ratios = make([]store.Ratio, len(ids)) // the status has said that Redis is away
	}
	for i, v := range d.Channels {
		d.Rows = append(d.Rows, rowOf(v, ratios[i]))
	}
	slices.SortStableFunc(d.Rows, func(a, b orgRow) int { return cmp.Or(cmp.Compare(b.bad, a.bad), cmp.Compare(a.ID, b.ID)) })
	for _, c := range d.Actors.Credentials {
		badge := look.Badge{Kind: look.OK, Text: c.State}
		if c.State != "ok" {
			badge.Kind = look.Warn
		}
		if c.State == "refused" {
			badge.Kind = look.Bad
		}
		d.Credentials = append(d.Credentials, credentialRow{c, badge})
	}
	d.Registrations, d.States = registrations(d.Status)
	switch {
	case booksErr != nil:
		d.Redis, d.Books = look.Badge{Kind: look.Bad, Text: "does not answer"}, look.Badge{Text: "unknown"}
	case books.Balanced:
		d.Redis, d.Books = look.Badge{Kind: look.OK, Text: "answers"}, look.Badge{Kind: look.OK, Text: "balance"}
	default:
		d.Redis, d.Books = look.Badge{Kind: look.OK, Text: "answers"}, look.Badge{Kind: look.Warn, Text: "differ"}
		d.Differences = books.Differences
	}
	return d
}

// registrations is how many rows at ORCID are as they should be.
func registrations(st service.Status) (look.Progress, string) {
	var all int64
	var parts []string
	for _, name := range []string{"alive", "putting", "deleting", "refused", "none"} {
		n := st.Registrations[name]
		all += n
		if n > 0 {
			parts = append(parts, look.Num(n)+" "+map[string]string{
				"alive": "alive", "putting": "being registered", "deleting": "being unregistered", "refused": "refused by ORCID", "none": "planned",
			}[name])
		}
	}
	text := strings.Join(parts, ", ")
	switch {
	case st.Unknown:
		text = "Unknown: only Redis knows."
	case all == 0:
		text = "Nobody is registered yet."
	}
	if st.Actors.Paused {
		text += " Registering is paused."
	}
	return look.Progress{ID: "registrations", Label: "Registrations that are alive", Text: text, Done: st.Registrations["alive"], Total: all}, text
}

// rowOf sums the channels of an organisation up.
func rowOf(v service.View, lately store.Ratio) orgRow {
	row := orgRow{ID: v.ID, Name: v.Name, Users: v.Users, State: look.Badge{Kind: look.Plain, Text: "off"}}
	var why []string
	held, worst, damaged := look.Plain, len(event.Holds), false
	for _, c := range v.Channels {
		row.Waiting += c.Waiting
		row.InFlight += c.InFlight
		row.Dead += c.Dead
		if !c.Oldest.IsZero() && (row.Oldest.IsZero() || c.Oldest.Before(row.Oldest)) {
			row.Oldest = c.Oldest
		}
		if c.Enabled && row.State.Text == "off" {
			row.State = look.Badge{Kind: look.OK, Text: "on"}
		}
		if c.Enabled && c.Failures > 0 { // since the last success
			row.State = look.Badge{Kind: look.Warn, Text: "failing"}
		}
		if c.Unread {
			why = append(why, string(c.Channel)+": what Redis has of it is damaged")
			held, damaged = look.Bad, true
		}
		for _, h := range c.Holds {
			if !c.Enabled || h.Hold == event.HoldDigest { // a mail is being sent, or tried again
				continue
			}
			why = append(why, strings.TrimSuffix(fmt.Sprintf("%s: %s", c.Channel, h.Reason), ": "))
			switch h.Hold {
			case event.HoldSuspend, event.HoldBreaker:
				held = look.Bad
			case event.HoldPause:
				if held != look.Bad {
					held = look.Warn
				}
			case event.HoldRetryAfter:
				if held == look.Plain {
					held = look.Warn
				}
			}
			// Holds stand in the order of how much they keep from working.
			if rank := slices.Index(event.Holds[:], h.Hold); rank < worst {
				worst, row.State.Text = rank, holdWord(h.Hold)
			}
		}
	}
	if held != look.Plain {
		row.State.Kind = held
	}
	if damaged {
		row.State.Text = "damaged"
	}
	row.Why = strings.Join(why, "; ")
	if lately.Attempts > 0 {
		row.Ratio = fmt.Sprintf("%d of %d", lately.Delivered, lately.Attempts)
	}
	row.bad = map[look.Kind]int{look.Bad: 4, look.Warn: 2}[row.State.Kind]
	if row.Dead > 0 {
		row.bad++
	}
	return row
}

func holdWord(h event.Hold) string {
	switch h {
	case event.HoldPause:
		return "paused"
	case event.HoldSuspend:
		return "suspended"
	case event.HoldBreaker:
		return "failing"
	case event.HoldRetryAfter:
		return "asked to wait"
	case event.HoldRate:
		return "waits"
	}
	return string(h)
}

package web

import (
	"cmp"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/look"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

const (
	attemptsShown = 50
	deadShown     = 50
)

// channelState is one channel as the state page shows it.
type channelState struct {
	service.Channel
	Name    string
	Badge   look.Badge
	Held    []string // why it is held
	Waits   []string // why what waits does
	Stopped bool     // only a person ends it
}

// why joins a status and a reason, which may name the status itself.
func why(status int, reason string) string {
	text := sentence(reason)
	if number := strconv.Itoa(status); status != 0 && !strings.Contains(text, number) {
		return strings.TrimSpace("Status " + number + ". " + text)
	}
	return text
}

// unfolded is how many rows of a list are shown before one asks for the rest: a
// phone shows a row as a block of lines.
const unfolded = 10

// folded is a list of which the beginning is shown.
type folded[T any] struct{ First, Rest []T }

func fold[T any](list []T) folded[T] {
	n := min(len(list), unfolded)
	return folded[T]{list[:n], list[n:]}
}

// deadRow is one delivery that was given up.
type deadRow struct {
	store.DeadLetter
	Name, When, Reason string
}

// attemptRow is one attempt.
type attemptRow struct {
	event.Attempt
	Name, When string
	Badge      look.Badge
	Why        string
}

// stateData is what the state page shows.
type stateData struct {
	Org       service.View
	Progress  *look.Progress
	Idle      string // why there is no progress
	Channels  []channelState
	Picture   template.HTML
	PictureOf string
	Good      int
	Poor      int
	Dead      folded[deadRow]
	DeadMore  int
	Attempts  folded[attemptRow]
	Zone      *time.Location
	Now       time.Time
}

func channelName(ch event.Channel) string {
	switch ch {
	case event.Webhook:
		return "Webhook"
	case event.Email:
		return "E-mail"
	}
	return string(ch) // a further one is called what its operator calls it
}

func (p *Pages) statePage(v visit) (reply, error) {
	o, err := p.o.Service.Organisation(v.Context(), v.Org)
	if err != nil {
		return reply{}, err
	}
	registered, err := p.o.Service.RegistrationProgress(v.Context(), v.Org)
	if err != nil {
		return reply{}, err
	}
	d := stateData{Org: o, Progress: progressOf(registered), Zone: zoneOf(o.Timezone), Now: time.Now()}
	if d.Progress == nil {
		d.Idle = nowWords(o, registered)
	}
	var list []event.Attempt
	var dead []deadRow
	for _, c := range o.Channels {
		d.Channels = append(d.Channels, channelOf(c, d.Zone, d.Now))
		attempts, err := p.o.Service.Attempts(v.Context(), v.Org, c.Channel, attemptsShown)
		if err != nil {
			return reply{}, err
		}
		list = append(list, attempts...)
		if c.Dead == 0 {
			continue
		}
		page, err := p.o.Service.DeadLetters(v.Context(), v.Org, c.Channel, "", deadShown)
		if err != nil {
			return reply{}, err
		}
		d.DeadMore += max(0, c.Dead-len(page.DeadLetters))
		for _, l := range page.DeadLetters {
			dead = append(dead, deadRow{l, channelName(c.Channel), look.When(l.DiedAt, d.Zone), why(l.Status, l.Reason)})
		}
	}
	slices.SortStableFunc(list, func(a, b event.Attempt) int { return cmp.Compare(b.Start.UnixNano(), a.Start.UnixNano()) })
	attempts := make([]attemptRow, min(len(list), attemptsShown))
	for i, a := range list[:len(attempts)] {
		attempts[i] = attemptRow{a, channelName(a.Channel), look.When(a.Start, d.Zone), resultBadge(a), why(a.Status, a.Error)}
	}
	d.Dead, d.Attempts = fold(dead), fold(attempts)
	day, err := p.o.Service.LastDay(v.Context(), v.Org)
	if err != nil {
		return reply{}, err
	}
	d.draw(day)
	page := p.page(v, "State of deliveries", "/state")
	page.Refresh = refreshOf(registered, o.Channels)
	page.Data = d
	return reply{name: "state", page: page}, nil
}

// refreshOf is how soon the page has something new to show.
func refreshOf(r service.RegistrationProgress, channels []service.Channel) int {
	if r.Wanted && r.Missing() > 0 && r.Problem == "" {
		return 3
	}
	for _, c := range channels {
		if c.InFlight > 0 || c.Waiting > 0 && len(c.Holds) == 0 {
			return 10
		}
	}
	return 0
}

func zoneOf(name string) *time.Location {
	if zone, err := time.LoadLocation(name); err == nil {
		return zone
	}
	return time.UTC
}

// channelOf says in words how a channel is.
func channelOf(c service.Channel, zone *time.Location, now time.Time) channelState {
	s := channelState{Channel: c, Name: channelName(c.Channel), Badge: look.Badge{Kind: look.OK, Text: "working"}}
	switch {
	case !c.Enabled:
		s.Badge = look.Badge{Text: "off"}
	case c.Failures > 0: // since the last success
		s.Badge = look.Badge{Kind: look.Warn, Text: "failing"}
	}
	for _, h := range c.Holds {
		until := ""
		if !h.Until.IsZero() {
			until = fmt.Sprintf(" until %s (%s)", look.When(h.Until, zone), look.Ago(h.Until, now))
		}
		reason := sentence(h.Reason)
		switch h.Hold {
		case event.HoldPause:
			s.Badge, s.Stopped = look.Badge{Kind: look.Warn, Text: "paused"}, true
			s.Held = append(s.Held, "Paused"+since(h.Since, zone)+", until somebody resumes it. "+reason)
		case event.HoldSuspend:
			s.Badge, s.Stopped = look.Badge{Kind: look.Bad, Text: "stopped"}, true
			s.Held = append(s.Held, "Stopped"+since(h.Since, zone)+", until somebody resumes it: "+reason)
		case event.HoldBreaker:
			if !s.Stopped {
				s.Badge = look.Badge{Kind: look.Bad, Text: "failing"}
			}
			s.Held = append(s.Held, "Too many failures in a row. It rests"+until+", then one delivery is tried. "+reason)
		case event.HoldRetryAfter:
			if !s.Stopped {
				s.Badge = look.Badge{Kind: look.Warn, Text: "waiting"}
			}
			s.Held = append(s.Held, "The receiver asked to wait"+until+".")
		case event.HoldRate:
			if !s.Stopped {
				s.Badge = look.Badge{Kind: look.Warn, Text: "waiting"}
			}
			s.Held = append(s.Held, "As many mails were sent as are wanted in an hour. It goes on"+strings.Replace(until, " until", " at", 1)+".")
		case event.HoldDigest: // a mail is being sent, or tried again
		}
	}
	for _, w := range c.Waits {
		s.Waits = append(s.Waits, w.Words(look.Num[int], soon(zone, now)))
	}
	return s
}

// soon writes a time of today without its date.
func soon(zone *time.Location, now time.Time) func(time.Time) string {
	const date = "2006-01-02"
	return func(t time.Time) string {
		if t.In(zone).Format(date) == now.In(zone).Format(date) {
			return t.In(zone).Format("15:04 MST")
		}
		return look.When(t, zone)
	}
}

func since(t time.Time, zone *time.Location) string {
	if t.IsZero() {
		return ""
	}
	return " since " + look.When(t, zone)
}

func resultBadge(a event.Attempt) look.Badge {
	switch a.Result {
	case event.Delivered:
		return look.Badge{Kind: look.OK, Text: "delivered"}
	case event.Retry:
		return look.Badge{Kind: look.Warn, Text: "failed, tried again"}
	case event.Dead:
		return look.Badge{Kind: look.Bad, Text: "given up"}
	case event.Released:
		return look.Badge{Kind: look.Bad, Text: "refused, waits"}
	}
	return look.Badge{Text: string(a.Result)}
}

// draw makes the picture of the last 24 hours.
func (d *stateData) draw(day [store.DayHours]store.Hour) {
	columns := make([]look.Column, len(day))
	last := d.Now.Truncate(time.Hour)
	for i, h := range day {
		columns[i].Good, columns[i].Poor = h.Delivered, h.Failed
		if i%4 == 1 {
			columns[i].Label = last.Add(time.Duration(i-len(day)+1) * time.Hour).In(d.Zone).Format("15:04")
		}
		d.Good += h.Delivered
		d.Poor += h.Failed
	}
	d.PictureOf = fmt.Sprintf("%s delivered, %s in the last 24 hours", look.Num(d.Good), look.Count(d.Poor, "failed attempt", "failed attempts"))
	d.Picture = look.Picture("Attempts of each hour: "+d.PictureOf, columns)
}

// chosenChannel reads the field that says which channel is meant.
func chosenChannel(v visit) (event.Channel, error) {
	ch := event.Channel(v.PostForm.Get("channel"))
	if !slices.Contains(event.Channels[:], ch) {
		return "", &apology{status: http.StatusBadRequest, what: "The form was not complete", do: "Go back and try again."}
	}
	return ch, nil
}

func (p *Pages) pause(v visit) (reply, error) {
	ch, err := chosenChannel(v)
	if err != nil {
		return reply{}, err
	}
	if err := p.o.Service.Pause(v.Context(), v.by, v.Org, ch, "by "+v.Who()); err != nil {
		return reply{}, err
	}
	return reply{to: "/state?done=pause"}, nil
}

func (p *Pages) resume(v visit) (reply, error) {
	ch, err := chosenChannel(v)
	if err != nil {
		return reply{}, err
	}
	if err := p.o.Service.Resume(v.Context(), v.by, v.Org, ch); err != nil {
		return reply{}, err
	}
	return reply{to: "/state?done=resume"}, nil
}

// replay tries one researcher's deliveries again, or all.
func (p *Pages) replay(v visit) (reply, error) {
	var sel store.Selection
	if text := v.PostForm.Get("orcid"); text != "" {
		id, err := orcid.Parse(text)
		if err != nil {
			return reply{}, &apology{status: http.StatusBadRequest, what: "This is not an ORCID iD", do: sentence(plainly(err.Error()))}
		}
		sel.ORCID = id
	}
	_, err := p.o.Service.Replay(v.Context(), v.by, v.Org, sel)
	if errors.Is(err, store.ErrDisabled) {
		return reply{}, &apology{status: http.StatusConflict, what: "Nothing is enabled", do: "Enable the webhook or e-mail first; until then nothing can be delivered."}
	}
	if err != nil {
		return reply{}, err
	}
	return reply{to: "/state?done=replay"}, nil
}

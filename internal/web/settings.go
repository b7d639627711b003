package web

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/look"
	"dispatchd/internal/org"
	"dispatchd/internal/service"
)

// page fills in what every page of somebody signed in has; here is its address,
// or one below it.
func (p *Pages) page(v visit, title, here string) look.Page {
	menu := []look.Item{
		{Text: "Settings", Sub: []look.Item{
			{Text: "Set Webhooks", Href: "/settings/webhook"},
			{Text: "Signing secret", Href: "/settings/secret"},
		}},
		{Text: "State", Href: "/state"},
		{Text: "Users", Href: "/users"},
	}
	at := func(i look.Item) bool { return i.Href != "" && (here == i.Href || strings.HasPrefix(here, i.Href+"/")) }
	for i := range menu {
		menu[i].Here = at(menu[i])
		for j := range menu[i].Sub {
			menu[i].Sub[j].Here = at(menu[i].Sub[j])
			menu[i].Here = menu[i].Here || menu[i].Sub[j].Here
		}
	}
	if len(v.Choice) > 1 {
		menu = append(menu, look.Item{Text: "Other organisation", Href: "/choose"})
	}
	who := v.Who()
	for _, c := range v.Choice {
		if c.ID == v.Org {
			who = c.Name
			if v.Contact != "" {
				who += " · " + v.Contact
			}
		}
	}
	page := look.Page{Title: title, Nav: menu, Who: who, SignOut: "/sign-out"}
	if n, ok := done[v.URL.Query().Get("done")]; ok {
		page.Notices = append(page.Notices, n)
	}
	return page
}

// done are the words after a form was taken and another page is shown; the
// address of that page names them.
var done = map[string]look.Notice{
	"replay":  {Kind: look.OK, Text: "The deliveries that were given up are being tried again.", Do: "They appear among the attempts below as they are made."},
	"pause":   {Kind: look.OK, Text: "Paused.", Do: "Nothing is lost: what comes in waits until you resume."},
	"resume":  {Kind: look.OK, Text: "Resumed.", Do: "What has waited is being delivered now."},
	"asked":   {Kind: look.OK, Text: "The mail with the link is on its way again."},
	"added":   {Kind: look.OK, Text: "The user was added.", Do: "A CREATED event is sent when ORCID has registered them."},
	"known":   {Kind: look.OK, Text: "This researcher was a user already; the data was updated."},
	"removed": {Kind: look.OK, Text: "The user was removed.", Do: "You are not told of this researcher any more."},
}

// settingsForm is what stands in the form: what is saved, or what was entered
// and could not be saved.
type settingsForm struct {
	URL, Address, Mode              string
	Enabled, Append, DropKey, EMail bool
	CC, Monthly                     bool
	Events                          []event.Type
}

// gaps are what a form leaves out, of an organisation with these channels.
func (f settingsForm) gaps(channels []service.Channel) (problems []fieldProblem) {
	if f.URL == "" && !f.EMail && len(further(channels)) == 0 {
		problems = append(problems, fieldProblem{"webhook_url", "Provide a handler URL or enable email notifications"})
	} else if f.URL == "" && f.Enabled {
		problems = append(problems, fieldProblem{"webhook_url", "Enter the URL of the webhook, or untick Enabled"})
	}
	if len(f.Events) == 0 {
		problems = append(problems, fieldProblem{"events", "Tick at least one event; to be told of nothing untick Enabled"})
	}
	return problems
}

// eventChoice is one tick-box of the event types.
type eventChoice struct {
	Type    event.Type
	Words   string
	Checked bool
}

var eventWords = []struct {
	t     event.Type
	words string
}{
	{event.Created, "A researcher becomes a user of your organisation"},
	{event.Updated, "A researcher's ORCID record changed"},
	{event.Deactivated, "A researcher's record was deactivated"},
	{event.Deprecated, "A researcher's record was merged into another"},
	{event.Locked, "ORCID locked a researcher's record"},
}

// fieldProblem is one line of the summary of errors.
type fieldProblem struct{ Field, Text string }

// settingsData is what the settings page shows.
type settingsData struct {
	Org      service.View
	Form     settingsForm
	Events   []eventChoice
	Modes    []modeChoice
	Problems map[string]string // by field
	Summary  []fieldProblem
	ReadOnly bool
	Further  string // the other ways of being told, which only the operator sets
	Progress *look.Progress
	Test     *service.TestAnswer
	Now      string // what happens now
}

// further names the channels in use for which the form has no fields.
func further(channels []service.Channel) (names []string) {
	for _, c := range channels {
		if c.Enabled && c.Channel != event.Webhook && c.Channel != event.Email {
			names = append(names, string(c.Channel))
		}
	}
	return names
}

type modeChoice struct{ Value, Words string }

var modes = []modeChoice{
	{string(org.Each), "One mail for each change"},
	{string(org.Daily), "One mail a day at 08:00, when something changed"},
	{string(org.Weekly), "One mail a week, on Mondays at 08:00"},
}

func formOf(o service.View) settingsForm {
	f := settingsForm{
		URL: o.Webhook.URL, Enabled: o.Webhook.Enabled, Append: o.Webhook.AppendORCID, Events: o.Webhook.Events,
		EMail: o.Email.Enabled, Address: o.Email.Address, CC: o.Email.CC, Mode: string(o.Email.Mode), Monthly: o.Email.Monthly,
	}
	if o.Email.Pending != "" {
		f.Address = o.Email.Pending
	}
	if f.Mode == "" {
		f.Mode = string(org.Each)
	}
	return f
}

// settingsReply shows the settings page with a form, its problems and the answer
// to a test event, each as far as there is one.
func (p *Pages) settingsReply(v visit, status int, form *settingsForm, problems []fieldProblem, test *service.TestAnswer) (reply, error) {
	o, err := p.o.Service.Organisation(v.Context(), v.Org)
	if err != nil {
		return reply{}, err
	}
	registered, err := p.o.Service.RegistrationProgress(v.Context(), v.Org)
	if err != nil {
		return reply{}, err
	}
	d := settingsData{Org: o, Form: formOf(o), Modes: modes, Problems: map[string]string{}, Summary: problems, ReadOnly: o.Owner == org.OwnedByFile, Test: test}
	if form != nil {
		d.Form = *form
	}
	for _, e := range eventWords {
		on := slices.Contains(d.Form.Events, e.t)
		// Those that are reserved are shown only where somebody has set them.
		if on || e.t == event.Created || e.t == event.Updated {
			d.Events = append(d.Events, eventChoice{e.t, e.words, on})
		}
	}
	for _, problem := range problems {
		d.Problems[problem.Field] = problem.Text
	}
	d.Further = strings.Join(further(o.Channels), " and ")
	d.Progress = progressOf(registered)
	page := p.page(v, "Organisation Webhook", "/settings/webhook")
	page.Failed = len(problems) > 0
	if v.URL.Query().Get("done") == "saved" {
		page.Notices = append(page.Notices, look.Notice{Kind: look.OK, Text: "Saved.", Do: nowWords(o, registered)})
		if d.Progress != nil && registered.Missing() > 0 && registered.Wanted {
			page.Refresh, page.Form = 3, true
		}
	}
	if d.ReadOnly {
		page.Notices = append(page.Notices, look.Notice{
			Kind: look.Warn, Text: "These settings can only be looked at here: the operator of this service keeps them in its configuration file.",
			Do: "Ask the operator to change them. Test events, the signing secret, pausing, replay and users work here.",
		})
	}
	page.Data = d
	return reply{status: status, name: "settings", page: page}, nil
}

// nowWords says what happens after Save.
func nowWords(o service.View, r service.RegistrationProgress) string {
	switch n := r.Missing(); {
	case !r.Wanted:
		return "Neither the webhook nor e-mail is enabled, so you are told of nothing."
	case r.Users == 0:
		return "There are no users yet. Add them on the page Users, then ORCID is asked to tell us of their changes."
	case r.Problem != "":
		return "But users cannot be registered with ORCID right now: " + r.Problem + ". It goes on by itself as soon as it can."
	case n > 0 && r.Left() > 0:
		return "Now registering " + look.Count(n, "user", "users") + " with ORCID, " + about(r.Left()) + "."
	case n > 0:
		return "Now registering " + look.Count(n, "user", "users") + " with ORCID."
	case o.Webhook.Enabled && o.Email.Enabled:
		return "It takes effect at once, for the webhook and for e-mail."
	default:
		return "It takes effect at once."
	}
}

// progressOf is the bar of registrations; nil when there is nothing to show.
func progressOf(r service.RegistrationProgress) *look.Progress {
	if !r.Wanted || r.Users == 0 {
		return nil
	}
	p := &look.Progress{ID: "registered", Label: "Users registered with ORCID", Done: int64(r.Alive), Total: int64(r.Users)}
	p.Text = look.Num(r.Alive) + " of " + look.Num(r.Users)
	if r.Refused > 0 {
		p.Text += ", " + look.Num(r.Refused) + " refused by ORCID"
	}
	switch {
	case r.Missing() == 0:
	case r.Problem != "":
		p.Text += "; it waits: " + r.Problem
	case r.Left() > 0:
		p.Text += ", " + about(r.Left()) + " to go"
	}
	return p
}

func (p *Pages) settingsPage(v visit) (reply, error) {
	return p.settingsReply(v, http.StatusOK, nil, nil, nil)
}

// save takes the form. What was entered is shown again with every problem
// beside its field; the API key is not.
func (p *Pages) save(v visit) (reply, error) {
	get := func(name string) string { return strings.TrimSpace(v.PostForm.Get(name)) }
	on := func(name string) bool { return v.PostForm.Get(name) != "" }
	f := settingsForm{
		URL: get("webhook_url"), Enabled: on("webhook_enabled"), Append: on("webhook_append_orcid"), DropKey: on("webhook_apikey_remove"),
		EMail: on("email_notifications_enabled"), Address: get("notification_email"), CC: on("notification_cc"), Mode: get("email_mode"), Monthly: on("email_monthly"),
	}
	for _, t := range v.PostForm["events"] {
		f.Events = append(f.Events, event.Type(t))
	}
	now, err := p.o.Service.Organisation(v.Context(), v.Org)
	if err != nil {
		return reply{}, err
	}
	if problems := f.gaps(now.Channels); len(problems) > 0 {
		return p.settingsReply(v, http.StatusBadRequest, &f, problems, nil)
	}
	in := service.Settings{
		Webhook: &service.WebhookSettings{Enabled: &f.Enabled, URL: &f.URL, AppendORCID: &f.Append},
		Email:   &service.EmailSettings{Enabled: &f.EMail, Address: &f.Address, CC: &f.CC, Mode: &f.Mode, Monthly: &f.Monthly},
	}
	if !slices.Equal(now.Webhook.Events, f.Events) {
		types := make([]string, len(f.Events))
		for i, t := range f.Events {
			types[i] = string(t)
		}
		in.Webhook.Events = &types
	}
	none := ""
	if key := get("webhook_apikey"); key != "" {
		in.Webhook.APIKey = &key
	} else if f.DropKey {
		in.Webhook.APIKey = &none
	}
	_, err = p.o.Service.SaveOwn(v.Context(), v.by, v.Org, in)
	var e *service.Error
	switch {
	case errors.As(err, &e) && e.Code == service.CodeInvalid:
		return p.settingsReply(v, http.StatusBadRequest, &f, fieldProblems(e.Problems), nil)
	case errors.As(err, &e) && e.Code == service.CodeRateLimited:
		return p.settingsReply(v, http.StatusTooManyRequests, &f, []fieldProblem{{"notification_email", "Too many mails were sent to confirm addresses; try again in an hour"}}, nil)
	case err != nil:
		return reply{}, err
	}
	return reply{to: "/settings/webhook?done=saved"}, nil
}

// fields join the keys of settings to the fields of the form.
var fields = map[string]struct{ field, label string }{
	"webhook.url":     {"webhook_url", "Webhook URL"},
	"webhook.apikey":  {"webhook_apikey", "API key"},
	"webhook.events":  {"events", "Events"},
	"email.address":   {"notification_email", "Notification Email Address"},
	"email.mode":      {"email_mode", "How often"},
	"credential":      {"webhook_enabled", "This service"},
	"webhook.headers": {"webhook_url", "Headers"},
}

func fieldProblems(list []org.Problem) []fieldProblem {
	var out []fieldProblem
	for _, problem := range list {
		f, ok := fields[problem.Key]
		if !ok {
			f.field, f.label = "webhook_url", problem.Key
		}
		out = append(out, fieldProblem{f.field, f.label + " " + plainly(problem.Why)})
	}
	return out
}

func (p *Pages) askAgain(v visit) (reply, error) {
	if err := p.o.Service.AskAgain(v.Context(), v.by, v.Org); err != nil {
		return reply{}, err
	}
	return reply{to: "/settings/webhook?done=asked"}, nil
}

// test sends a test event to what is saved, and shows what the receiver said.
func (p *Pages) test(v visit) (reply, error) {
	a, err := p.o.Service.Test(v.Context(), v.by, v.Org)
	var e *service.Error
	if errors.As(err, &e) && e.Code == service.CodeInvalid {
		return p.settingsReply(v, http.StatusBadRequest, nil, []fieldProblem{{"webhook_url", "Save a webhook URL first, then send a test event"}}, nil)
	}
	if err != nil {
		return reply{}, err
	}
	return p.settingsReply(v, http.StatusOK, nil, nil, &a)
}

func (p *Pages) secretPage(v visit) (reply, error) {
	page := p.page(v, "Signing secret", "/settings/secret")
	page.Data = ""
	return reply{name: "secret", page: page}, nil
}

// rotate makes a new signing secret: the one page that shows it.
func (p *Pages) rotate(v visit) (reply, error) {
	made, err := p.o.Service.RotateSecret(v.Context(), v.by, v.Org)
	if err != nil {
		return reply{}, err
	}
	page := p.page(v, "Signing secret", "/settings/secret")
	page.Data = made.Reveal()
	return reply{name: "secret", page: page}, nil
}

// confirmPage asks whoever reads mails at an address; no session is needed.
func (p *Pages) confirmPage(r *http.Request) (reply, error) {
	c, err := p.o.Service.LookAtConfirmation(r.PathValue("token"))
	if err != nil {
		return reply{}, err
	}
	return confirmReply(c, r.PathValue("token")), nil
}

func (p *Pages) confirm(r *http.Request) (reply, error) {
	c, err := p.o.Service.ConfirmAddress(r.Context(), p.by(r), r.PathValue("token"))
	if err != nil {
		return reply{}, err
	}
	return confirmReply(c, r.PathValue("token")), nil
}

func confirmReply(c service.Confirmation, token string) reply {
	title := "Confirm this address"
	if c.Done {
		title = "This address is confirmed"
	}
	return reply{name: "confirm", page: look.Page{Title: title, Data: struct {
		service.Confirmation
		Token string
	}{c, token}}}
}

// about says roughly how long something takes.
func about(d time.Duration) string {
	if d < 5*time.Second {
		return "a few seconds"
	}
	return "about " + look.Span(d)
}

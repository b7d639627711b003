package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/service"
)

type orgListCmd struct{}

// Run implements the command.
func (*orgListCmd) Run(s *session) error {
	var list struct {
		Organisations []service.View `json:"organisations"`
	}
	if show, err := s.ask(http.MethodGet, at("organisations"), nil, &list); !show {
		return err
	}
	if len(list.Organisations) == 0 {
		s.printf("There are no organisations: dispatchd org add ID --name NAME --url URL\n")
		return nil
	}
	s.orgTable(s.now(), list.Organisations)
	return nil
}

// orgTable lists organisations with the state of their channels.
func (s *session) orgTable(now time.Time, list []service.View) {
	columns := []column{
		{title: "ORGANISATION", least: 12},
		{title: "USERS", right: true},
		{title: "WEBHOOK", least: 8},
		{title: "E-MAIL", least: 8},
		{title: "WAITING", right: true},
		{title: "FLYING", right: true},
		{title: "DEAD", right: true},
		{title: "OLDEST", right: true},
	}
	rows := make([][]string, 0, len(list))
	for _, v := range list {
		state := map[event.Channel]string{}
		var waiting, flying, dead int
		var oldest time.Time
		for _, c := range v.Channels {
			state[c.Channel] = channelWord(c)
			waiting, flying, dead = waiting+c.Waiting, flying+c.InFlight, dead+c.Dead
			if !c.Oldest.IsZero() && (oldest.IsZero() || c.Oldest.Before(oldest)) {
				oldest = c.Oldest
			}
		}
		rows = append(rows, []string{
			v.ID, number(v.Users), orDash(state[event.Webhook]), orDash(state[event.Email]),
			number(waiting), number(flying), number(dead), age(now, oldest),
		})
	}
	table(s.env.Stdout, "", columns, rows)
}

// channelWord is a channel in one word: what keeps it most from working.
func channelWord(c service.Channel) string {
	switch {
	case c.Unread:
		return "DAMAGED"
	case !c.Enabled:
		return "off"
	}
	for _, h := range event.Holds {
		for _, held := range c.Holds {
			if held.Hold == h {
				switch h {
				case event.HoldPause:
					return "PAUSED"
				case event.HoldSuspend:
					return "SUSPENDED"
				case event.HoldBreaker:
					return "FAILING"
				case event.HoldRetryAfter, event.HoldRate, event.HoldDigest:
					return "waits"
				}
			}
		}
	}
	if c.Failures > 0 { // since the last success
		return "failing"
	}
	return "on"
}

type orgShowCmd struct {
	ID      string `arg:"" help:"The organisation."`
	Secrets bool   `help:"Show its secrets and nothing else; this is written to the audit log."`
}

// Run implements the command.
func (c *orgShowCmd) Run(s *session) error {
	if c.Secrets {
		var list map[string]string
		if show, err := s.ask(http.MethodGet, at("organisations", c.ID, "secrets"), nil, &list); !show {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(list)) {
			s.printf("%-19s %s\n", name, safe(list[name]))
		}
		return nil
	}
	return s.orgResult(http.MethodGet, at("organisations", c.ID), nil)
}

// orgResult sends a request that answers with an organisation, and shows it.
func (s *session) orgResult(method, path string, in any) error {
	var v service.View
	if show, err := s.ask(method, path, in, &v); !show {
		return err
	}
	s.showOrg(v)
	return nil
}

func (s *session) showOrg(v service.View) {
	w := s.env.Stdout
	line := func(key, value string) {
		first := fmt.Sprintf("%-20s", key)
		wrap(w, first, strings.Repeat(" ", len(first)), orDash(value))
	}
	line("id", v.ID)
	line("name", v.Name)
	switch v.Owner {
	case org.OwnedByFile:
		line("settings in", "the configuration file; change them there, then dispatchd reload")
	case org.OwnedByAPI:
		line("settings in", "Redis; change them with dispatchd org set")
	}
	line("credential", v.Credential)
	line("technical contact", v.TechnicalContact)
	line("timezone", orUTC(v.Timezone))
	if v.Concurrency > 0 {
		line("concurrency", strconv.Itoa(v.Concurrency))
	}
	line("users", number(v.Users))
	line("webhook", onOff(v.Webhook.Enabled))
	if v.Webhook.URL != "" {
		line("  url", v.Webhook.URL)
		line("  append_orcid", yesNo(v.Webhook.AppendORCID))
		line("  apikey", setOrNot(v.Webhook.APIKeySet))
		line("  headers", strings.Join(v.Webhook.Headers, ", "))
		line("  payload", string(v.Webhook.Payload))
		line("  events", joinTypes(v.Webhook.Events))
	}
	line("email", onOff(v.Email.Enabled))
	if v.Email.Enabled || v.Email.Address != "" {
		line("  address", v.Email.Address)
		line("  cc to contact", yesNo(v.Email.CC))
		line("  mode", string(v.Email.Mode))
		line("  monthly", yesNo(v.Email.Monthly))
		line("  max_per_hour", strconv.Itoa(v.Email.MaxPerHour))
	}
	if v.API.ClientID != "" {
		line("api client", v.API.ClientID+", secret "+setOrNot(v.API.SecretSet))
	}
	s.showChannels(v)
}

func (s *session) showChannels(v service.View) {
	if len(v.Channels) == 0 {
		return
	}
	now := s.now()
	s.printf("\n")
	columns := []column{
		{title: "CHANNEL"},
		{title: "STATE"},
		{title: "WAITING", right: true},
		{title: "FLYING", right: true},
		{title: "DEAD", right: true},
		{title: "FAILURES", right: true},
		{title: "OLDEST", right: true},
		{title: "NEXT TRY"},
	}
	var rows [][]string
	for _, c := range v.Channels {
		next := "-"
		if !c.Next.IsZero() {
			next = "now"
			if d := c.Next.Sub(now); d > 0 {
				next = "in " + span(d)
			}
			if !c.Next.Before(event.Forever) {
				next = "never"
			}
		}
		rows = append(rows, []string{
			string(c.Channel), channelWord(c), number(c.Waiting), number(c.InFlight), number(c.Dead),
			number(c.Failures), age(now, c.Oldest), next,
		})
	}
	table(s.env.Stdout, "", columns, rows)
	s.showWaits(v)
	for _, c := range v.Channels {
		for _, h := range c.Holds {
			text := fmt.Sprintf("%s is held (%s)", c.Channel, strings.ReplaceAll(string(h.Hold), "_", "-"))
			if !h.Since.IsZero() {
				text += " since " + clock(h.Since)
			}
			if h.Until.IsZero() {
				text += " until `dispatchd org resume " + v.ID + "`"
			} else {
				text += " until " + clock(h.Until)
			}
			if h.Reason != "" {
				text += ": " + h.Reason
			}
			wrap(s.env.Stdout, "", "  ", text)
		}
	}
}

// showWaits says why what waits does.
func (s *session) showWaits(v service.View, only ...event.Channel) {
	for _, c := range v.Channels {
		if len(only) > 0 && !slices.Contains(only, c.Channel) {
			continue
		}
		for _, w := range c.Waits {
			wrap(s.env.Stdout, "", "  ", string(c.Channel)+": "+w.Words(number[int], clock))
		}
	}
}

func onOff(b bool) string {
	if b {
		return "enabled"
	}
	return "disabled"
}

func setOrNot(b bool) string {
	if b {
		return "set"
	}
	return "not set"
}

func orUTC(zone string) string {
	if zone == "" {
		return "UTC"
	}
	return zone
}

func joinTypes(list []event.Type) string {
	words := make([]string, len(list))
	for i, t := range list {
		words[i] = string(t)
	}
	return strings.Join(words, ", ")
}

// actBody is the body of an action on an organisation.
type actBody struct {
	Channel *string `json:"channel,omitempty"`
	Reason  string  `json:"reason,omitempty"`
}

type orgEnableCmd struct {
	ID      string  `arg:"" help:"The organisation."`
	Channel *string `help:"webhook or email. Default: webhook when it has a URL, else email." enum:"${channels}" placeholder:"CHANNEL"`
}

// Run implements the command.
func (c *orgEnableCmd) Run(s *session) error {
	return s.orgResult(http.MethodPost, at("organisations", c.ID, "enable"), actBody{Channel: c.Channel})
}

type orgDisableCmd struct {
	ID      string  `arg:"" help:"The organisation."`
	Channel *string `help:"webhook or email. Default: both." enum:"${channels}" placeholder:"CHANNEL"`
}

// Run implements the command.
func (c *orgDisableCmd) Run(s *session) error {
	return s.orgResult(http.MethodPost, at("organisations", c.ID, "disable"), actBody{Channel: c.Channel})
}

type orgPauseCmd struct {
	ID      string  `arg:"" help:"The organisation."`
	Channel *string `help:"webhook or email. Default: both." enum:"${channels}" placeholder:"CHANNEL"`
	Reason  string  `help:"Shown to whoever looks."`
}

// Run implements the command.
func (c *orgPauseCmd) Run(s *session) error {
	return s.orgResult(http.MethodPost, at("organisations", c.ID, "pause"), actBody{c.Channel, c.Reason})
}

type orgResumeCmd struct {
	ID      string  `arg:"" help:"The organisation."`
	Channel *string `help:"webhook or email. Default: both." enum:"${channels}" placeholder:"CHANNEL"`
}

// Run implements the command.
func (c *orgResumeCmd) Run(s *session) error {
	return s.orgResult(http.MethodPost, at("organisations", c.ID, "resume"), actBody{Channel: c.Channel})
}

type orgTestCmd struct {
	ID string `arg:"" help:"The organisation."`
}

// Run implements the command.
func (c *orgTestCmd) Run(s *session) error {
	var a service.TestAnswer
	return s.check(http.MethodPost, at("organisations", c.ID, "test"), &a, func() { s.showTest(a) }, func() bool { return a.OK })
}

func (s *session) showTest(a service.TestAnswer) {
	word := "The receiver took the test event"
	if !a.OK {
		word = "The receiver did NOT take the test event"
	}
	if a.Status > 0 {
		word += fmt.Sprintf(": HTTP %d", a.Status)
	}
	s.printf("%s, after %s.\n", word, span(a.Duration))
	if a.Error != "" {
		wrap(s.env.Stdout, "error:  ", "        ", a.Error)
	}
	if a.Excerpt != "" {
		wrap(s.env.Stdout, "answer: ", "        ", a.Excerpt)
	}
}

type orgRotateCmd struct {
	ID string `arg:"" help:"The organisation."`
}

// Run implements the command.
func (c *orgRotateCmd) Run(s *session) error {
	var out struct {
		Secret string `json:"signing_secret"`
	}
	if show, err := s.ask(http.MethodPost, at("organisations", c.ID, "rotate-secret"), nil, &out); !show {
		return err
	}
	s.printf("%s\n", safe(out.Secret))
	fmt.Fprintln(s.env.Stderr, "This is the new signing secret. The old one signs too until the next rotation.")
	return nil
}

type orgLinkCmd struct {
	ID string `arg:"" help:"The organisation."`
}

// Run implements the command.
func (c *orgLinkCmd) Run(s *session) error {
	var out struct {
		Link    string    `json:"link"`
		Expires time.Time `json:"expires"`
	}
	if show, err := s.ask(http.MethodPost, at("organisations", c.ID, "link"), nil, &out); !show {
		return err
	}
	s.printf("%s\n", safe(out.Link))
	wrap(s.env.Stderr, "", "", fmt.Sprintf("Whoever opens it before %s and presses the button acts for %s, once.", out.Expires.UTC().Format("15:04 MST"), c.ID))
	return nil
}

type orgRemoveCmd struct {
	ID  string `arg:"" help:"The organisation."`
	Yes bool   `help:"Do not ask." short:"y"`
}

// Run implements the command.
func (c *orgRemoveCmd) Run(s *session) error {
	if err := s.confirm(c.Yes, fmt.Sprintf("This removes organisation %s, its users' affiliations and everything that waits for it.", c.ID), c.ID); err != nil {
		return err
	}
	if show, err := s.ask(http.MethodDelete, at("organisations", c.ID), nil, nil); !show {
		return err
	}
	s.say("%s is being removed; `dispatchd job list` shows how far it is.", c.ID)
	return nil
}

// confirm asks a person to type a word. Where nobody can, --yes must be given.
func (s *session) confirm(yes bool, what, word string) error {
	if yes {
		return nil
	}
	if !s.env.IsTerminal(s.env.Stdin) {
		return usage("%s Say --yes to do it.", what)
	}
	fmt.Fprintf(s.env.Stderr, "%s\nType %s to go on: ", what, word)
	in := bufio.NewScanner(s.stdin())
	if !in.Scan() || strings.TrimSpace(in.Text()) != word {
		fmt.Fprintln(s.env.Stderr, "Nothing was changed.")
		return ExitCode(exitFail)
	}
	return nil
}

// stdin is standard input until the command is interrupted: the signal itself
// ends no read, and who waits at a terminal would wait for ever.
func (s *session) stdin() io.Reader { return interruptible{s.ctx, s.env.Stdin} }

type interruptible struct {
	ctx context.Context //nolint:containedctx // a reader has nowhere else to get it from
	in  io.Reader
}

// Read implements io.Reader. What is still read when it was interrupted is lost.
func (i interruptible) Read(p []byte) (int, error) {
	type piece struct {
		text []byte
		err  error
	}
	read := make(chan piece, 1)
	go func() {
		text := make([]byte, len(p))
		n, err := i.in.Read(text)
		read <- piece{text[:n], err}
	}()
	select {
	case <-i.ctx.Done():
		return 0, i.ctx.Err()
	case got := <-read:
		return copy(p, got.text), got.err
	}
}

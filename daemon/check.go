package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"dispatchd/config"
	"dispatchd/internal/cli"
	"dispatchd/internal/hub"
	"dispatchd/internal/orcid"
)

// report is what `check` found.
type report struct {
	File     string    `json:"file"`
	Valid    bool      `json:"valid"`
	Problems []mistake `json:"problems"`
	Warnings []mistake `json:"warnings"`
	// The rest is of a valid file.
	Organisations int      `json:"organisations"`
	Credentials   []string `json:"credentials"`
	ORCID         string   `json:"orcid,omitempty"`
	Redis         string   `json:"redis,omitempty"`
	// Hub are the Hub's callbacks that are answered; nil: none.
	Hub *hubReport `json:"hub_callbacks,omitempty"`
	// Online is what answered; nil when nothing was asked.
	Online []asked `json:"online,omitempty"`
}

// mistake is one thing wrong with the file.
type mistake struct {
	Line int    `json:"line,omitempty"`
	Org  string `json:"organisation,omitempty"`
	Key  string `json:"key,omitempty"`
	Why  string `json:"why"`
	text string
}

type hubReport struct {
	Rows    int       `json:"rows"`
	Until   time.Time `json:"until"`
	Skipped []string  `json:"skipped"`
}

// asked is one thing outside that was asked.
type asked struct {
	What     string   `json:"what"`
	OK       bool     `json:"ok"`
	Detail   string   `json:"detail"`
	Warnings []string `json:"warnings,omitempty"`
}

func mistakes(list []config.Error) []mistake {
	out := make([]mistake, len(list))
	for i, e := range list {
		out[i] = mistake{Line: e.Line, Org: e.Org, Key: e.Key, Why: e.Why, text: e.Error()}
	}
	return out
}

// runCheck says what a configuration amounts to; online it also asks Redis, the
// mail server and ORCID. It changes nothing.
func runCheck(ctx context.Context, f cli.CheckFlags) error {
	r := report{File: f.File, Problems: []mistake{}, Warnings: []mistake{}, Credentials: []string{}}
	c, err := config.Load(f.File)
	var bad *config.Errors
	switch {
	case errors.As(err, &bad):
		r.Problems, r.Warnings = mistakes(bad.List), mistakes(bad.Warnings)
		if !f.JSON {
			fmt.Fprintln(os.Stderr, err)
			return code(exitUsage)
		}
		return errors.Join(r.print(os.Stdout, true), code(exitUsage))
	case err != nil:
		return err
	}
	r.Warnings = mistakes(c.Warnings)
	callbacks, err := loadHub(c)
	if err != nil {
		if !f.JSON {
			fmt.Fprintln(os.Stderr, err)
			return code(exitUsage)
		}
		for line := range strings.Lines(err.Error()) {
			r.Problems = append(r.Problems, mistake{Key: "hub.legacy_map", Why: strings.TrimSpace(line)})
		}
		return errors.Join(r.print(os.Stdout, true), code(exitUsage))
	}
	r.Valid = true
	r.describe(c, callbacks)
	if f.Online {
		r.Online = askOutside(ctx, c)
	}
	if err := r.print(os.Stdout, f.JSON); err != nil {
		return err
	}
	var failed []string
	for _, a := range r.Online {
		if !a.OK {
			failed = append(failed, a.What)
		}
	}
	switch {
	case len(failed) > 0 && f.JSON:
		return code(exitFail)
	case len(failed) > 0:
		return fmt.Errorf("not all is well: %s", strings.Join(failed, ", "))
	case f.Strict && r.warned():
		return code(exitWarned) // what was printed says why
	}
	return nil
}

// warned reports whether there is a warning, of the file or of what was asked.
func (r *report) warned() bool {
	return len(r.Warnings) > 0 || slices.ContainsFunc(r.Online, func(a asked) bool { return len(a.Warnings) > 0 })
}

func (r *report) describe(c *config.Config, callbacks *hub.Callbacks) {
	r.Organisations, r.Credentials, r.ORCID, r.Redis = len(c.Organisations), credentialNames(c), c.ORCID.Environment, c.Redis.URL
	switch {
	case c.Embedded():
		r.Redis = "embedded (a trial: everything is lost at the end)"
	case r.Redis == "":
		r.Redis = strings.Join(c.Redis.Addresses, ", ")
	}
	if callbacks == nil {
		return
	}
	r.Hub = &hubReport{Rows: len(callbacks.Map.Rows), Until: callbacks.Until, Skipped: []string{}}
	for _, err := range callbacks.Map.Skipped {
		r.Hub.Skipped = append(r.Hub.Skipped, err.Error())
	}
}

// print writes the report for people or for programs.
func (r *report) print(out io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		return enc.Encode(r)
	}
	var b strings.Builder
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w.text)
	}
	fmt.Fprintf(&b, "%s is valid\n  organisations %d\n  credentials   %d\n  ORCID         %s\n  redis         %s\n",
		r.File, r.Organisations, len(r.Credentials), r.ORCID, r.Redis)
	if r.Hub != nil {
		fmt.Fprintf(&b, "  Hub callbacks %d, answered until %s\n", r.Hub.Rows, r.Hub.Until.Format(time.DateTime))
		for _, s := range r.Hub.Skipped {
			fmt.Fprintf(&b, "  skipped: %s\n", s)
		}
	}
	for _, a := range r.Online {
		word := "ok  "
		if !a.OK {
			word = "FAIL"
		}
		fmt.Fprintf(&b, "%s %-22s %s\n", word, a.What, a.Detail)
		for _, w := range a.Warnings {
			fmt.Fprintf(&b, "     %-22s warning: %s\n", "", w)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// askOutside asks Redis, the mail server and ORCID.
func askOutside(ctx context.Context, c *config.Config) []asked {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	list := []asked{}
	say := func(what string, err error, fine string, warnings ...string) {
		a := asked{What: what, OK: err == nil, Detail: fine, Warnings: warnings}
		if err != nil {
			a.Detail = err.Error()
		}
		list = append(list, a)
	}
	if !c.Embedded() {
		warnings, err := checkRedis(ctx, c)
		say("redis", err, "answers, is fit and ours", warnings...)
	}
	if c.SMTP.Host != "" {
		addr := net.JoinHostPort(c.SMTP.Host, strconv.Itoa(c.SMTP.Port))
		d := net.Dialer{Timeout: 5 * time.Second}
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			err = conn.Close()
		}
		say("smtp", err, addr+" accepts connections")
	}
	for _, name := range credentialNames(c) {
		cred := c.ORCID.Credentials[name]
		client, err := orcid.NewClient(orcid.ClientOptions{
			APIURL: c.ORCID.APIURL, TokenURL: c.ORCID.TokenURL, SiteURL: c.ORCID.SiteURL,
			ClientID: cred.ClientID, ClientSecret: cred.ClientSecret, UserAgent: "dispatchd/" + version,
		})
		if err == nil {
			err = client.Check(ctx)
			client.Close()
		}
		say("credential "+name, err, "ORCID gives it a token for /webhook")
	}
	return list
}

// showConfig prints what a file amounts to, without secrets.
func showConfig(path string, asJSON bool, out io.Writer) error {
	c, err := load(path)
	if err != nil {
		return err
	}
	if !asJSON {
		_, err = io.WriteString(out, c.Show())
		return err
	}
	var values map[string]any
	if _, err := toml.Decode(c.Show(), &values); err != nil {
		return fmt.Errorf("read what was to be shown: %w", err)
	}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return enc.Encode(values)
}

package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"dispatchd/internal/service"
)

// maxSecretFile bounds a file with a secret.
const maxSecretFile = 64 << 10

type orgAddCmd struct {
	ID                  string   `arg:"" help:"A slug: lower-case letters, digits and hyphens."`
	Name                string   `help:"The name people read." required:""`
	URL                 string   `name:"url" help:"The webhook; it is enabled unless --disabled is given." placeholder:"URL"`
	Disabled            bool     `help:"Do not enable the webhook yet."`
	AppendORCID         bool     `name:"append-orcid" help:"Append /iD to the URL."`
	Events              []string `help:"Which events the webhook is told: CREATED,UPDATED."`
	Payload             string   `help:"standard or hub." enum:",standard,hub" default:"" placeholder:"FORM"`
	APIKeyFile          string   `name:"apikey-file" help:"The file with the key sent as header apikey; - reads standard input." placeholder:"FILE"`
	SigningSecretFile   string   `help:"The file with the signing secret (whsec_…); - reads standard input. Default: one is made." placeholder:"FILE"`
	HeadersFile         string   `help:"A file of header lines (Name: value) to be sent with every webhook." placeholder:"FILE"`
	Credential          string   `help:"The ORCID credential that serves it. May be left out when there is only one."`
	Contact             string   `help:"The technical contact's e-mail address." placeholder:"ADDRESS"`
	Timezone            string   `help:"For example Pacific/Auckland. Default: UTC."`
	Concurrency         int      `help:"Deliveries at once per channel. Default: delivery.concurrency."`
	EmailEnabled        bool     `help:"Tell by e-mail too."`
	EmailAddress        string   `help:"Where e-mail goes. Default: the technical contact." placeholder:"ADDRESS"`
	EmailMode           string   `help:"each, daily or weekly." enum:",each,daily,weekly" default:"" placeholder:"MODE"`
	APIClientID         string   `name:"api-client-id" help:"Its client of the Hub-compatible API." placeholder:"ID"`
	APIClientSecretFile string   `name:"api-client-secret-file" help:"The file with that client's secret." placeholder:"FILE"`
}

// Run implements the command. PUT would replace, so it looks first.
func (c *orgAddCmd) Run(s *session) error {
	in, err := c.settings(s)
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	defer cl.close()
	_, err = cl.do(s.ctx, http.MethodGet, at("organisations", c.ID), nil)
	var e *apiError
	switch {
	case err == nil:
		return fmt.Errorf("there is an organisation %q already\n`dispatchd org set %s KEY=VALUE` changes it", c.ID, c.ID)
	case !errors.As(err, &e) || e.Status != http.StatusNotFound:
		return err
	}
	raw, err := cl.do(s.ctx, http.MethodPut, at("organisations", c.ID), in)
	if s.JSON {
		return s.raw(raw, err)
	}
	if err != nil {
		return err
	}
	var v service.View
	if err := s.decode(raw, &v); err != nil {
		return err
	}
	s.showOrg(v)
	s.printf("\n")
	wrap(s.env.Stdout, "", "", fmt.Sprintf("Made. Next: `dispatchd org show %s --secrets` (for its signing secret), `dispatchd org test %s`, `dispatchd user import FILE --org %s`", c.ID, c.ID, c.ID))
	return nil
}

func (c *orgAddCmd) settings(s *session) (service.Settings, error) {
	in := service.Settings{Name: &c.Name, Webhook: &service.WebhookSettings{}, Email: &service.EmailSettings{}}
	given := func(to **string, value string) {
		if value != "" {
			*to = &value
		}
	}
	given(&in.Credential, c.Credential)
	given(&in.TechnicalContact, c.Contact)
	given(&in.Timezone, c.Timezone)
	given(&in.Webhook.URL, c.URL)
	given(&in.Webhook.Payload, c.Payload)
	given(&in.Email.Address, c.EmailAddress)
	given(&in.Email.Mode, c.EmailMode)
	if c.Concurrency != 0 {
		in.Concurrency = &c.Concurrency
	}
	enabled := c.URL != "" && !c.Disabled
	in.Webhook.Enabled, in.Webhook.AppendORCID, in.Email.Enabled = &enabled, &c.AppendORCID, &c.EmailEnabled
	if len(c.Events) > 0 {
		in.Webhook.Events = &c.Events
	}
	if c.APIClientID != "" || c.APIClientSecretFile != "" {
		in.API = &service.APISettings{ClientID: &c.APIClientID}
	}
	read := &secretReader{stdin: s.stdin()}
	for _, f := range []struct {
		path string
		take func(string)
	}{
		{c.APIKeyFile, func(v string) { in.Webhook.APIKey = &v }},
		{c.SigningSecretFile, func(v string) { in.Webhook.SigningSecret = &v }},
		{c.APIClientSecretFile, func(v string) { in.API.ClientSecret = &v }},
	} {
		if f.path == "" {
			continue
		}
		text, err := read.secret(f.path)
		if err != nil {
			return in, err
		}
		f.take(text)
	}
	if c.HeadersFile != "" {
		headers, err := read.headers(c.HeadersFile)
		if err != nil {
			return in, err
		}
		in.Webhook.Headers = &headers
	}
	return in, nil
}

type orgSetCmd struct {
	ID       string   `arg:"" help:"The organisation."`
	Settings []string `arg:"" name:"key=value" help:"For example webhook.url=https://… or webhook.apikey_file=FILE (- reads standard input; empty removes it)."`
}

// Run implements the command.
func (c *orgSetCmd) Run(s *session) error {
	var in service.Settings
	read := &secretReader{stdin: s.stdin()}
	seen := map[string]bool{}
	for _, pair := range c.Settings {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return usage("%q is not KEY=VALUE", clip(pair, 60))
		}
		if seen[key] {
			return usage("%s is given twice", key)
		}
		seen[key] = true
		if err := setKey(&in, read, key, value); err != nil {
			return err
		}
	}
	return s.orgResult(http.MethodPatch, at("organisations", c.ID), in)
}

// keyNames are the keys of `org set`, for its errors.
var keyNames = [...]string{
	"name", "credential", "technical_contact", "timezone", "concurrency",
	"webhook.enabled", "webhook.url", "webhook.append_orcid", "webhook.apikey_file", "webhook.signing_secret_file", "webhook.headers_file", "webhook.payload", "webhook.events",
	"email.enabled", "email.address", "email.cc", "email.mode", "email.monthly", "email.max_per_hour",
	"api.client_id", "api.client_secret_file",
}

// setKey puts one setting in.
func setKey(in *service.Settings, read *secretReader, key, value string) error {
	table, _, nested := strings.Cut(key, ".")
	switch {
	case nested && table == "webhook" && in.Webhook == nil:
		in.Webhook = &service.WebhookSettings{}
	case nested && table == "email" && in.Email == nil:
		in.Email = &service.EmailSettings{}
	case nested && table == "api" && in.API == nil:
		in.API = &service.APISettings{}
	}
	switch key {
	case "name":
		in.Name = &value
	case "credential":
		in.Credential = &value
	case "technical_contact":
		in.TechnicalContact = &value
	case "timezone":
		in.Timezone = &value
	case "concurrency":
		return setInt(&in.Concurrency, key, value)
	case "webhook.enabled":
		return setBool(&in.Webhook.Enabled, key, value)
	case "webhook.url":
		in.Webhook.URL = &value
	case "webhook.append_orcid":
		return setBool(&in.Webhook.AppendORCID, key, value)
	case "webhook.apikey_file":
		return setSecret(&in.Webhook.APIKey, read, value)
	case "webhook.signing_secret_file":
		return setSecret(&in.Webhook.SigningSecret, read, value)
	case "webhook.headers_file":
		headers, err := read.headers(value)
		if err != nil {
			return err
		}
		in.Webhook.Headers = &headers
	case "webhook.payload":
		in.Webhook.Payload = &value
	case "webhook.events":
		list := strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
		in.Webhook.Events = &list
	case "email.enabled":
		return setBool(&in.Email.Enabled, key, value)
	case "email.address":
		in.Email.Address = &value
	case "email.cc":
		return setBool(&in.Email.CC, key, value)
	case "email.mode":
		in.Email.Mode = &value
	case "email.monthly":
		return setBool(&in.Email.Monthly, key, value)
	case "email.max_per_hour":
		return setInt(&in.Email.MaxPerHour, key, value)
	case "api.client_id":
		in.API.ClientID = &value
	case "api.client_secret_file":
		return setSecret(&in.API.ClientSecret, read, value)
	case "webhook.apikey", "webhook.signing_secret", "webhook.headers", "api.client_secret":
		return usage("%s may be secret, so it is not taken from the command line.\nWrite %s_file=FILE, or %s_file=- for standard input.", key, key, key)
	default:
		return usage("there is no setting %q. There is:\n  %s", clip(key, 60), strings.Join(keyNames[:], ", "))
	}
	return nil
}

func setBool(to **bool, key, value string) error {
	words := []string{"false", "true", "no", "yes", "off", "on"}
	i := slices.Index(words, strings.ToLower(value))
	if i < 0 {
		return usage("%s must be true or false (got %q)", key, clip(value, 60))
	}
	yes := i%2 == 1
	*to = &yes
	return nil
}

func setInt(to **int, key, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil {
		return usage("%s must be a whole number (got %q)", key, clip(value, 60))
	}
	*to = &n
	return nil
}

func setSecret(to **string, read *secretReader, path string) error {
	text := ""
	if path != "" {
		var err error
		if text, err = read.secret(path); err != nil {
			return err
		}
	}
	*to = &text
	return nil
}

// secretReader reads secrets from files or, once, from standard input; never
// from the command line, where everybody on the machine can read them.
type secretReader struct {
	stdin io.Reader
	used  bool
}

func (r *secretReader) all(path string) (string, error) {
	var in io.Reader
	if path == "-" {
		if r.used {
			return "", usage("standard input can be read only once")
		}
		r.used, in = true, r.stdin
	} else {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("read a secret: %w", err)
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxSecretFile+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if len(raw) > maxSecretFile {
		return "", fmt.Errorf("%s has more than %d bytes", path, maxSecretFile)
	}
	return string(raw), nil
}

// secret reads one line.
func (r *secretReader) secret(path string) (string, error) {
	text, err := r.all(path)
	if err != nil {
		return "", err
	}
	text = strings.TrimSpace(text)
	if text == "" || strings.ContainsAny(text, "\r\n") {
		if path == "-" {
			path = "standard input"
		}
		return "", fmt.Errorf("%s must hold one line with the secret", path)
	}
	return text, nil
}

// headers reads "Name: value" lines.
func (r *secretReader) headers(path string) (map[string]string, error) {
	headers := map[string]string{}
	if path == "" {
		return headers, nil
	}
	text, err := r.all(path)
	if err != nil {
		return nil, err
	}
	no := 0
	for line := range strings.Lines(text) {
		no++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("%s:%d: is not a header line (Name: value)", path, no)
		}
		headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return headers, nil
}

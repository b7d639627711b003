// Package org says what an organisation is: its settings, what makes them
// valid, and what the daemon did to it at run time. It reads and writes nothing.
package org

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/secret"
)

// Owner says who may change an organisation's settings.
type Owner string

// The owners. An organisation in the configuration file is changed there only.
const (
	OwnedByFile Owner = "file"
	OwnedByAPI  Owner = "api"
)

// Organisation is whoever is told.
type Organisation struct {
	ID               string // slug, see ValidID
	Name             string
	Credential       string // our name of the ORCID credential that serves it
	TechnicalContact string // e-mail address
	Timezone         string // IANA name; empty means UTC
	Webhook          Webhook
	Email            Email
	// Channels holds where each further channel leads; a channel that is named
	// is enabled. What the text means is the channel's, and it may hold secrets.
	Channels map[event.Channel]string
	API      API
	Owner    Owner
	// Concurrency is how many deliveries may run at once per channel; 0 means
	// the daemon's default (delivery.concurrency).
	Concurrency int
	// Suspensions holds the channels that the daemon or an operator stopped.
	Suspensions []Suspension
	// Former are the credentials that served it before, oldest first. Each goes on
	// for a user until that user's registration with the present one lives.
	Former []Former
}

// Former is a credential that served an organisation once.
type Former struct {
	Credential string
	Until      time.Time // when the organisation moved to another
}

// Webhook is how an organisation is told by HTTP.
type Webhook struct {
	Enabled     bool
	URL         string
	AppendORCID bool
	APIKey      secret.Text // header apikey
	// SigningSecret is "whsec_" and base64, as Standard Webhooks writes it.
	SigningSecret secret.Text
	// OldSigningSecret also signs while a rotation is under way; empty otherwise.
	OldSigningSecret secret.Text
	Headers          map[string]string
	Payload          Payload
	Events           []event.Type // nil means CREATED and UPDATED
}

// Payload is the form of the JSON body.
type Payload string

// The payloads. Hub is exactly the Hub's fields and naive times.
const (
	PayloadStandard Payload = "standard"
	PayloadHub      Payload = "hub"
)

// Email is how an organisation is told by e-mail.
type Email struct {
	Enabled    bool
	Address    string // empty means the technical contact
	Pending    string // was entered and has not confirmed yet: nothing is sent to it
	CC         bool   // with Address set: also to the technical contact
	Mode       Mode
	Monthly    bool
	MaxPerHour int // 0 means 20
}

// Mode is how often e-mail is sent.
type Mode string

// The modes.
const (
	Each   Mode = "each"
	Daily  Mode = "daily"
	Weekly Mode = "weekly"
)

// API is the organisation's client of the Hub-compatible API.
type API struct {
	ClientID     string
	ClientSecret secret.Text // hashed at rest
}

// Suspension is a channel that was stopped at run time. Registrations stay,
// deliveries wait.
type Suspension struct {
	Channel event.Channel
	Reason  string
	Since   time.Time
}

// Enabled reports whether a person configured the channel to be used.
func (o *Organisation) Enabled(ch event.Channel) bool {
	switch ch {
	case event.Webhook:
		return o.Webhook.Enabled
	case event.Email:
		return o.Email.Enabled
	}
	return o.Channels[ch] != ""
}

// AnyEnabled reports whether any channel is enabled: then its users are wanted
// at ORCID.
func (o *Organisation) AnyEnabled() bool {
	return slices.ContainsFunc(event.Channels[:], o.Enabled)
}

// Moved returns what is to be noted of former credentials when the organisation
// goes from the one it has to another now.
func (o *Organisation) Moved(to string, now time.Time) []Former {
	if o.Credential == to || o.Credential == "" {
		return o.Former
	}
	var out []Former
	for _, f := range o.Former {
		if f.Credential != to && f.Credential != o.Credential {
			out = append(out, f)
		}
	}
	return append(out, Former{o.Credential, now})
}

// ServedBefore reports whether the credential served the organisation when
// somebody was affiliated who has been since then.
func (o *Organisation) ServedBefore(credential string, affiliated time.Time) bool {
	return slices.ContainsFunc(o.Former, func(f Former) bool {
		return f.Credential == credential && credential != o.Credential && !affiliated.After(f.Until)
	})
}

// Wants reports whether the organisation is told of this type on this channel.
// E-mail tells of every type.
func (o *Organisation) Wants(ch event.Channel, t event.Type) bool {
	if !o.Enabled(ch) {
		return false
	}
	if ch != event.Webhook || o.Webhook.Events == nil {
		return true
	}
	return slices.Contains(o.Webhook.Events, t)
}

// Recipient returns the address that e-mail goes to.
func (o *Organisation) Recipient() string {
	if o.Email.Address != "" {
		return o.Email.Address
	}
	return o.TechnicalContact
}

var idRE = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$`)

// ValidID reports whether s can be an organisation's id: 1 to 64 lower-case
// letters, digits and inner hyphens.
func ValidID(s string) bool { return idRE.MatchString(s) }

// Problem is one thing wrong with an organisation's settings; Key is the TOML
// key below [[organisation]], for example "webhook.url".
type Problem struct {
	Key string
	Why string
}

// Error implements error.
func (p Problem) Error() string { return p.Key + ": " + p.Why }

// ErrInvalid is what Validate's error wraps.
var ErrInvalid = errors.New("invalid organisation")

// Invalid lists all problems of an organisation at once.
type Invalid struct{ Problems []Problem }

// Error implements error; it lists every problem.
func (e *Invalid) Error() string {
	texts := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		texts[i] = p.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap makes errors.Is(err, ErrInvalid) true.
func (e *Invalid) Unwrap() error { return ErrInvalid }

// Validate checks the settings by themselves, without looking anything up. It
// returns nil or an *Invalid with every problem.
func (o *Organisation) Validate() error {
	var e Invalid
	add := func(key, format string, args ...any) {
		e.Problems = append(e.Problems, Problem{key, fmt.Sprintf(format, args...)})
	}
	if !ValidID(o.ID) {
		add("id", "must be 1 to 64 lower-case letters, digits and inner hyphens (got %q)", o.ID)
	}
	if strings.TrimSpace(o.Name) == "" {
		add("name", "must not be empty")
	} else if hasControl(o.Name) || len(o.Name) > 200 {
		add("name", "must have at most 200 bytes and no control characters")
	}
	checkAddress := func(key, addr string) {
		if a, err := mail.ParseAddress(addr); err != nil || a.Address != addr || hasControl(addr) {
			add(key, "is not a plain e-mail address (got %q)", addr)
		}
	}
	if o.TechnicalContact != "" {
		checkAddress("technical_contact", o.TechnicalContact)
	}
	if o.Timezone != "" {
		if _, err := time.LoadLocation(o.Timezone); err != nil || o.Timezone == "Local" {
			add("timezone", "is not an IANA time zone (got %q)", o.Timezone)
		}
	}
	if o.Webhook.URL != "" {
		if err := ValidURL(o.Webhook.URL); err != nil {
			add("webhook.url", "%s", err.Error())
		}
	} else if o.Webhook.Enabled {
		add("webhook.url", "must be set while webhook.enabled is true")
	}
	if k := o.Webhook.APIKey.Reveal(); hasControl(k) || len(k) > 1024 {
		add("webhook.apikey", "must have at most 1024 bytes and no control characters")
	}
	if s := o.Webhook.SigningSecret.Reveal(); s != "" && !validSigningSecret(s) {
		add("webhook.signing_secret", "must be whsec_ and base64 of 24 to 64 bytes; make one with: echo whsec_$(openssl rand -base64 32)")
	}
	size := 0
	for name, value := range o.Webhook.Headers {
		size += len(name) + len(value)
		if !validHeaderName(name) {
			add("webhook.headers", "%q is not a header name, or one that the daemon sets itself", clip(name))
		}
		if hasControl(value) {
			add("webhook.headers", "the value of %q has control characters", clip(name))
		}
	}
	if size > maxHeaders {
		add("webhook.headers", "must have at most %d bytes together (got %d)", maxHeaders, size)
	}
	switch o.Webhook.Payload {
	case "", PayloadStandard, PayloadHub:
	default:
		add("webhook.payload", `must be "standard" or "hub" (got %q)`, o.Webhook.Payload)
	}
	if o.Webhook.Events != nil && len(o.Webhook.Events) == 0 {
		add("webhook.events", "must name at least one event; use enabled = false to tell of nothing")
	}
	for _, t := range o.Webhook.Events {
		switch t {
		case event.Created, event.Updated, event.Deactivated, event.Deprecated, event.Locked:
		default:
			add("webhook.events", "unknown event %q", t)
		}
	}
	if o.Email.Address != "" {
		checkAddress("email.address", o.Email.Address)
	}
	if o.Email.Enabled && o.Recipient() == "" {
		add("email.address", "must be set, or technical_contact, while email.enabled is true")
	}
	switch o.Email.Mode {
	case "", Each, Daily, Weekly:
	default:
		add("email.mode", `must be "each", "daily" or "weekly" (got %q)`, o.Email.Mode)
	}
	if o.Email.MaxPerHour < 0 {
		add("email.max_per_hour", "must not be negative (got %d)", o.Email.MaxPerHour)
	}
	for ch, where := range o.Channels {
		if ch == event.Webhook || ch == event.Email || !slices.Contains(event.Channels[:], ch) {
			add("channels", "there is no further channel %q", clip(string(ch)))
		}
		if where == "" || hasControl(where) || len(where) > 2048 {
			add("channels", "of %q must have 1 to 2048 bytes and no control characters", clip(string(ch)))
		}
	}
	if id := o.API.ClientID; hasControl(id) || len(id) > 200 {
		add("api.client_id", "must have at most 200 bytes and no control characters")
	}
	if o.Concurrency < 0 || o.Concurrency > 1024 {
		add("concurrency", "must be 0 to 1024 (got %d)", o.Concurrency)
	}
	if len(e.Problems) == 0 {
		return nil
	}
	return &e
}

// maxHeaders bounds the names and values of webhook.headers together: most
// servers refuse a request whose header has more than 8 KiB.
const maxHeaders = 4 << 10

// validSigningSecret follows Standard Webhooks.
func validSigningSecret(s string) bool {
	text, ok := strings.CutPrefix(s, "whsec_")
	key, err := base64.StdEncoding.DecodeString(text)
	return ok && err == nil && len(key) >= 24 && len(key) <= 64
}

// clip keeps a problem readable whatever was sent.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 })
}

var ownHeaders = []string{
	"content-type", "content-length", "host", "user-agent", "transfer-encoding", "connection", "apikey",
	"webhook-id", "webhook-timestamp", "webhook-signature", "te", "trailer", "upgrade", "expect", "accept-encoding",
}

func validHeaderName(s string) bool {
	if s == "" || slices.Contains(ownHeaders, strings.ToLower(s)) {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 {
			continue
		}
		return false
	}
	return true
}

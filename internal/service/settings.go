package service

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/secret"
)

// Settings is what a person sends to make or change an organisation: the keys
// of [[organisation]] as JSON. A missing key leaves what is there (PATCH) or
// means the default (PUT); secrets that are missing always stay.
type Settings struct {
	ID               *string          `json:"id,omitempty"`
	Name             *string          `json:"name,omitempty"`
	Credential       *string          `json:"credential,omitempty"`
	TechnicalContact *string          `json:"technical_contact,omitempty"`
	Timezone         *string          `json:"timezone,omitempty"`
	Concurrency      *int             `json:"concurrency,omitempty"`
	Webhook          *WebhookSettings `json:"webhook,omitempty"`
	Email            *EmailSettings   `json:"email,omitempty"`
	// Channels are the further ones: where each leads.
	Channels *map[event.Channel]string `json:"channels,omitempty"`
	API      *APISettings              `json:"api,omitempty"`
}

// WebhookSettings is the webhook table.
type WebhookSettings struct {
	Enabled       *bool              `json:"enabled,omitempty"`
	URL           *string            `json:"url,omitempty"`
	AppendORCID   *bool              `json:"append_orcid,omitempty"`
	APIKey        *string            `json:"apikey,omitempty"`
	SigningSecret *string            `json:"signing_secret,omitempty"`
	Headers       *map[string]string `json:"headers,omitempty"`
	Payload       *string            `json:"payload,omitempty"`
	Events        *[]string          `json:"events,omitempty"`
}

// EmailSettings is the email table.
type EmailSettings struct {
	Enabled    *bool   `json:"enabled,omitempty"`
	Address    *string `json:"address,omitempty"`
	CC         *bool   `json:"cc,omitempty"`
	Mode       *string `json:"mode,omitempty"`
	Monthly    *bool   `json:"monthly,omitempty"`
	MaxPerHour *int    `json:"max_per_hour,omitempty"`
}

// APISettings is the api table.
type APISettings struct {
	ClientID     *string `json:"client_id,omitempty"`
	ClientSecret *string `json:"client_secret,omitempty"`
}

// maxSettings bounds the JSON of one organisation.
const maxSettings = 64 << 10

// ReadSettings decodes settings strictly: unknown keys, a second value and
// more than 64 KiB are errors.
func ReadSettings(r io.Reader) (Settings, error) {
	var in Settings
	raw, err := io.ReadAll(io.LimitReader(r, maxSettings+1))
	if err != nil {
		return in, invalid("The request body could not be read.", err)
	}
	if len(raw) > maxSettings {
		return in, invalid("The request body is too large.", fmt.Errorf("at most %d bytes", maxSettings))
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return in, invalid("The request body is not valid settings JSON.", fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "json: ")))
	}
	if _, err := dec.Token(); err != io.EOF {
		return in, invalid("The request body is not valid settings JSON.", fmt.Errorf("something follows after the settings"))
	}
	return in, nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// apply writes what was sent over o.
func (in Settings) apply(o *org.Organisation) {
	set(&o.Name, in.Name)
	set(&o.Credential, in.Credential)
	set(&o.TechnicalContact, in.TechnicalContact)
	set(&o.Timezone, in.Timezone)
	set(&o.Concurrency, in.Concurrency)
	if w := in.Webhook; w != nil {
		set(&o.Webhook.Enabled, w.Enabled)
		set(&o.Webhook.URL, w.URL)
		set(&o.Webhook.AppendORCID, w.AppendORCID)
		set(&o.Webhook.APIKey, (*secret.Text)(w.APIKey))
		set(&o.Webhook.SigningSecret, (*secret.Text)(w.SigningSecret))
		set(&o.Webhook.Headers, w.Headers)
		set(&o.Webhook.Payload, (*org.Payload)(w.Payload))
		if w.Events != nil {
			o.Webhook.Events = nil
			for _, t := range *w.Events {
				o.Webhook.Events = append(o.Webhook.Events, event.Type(t))
			}
		}
	}
	if e := in.Email; e != nil {
		set(&o.Email.Enabled, e.Enabled)
		set(&o.Email.Address, e.Address)
		if e.Address != nil {
			o.Email.Pending = "" // whoever sets one needs no other
		}
		set(&o.Email.CC, e.CC)
		set(&o.Email.Mode, (*org.Mode)(e.Mode))
		set(&o.Email.Monthly, e.Monthly)
		set(&o.Email.MaxPerHour, e.MaxPerHour)
	}
	if in.Channels != nil {
		o.Channels = nil
		if len(*in.Channels) > 0 {
			o.Channels = maps.Clone(*in.Channels)
		}
	}
	if a := in.API; a != nil {
		set(&o.API.ClientID, a.ClientID)
		set(&o.API.ClientSecret, (*secret.Text)(a.ClientSecret))
	}
}

// defaults are the settings of an organisation of which nothing was said.
func defaults(id string) org.Organisation {
	return org.Organisation{
		ID:      id,
		Owner:   org.OwnedByAPI,
		Webhook: org.Webhook{Payload: org.PayloadStandard},
		Email:   org.Email{Mode: org.Each, Monthly: true, MaxPerHour: 20},
	}
}

// View is an organisation as people and programs see it: settings without
// secrets (only whether one is set), and its state.
type View struct {
	ID               string      `json:"id"`
	Name             string      `json:"name"`
	Credential       string      `json:"credential"`
	TechnicalContact string      `json:"technical_contact"`
	Timezone         string      `json:"timezone"`
	Owner            org.Owner   `json:"owner"`
	Concurrency      int         `json:"concurrency,omitempty"`
	Webhook          WebhookView `json:"webhook"`
	Email            EmailView   `json:"email"`
	API              APIView     `json:"api"`
	Users            int         `json:"users"`
	Channels         []Channel   `json:"channels,omitempty"`
}

// WebhookView is the webhook table without its secrets.
type WebhookView struct {
	Enabled     bool              `json:"enabled"`
	URL         string            `json:"url"`
	AppendORCID bool              `json:"append_orcid"`
	APIKeySet   bool              `json:"apikey_set"`
	Headers     []string          `json:"headers,omitempty"` // names only
	Payload     org.Payload       `json:"payload"`
	Events      []event.Type      `json:"events"`
	Secrets     map[string]string `json:"secrets,omitempty"` // only for `org show --secrets`
}

// EmailView is the email table.
type EmailView struct {
	Enabled    bool     `json:"enabled"`
	Address    string   `json:"address"`
	Pending    string   `json:"pending,omitempty"` // waits for its confirmation
	CC         bool     `json:"cc"`
	Mode       org.Mode `json:"mode"`
	Monthly    bool     `json:"monthly"`
	MaxPerHour int      `json:"max_per_hour"`
}

// APIView is the api table without its secret.
type APIView struct {
	ClientID  string `json:"client_id"`
	SecretSet bool   `json:"client_secret_set"`
}

func view(o *org.Organisation) View {
	v := View{
		ID: o.ID, Name: o.Name, Credential: o.Credential, TechnicalContact: o.TechnicalContact,
		Timezone: o.Timezone, Owner: o.Owner, Concurrency: o.Concurrency,
		Webhook: WebhookView{
			Enabled: o.Webhook.Enabled, URL: o.Webhook.URL, AppendORCID: o.Webhook.AppendORCID,
			APIKeySet: o.Webhook.APIKey.IsSet(), Payload: o.Webhook.Payload, Events: o.Webhook.Events,
		},
		Email: EmailView{
			Enabled: o.Email.Enabled, Address: o.Email.Address, Pending: o.Email.Pending, CC: o.Email.CC, Mode: o.Email.Mode,
			Monthly: o.Email.Monthly, MaxPerHour: o.Email.MaxPerHour,
		},
		API: APIView{ClientID: o.API.ClientID, SecretSet: o.API.ClientSecret.IsSet()},
	}
	if v.Webhook.Events == nil {
		v.Webhook.Events = []event.Type{event.Created, event.Updated}
	}
	if v.Webhook.Payload == "" {
		v.Webhook.Payload = org.PayloadStandard
	}
	for name := range o.Webhook.Headers {
		v.Webhook.Headers = append(v.Webhook.Headers, name)
	}
	slices.Sort(v.Webhook.Headers)
	return v
}

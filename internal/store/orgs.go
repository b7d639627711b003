package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/secret"
)

// storedOrg is an organisation as it lies in Redis: secrets sealed, the API
// client's secret hashed. Its names are part of the schema.
type storedOrg struct {
	ID               string        `json:"id"`
	Name             string        `json:"name"`
	Credential       string        `json:"credential,omitempty"`
	TechnicalContact string        `json:"technical_contact,omitempty"`
	Timezone         string        `json:"timezone,omitempty"`
	Owner            org.Owner     `json:"owner"`
	Concurrency      int           `json:"concurrency,omitempty"`
	Webhook          storedWebhook `json:"webhook"`
	Email            storedEmail   `json:"email"`
	// Channels is sealed: it may authorise.
	Channels      map[event.Channel]string `json:"channels,omitempty"`
	APIClientID   string                   `json:"api_client_id,omitempty"`
	APISecretHash string                   `json:"api_secret_hash,omitempty"`
	Suspensions   []storedSuspension       `json:"suspensions,omitempty"`
	Former        []storedFormer           `json:"former_credentials,omitempty"`
}

type storedWebhook struct {
	Enabled          bool              `json:"enabled"`
	URL              string            `json:"url,omitempty"`
	AppendORCID      bool              `json:"append_orcid,omitempty"`
	APIKey           string            `json:"apikey,omitempty"`             // sealed
	SigningSecret    string            `json:"signing_secret,omitempty"`     // sealed
	OldSigningSecret string            `json:"old_signing_secret,omitempty"` // sealed
	Headers          map[string]string `json:"headers,omitempty"`            // values sealed: they may authorise
	Payload          org.Payload       `json:"payload,omitempty"`
	Events           []event.Type      `json:"events"` // null means the default, [] means none
}

type storedEmail struct {
	Enabled    bool     `json:"enabled"`
	Address    string   `json:"address,omitempty"`
	Pending    string   `json:"pending,omitempty"`
	CC         bool     `json:"cc,omitempty"`
	Mode       org.Mode `json:"mode,omitempty"`
	Monthly    bool     `json:"monthly,omitempty"`
	MaxPerHour int      `json:"max_per_hour,omitempty"`
}

type storedFormer struct {
	Credential string    `json:"credential"`
	Until      time.Time `json:"until"`
}

type storedSuspension struct {
	Channel event.Channel `json:"channel"`
	Reason  string        `json:"reason"`
	Since   time.Time     `json:"since"`
}

// orgUse binds a sealed secret to its place.
func orgUse(id, field string) string { return "org/" + id + "/" + field }

// sealOrg makes the stored form.
func sealOrg(box *secret.Box, o *org.Organisation) (*storedOrg, error) {
	hash, err := HashSecret(o.API.ClientSecret)
	if err != nil {
		return nil, err
	}
	w := &o.Webhook
	v := &storedOrg{
		ID: o.ID, Name: o.Name, Credential: o.Credential, TechnicalContact: o.TechnicalContact, Timezone: o.Timezone,
		Owner: o.Owner, Concurrency: o.Concurrency, APIClientID: o.API.ClientID, APISecretHash: hash.Reveal(),
		Webhook: storedWebhook{
			Enabled: w.Enabled, URL: w.URL, AppendORCID: w.AppendORCID, Payload: w.Payload, Events: w.Events,
			APIKey:           box.Seal(orgUse(o.ID, "apikey"), w.APIKey),
			SigningSecret:    box.Seal(orgUse(o.ID, "signing_secret"), w.SigningSecret),
			OldSigningSecret: box.Seal(orgUse(o.ID, "old_signing_secret"), w.OldSigningSecret),
		},
		Email: storedEmail(o.Email),
	}
	for name, value := range w.Headers {
		if v.Webhook.Headers == nil {
			v.Webhook.Headers = make(map[string]string, len(w.Headers))
		}
		v.Webhook.Headers[name] = box.Seal(orgUse(o.ID, "header/"+name), secret.Text(value))
	}
	for ch, where := range o.Channels {
		if v.Channels == nil {
			v.Channels = make(map[event.Channel]string, len(o.Channels))
		}
		v.Channels[ch] = box.Seal(orgUse(o.ID, "channel/"+string(ch)), secret.Text(where))
	}
	for _, s := range o.Suspensions {
		v.Suspensions = append(v.Suspensions, storedSuspension(s))
	}
	for _, f := range o.Former {
		v.Former = append(v.Former, storedFormer(f))
	}
	return v, nil
}

// openOrg undoes sealOrg; the API client's secret stays a hash.
func openOrg(box *secret.Box, v *storedOrg) (*org.Organisation, error) {
	o := &org.Organisation{
		ID: v.ID, Name: v.Name, Credential: v.Credential, TechnicalContact: v.TechnicalContact, Timezone: v.Timezone,
		Owner: v.Owner, Concurrency: v.Concurrency,
		API:   org.API{ClientID: v.APIClientID, ClientSecret: secret.Text(v.APISecretHash)},
		Email: org.Email(v.Email),
		Webhook: org.Webhook{
			Enabled: v.Webhook.Enabled, URL: v.Webhook.URL, AppendORCID: v.Webhook.AppendORCID,
			Payload: v.Webhook.Payload, Events: v.Webhook.Events,
		},
	}
	for _, f := range []struct {
		to     *secret.Text
		field  string
		sealed string
	}{
		{&o.Webhook.APIKey, "apikey", v.Webhook.APIKey},
		{&o.Webhook.SigningSecret, "signing_secret", v.Webhook.SigningSecret},
		{&o.Webhook.OldSigningSecret, "old_signing_secret", v.Webhook.OldSigningSecret},
	} {
		var err error
		if *f.to, err = box.Open(orgUse(v.ID, f.field), f.sealed); err != nil {
			return nil, err
		}
	}
	for name, sealed := range v.Webhook.Headers {
		value, err := box.Open(orgUse(v.ID, "header/"+name), sealed)
		if err != nil {
			return nil, err
		}
		if o.Webhook.Headers == nil {
			o.Webhook.Headers = make(map[string]string, len(v.Webhook.Headers))
		}
		o.Webhook.Headers[name] = value.Reveal()
	}
	for ch, sealed := range v.Channels {
		where, err := box.Open(orgUse(v.ID, "channel/"+string(ch)), sealed)
		if err != nil {
			return nil, err
		}
		if o.Channels == nil {
			o.Channels = make(map[event.Channel]string, len(v.Channels))
		}
		o.Channels[ch] = where.Reveal()
	}
	for _, s := range v.Suspensions {
		o.Suspensions = append(o.Suspensions, org.Suspension(s))
	}
	for _, f := range v.Former {
		o.Former = append(o.Former, org.Former(f))
	}
	return o, nil
}

// Organisations returns every stored organisation by id. API.ClientSecret is
// the hash that CheckSecret takes, and may be saved again as it is.
func (s *Store) Organisations(ctx context.Context) ([]org.Organisation, error) {
	raws, err := s.hashAll(ctx, s.keys.orgs())
	if err != nil {
		return nil, fmt.Errorf("list organisations: %w", err)
	}
	out := make([]org.Organisation, 0, len(raws))
	for id, raw := range raws {
		o, err := s.readOrg(id, raw)
		if err != nil {
			return nil, err
		}
		out = append(out, *o)
	}
	slices.SortFunc(out, func(a, b org.Organisation) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Organisation is Organisations for one; nil when there is none.
func (s *Store) Organisation(ctx context.Context, id string) (*org.Organisation, error) {
	raw, err := s.hashGet(ctx, s.keys.orgs(), id)
	if err != nil {
		return nil, fmt.Errorf("read organisation %s: %w", id, err)
	}
	if raw == "" {
		return nil, nil
	}
	return s.readOrg(id, raw)
}

func (s *Store) readOrg(id, raw string) (*org.Organisation, error) {
	var v storedOrg
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		return nil, fmt.Errorf("read organisation %s: %w", id, err)
	}
	if v.ID != id {
		return nil, fmt.Errorf("read organisation %s: it says it is %q: %w", id, v.ID, ErrDamaged)
	}
	o, err := openOrg(s.box, &v)
	if err != nil {
		return nil, fmt.Errorf("read organisation %s: %w", id, err)
	}
	return o, nil
}

// SaveOrganisation writes an organisation; secrets are sealed and the API
// client's secret is hashed first. Its number is given before.
func (s *Store) SaveOrganisation(ctx context.Context, o org.Organisation) error {
	if !org.ValidID(o.ID) {
		return fmt.Errorf("save organisation: %q is not an id", o.ID)
	}
	if _, err := s.assigned(ctx, s.scripts.orgNumbers, s.keys.orgNumbers(), o.ID); err != nil {
		return fmt.Errorf("save organisation %s: %w", o.ID, err)
	}
	v, err := sealOrg(s.box, &o)
	if err != nil {
		return fmt.Errorf("save organisation %s: %w", o.ID, err)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("save organisation %s: %w", o.ID, err)
	}
	if err := s.do(ctx, s.hashCall(s.scripts.hashSet, s.keys.orgs(), o.ID, raw)); err != nil {
		return fmt.Errorf("save organisation %s: %w", o.ID, err)
	}
	return nil
}

// DeleteOrganisation forgets the settings of an organisation; one that is not
// there is no error. Its number stays reserved, so that a record which still
// names it is never read as another's.
func (s *Store) DeleteOrganisation(ctx context.Context, id string) error {
	if err := s.do(ctx, s.hashCall(s.scripts.hashDelete, s.keys.orgs(), id)); err != nil {
		return fmt.Errorf("delete organisation %s: %w", id, err)
	}
	return nil
}

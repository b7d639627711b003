package config

import (
	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/secret"
)

// organisation is [[organisation]] as it stands in the file; toOrg and fromOrg
// join it to org.Organisation, which knows nothing of files.
type organisation struct {
	ID               string            `toml:"id" example:"uni-a" doc:"Its slug: lower-case letters, digits and inner hyphens. Must be set."`
	Name             string            `toml:"name" example:"University A" doc:"Its name for people. Must be set."`
	Credential       string            `toml:"credential" example:"main" doc:"The ORCID credential that serves it. May be left out when there is only one."`
	TechnicalContact string            `toml:"technical_contact" example:"it@uni-a.example" doc:"Who is told when deliveries fail for long."`
	Timezone         string            `toml:"timezone" example:"Pacific/Auckland" doc:"An IANA name, for times in e-mails. Default: UTC."`
	Concurrency      int               `toml:"concurrency" example:"4" doc:"Deliveries at once per channel. Default: delivery.concurrency."`
	Webhook          orgWebhook        `toml:"webhook" doc:"Telling it by HTTP. May also be written webhook = { url = … }."`
	Email            orgEmail          `toml:"email" doc:"Telling it by e-mail."`
	Channels         map[string]string `toml:"channels" doc:"Where channels other than webhook and e-mail lead, by their names; naming one enables it. None comes with dispatchd. Values are treated as secrets."`
	API              orgAPI            `toml:"api" doc:"Its client of the Hub-compatible API."`
}

type orgWebhook struct {
	Enabled       bool              `toml:"enabled" example:"true" doc:"Default: true when url is set."`
	URL           string            `toml:"url" example:"https://uni-a.example/orcid" doc:"Where news is posted."`
	AppendORCID   bool              `toml:"append_orcid" doc:"true: the iD is appended to url, after one slash."`
	APIKey        secret.Text       `toml:"apikey" example:"uni-a.apikey" doc:"Sent as the header apikey. Default: none."`
	SigningSecret secret.Text       `toml:"signing_secret" example:"uni-a.whsec" doc:"Signs each POST (Standard Webhooks): whsec_ and base64 of 24 to 64 bytes. Default: generated; \"dispatchd org show --secrets\" shows it."`
	Headers       map[string]string `toml:"headers" example:"{ X-Source = 'orcid' }" doc:"More headers. Values are treated as secrets in logs."`
	Payload       string            `toml:"payload" doc:"\"standard\", or \"hub\": exactly the Hub's fields and naive times."`
	Events        []event.Type      `toml:"events" doc:"The events it is told."`
}

type orgEmail struct {
	Enabled    bool   `toml:"enabled" doc:"Needs [smtp]."`
	Address    string `toml:"address" example:"library@uni-a.example" doc:"Default: technical_contact."`
	CC         bool   `toml:"cc" doc:"true, with address: also to technical_contact."`
	Mode       string `toml:"mode" doc:"\"each\": a mail for every change; \"daily\" or \"weekly\": one for all that changed, at 08:00 every day or on Mondays, by timezone."`
	Monthly    bool   `toml:"monthly" doc:"true: a summary of the month before on the first of every month at 08:00."`
	MaxPerHour int    `toml:"max_per_hour" doc:"E-mails an hour at most; what is above waits."`
}

type orgAPI struct {
	ClientID     string      `toml:"client_id" example:"uni-a" doc:"The id it logs in with. Default: it has no API client."`
	ClientSecret secret.Text `toml:"client_secret" example:"uni-a.secret" doc:"Default: generated; \"dispatchd org show --secrets\" shows it."`
}

// defaultOrganisation is an organisation of which nothing is written.
func defaultOrganisation() organisation {
	return organisation{
		Webhook: orgWebhook{Payload: string(org.PayloadStandard), Events: []event.Type{event.Created, event.Updated}},
		Email:   orgEmail{Mode: string(org.Each), Monthly: true, MaxPerHour: 20},
	}
}

func (o *organisation) toOrg() org.Organisation {
	return org.Organisation{
		ID: o.ID, Name: o.Name, Credential: o.Credential, TechnicalContact: o.TechnicalContact,
		Timezone: o.Timezone, Concurrency: o.Concurrency, Owner: org.OwnedByFile,
		Webhook: org.Webhook{
			Enabled: o.Webhook.Enabled, URL: o.Webhook.URL, AppendORCID: o.Webhook.AppendORCID,
			APIKey: o.Webhook.APIKey, SigningSecret: o.Webhook.SigningSecret, Headers: o.Webhook.Headers,
			Payload: org.Payload(o.Webhook.Payload), Events: o.Webhook.Events,
		},
		Email: org.Email{
			Enabled: o.Email.Enabled, Address: o.Email.Address, CC: o.Email.CC, Mode: org.Mode(o.Email.Mode),
			Monthly: o.Email.Monthly, MaxPerHour: o.Email.MaxPerHour,
		},
		Channels: furtherChannels[event.Channel](o.Channels),
		API:      org.API{ClientID: o.API.ClientID, ClientSecret: o.API.ClientSecret},
	}
}

func fromOrg(o *org.Organisation) organisation {
	return organisation{
		ID: o.ID, Name: o.Name, Credential: o.Credential, TechnicalContact: o.TechnicalContact,
		Timezone: o.Timezone, Concurrency: o.Concurrency,
		Webhook: orgWebhook{
			Enabled: o.Webhook.Enabled, URL: o.Webhook.URL, AppendORCID: o.Webhook.AppendORCID,
			APIKey: o.Webhook.APIKey, SigningSecret: o.Webhook.SigningSecret, Headers: o.Webhook.Headers,
			Payload: string(o.Webhook.Payload), Events: o.Webhook.Events,
		},
		Email: orgEmail{
			Enabled: o.Email.Enabled, Address: o.Email.Address, CC: o.Email.CC, Mode: string(o.Email.Mode),
			Monthly: o.Email.Monthly, MaxPerHour: o.Email.MaxPerHour,
		},
		Channels: furtherChannels[string](o.Channels),
		API:      orgAPI{ClientID: o.API.ClientID, ClientSecret: o.API.ClientSecret},
	}
}

// furtherChannels copies names and where they lead; nothing stays nil, since
// settings are compared.
func furtherChannels[To, From ~string](from map[From]string) map[To]string {
	if len(from) == 0 {
		return nil
	}
	to := make(map[To]string, len(from))
	for name, where := range from {
		to[To(name)] = where
	}
	return to
}

package hubapi

import (
	"cmp"
	"net/http"
	"strings"

	"dispatchd/internal/org"
	"dispatchd/internal/service"
)

// settingsBody is the organisation's settings in the Hub's words. What is not
// set is left out.
type settingsBody struct {
	Enabled     bool   `json:"enabled"`
	URL         string `json:"url,omitempty"`
	AppendORCID bool   `json:"append-orcid"`
	Email       bool   `json:"email-notifications-enabled"`
	Address     string `json:"notification-email,omitempty"`
	JobID       string `json:"job-id,omitempty"`
}

// changeBody is what a client sends; what is missing or null stays as it is.
type changeBody struct {
	Enabled     *bool   `json:"enabled"`
	URL         *string `json:"url"`
	AppendORCID *bool   `json:"append-orcid"`
	APIKey      *string `json:"apikey"`
	Email       *bool   `json:"email-notifications-enabled"`
	Address     *string `json:"notification-email"`
}

// hubKeys are the Hub's words for our settings.
var hubKeys = map[string]string{
	"webhook.enabled": "enabled", "webhook.url": "url", "webhook.append_orcid": "append-orcid", "webhook.apikey": "apikey",
	"email.enabled": "email-notifications-enabled", "email.address": "notification-email",
}

// hubWords puts them into the words of a problem.
var hubWords = strings.NewReplacer("webhook.enabled", "enabled", "email.enabled", "email-notifications-enabled")

// bodyOf shows an address that has not confirmed yet as if it were set: that is
// what the client asked for. Nothing is mailed to it before.
func bodyOf(v service.View) settingsBody {
	return settingsBody{
		Enabled: v.Webhook.Enabled, URL: v.Webhook.URL, AppendORCID: v.Webhook.AppendORCID,
		Email: v.Email.Enabled, Address: cmp.Or(v.Email.Pending, v.Email.Address),
	}
}

// settings shows the organisation's settings.
func (a *API) settings(w http.ResponseWriter, c *call) error {
	v, err := a.o.Service.Organisation(c.Context(), c.org)
	if err != nil {
		return err
	}
	a.send(w, c, http.StatusOK, bodyOf(v))
	return nil
}

// change changes the settings that were sent; PUT, POST and PATCH are the same.
// The answer is 201 when `enabled` switched the webhook on.
func (a *API) change(w http.ResponseWriter, c *call) error {
	var in changeBody
	if _, err := decode(w, c, &in, false); err != nil {
		return err
	}
	if in.URL == nil && c.route.callback != "" {
		in.URL = &c.route.callback
	}
	if in.URL != nil && *in.URL != "" {
		if err := org.ValidURL(*in.URL); err != nil {
			return badCallback(*in.URL, err)
		}
	}
	before, err := a.o.Service.Organisation(c.Context(), c.org)
	if err != nil {
		return err
	}
	after := before
	if patch, some := settingsOf(in, before); some {
		if after, err = a.o.Service.SaveOwn(c.Context(), c.by(), c.org, patch); err != nil {
			return err
		}
	}
	out := bodyOf(after)
	if before.Webhook.Enabled != after.Webhook.Enabled || before.Email.Enabled != after.Email.Enabled {
		if out.JobID, err = a.o.Service.Applying(c.Context(), c.org); err != nil {
			return err
		}
	}
	status := http.StatusOK
	if !before.Webhook.Enabled && in.Enabled != nil && *in.Enabled {
		status = http.StatusCreated
	}
	a.send(w, c, status, out)
	return nil
}

// settingsOf are the settings to be changed, and whether there are any.
func settingsOf(in changeBody, before service.View) (service.Settings, bool) {
	url, email := before.Webhook.URL, before.Email.Enabled
	if in.URL != nil {
		url = *in.URL
	}
	if in.Email != nil {
		email = *in.Email
	}
	// The Hub's `enabled` was for both channels. Without a URL it can only have
	// meant e-mail, which has a switch of its own.
	if in.Enabled != nil && *in.Enabled && url == "" && email {
		in.Enabled = nil
	}
	return service.Settings{
		Webhook: &service.WebhookSettings{Enabled: in.Enabled, URL: in.URL, AppendORCID: in.AppendORCID, APIKey: in.APIKey},
		Email:   &service.EmailSettings{Enabled: in.Email, Address: in.Address},
	}, in != changeBody{}
}

// disable switches the webhook off; a URL in the path is not looked at. E-mail
// stays as it is.
func (a *API) disable(w http.ResponseWriter, c *call) error {
	before, err := a.o.Service.Organisation(c.Context(), c.org)
	if err != nil {
		return err
	}
	if !before.Webhook.Enabled {
		a.send(w, c, http.StatusNoContent, nil)
		return nil
	}
	off := false
	patch := service.Settings{Webhook: &service.WebhookSettings{Enabled: &off}}
	if _, err := a.o.Service.PatchOrganisation(c.Context(), c.by(), c.org, patch); err != nil {
		return err
	}
	job, err := a.o.Service.Applying(c.Context(), c.org)
	if err != nil {
		return err
	}
	a.send(w, c, http.StatusOK, jobBody{JobID: job})
	return nil
}

// jobBody names the job that does what was asked for.
type jobBody struct {
	JobID string `json:"job-id"`
}

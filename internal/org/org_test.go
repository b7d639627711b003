package org

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/secret"
)

func good() Organisation {
	return Organisation{
		ID: "uni-a", Name: "University A", TechnicalContact: "it@uni-a.example",
		Webhook: Webhook{Enabled: true, URL: "https://uni-a.example/orcid"},
	}
}

func TestValidateNamesEveryBadKey(t *testing.T) {
	t.Parallel()
	if o := good(); o.Validate() != nil {
		t.Fatalf("a good organisation is refused: %v", o.Validate())
	}
	for key, spoil := range map[string]func(*Organisation){
		"id":                     func(o *Organisation) { o.ID = "Uni A" },
		"name":                   func(o *Organisation) { o.Name = " " },
		"technical_contact":      func(o *Organisation) { o.TechnicalContact = "IT <it@uni-a.example>" },
		"timezone":               func(o *Organisation) { o.Timezone = "Mars/Olympus" },
		"webhook.url":            func(o *Organisation) { o.Webhook.URL = "" },
		"webhook.apikey":         func(o *Organisation) { o.Webhook.APIKey = "a\r\nX-Evil: 1" },
		"webhook.signing_secret": func(o *Organisation) { o.Webhook.SigningSecret = "whsec_c2hvcnQ=" },
		"api.client_id":          func(o *Organisation) { o.API.ClientID = "a\nb" },
		"webhook.headers":        func(o *Organisation) { o.Webhook.Headers = map[string]string{"Webhook-Signature": "v1,x"} },
		"webhook.payload":        func(o *Organisation) { o.Webhook.Payload = "xml" },
		"webhook.events":         func(o *Organisation) { o.Webhook.Events = []event.Type{"BORN"} },
		"email.address":          func(o *Organisation) { o.Email.Address = "a@b\nBcc: x@y" },
		"email.mode":             func(o *Organisation) { o.Email.Mode = "hourly" },
		"email.max_per_hour":     func(o *Organisation) { o.Email.MaxPerHour = -1 },
		"concurrency":            func(o *Organisation) { o.Concurrency = -1 },
	} {
		o := good()
		spoil(&o)
		err := o.Validate()
		if !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), key+":") {
			t.Errorf("%s: got %v", key, err)
		}
	}
	bad := Organisation{Webhook: Webhook{Enabled: true}}
	var invalid *Invalid
	if !errors.As(bad.Validate(), &invalid) || len(invalid.Problems) != 3 {
		t.Errorf("all problems at once: %v", bad.Validate())
	}
}

// TestFormerCredentialsAreKept once each, and never the present one.
func TestFormerCredentialsAreKept(t *testing.T) {
	t.Parallel()
	at := func(h int) time.Time { return time.Date(2026, 11, 26, h, 0, 0, 0, time.UTC) }
	var o Organisation
	for h, to := range []string{"a", "b", "b", "a", "c", "b"} {
		o.Former = o.Moved(to, at(h))
		o.Credential = to
	}
	want := []Former{{"a", at(4)}, {"c", at(5)}}
	if !slices.Equal(o.Former, want) {
		t.Errorf("former credentials %v, want %v", o.Former, want)
	}
	if !o.ServedBefore("a", at(4)) || o.ServedBefore("a", at(5)) || o.ServedBefore("b", at(1)) || o.ServedBefore("d", at(1)) {
		t.Error("who served whom before is wrong")
	}
}

func TestValidateBoundsTheSecretAndTheHeaders(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"nothing", "whsec_", "whsec_%%%", base64.StdEncoding.EncodeToString(make([]byte, 32)), "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65))} {
		o := good()
		o.Webhook.SigningSecret = secret.Text(bad)
		if err := o.Validate(); err == nil || len(bad) > 6 && strings.Contains(err.Error(), bad) {
			t.Errorf("signing secret %q: %v", bad, err)
		}
	}
	o := good()
	o.Webhook.Events = []event.Type{}
	if err := o.Validate(); err == nil {
		t.Error("a webhook that is told of nothing is accepted")
	}
	o = good()
	o.Webhook.SigningSecret = secret.Text("whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32)))
	o.Webhook.Headers = map[string]string{"X-Big": strings.Repeat("a", maxHeaders-5)}
	if err := o.Validate(); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	o.Webhook.Headers["Y"] = ""
	if err := o.Validate(); err == nil {
		t.Error("headers above the limit are accepted")
	}
}

func TestValidURL(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"https://a.example/x?y=1", "http://127.0.0.1:8080", "https://[2001:db8::1]/", "https://a_b.example./", "https://exämple.example/", "http://hooks:8080/", "HTTP://A.example/"} {
		if err := ValidURL(u); err != nil {
			t.Errorf("%s refused: %v", u, err)
		}
	}
	for _, u := range []string{
		"ftp://a.example", "file:///etc/passwd", "//a.example", "a.example/x", "https://", "https://u:p@a.example/",
		"https://a.example/\r\nX: 1", "https://a.example/#f", "https://a.example:99999/", "https://a b.example/",
		"https://a.example/" + strings.Repeat("x", 2048), "javascript:alert(1)",
		// What delivery would refuse each time is refused when it is entered.
		"http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1./", "http://127.1/", "http://256.1.1.1/", "http://0/", "http://①②⑦.⓪.⓪.①/",
		"http://<script>/", "http://*.example/", "http://a..example/", "http://.example/", "http://./", "http://" + strings.Repeat("a", 64) + ".example/", "http://a!b.example/",
	} {
		if ValidURL(u) == nil {
			t.Errorf("%q was accepted", u)
		}
	}
}

func TestWantsFollowsEventsAndChannels(t *testing.T) {
	t.Parallel()
	o := good()
	o.Webhook.Events = []event.Type{event.Created}
	if !o.Wants(event.Webhook, event.Created) || o.Wants(event.Webhook, event.Updated) || o.Wants(event.Email, event.Updated) {
		t.Error("webhook.events or email.enabled is not followed")
	}
	o.Email.Enabled = true
	if !o.Wants(event.Email, event.Updated) {
		t.Error("enabled e-mail does not want UPDATED")
	}
}

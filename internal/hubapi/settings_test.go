package hubapi

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"dispatchd/internal/org"
)

var jobRE = regexp.MustCompile(`"job-id":"[A-Za-z0-9_-]+"`)

// step is a request and its answer; J stands for a job's id.
type step struct {
	method, path, in string
	status           int
	want             string
}

func (c client) steps(list []step) {
	c.Helper()
	for _, s := range list {
		a := c.want(s.status, "-", s.method, s.path, s.in)
		if got := jobRE.ReplaceAllString(strings.TrimSpace(a.body), `"job-id":"J"`); s.want != "-" && got != s.want {
			c.Errorf("%s %s %s:\n got %s\nwant %s", s.method, s.path, s.in, got, s.want)
		}
	}
}

func TestSettingsAsTheHubHadThem(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.as("uni-a").steps([]step{
		{"GET", "/api/v1/webhook", "", 200, `{"enabled":false,"append-orcid":false,"email-notifications-enabled":false}`},
		{"PUT", "/api/v1/webhook", `{"url":"https://a.example/x","append-orcid":true,"apikey":"` + apikey + `"}`, 200, `{"enabled":false,"url":"https://a.example/x","append-orcid":true,"email-notifications-enabled":false}`},
		// 201 exactly when `enabled` switched it on.
		{"POST", "/api/v1/webhook", `{"enabled":true}`, 201, `{"enabled":true,"url":"https://a.example/x","append-orcid":true,"email-notifications-enabled":false,"job-id":"J"}`},
		{"PATCH", "/api/v1/webhook/", `{"enabled":true}`, 200, `{"enabled":true,"url":"https://a.example/x","append-orcid":true,"email-notifications-enabled":false}`},
		{"PATCH", "/api/v1.0/webhook", `{"email-notifications-enabled":true,"notification-email":"new@a.example"}`, 200, `{"enabled":true,"url":"https://a.example/x","append-orcid":true,"email-notifications-enabled":true,"notification-email":"new@a.example","job-id":"J"}`},
		// In the Hub this enabled the webhook (§5.4 no. 27).
		{"PATCH", "/api/v1/webhook", `{"enabled":false,"email-notifications-enabled":true}`, 200, `{"enabled":false,"url":"https://a.example/x","append-orcid":true,"email-notifications-enabled":true,"notification-email":"new@a.example","job-id":"J"}`},
		{"PUT", "/api/v1/webhook/https%3A%2F%2Fa.example%2Fy%3Fq%3D1", `{"enabled":true}`, 201, `{"enabled":true,"url":"https://a.example/y?q=1","append-orcid":true,"email-notifications-enabled":true,"notification-email":"new@a.example","job-id":"J"}`},
		{"PUT", "/api/v1/webhook/https://a.example/z/", ``, 200, `{"enabled":true,"url":"https://a.example/z/","append-orcid":true,"email-notifications-enabled":true,"notification-email":"new@a.example"}`},
		{"PUT", "/api/v1/webhook/https:/a.example/merged", ``, 200, `{"enabled":true,"url":"https://a.example/merged","append-orcid":true,"email-notifications-enabled":true,"notification-email":"new@a.example"}`},
		{"PUT", "/api/v1/webhook/https%253A%252F%252Fa.example%252Ftwice", ``, 200, `{"enabled":true,"url":"https://a.example/twice","append-orcid":true,"email-notifications-enabled":true,"notification-email":"new@a.example"}`},
		{"PUT", "/api/v1/webhook/https%3A%2F%2Fa.example%2Fpath", `{"url":"https://a.example/body"}`, 200, `{"enabled":true,"url":"https://a.example/body","append-orcid":true,"email-notifications-enabled":true,"notification-email":"new@a.example"}`},
		{"PUT", "/api/v1/webhook/undefined", `{"append-orcid":false}`, 200, `{"enabled":true,"url":"https://a.example/body","append-orcid":false,"email-notifications-enabled":true,"notification-email":"new@a.example"}`},
		{"PUT", "/api/v1/webhook", `{"url":null,"enabled":null,"something-else":[1]}`, 200, `{"enabled":true,"url":"https://a.example/body","append-orcid":false,"email-notifications-enabled":true,"notification-email":"new@a.example"}`},
		{"DELETE", "/api/v1/webhook/https%3A%2F%2Fignored.example", ``, 200, `{"job-id":"J"}`},
		{"DELETE", "/api/v1/webhook", ``, 204, ``},
		{"GET", "/api/v1/webhook/", "", 200, `{"enabled":false,"url":"https://a.example/body","append-orcid":false,"email-notifications-enabled":true,"notification-email":"new@a.example"}`},
		{"PATCH", "/api/v1/webhook", `{"url":"","email-notifications-enabled":false,"notification-email":""}`, 200, `{"enabled":false,"append-orcid":false,"email-notifications-enabled":false,"job-id":"J"}`},
		// With the Hub, `enabled` without a URL meant e-mail.
		{"PATCH", "/api/v1/webhook", `{"enabled":true,"email-notifications-enabled":true}`, 201, `{"enabled":false,"append-orcid":false,"email-notifications-enabled":true,"job-id":"J"}`},
	})
	b.as("uni-b").steps([]step{
		{"GET", "/api/v1/webhook", "", 200, `{"enabled":false,"append-orcid":false,"email-notifications-enabled":false}`},
	})
	v, err := b.svc.Secrets(context.Background(), operator, "uni-a")
	b.must(err)
	if v["apikey"] != apikey {
		t.Errorf("the API key was not kept")
	}
}

func TestBadSettingsChangeNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.as("uni-a")
	c.want(201, "-", "PUT", "/api/v1/webhook", `{"enabled":true,"url":"https://a.example/x"}`)
	before := c.want(200, "-", "GET", "/api/v1/webhook", "").body
	url := func(u, why string) string {
		raw, err := json.Marshal(map[string]string{"error": "Invalid call-back URL", "message": "Invalid call-back URL: " + u, "reason": why})
		b.must(err)
		return string(raw)
	}
	c.steps([]step{
		{"PUT", "/api/v1/webhook", `{"url":"ftp://a.example"}`, 415, url("ftp://a.example", `must start with https:// or http:// (got scheme "ftp")`)},
		{"PUT", "/api/v1/webhook", `{"url":"no url","append-orcid":true}`, 415, url("no url", "must not have spaces or control characters")},
		{"PUT", "/api/v1/webhook", `{"url":"https://u:p@a.example/"}`, 415, url("https://u:p@a.example/", "must not have a user name or password; use webhook.headers or webhook.apikey")},
		{"PUT", "/api/v1/webhook/somewhere", ``, 415, url("somewhere", `must start with https:// or http:// (got scheme "")`)},
		{"PUT", "/api/v1/webhook/https://a.example/x?token=1", ``, 415, url("https://a.example/x", "a ? inside it must be written %3F")},
		{"PUT", "/api/v1/webhook", `{"url":""}`, 400, `{"error":"Invalid request","message":"url: must be set while enabled is true"}`},
		{"PUT", "/api/v1/webhook", `{"notification-email":"A \u003ca@b.example\u003e"}`, 400, `{"error":"Invalid request","message":"notification-email: is not a plain e-mail address (got \"A \u003ca@b.example\u003e\")"}`},
		{"PUT", "/api/v1/webhook", `{"apikey":"a\r\nX: y"}`, 400, `{"error":"Invalid request","message":"apikey: must have at most 1024 bytes and no control characters"}`},
		{"PUT", "/api/v1/webhook", `{"enabled":"yes"}`, 400, `-`},
		{"PUT", "/api/v1/webhook", `[]`, 400, `-`},
		{"PUT", "/api/v1/webhook", `{"enabled":false} {}`, 400, `{"error":"Invalid request","message":"Something follows after the JSON value."}`},
		{"PUT", "/api/v1/webhook", `{"enabled":false`, 400, `-`},
		{"PUT", "/api/v1/webhook", `{"url":"` + strings.Repeat("x", maxBody) + `"}`, 413, `{"error":"Request too large","message":"Send at most 65536 bytes."}`},
		{"GET", "/api/v1/webhook/https%3A%2F%2Fa.example", ``, 405, `-`},
		{"GET", "/api/v1/nothing", ``, 404, `-`},
		{"GET", "/api/v2/webhook", ``, 404, `-`},
		{"GET", "/api", ``, 404, `-`},
		{"GET", "/api/v1/users", ``, 404, `-`},
		{"GET", "/api/v1/webhook", ``, 200, strings.TrimSpace(before)},
	})
	a := c.want(415, "-", "PUT", "/api/v1/webhook", "enabled=false", "Content-Type", form)
	if !strings.Contains(a.body, "application/json") {
		t.Error(a.body)
	}
	if a := c.want(405, "-", "TRACE", "/api/v1/webhook", ""); a.Header.Get("Allow") != "DELETE, GET, HEAD, PATCH, POST, PUT, OPTIONS" {
		t.Errorf("Allow: %s", a.Header.Get("Allow"))
	}
	if a := c.want(204, "", "OPTIONS", "/api/v1/webhook", ""); a.Header.Get("Allow") == "" {
		t.Error("OPTIONS without Allow")
	}
	if a := b.send("GET", "/elsewhere", ""); a.code != http.StatusTeapot {
		t.Errorf("a path of others: %d", a.code)
	}
}

func TestOnlyATokenOpensAnything(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.as("uni-a")
	for name, header := range map[string]string{
		"none": "", "basic": "Basic eDp5", "no token": "Bearer", "empty": "Bearer  ", "wrong": "Bearer uni-a." + strings.Repeat("x", 43),
		"other organisation's name": "Bearer uni-b" + c.token[len("uni-a"):], "cut": "Bearer " + c.token[:len(c.token)-1],
	} {
		for path, verbs := range endpoints {
			if path == routeToken || path == routeOpenAPI {
				continue
			}
			for verb := range verbs {
				p := strings.NewReplacer("{orcid}", josiah, "{callback_url}", "https%3A%2F%2Fa.example").Replace(path)
				a := b.send(verb, p, "", "Authorization", header)
				challenge := a.Header.Get("WWW-Authenticate")
				if a.code != 401 && a.code != 429 || a.Header.Get("Content-Type") != "application/json" || a.code == 401 && !strings.HasPrefix(challenge, `Bearer realm="dispatchd"`) {
					t.Errorf("%s: %s %s: %d %s %v", name, verb, p, a.code, a.body, a.Header)
				}
				b.now.Add(1000)
			}
		}
	}
	a := b.send("GET", "/api/v1/webhook", "", "Authorization", "bearer "+c.token)
	if a.code != 200 {
		t.Errorf("the scheme's case counts: %d", a.code)
	}
}

func TestOrganisationsOfTheFileAreReadOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.svc.ApplyFile(context.Background(), operator, []org.Organisation{{
		ID: "uni-f", Name: "F", Credential: "main", API: org.API{ClientID: "client-uni-f", ClientSecret: secretA + "f"},
		Webhook: org.Webhook{Enabled: true, URL: "https://f.example/x"},
	}})
	b.must(err)
	c := client{b, b.token("uni-f", secretA+"f")}
	c.steps([]step{
		{"GET", "/api/v1/webhook", "", 200, `{"enabled":true,"url":"https://f.example/x","append-orcid":false,"email-notifications-enabled":false}`},
		{"PUT", "/api/v1/webhook", `{"enabled":false}`, 403, `{"error":"Read only","message":"The settings of this organisation stand in the hub's configuration file. Ask the hub's operator to change them."}`},
		{"DELETE", "/api/v1/webhook", ``, 403, `-`},
		{"PUT", "/api/v1/users/" + josiah, `{"name":"Josiah"}`, 201, `-`},
		{"POST", "/api/v1/webhook/test", ``, 200, `-`},
	})
	// The same file again changes nothing, so the token goes on working.
	changes, err := b.svc.ApplyFile(context.Background(), operator, []org.Organisation{{
		ID: "uni-f", Name: "F", Credential: "main", API: org.API{ClientID: "client-uni-f", ClientSecret: secretA + "f"},
		Webhook: org.Webhook{Enabled: true, URL: "https://f.example/x"},
	}})
	b.must(err)
	if len(changes) != 0 {
		t.Errorf("changes: %v", changes)
	}
	c.want(200, "-", "GET", "/api/v1/webhook", "")
}

// TestAnotherAddressHasToConfirm: a client cannot have us mail anybody.
func TestAnotherAddressHasToConfirm(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.as("uni-a").steps([]step{{"PATCH", "/api/v1/webhook", `{"notification-email":"victim@b.example"}`, 200, "-"}})
	v, err := b.svc.Organisation(t.Context(), "uni-a")
	b.must(err)
	if v.Email.Address != "" || v.Email.Pending != "victim@b.example" {
		t.Errorf("%+v", v.Email)
	}
}

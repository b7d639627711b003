package sim

import (
	"encoding/xml"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/orcid"
)

const unknown = "0000-0002-1825-0097" // a right iD that is not in the registry

func TestWebhookAnswersToTheByte(t *testing.T) {
	b := setup(t)
	id := b.profile()
	uri := "https://h.example/x?a=b&c=<d>"
	good := "https://h.example/x"
	two := b.token("two")
	noScope, err := b.r.IssueToken("one", []string{"/read-public"}, orcid.ID{})
	must(t, err)
	pub := b.token("pub")
	const more = `,"more-info":"https://members.orcid.org/api/resources/troubleshooting"}`
	for _, c := range []struct {
		name, method, tok, path string
		status                  int
		body                    string
	}{
		{"new", "PUT", b.tok, hookPath(id, good), 201, ""},
		{"existing", "PUT", b.tok, hookPath(id, good), 204, ""},
		{"another client's", "PUT", two, hookPath(id, good), 204, ""},
		{
			"another client's", "DELETE", two, hookPath(id, good), 403,
			`{"response-code":403,"developer-message":"The client application is forbidden to perform the action. Full validation error: Unable to unregister webhook: Only the client that register the webhook can unregister it.","user-message":"The client application is forbidden to perform the action.","error-code":9014` + more,
		},
		{"own", "DELETE", b.tok, hookPath(id, good), 204, ""},
		{
			"unknown", "DELETE", b.tok, hookPath(id, good), 404,
			`{"response-code":404,"developer-message":"No webhook found for orcid=` + id.String() + `, and uri=https://h.example/x.","user-message":"The resource was not found.","error-code":9028` + more,
		},
		{
			"unknown iD", "PUT", b.tok, "/" + unknown + "/webhook/x", 404,
			`{"response-code":404,"developer-message":"404 Not Found: The ORCID record or item was not found.","user-message":"The resource was not found.","error-code":9011` + more,
		},
		{
			"unknown iD", "DELETE", b.tok, "/" + unknown + "/webhook/x", 404,
			`{"response-code":404,"developer-message":"404 Not Found: The ORCID record or item was not found.","user-message":"The resource was not found.","error-code":9011` + more,
		},
		{"wrong check digit is an unknown iD", "PUT", b.tok, "/0000-0002-1825-0098/webhook/x", 404, "*9011"},
		{
			"bad URI", "PUT", b.tok, hookPath(id, "http://h/a b"), 400,
			`{"response-code":400,"developer-message":"The client application made a bad request to the ORCID API. Full validation error: Webhook uri: http://h/a b is syntactically incorrect","user-message":"The client application made a bad request to the ORCID API.","error-code":9012` + more,
		},
		{"bad URI before unknown iD", "PUT", b.tok, "/" + unknown + "/webhook/%3A", 400, "*9012"},
		{"bad URI is not checked by DELETE", "DELETE", b.tok, hookPath(id, "http://h/a b"), 404, "*9028"},
		{"not escaped for HTML", "DELETE", b.tok, hookPath(id, uri), 404, "*uri=https://h.example/x?a=b&c=<d>."},
		{
			"no scope", "PUT", noScope, hookPath(id, good), 403,
			`{"response-code":403,"developer-message":"409 Conflict: The item has a limited or private visibility and your request doesn't have the required scope.","user-message":"You don't have the permissions to execute this action.","error-code":9038` + more,
		},
		{"no scope before bad URI", "PUT", noScope, "/" + unknown + "/webhook/%3A", 403, "*9038"},
		{
			"public client", "PUT", pub, hookPath(id, good), 401,
			`{"response-code":401,"developer-message":"401 Unauthorized: The client application is not authorized for this ORCID record. Full validation error: The client application is forbidden to perform the action.","user-message":"The client application is not authorized.","error-code":9017` + more,
		},
		{"unknown token", "PUT", "5eb23750", hookPath(id, good), 401, `{"error":"invalid_token","error_description":"Invalid access token: 5eb23750"}`},
		{"unknown token before the route", "PUT", "5eb23750", "/x/webhook/y", 401, "*invalid_token"},
		{"no token", "PUT", "", hookPath(id, good), 403, `{"error":"forbidden","error_description":"Forbidden: The server understood the request but refuses to authorize it."}`},
		{"iD without hyphens", "PUT", b.tok, "/0000000218250097/webhook/x", 302, ""},
		{"lower-case x", "PUT", b.tok, "/0000-0002-1694-233x/webhook/x", 302, ""},
		{"two segments", "PUT", b.tok, "/" + id.String() + "/webhook/http://h/x", 404, "*9016"},
		{"GET", "GET", b.tok, hookPath(id, good), 405, ""},
	} {
		headers := []string{"Accept", "application/json"}
		if c.tok != "" {
			headers = append(headers, "Authorization", "Bearer "+c.tok)
		}
		got := b.do(c.method, c.path, "", headers...)
		part, ok := strings.CutPrefix(c.body, "*")
		if got.status != c.status || ok && !strings.Contains(got.body, part) || !ok && got.body != c.body {
			t.Errorf("%s %s (%s) answered\n%d %s\nwant\n%d %s", c.method, c.name, c.path, got.status, got.body, c.status, c.body)
		}
		location := got.header.Get("Location")
		switch {
		case c.status == 201 && location != b.http.URL+c.path:
			t.Errorf("%s: Location is %q", c.name, location)
		case c.status == 302 && location != b.http.URL+"/v3.0"+c.path:
			t.Errorf("%s: redirect to %q", c.name, location)
		case c.status == 401 || c.status == 403:
			want := "application/json;charset=UTF-8"
			if strings.Contains(got.body, "response-code") {
				want = "application/json"
			}
			if kind := got.header.Get("Content-Type"); kind != want {
				t.Errorf("%s: Content-Type is %q, want %q", c.name, kind, want)
			}
		}
	}
	requests := b.r.Counters().Requests
	if requests["put"][201] != 1 || requests["put"][204] != 2 || requests["delete"][403] != 1 || requests["other"][302] != 2 {
		t.Errorf("counted %v", requests)
	}
}

func TestWebhookErrorsAreXMLUnlessJSONIsAskedFor(t *testing.T) {
	b := setup(t)
	for _, accept := range []string{"", "*/*", "application/xml", "application/vnd.orcid+xml, application/json"} {
		headers := []string{"Authorization", "Bearer " + b.tok}
		if accept != "" {
			headers = append(headers, "Accept", accept)
		}
		got := b.do("PUT", "/"+unknown+"/webhook/x", "", headers...)
		var e struct {
			XMLName xml.Name `xml:"http://www.orcid.org/ns/error error"`
			Code    int      `xml:"error-code"`
		}
		if err := xml.Unmarshal([]byte(got.body), &e); err != nil || e.Code != 9011 || got.header.Get("Content-Type") != "application/xml" {
			t.Errorf("Accept %q answered %s %s", accept, got.header.Get("Content-Type"), got.body)
		}
	}
}

func TestTheStatesOfARecordDoNotKeepFromRegistering(t *testing.T) {
	b := setup(t)
	other := b.profile()
	for name, f := range map[string]func(orcid.ID) error{
		"locked": b.r.Lock, "deactivated": b.r.Deactivate,
		"deprecated": func(id orcid.ID) error { return b.r.Deprecate(id, other) },
		"unclaimed":  func(id orcid.ID) error { return b.r.SetClaimed(id, false) },
	} {
		id := b.profile()
		must(t, f(id))
		t.Log(name)
		b.put(b.tok, id, "https://h.example/x", 201)
		b.del(b.tok, id, "https://h.example/x", 204)
	}
}

// Fact 7: the row belongs to whoever put it first, and the others go silent
// with that client.
func TestTheFirstPutOwnsTheRow(t *testing.T) {
	b := setup(t)
	two := b.token("two")
	id := b.hooked()
	b.put(two, id, b.uri(id), 204)
	if h := b.hook(id); h.Client != "one" {
		t.Fatalf("the row is %+v", h)
	}
	must(t, b.r.DeactivateClient("one", true))
	b.change(id)
	b.r.Advance(time.Hour)
	b.pings(0, "the owner is deactivated")
	b.del(two, id, b.uri(id), 403)
	b.del(b.tok, id, b.uri(id), 204)
	b.put(two, id, b.uri(id), 201)
	b.change(id)
	b.r.Advance(time.Hour)
	b.pings(1, "the other client's own row")
}

var uuidRE = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)

func TestToken(t *testing.T) {
	b := setup(t)
	must(t, b.r.AddClient(Client{ID: "off", Secret: "s"}))
	must(t, b.r.DeactivateClient("off", true))
	must(t, b.r.AddClient(Client{ID: "reader", Secret: "s", Scopes: []string{"/read-public"}}))
	const formType = "application/x-www-form-urlencoded"
	form := func(kv ...string) string {
		v := url.Values{}
		for i := 0; i < len(kv); i += 2 {
			v.Set(kv[i], kv[i+1])
		}
		return v.Encode()
	}
	for _, c := range []struct {
		name, kind, body string
		basic            [2]string
		status           int
		want             string
	}{
		{"good", formType, form("client_id", "one", "client_secret", "s1", "grant_type", "client_credentials", "scope", "/webhook"), [2]string{}, 200, `{"access_token":"UUID","token_type":"bearer","refresh_token":"UUID","expires_in":631138518,"scope":"/webhook","orcid":null}`},
		{"two scopes, Basic", formType + "; charset=utf-8", form("grant_type", "client_credentials", "scope", "/webhook /read-public"), [2]string{"one", "s1"}, 200, `{"access_token":"UUID","token_type":"bearer","refresh_token":"UUID","expires_in":631138518,"scope":"/webhook /read-public","orcid":null}`},
		{"JSON", "application/json", `{"client_id":"one"}`, [2]string{}, 415, ""},
		{"wrong secret", formType, form("client_id", "one", "client_secret", "no", "grant_type", "client_credentials", "scope", "/webhook"), [2]string{}, 401, `{"error_description":"Client authentication failed","error":"invalid_client"}`},
		{"unknown client", formType, form("client_id", "nobody", "client_secret", "no", "grant_type", "client_credentials", "scope", "/webhook"), [2]string{}, 401, `{"error_description":"Client authentication failed","error":"invalid_client"}`},
		{"no grant type", formType, form("client_id", "one", "client_secret", "s1", "scope", "/webhook"), [2]string{}, 400, `{"error":"unsupported_grant_type","error_description":"Unsupported grant type: "}`},
		{"not entitled", formType, form("client_id", "reader", "client_secret", "s", "grant_type", "client_credentials", "scope", "/webhook"), [2]string{}, 400, `{"error":"invalid_scope","error_description":"Invalid scope: /webhook"}`},
		{"deactivated", formType, form("client_id", "off", "client_secret", "s", "grant_type", "client_credentials", "scope", "/webhook"), [2]string{}, 400, `{"error":"unauthorized_client","error_description":"The client application is deactivated."}`},
	} {
		headers := []string{"Content-Type", c.kind}
		if c.basic[0] != "" {
			req := http.Request{Header: http.Header{}}
			req.SetBasicAuth(c.basic[0], c.basic[1])
			headers = append(headers, "Authorization", req.Header.Get("Authorization"))
		}
		got := b.do("POST", "/oauth/token", c.body, headers...)
		if body := uuidRE.ReplaceAllString(got.body, "UUID"); got.status != c.status || body != c.want {
			t.Errorf("%s answered\n%d %s\nwant\n%d %s", c.name, got.status, body, c.status, c.want)
		}
	}
	if got := b.do("GET", "/oauth/token", ""); got.status != 405 {
		t.Errorf("GET /oauth/token answered %d", got.status)
	}
}

func TestTokensEnd(t *testing.T) {
	b := setup(t, func(o *Options) { o.TokenLife = time.Hour })
	id := b.profile()
	revoke := func(secret, tok string, want int) {
		t.Helper()
		v := url.Values{"client_id": {"one"}, "client_secret": {secret}, "token": {tok}}
		if got := b.do("POST", "/oauth/revoke", v.Encode(), "Content-Type", "application/x-www-form-urlencoded"); got.status != want {
			t.Fatalf("revoke answered %d %s, want %d", got.status, got.body, want)
		}
	}
	second := b.token("one")
	revoke("wrong", second, 401)
	b.put(second, id, "https://h.example/x", 201)
	revoke("s1", second, 200)
	revoke("s1", "nobody-knows-it", 200)
	revoke("s1", b.token("two"), 200) // another client's stays
	b.put(second, id, "https://h.example/x", 401)
	b.put(b.tok, id, "https://h.example/x", 204)
	b.r.Shift(time.Hour)
	b.put(b.tok, id, "https://h.example/x", 401)
	third := b.token("one")
	b.put(third, id, "https://h.example/x", 204)
	if n, err := b.r.RevokeTokens("one"); err != nil || n != 1 {
		t.Fatalf("RevokeTokens = %d, %v; want the one that was valid", n, err)
	}
	b.put(third, id, "https://h.example/x", 401)
	if _, err := b.r.RevokeTokens("nobody"); err == nil {
		t.Error("an unknown client's tokens were revoked")
	}
}

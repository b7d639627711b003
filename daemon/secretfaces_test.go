package main

import (
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"

	"dispatchd/internal/sim/smtpsink"
)

// browse asks as a browser does and returns the head, but for the cookies that it
// sets, with the body.
func (w *world) browse(c *http.Client, method, address string, form url.Values) string {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, address, strings.NewReader(form.Encode()))
	w.must(err)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := c.Do(req)
	w.must(err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	w.must(err)
	head := res.Header.Clone()
	head.Del("Set-Cookie")
	var b strings.Builder
	b.WriteString(res.Status + "\n") // the path may have a token
	w.must(head.Write(&b))
	return b.String() + html.UnescapeString(string(body)) + "\n"
}

// faces asks everything that people and organisations see of uni-a, signed out
// and in, and returns what was shown and the secrets that came up on the way.
func (w *world) faces(mail *smtpsink.Sink, client, clientSecret string) (shown string, secrets map[string]string) {
	w.t.Helper()
	secrets = map[string]string{}
	home := "http://" + w.addr[2]
	jar, err := cookiejar.New(nil)
	w.must(err)
	transport := &http.Transport{}
	w.t.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Jar: jar, Timeout: patience, Transport: transport}
	var b strings.Builder
	pages := []string{
		"/", "/sign-in", "/choose", "/settings/webhook", "/settings/secret", "/state", "/users", "/users/" + w.users[0].String() + "/remove", "/nothing",
		"/sign-in/wrong-token", "/confirm/wrong-token", "/u/unsubscribe/wrong-token", "/api/v1/uni-a", "/oauth/token",
	}
	for _, path := range pages { // signed out
		b.WriteString(w.browse(c, http.MethodGet, home+path, nil))
	}
	link := regexp.MustCompile(`http://\S+/sign-in/([A-Za-z0-9_.-]+)`).FindStringSubmatch(w.run("org", "link", "uni-a"))
	if link == nil {
		w.t.Fatal("no link was made")
	}
	secrets["the sign-in link"] = link[1]
	b.WriteString(strings.ReplaceAll(w.browse(c, http.MethodGet, link[0], nil), link[1], "(the sign-in link)")) // the page is at that address
	b.WriteString(w.browse(c, http.MethodPost, link[0], url.Values{}))
	at, err := url.Parse(home)
	w.must(err)
	for _, k := range jar.Cookies(at) {
		secrets["the session "+k.Name] = k.Value
	}
	if len(secrets) < 2 {
		w.t.Fatal("nobody is signed in")
	}
	for _, path := range pages[:9] { // signed in
		b.WriteString(w.browse(c, http.MethodGet, home+path, nil))
	}
	for path, form := range map[string]url.Values{
		"/settings/webhook":      {"webhook_url": {"not a URL"}, "apikey": {""}},
		"/settings/webhook/test": {}, "/state/pause": {"channel": {"webhook"}}, "/state/resume": {"channel": {"webhook"}}, "/state/replay": {"channel": {"webhook"}},
		"/users": {"orcid": {"0000"}}, "/users/" + w.users[5].String() + "/remove": {},
	} {
		b.WriteString(w.browse(c, http.MethodPost, home+path, form))
	}

	// The Hub-compatible API.
	token := func(secret string) string {
		return w.browse(c, http.MethodPost, home+"/oauth/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {secret}})
	}
	b.WriteString(token(clientSecret + "x"))
	given := token(clientSecret)
	m := regexp.MustCompile(`"access_token": ?"([^"]+)"`).FindStringSubmatch(given)
	if m == nil {
		w.t.Fatalf("no access token: %s", given)
	}
	secrets["the access token of the API"] = m[1]
	b.WriteString(strings.ReplaceAll(given, m[1], "(the access token of the API)"))
	for _, ask := range []string{
		"GET /api/v1/webhook", "GET /api/v1/users", "GET /api/v1/" + w.users[0].String() + "/webhook", "PATCH /api/v1/webhook", "GET /api/v1/deliveries", "GET /api/v1/nothing",
		"PUT /api/v1/" + w.users[0].String() + "/webhook/not%20a%20url",
	} {
		method, path, _ := strings.Cut(ask, " ")
		for _, bearer := range []string{m[1], m[1] + "x"} {
			req, err := http.NewRequestWithContext(w.t.Context(), method, home+path, strings.NewReader("{"))
			w.must(err)
			req.Header.Set("Authorization", "Bearer "+bearer)
			res, err := c.Do(req)
			w.must(err)
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			w.must(err)
			b.WriteString(ask + " " + res.Status + "\n" + string(body) + "\n")
		}
	}
	// Unsubscribing: the link is in the mails and at its own address only.
	if sent := mail.Mails(); len(sent) > 0 {
		m, err := sent[0].Message()
		w.must(err)
		address := strings.Trim(m.Header.Get("List-Unsubscribe"), "<>")
		token := address[strings.LastIndexByte(address, '/')+1:]
		secrets["the unsubscribe link"] = token
		form := url.Values{"List-Unsubscribe": {"One-Click"}}
		for _, page := range []string{
			w.browse(c, http.MethodGet, address, nil), w.browse(c, http.MethodPost, address+"x", form),
			w.browse(c, http.MethodPost, address, form), w.browse(c, http.MethodGet, address, nil),
		} {
			b.WriteString(page)
		}
	}
	b.WriteString(w.browse(c, http.MethodPost, home+"/sign-out", url.Values{}))
	return b.String(), secrets
}

// operatorFaces asks everything of the operator's page, signed out and in, and
// presses all its buttons.
func (w *world) operatorFaces(org string) (shown string, secrets map[string]string) {
	w.t.Helper()
	home := "http://" + w.addr[1]
	jar, err := cookiejar.New(nil)
	w.must(err)
	transport := &http.Transport{}
	w.t.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Jar: jar, Timeout: patience, Transport: transport}
	secrets = map[string]string{}
	var b strings.Builder
	look := func() {
		for _, path := range []string{
			"/", "/sign-in", "/researcher", "/researcher?orcid=" + w.users[0].String(), "/researcher?orcid=0000", "/organisations/" + org, "/organisations/none", "/nothing",
		} {
			b.WriteString(w.browse(c, http.MethodGet, home+path, nil))
		}
		for _, path := range []string{
			"/organisations/" + org + "/pause", "/organisations/" + org + "/resume", "/organisations/" + org + "/replay", "/organisations/" + org + "/test",
			"/organisations/" + org + "/nothing", "/registrations/pause", "/registrations/resume", "/registrations/nothing",
		} {
			b.WriteString(w.browse(c, http.MethodPost, home+path, url.Values{}))
		}
	}
	look()
	b.WriteString(w.browse(c, http.MethodPost, home+"/sign-in", url.Values{"token": {w.d.token + "x"}}))
	b.WriteString(w.browse(c, http.MethodPost, home+"/sign-in", url.Values{"token": {w.d.token}}))
	at, err := url.Parse(home)
	w.must(err)
	for _, k := range jar.Cookies(at) {
		secrets["the operator's session "+k.Name] = k.Value
	}
	if len(secrets) != 1 {
		w.t.Fatal("the operator is not signed in")
	}
	look()
	made := w.browse(c, http.MethodPost, home+"/organisations/"+org+"/link", url.Values{})
	link := regexp.MustCompile(`/sign-in/([A-Za-z0-9_.-]+)`).FindStringSubmatch(made)
	if link == nil {
		w.t.Fatalf("no link was made: %s", made)
	}
	secrets["the operator's sign-in link"] = link[1]
	b.WriteString(strings.ReplaceAll(made, link[1], "(the operator's sign-in link)")) // it is for this page
	b.WriteString(w.browse(c, http.MethodPost, home+"/sign-out", url.Values{}))
	return b.String(), secrets
}

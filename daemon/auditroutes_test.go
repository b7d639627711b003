package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"dispatchd/internal/sim/smtpsink"
	"dispatchd/internal/store"
)

// mutating lists what the routes of a package that may change something are,
// as they stand in its source.
func mutating(t *testing.T, dir string) (routes []string) {
	t.Helper()
	verbs := regexp.MustCompile(`^(POST|PUT|PATCH|DELETE) /\S*$`)
	files, err := parser.ParseDir(token.NewFileSet(), dir, func(f fs.FileInfo) bool { return !strings.HasSuffix(f.Name(), "_test.go") }, 0) //nolint:staticcheck // no build tags here
	if err != nil || len(files) == 0 {
		t.Fatalf("read %s: %v", dir, err)
	}
	for _, pkg := range files {
		ast.Inspect(pkg, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil && verbs.MatchString(text) {
					routes = append(routes, text)
				}
			}
			return true
		})
	}
	if len(routes) == 0 {
		t.Fatalf("%s has no routes that change something", dir)
	}
	return routes
}

// person sends requests as people and programs do, to every face.
type person struct {
	*world
	t     *testing.T
	mail  *smtpsink.Sink
	http  *http.Client // with the cookies of both sets of pages
	token string       // of the Hub API
	left  map[string]bool
}

// step sends one request; exactly one line is to tell of it. The route is a key
// of the tables, the path what it is asked by.
func (p *person) step(face, route, path, who, what string, body io.Reader, kind string) string {
	p.t.Helper()
	delete(p.left, face+" "+route)
	method, _, _ := strings.Cut(route, " ")
	home := "http://" + p.addr[2]
	if face == "admin" || face == "page" {
		home = "http://" + p.addr[1]
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, home+path, body)
	p.must(err)
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	switch face {
	case "admin":
		req.Header.Set("Authorization", "Bearer "+p.d.token)
	case "hubapi":
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	before := len(p.audits())
	res, err := p.http.Do(req)
	p.must(err)
	answer, err := io.ReadAll(res.Body)
	p.must(err)
	res.Body.Close()
	lines := p.audits()[before:]
	if len(lines) != 1 || !strings.Contains(lines[0], "what="+what) || !strings.Contains(lines[0], " who="+who+" ") || !strings.Contains(lines[0], " from=127.0.0.1") {
		p.t.Errorf("%s %s (%s) by %s is to write one line with %s:\n%s%s %.600s", face, route, path, who, what, strings.Join(lines, ""), res.Status, answer)
	}
	return string(answer)
}

func (p *person) admin(route, path, what, body string) string {
	p.t.Helper()
	kind := "application/json"
	if strings.HasPrefix(body, "orcid\n") {
		kind = "text/csv"
	}
	return p.step("admin", route, path, "admin", what, strings.NewReader(body), kind)
}

func (p *person) form(face, route, path, who, what string, form url.Values) string {
	p.t.Helper()
	return p.step(face, route, path, who, what, strings.NewReader(form.Encode()), "application/x-www-form-urlencoded")
}

func (p *person) hub(route, path, what, body string) string {
	p.t.Helper()
	return p.step("hubapi", route, path, `"api client of uni-b"`, what, strings.NewReader(body), "application/json")
}

// mailed waits for a mail that has this and returns what follows it.
func (p *person) mailed(prefix string) string {
	p.t.Helper()
	link := regexp.MustCompile(regexp.QuoteMeta(prefix) + `([A-Za-z0-9_.-]+)`)
	var found []string
	p.eventually("a mail has "+prefix, func() bool {
		for _, m := range p.mail.Mails() {
			if found = link.FindStringSubmatch(strings.ReplaceAll(string(m.Data), "=\r\n", "")); found != nil {
				return true
			}
		}
		return false
	})
	return found[1]
}

// Every route by which a person or a program changes something writes one line:
// what, who, and from where. The routes are those that there are, so a new one
// fails here until it is asked, too.
func TestEveryRouteThatChangesSomethingIsOneLine(t *testing.T) {
	t.Parallel()
	mail, smtp := mailServer(t, smtpsink.Options{})
	w := newWorld(t, setting{users: 10, more: smtp})
	jar, err := cookiejar.New(nil)
	w.must(err)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	p := &person{world: w, t: t, mail: mail, left: map[string]bool{}, http: &http.Client{
		Jar: jar, Timeout: patience, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	for face, dir := range map[string]string{"admin": "../internal/admin", "page": "../internal/admin/page", "web": "../internal/web", "unsubscribe": "../internal/unsubscribe"} {
		for _, route := range mutating(t, dir) {
			p.left[face+" "+route] = true
		}
	}
	p.hubRoutes()
	contact := object{"technical_contact": "it@uni-a.example"}
	for _, id := range []string{"uni-a", "uni-b", "uni-d"} {
		more := maps.Clone(contact)
		switch id {
		case "uni-b":
			more["api"] = object{"client_id": "uni-b", "client_secret": "hub-api-s3cret"}
		case "uni-d":
			more["email"] = object{"enabled": true, "mode": "each"}
		}
		w.organisation(id, more)
	}
	w.affiliate("uni-a", w.users[:2]...)
	w.affiliate("uni-d", w.users[2])
	w.registered(clientMain, w.users[:3]...)
	w.ping(w.users[2])
	p.mailed("/u/unsubscribe/")

	p.adminSteps()
	p.pageSteps()
	p.webSteps()
	p.hubSteps()

	// These change nothing, or cannot be asked here.
	delete(p.left, "admin POST /debug/pprof/symbol") // answers a question
	delete(p.left, "admin POST /v1/recover")         // Redis must have lost something: TestAnEmptiedRedisCausesNoDeleteAtORCID
	if len(p.left) > 0 {
		t.Errorf("these routes were not asked; ask them here: %q", slices.Sorted(maps.Keys(p.left)))
	}
}

// hubRoutes adds those of the API's own document, whose own test compares it
// with the table.
func (p *person) hubRoutes() {
	p.t.Helper()
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	res, err := p.http.Get("http://" + p.addr[2] + "/api/openapi.json")
	p.must(err)
	defer res.Body.Close()
	p.must(json.NewDecoder(res.Body).Decode(&doc))
	n := 0
	for path, verbs := range doc.Paths {
		for verb := range verbs {
			if verb = strings.ToUpper(verb); slices.Contains([]string{"POST", "PUT", "PATCH", "DELETE"}, verb) {
				p.left["hubapi "+verb+" "+path] = true
				n++
			}
		}
	}
	if n == 0 {
		p.t.Fatal("the document has no routes that change something")
	}
}

func (p *person) adminSteps() {
	p.t.Helper()
	const org = "/v1/organisations/uni-c"
	id := func(n int) string { return p.users[n].String() }
	p.admin("POST /v1/credentials/{name}/test", "/v1/credentials/main/test", `"credential tested"`, "")
	p.admin("POST /v1/registrations/pause", "/v1/registrations/pause", `"registrations paused"`, "")
	p.admin("POST /v1/registrations/rearm", "/v1/registrations/rearm", `"registrations made anew"`, `{"all":true}`)
	// One that begins at the next start surely is not over yet.
	p.must(p.d.app.store.SaveJob(p.t.Context(), store.Job{ID: "rearm-later", Kind: "rearm", State: "running", Created: p.now(), Updated: p.now()}))
	p.admin("POST /v1/jobs/{id}/cancel", "/v1/jobs/rearm-later/cancel", `"job cancelled"`, "")
	p.admin("POST /v1/registrations/resume", "/v1/registrations/resume", `"registrations resumed"`, "")
	p.admin("POST /v1/registrations/sync", "/v1/registrations/sync", `"registrations compared"`, "")
	p.admin("POST /v1/reload", "/v1/reload", `"configuration reloaded"`, "")
	p.admin("POST /-/reload", "/-/reload", `"configuration reloaded"`, "")
	p.admin("PUT /v1/log-level", "/v1/log-level", `"log level set"`, `{"level":"debug"}`)
	p.admin("PUT /v1/organisations/{id}", org, `"organisation saved"`,
		fmt.Sprintf(`{"name":"C","credential":"main","technical_contact":"it@uni-c.example","webhook":{"enabled":true,"url":%q}}`, p.recv.URL()+"/uni-c"))
	p.admin("PATCH /v1/organisations/{id}", org, `"organisation saved"`, `{"name":"C2"}`)
	p.admin("POST /v1/organisations/{id}/disable", org+"/disable", `"organisation saved"`, "")
	p.admin("POST /v1/organisations/{id}/enable", org+"/enable", `"organisation saved"`, "")
	p.admin("POST /v1/organisations/{id}/pause", org+"/pause", "paused", "")
	p.admin("POST /v1/organisations/{id}/resume", org+"/resume", "resumed", "")
	p.admin("POST /v1/organisations/{id}/test", org+"/test", `"test event sent"`, "")
	p.admin("POST /v1/organisations/{id}/link", org+"/link", `"sign-in link made"`, "")
	p.admin("POST /v1/organisations/{id}/rotate-secret", org+"/rotate-secret", `"signing secret rotated"`, "")
	p.admin("POST /v1/organisations/{id}/move", org+"/move", `"organisation saved"`, `{"credential":"other"}`)
	p.admin("POST /v1/organisations/{id}/users", org+"/users", `"users imported"`, "orcid\n"+id(3)+"\n")
	p.admin("POST /v1/organisations/{id}/users/sync", org+"/users/sync?force=true", `"users synchronised"`, "orcid\n"+id(4)+"\n")
	p.admin("PUT /v1/organisations/{id}/users/{iD}", org+"/users/"+id(5), `"user added"`, "")
	p.admin("DELETE /v1/organisations/{id}/users/{iD}", org+"/users/"+id(5), `"user removed"`, "")
	var erasure struct {
		Job struct {
			ID string `json:"id"`
		} `json:"job"`
	}
	p.must(json.Unmarshal([]byte(p.admin("DELETE /v1/users/{iD}", "/v1/users/"+id(6), `"user erased"`, "")), &erasure))
	p.eventually("the user is erased", func() bool {
		var j struct {
			State string `json:"state"`
		}
		p.api("GET", "/v1/jobs/"+erasure.Job.ID, nil, &j)
		return j.State == "done"
	})
	p.admin("DELETE /v1/suppressions/{iD}", "/v1/suppressions/"+id(6), `"user taken off the suppression list"`, "")
	p.admin("DELETE /v1/parked", "/v1/parked", `"damaged lines dropped"`, "")
	p.admin("POST /v1/organisations/{id}/dead-letters/replay", org+"/dead-letters/replay", `"replay asked for"`, `{}`)
	p.admin("POST /v1/organisations/{id}/dead-letters/purge", org+"/dead-letters/purge", `"dead letters purged"`, `{}`)
	p.admin("DELETE /v1/organisations/{id}", org, `"organisation is being removed"`, "")
}

func (p *person) pageSteps() {
	p.t.Helper()
	const who, button, registering = `"operator's page"`, "POST /organisations/{id}/{action}", "POST /registrations/{action}"
	p.form("page", "POST /sign-in", "/sign-in", who, `"operator signed in"`, url.Values{"token": {p.d.token}})
	for action, what := range map[string]string{
		"pause": "paused", "resume": "resumed", "replay": `"replay asked for"`, "test": `"test event sent"`, "link": `"sign-in link made"`,
	} {
		p.form("page", button, "/organisations/uni-d/"+action, who, what, nil)
	}
	p.form("page", registering, "/registrations/pause", who, `"registrations paused"`, nil)
	p.form("page", registering, "/registrations/resume", who, `"registrations resumed"`, nil)
	p.form("page", "POST /sign-out", "/sign-out", who, `"operator signed out"`, nil)
}

func (p *person) webSteps() {
	p.t.Helper()
	const who = "it@uni-a.example"
	webhook := url.Values{"channel": {"webhook"}}
	token := p.mailed("/u/unsubscribe/")
	p.form("unsubscribe", "POST /u/unsubscribe/{token}", "/u/unsubscribe/"+token, `"unsubscribe link of it@uni-a.example"`, `"organisation saved"`, url.Values{"List-Unsubscribe": {"One-Click"}})
	p.form("web", "POST /sign-in", "/sign-in", "visitor", `"sign-in link asked for"`, url.Values{"address": {who}})
	p.form("web", "POST /sign-in/{token}", "/sign-in/"+p.mailed("/sign-in/"), who, `"signed in"`, nil)
	p.form("web", "POST /choose", "/choose", who, `"organisation chosen"`, url.Values{"org": {"uni-a"}})
	p.form("web", "POST /settings/webhook", "/settings/webhook", who, `"organisation saved"`, url.Values{
		"webhook_url": {p.recv.URL() + "/uni-a"}, "webhook_enabled": {"1"}, "email_notifications_enabled": {"1"}, "notification_email": {"news@uni-a.example"},
		"email_mode": {"each"}, "events": {"CREATED", "UPDATED"},
	})
	p.form("web", "POST /settings/webhook/ask-again", "/settings/webhook/ask-again", who, `"address is asked to confirm"`, nil)
	p.form("web", "POST /confirm/{token}", "/confirm/"+p.mailed("/confirm/"), "news@uni-a.example", `"organisation saved"`, nil)
	p.form("web", "POST /settings/webhook/test", "/settings/webhook/test", who, `"test event sent"`, nil)
	p.form("web", "POST /settings/secret", "/settings/secret", who, `"signing secret rotated"`, nil)
	p.form("web", "POST /state/pause", "/state/pause", who, "paused", webhook)
	p.form("web", "POST /state/resume", "/state/resume", who, "resumed", webhook)
	p.form("web", "POST /state/replay", "/state/replay", who, `"replay asked for"`, nil)
	p.form("web", "POST /users", "/users", who, `"user added"`, url.Values{"orcid": {p.users[7].String()}})
	const list = "--xyz\r\nContent-Disposition: form-data; name=\"list\"; filename=\"u.csv\"\r\nContent-Type: text/csv\r\n\r\norcid\n%s\n\r\n--xyz--\r\n"
	p.step("web", "POST /users/upload", "/users/upload", who, `"users imported"`, strings.NewReader(fmt.Sprintf(list, p.users[8])), "multipart/form-data; boundary=xyz")
	p.form("web", "POST /users/{orcid}/remove", "/users/"+p.users[8].String()+"/remove", who, `"user removed"`, nil)
	p.form("web", "POST /sign-out", "/sign-out", who, `"signed out"`, nil)
}

func (p *person) hubSteps() {
	p.t.Helper()
	const settings, callback, user, ofUser = "/api/v1/webhook", "/api/v1/webhook/{callback_url}", "/api/v1/users/{orcid}", "/api/v1/{orcid}/webhook"
	id := p.users[9].String()
	at := url.PathEscape(p.recv.URL() + "/uni-b-2")
	given := p.form("hubapi", "POST /oauth/token", "/oauth/token", `"api client of uni-b"`, `"access token made"`,
		url.Values{"grant_type": {"client_credentials"}, "client_id": {"uni-b"}, "client_secret": {"hub-api-s3cret"}})
	var token struct {
		Access string `json:"access_token"`
	}
	p.must(json.Unmarshal([]byte(given), &token))
	p.token = token.Access
	p.hub("POST /api/v1/webhook/test", "/api/v1/webhook/test", `"test event sent"`, "")
	p.hub("POST /api/v1/webhook/replay", "/api/v1/webhook/replay", `"replay asked for"`, "{}")
	p.hub("PUT "+settings, settings, `"organisation saved"`, fmt.Sprintf(`{"url":%q}`, p.recv.URL()+"/uni-b-1"))
	p.hub("POST "+settings, settings, `"organisation saved"`, `{"append-orcid":true}`)
	p.hub("PATCH "+settings, settings, `"organisation saved"`, `{"notification-email":"news@uni-b.example"}`)
	p.hub("DELETE "+settings, settings, `"organisation saved"`, "")
	p.hub("PUT "+callback, settings+"/"+at, `"organisation saved"`, `{"enabled":true}`)
	p.hub("DELETE "+callback, settings+"/"+at, `"organisation saved"`, "")
	p.hub("PUT "+user, "/api/v1/users/"+id, `"user added"`, "")
	p.hub("DELETE "+ofUser, "/api/v1/"+id+"/webhook", `"user told of"`, "")
	p.hub("PUT "+ofUser, "/api/v1/"+id+"/webhook", `"user told of"`, "")
	own := ofUser + "/{callback_url}"
	p.hub("PUT "+own, "/api/v1/"+id+"/webhook/"+url.PathEscape("https://uni-b.example/told"), `"callback registered"`, "")
	p.hub("DELETE "+own, "/api/v1/"+id+"/webhook/"+url.PathEscape("https://uni-b.example/told"), `"callback removed"`, "")
	p.hub("DELETE "+user, "/api/v1/users/"+id, `"user removed"`, "")
}

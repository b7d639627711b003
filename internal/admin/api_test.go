package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

func TestOrganisationFromMakingToRemoving(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA()
	var v service.View
	b.want(200, &v, "GET", "/v1/organisations/uni-a", "")
	if v.Name != "University A" || !v.Webhook.Enabled || !v.Webhook.APIKeySet || v.Owner != "api" {
		t.Errorf("%+v", v)
	}
	// PUT again replaces, PATCH changes what is sent.
	b.want(200, &v, "PUT", "/v1/organisations/uni-a", `{"id":"uni-a","name":"A","credential":"main","webhook":{"url":"https://a.example/2"}}`, "Content-Type", "application/json; charset=utf-8")
	if v.Name != "A" || v.Webhook.Enabled || v.TechnicalContact != "" || !v.Webhook.APIKeySet {
		t.Fatalf("PUT did not replace: %+v", v)
	}
	v = service.View{}
	b.want(200, &v, "PATCH", "/v1/organisations/uni-a", `{"technical_contact":"it@a.example"}`, "Content-Type", "application/merge-patch+json")
	if v.Name != "A" || v.TechnicalContact != "it@a.example" {
		t.Errorf("PATCH: %+v", v)
	}
	var list struct{ Organisations []service.View }
	b.want(200, &list, "GET", "/v1/organisations", "")
	if len(list.Organisations) != 1 || len(list.Organisations[0].Channels) != 2 {
		t.Errorf("%+v", list)
	}
	for _, step := range []struct {
		action, body    string
		webhook, email  bool
		holds, reason   string
		holdsOnTheEmail string
	}{
		{"enable", "", true, false, "", "", ""},
		{"enable", `{"channel":"email"}`, true, true, "", "", ""},
		{"disable", `{"channel":"webhook"}`, false, true, "", "", ""},
		{"enable", `{"channel":"webhook"}`, true, true, "", "", ""},
		{"pause", `{"channel":"webhook","reason":"maintenance"}`, true, true, "pause", "maintenance", ""},
		{"pause", ``, true, true, "pause", "", "pause"},
		{"resume", `{"channel":"email"}`, true, true, "pause", "", ""},
		{"resume", `{}`, true, true, "", "", ""},
		{"disable", ``, false, false, "", "", ""},
		{"enable", ``, true, false, "", "", ""},
	} {
		v = service.View{}
		b.want(200, &v, "POST", "/v1/organisations/uni-a/"+step.action, step.body)
		holds := func(i int) (string, string) {
			if len(v.Channels[i].Holds) == 0 {
				return "", ""
			}
			return string(v.Channels[i].Holds[0].Hold), v.Channels[i].Holds[0].Reason
		}
		hold, reason := holds(0)
		mail, _ := holds(1)
		if v.Webhook.Enabled != step.webhook || v.Email.Enabled != step.email || hold != step.holds || reason != step.reason || mail != step.holdsOnTheEmail {
			t.Errorf("after %s %s: %+v", step.action, step.body, v)
		}
	}
	b.want(202, nil, "DELETE", "/v1/organisations/uni-a", "")
	b.runJobs()
	b.send("GET", "/v1/organisations/uni-a", "").problem(t, 404, "not_found")
	b.send("DELETE", "/v1/organisations/uni-a", "").problem(t, 404, "not_found")
	var jobs struct{ Jobs []store.Job }
	b.want(200, &jobs, "GET", "/v1/jobs", "")
	if !slices.ContainsFunc(jobs.Jobs, func(j store.Job) bool { return j.Kind == "remove" && j.State == store.JobDone }) {
		t.Errorf("%+v", jobs)
	}
}

func TestSecretsAndTheTestEvent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA()
	var shown, made map[string]string
	b.want(200, &shown, "GET", "/v1/organisations/uni-a/secrets", "")
	if shown["apikey"] != apikey || !strings.HasPrefix(shown["signing_secret"], "whsec_") {
		t.Errorf("%v", shown)
	}
	if !strings.Contains(b.log.String(), `what="showed secrets" who=admin from=127.0.0.1:`) {
		t.Errorf("showing secrets is not audited: %s", b.log.String())
	}
	// Without web pages (there is no web_url in this test) nothing can be linked to.
	b.send("POST", "/v1/organisations/uni-a/link", "").problem(t, 409, "conflict")
	b.want(200, &made, "POST", "/v1/organisations/uni-a/rotate-secret", "")
	if made["signing_secret"] == shown["signing_secret"] || !strings.HasPrefix(made["signing_secret"], "whsec_") {
		t.Errorf("%v", made)
	}
	before := shown["signing_secret"]
	clear(shown)
	b.want(200, &shown, "GET", "/v1/organisations/uni-a/secrets", "")
	if shown["signing_secret"] != made["signing_secret"] || shown["old_signing_secret"] != before {
		t.Errorf("%v", shown)
	}
	var a service.TestAnswer
	b.want(200, &a, "POST", "/v1/organisations/uni-a/test", "")
	if !a.OK || a.Status != 204 {
		t.Errorf("%+v", a)
	}
	again := b.send("POST", "/v1/organisations/uni-a/test", "")
	again.problem(t, http.StatusTooManyRequests, "rate_limited")
	if again.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	// Everything that shows the organisation, for the check at the end.
	for _, path := range []string{"", "/users", "/attempts", "/dead-letters"} {
		b.want(200, nil, "GET", "/v1/organisations/uni-a"+path, "")
	}
	for _, path := range []string{"status", "ledger", "jobs", "credentials", "registrations", "organisations"} {
		b.want(200, nil, "GET", "/v1/"+path, "")
	}
}

func TestStateOfEverything(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA()
	var st service.Status
	b.want(200, &st, "GET", "/v1/status", "")
	if len(st.Problems) != 0 || st.Organisations != 1 || len(st.Channels) != 1 {
		t.Errorf("%+v", st)
	}
	var l service.LedgerReport
	b.want(200, &l, "GET", "/v1/ledger", "")
	if !l.Balanced {
		t.Errorf("%+v", l)
	}
	var c struct{ Credentials []service.CredentialState }
	b.want(200, &c, "GET", "/v1/credentials", "")
	if len(c.Credentials) != 2 || c.Credentials[0].State != "ok" || c.Credentials[1].Name != "other" || c.Credentials[1].State != "starting" {
		t.Errorf("%+v", c)
	}
	b.want(201, nil, "PUT", "/v1/organisations/uni-a/users/"+josiah, "")
	var r service.RegistrationReport
	b.want(200, &r, "GET", "/v1/registrations", "")
	if r.Paused || r.States["alive"] != 0 {
		t.Errorf("%+v", r)
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA()
	base := "/v1/organisations/uni-a/users"
	if a := b.want(201, nil, "PUT", base+"/"+josiah, `{"name":"Josiah Carberry","email":"jc@a.example"}`); a.body != `{"new":true,"orcid":"`+josiah+`"}`+"\n" {
		t.Errorf("%s", a.body)
	}
	b.want(200, nil, "PUT", base+"/"+strings.ReplaceAll(josiah, "-", ""), "")
	b.want(201, nil, "PUT", base+"/"+maria, "")
	var got []string
	for cursor := ""; ; {
		var page service.UserPage
		b.want(200, &page, "GET", base+"?limit=1&cursor="+cursor, "")
		for _, u := range page.Users {
			got = append(got, u.ORCID.String())
		}
		if cursor = page.Next; cursor == "" {
			break
		}
		if len(got) > 10 {
			t.Fatal("paging does not end")
		}
	}
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, []string{maria, josiah}) {
		t.Errorf("%v", got)
	}
	var story service.Story
	b.want(200, &story, "GET", "/v1/users/"+josiah, "")
	if len(story.Affiliations) != 1 || story.Affiliations[0].Email != "jc@a.example" {
		t.Errorf("%+v", story)
	}
	if a := b.want(204, nil, "DELETE", base+"/"+josiah, ""); a.body != "" {
		t.Errorf("%s", a.body)
	}
	b.send("DELETE", base+"/"+josiah, "").problem(t, 404, "not_found")
	b.send("GET", "/v1/users/0000-0002-1694-233X", "").problem(t, 404, "not_found")
}

const people = "orcid,name\n" + josiah + ",Josiah\n0000-0002-1825-0098,Wrong\n" + maria + ",María\n"

func TestImport(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA()
	path := "/v1/organisations/uni-a/users"
	var r service.ImportReport
	b.want(200, &r, "POST", path, people, "Content-Type", "text/csv; charset=utf-8")
	if r.Lines != 3 || r.Added != 2 || r.Bad != 1 || len(r.BadLines) != 1 || r.BadLines[0].Line != 3 {
		t.Errorf("%+v", r)
	}
	r = service.ImportReport{}
	b.want(200, &r, "POST", path+"?announce=0", `{"orcid":"`+josiah+`"}`, "Content-Type", ndjson)
	if r.Lines != 1 || r.Known != 1 {
		t.Errorf("%+v", r)
	}
	b.want(200, nil, "POST", path+"?announce=1", "orcid\n0000-0002-1694-233X\n", "Content-Type", "text/csv")
	for id, announced := range map[string]bool{josiah: false, "0000-0002-1694-233X": true} {
		id, err := orcid.Parse(id)
		b.must(err)
		u, err := b.store.User(context.Background(), id)
		b.must(err)
		if u == nil || u.Affiliations[0].Announce != announced {
			t.Errorf("%s: %+v, want announced %v", id, u, announced)
		}
	}
	a := b.want(200, nil, "POST", path, people, "Content-Type", "text/csv", "Accept", ndjson)
	lines := strings.Split(strings.TrimSpace(a.body), "\n")
	if a.Header.Get("Content-Type") != ndjson || len(lines) != 2 || !strings.HasPrefix(lines[0], `{"progress":{"lines":3`) || !strings.HasPrefix(lines[1], `{"report":{"lines":3`) {
		t.Errorf("%q", lines)
	}
	for name, c := range map[string]struct {
		path, body, mediaType string
		status                int
		code                  string
	}{
		"empty":          {path, "", "text/csv", 400, "invalid"},
		"unknown column": {path, "orcid,shoe\n", "text/csv", 400, "invalid"},
		"json":           {path, `[]`, "application/json", 415, "unsupported_media_type"},
		"other charset":  {path, people, "text/csv; charset=latin1", 415, "unsupported_media_type"},
		"no type":        {path, people, "", 415, "unsupported_media_type"},
		"bad switch":     {path + "?announce=perhaps", people, "text/csv", 400, "invalid"},
		"bad parameter":  {path + "?anounce=1", people, "text/csv", 400, "invalid"},
		"nobody":         {"/v1/organisations/nobody/users", people, "text/csv", 404, "not_found"},
		// Whoever sends a long list must hear the answer, not a broken connection.
		"long, unknown column": {path, "orcid,shoe\n" + strings.Repeat(people, 200_000), "text/csv", 400, "invalid"},
	} {
		for _, accept := range []string{"", ndjson} {
			p := b.send("POST", c.path, c.body, "Content-Type", c.mediaType, "Accept", accept).problem(t, c.status, c.code)
			if p.Report != nil {
				t.Errorf("%s: a report of nothing: %+v", name, p)
			}
		}
	}
}

// TestImportTellsHowFarItIs: progress comes while the list is still being
// sent, and what fails in its middle says how far it came.
func TestImportTellsHowFarItIs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA()
	open := func(first string) (*io.PipeWriter, *bufio.Reader, func()) {
		pr, pw := io.Pipe()
		req, err := http.NewRequest(http.MethodPost, b.url+"/v1/organisations/uni-a/users", pr)
		b.must(err)
		req.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {ndjson}, "Accept": {ndjson}}
		go func() { _, _ = io.WriteString(pw, first) }()
		res, err := b.client.Do(req)
		b.must(err)
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%d", res.StatusCode)
		}
		return pw, bufio.NewReader(res.Body), func() { res.Body.Close() }
	}
	type heard struct {
		Progress, Report *service.ImportReport
		Problem          *struct {
			Code, ID string
			Report   *service.ImportReport
		}
	}
	line := func(r *bufio.Reader) (l heard) {
		text, err := r.ReadBytes('\n')
		b.must(err)
		b.must(json.Unmarshal(text, &l))
		return l
	}
	batch := strings.Repeat(`{"orcid":"`+josiah+`"}`+"\n", 1000)
	w, r, done := open(batch)
	if l := line(r); l.Progress == nil || l.Progress.Lines != 1000 {
		t.Fatalf("%+v", l)
	}
	_, err := io.WriteString(w, `{"orcid":"x"}`+"\n")
	b.must(err)
	b.must(w.Close())
	if l := line(r); l.Report == nil || l.Report.Lines != 1001 || l.Report.Bad != 1 || l.Report.Known != 999 {
		t.Errorf("%+v", l)
	}
	done()

	w, r, done = open(batch)
	line(r)
	b.redis.Kill()
	go func() { _, _ = io.WriteString(w, batch); w.Close() }()
	l := line(r)
	if l.Problem == nil || l.Problem.Code != "unavailable" || l.Problem.Report == nil || l.Problem.Report.Lines != 1000 || l.Problem.ID == "" {
		t.Errorf("%+v", l)
	}
	done()
}

// TestShutdownCutsOffAnImportThatHangs: and says so to whoever sends it.
func TestShutdownCutsOffAnImportThatHangs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.srv.grace = 10 * time.Millisecond
	b.uniA()
	pr, pw := io.Pipe()
	defer pw.Close()
	req, err := http.NewRequest(http.MethodPost, b.url+"/v1/organisations/uni-a/users", pr)
	b.must(err)
	req.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {ndjson}, "Accept": {ndjson}}
	go func() { _, _ = io.WriteString(pw, strings.Repeat(`{"orcid":"`+josiah+`"}`+"\n", 1000)) }()
	res, err := b.client.Do(req)
	b.must(err)
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	if _, err := lines.ReadBytes('\n'); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	b.must(b.srv.Shutdown(context.Background()))
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("Shutdown took %s", took)
	}
}

func TestAttemptsAndDeadLetters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA()
	for i := range uint64(5) {
		b.attempt(i+1, event.Dead, 500+int(i), "went wrong")
	}
	b.attempt(9, event.Delivered, 204, "")
	base := "/v1/organisations/uni-a"
	var numbers []int
	for cursor := ""; ; {
		var page struct {
			Attempts []event.Attempt
			Next     string
		}
		b.want(200, &page, "GET", base+"/attempts?limit=2&channel=webhook&cursor="+cursor, "")
		for _, a := range page.Attempts {
			numbers = append(numbers, a.Status)
		}
		if len(numbers) == 2 {
			b.attempt(10, event.Delivered, 299, "") // comes in while somebody reads
		}
		if cursor = page.Next; cursor == "" || len(numbers) > 20 {
			break
		}
	}
	if !slices.Equal(numbers, []int{204, 504, 503, 502, 501, 500}) {
		t.Errorf("attempts %v", numbers)
	}
	numbers = nil
	for cursor := ""; ; {
		var page struct {
			Dead []struct {
				ORCID  string    `json:"orcid"`
				Types  []string  `json:"types"`
				DiedAt time.Time `json:"died_at"`
				Status int       `json:"status"`
				Reason string    `json:"reason"`
			} `json:"dead_letters"`
			Next string
		}
		b.want(200, &page, "GET", base+"/dead-letters?limit=2&cursor="+cursor, "")
		for _, d := range page.Dead {
			numbers = append(numbers, d.Status)
			if d.ORCID == "" || !slices.Equal(d.Types, []string{"UPDATED"}) || d.DiedAt.IsZero() || d.Reason == "" {
				t.Errorf("%+v", d)
			}
		}
		if cursor = page.Next; cursor == "" || len(numbers) > 20 {
			break
		}
	}
	if !slices.Equal(numbers, []int{504, 503, 502, 501, 500}) {
		t.Errorf("dead letters %v", numbers)
	}
	var none struct{ Attempts, DeadLetters []any }
	if a := b.want(200, &none, "GET", base+"/attempts?channel=email", ""); a.body != `{"attempts":[]}`+"\n" {
		t.Errorf("%s", a.body)
	}
	waiting := func() (int, int) {
		var v service.View
		b.want(200, &v, "GET", base, "")
		return v.Channels[0].Waiting, v.Channels[0].Dead
	}
	var j store.Job
	b.want(202, &j, "POST", base+"/dead-letters/replay", `{"orcid":"0000-0000-0000-0036"}`)
	b.runJobs()
	if w, d := waiting(); w != 1 || d != 4 || j.Kind != "replay" || j.Args["orcid"] == "" {
		t.Errorf("one replayed: %d waiting, %d dead, job %+v", w, d, j)
	}
	since := time.UnixMilli(b.clock.Load()).Add(-3 * time.Minute).UTC().Format(time.RFC3339)
	var purged struct{ Purged int }
	b.want(200, &purged, "POST", base+"/dead-letters/purge", `{"since":"`+since+`"}`)
	if w, d := waiting(); w != 1 || d != 4-purged.Purged || purged.Purged == 0 || purged.Purged == 4 {
		t.Errorf("purged %d: %d waiting, %d dead", purged.Purged, w, d)
	}
	b.want(202, nil, "POST", base+"/dead-letters/replay", `{}`)
	b.runJobs()
	if _, d := waiting(); d != 0 {
		t.Errorf("%d dead letters after replaying all", d)
	}
	var l service.LedgerReport
	b.want(200, &l, "GET", "/v1/ledger", "")
	for _, d := range l.Differences {
		if !strings.HasPrefix(d, "news") { // the attempts of this test had no log entries
			t.Error(d)
		}
	}
}

// TestBadInput: each gets its status and code, and nothing is changed.
func TestBadInput(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA()
	b.want(201, nil, "PUT", "/v1/organisations/uni-a/users/"+josiah, `{"name":"Josiah"}`)
	b.attempt(9, event.Dead, 500, "")
	state := func() string {
		var all bytes.Buffer
		for _, path := range []string{"/v1/organisations", "/v1/organisations/uni-a/users", "/v1/organisations/uni-a/dead-letters", "/v1/jobs"} {
			fmt.Fprintln(&all, b.want(200, nil, "GET", path, "").body)
		}
		return all.String()
	}
	before := state()
	org := "/v1/organisations/uni-a"
	for _, c := range []struct {
		method, path, body, mediaType string
		status                        int
		code, key                     string
	}{
		{"GET", "/v1/nothing", "", "", 404, "not_found", ""},
		{"GET", "/v1/organisations/", "", "", 404, "not_found", ""},
		{"GET", org + "/nothing", "", "", 404, "not_found", ""},
		{"POST", "/v1/status", "{}", "", 405, "method_not_allowed", ""},
		{"DELETE", "/v1/organisations", "", "", 405, "method_not_allowed", ""},
		{"GET", org + "/disable", "", "", 405, "method_not_allowed", ""},
		{"BREW", org, "", "", 405, "method_not_allowed", ""},
		{"GET", "/v1/organisations/nobody", "", "", 404, "not_found", ""},
		{"PATCH", "/v1/organisations/nobody", `{}`, "", 404, "not_found", ""},
		{"DELETE", "/v1/organisations/nobody", "", "", 404, "not_found", ""},
		{"POST", "/v1/organisations/nobody/pause", "", "", 404, "not_found", ""},
		{"GET", "/v1/organisations/nobody/users", "", "", 404, "not_found", ""},
		{"GET", "/v1/organisations/nobody/secrets", "", "", 404, "not_found", ""},
		{"POST", "/v1/organisations/nobody/dead-letters/replay", "{}", "", 404, "not_found", ""},
		{"PUT", "/v1/organisations/Uni%20B", `{"name":"B"}`, "", 400, "invalid", "id"},
		{"PUT", "/v1/organisations/..%2f..%2fetc", `{"name":"B"}`, "", 400, "invalid", "id"},
		{"PUT", "/v1/organisations/uni-b", `{"id":"uni-c","name":"B"}`, "", 400, "invalid", "body"},
		{"PUT", "/v1/organisations/uni-b", "", "", 400, "invalid", "body"},
		{"PUT", "/v1/organisations/uni-b", `{"name":"B","shoe":1}`, "", 400, "invalid", "body"},
		{"PUT", "/v1/organisations/uni-b", `{"name":"B"}{}`, "", 400, "invalid", "body"},
		{"PUT", "/v1/organisations/uni-b", `{"name":`, "", 400, "invalid", "body"},
		{"PUT", "/v1/organisations/uni-b", `{"name":["B"]}`, "", 400, "invalid", "body"},
		{"PUT", "/v1/organisations/uni-b", `{"name":"B","credential":"nope"}`, "", 400, "invalid", "credential"},
		{"PUT", "/v1/organisations/uni-b", `{"name":"B"}`, "text/plain", 415, "unsupported_media_type", ""},
		{"PUT", "/v1/organisations/uni-b", `{"name":"B"}`, "application/x-www-form-urlencoded", 415, "unsupported_media_type", ""},
		{"PUT", "/v1/organisations/uni-b", `{"name":"B"}`, "application/json; charset=utf-16", 415, "unsupported_media_type", ""},
		{"PUT", "/v1/organisations/uni-b", `{"name":"B"}`, "application/merge-patch+json", 415, "unsupported_media_type", ""},
		{"PUT", "/v1/organisations/uni-b", `{"name":"` + strings.Repeat("x", maxBody) + `"}`, "", 413, "too_large", ""},
		{"PATCH", org, `{"webhook":{"url":"ftp://a.example"}}`, "", 400, "invalid", "webhook.url"},
		{"PATCH", org, `{"webhook":{"url":""}}`, "", 400, "invalid", "webhook.url"},
		{"PATCH", org, `{"email":{"mode":"never"},"timezone":"Moon"}`, "", 400, "invalid", "timezone"},
		{"POST", org + "/disable", `{"channel":"fax"}`, "", 400, "invalid", "channel"},
		{"POST", org + "/disable", `{"chanel":"webhook"}`, "", 400, "invalid", "body"},
		{"POST", org + "/disable", `"webhook"`, "", 400, "invalid", "body"},
		{"POST", org + "/disable", `{}`, "text/plain", 415, "unsupported_media_type", ""},
		{"POST", org + "/pause", `{"reason":"a\nb"}`, "", 400, "invalid", "reason"},
		{"POST", org + "/pause", `{"reason":"` + strings.Repeat("x", 201) + `"}`, "", 400, "invalid", "reason"},
		{"GET", org + "/users?limit=0", "", "", 400, "invalid", "limit"},
		{"GET", org + "/users?limit=1001", "", "", 400, "invalid", "limit"},
		{"GET", org + "/users?limit=ten", "", "", 400, "invalid", "limit"},
		{"GET", org + "/users?limit=1&limit=2", "", "", 400, "invalid", "limit"},
		{"GET", org + "/users?cursor=nonsense", "", "", 400, "invalid", "cursor"},
		{"GET", org + "/users?cursor=1", "", "", 400, "invalid", "cursor"},
		{"GET", org + "/users?page=2", "", "", 400, "invalid", "query"},
		{"GET", org + "/users?%zz", "", "", 400, "invalid", "query"},
		{"GET", org + "/attempts?channel=fax", "", "", 400, "invalid", "channel"},
		{"GET", org + "/attempts?cursor=x.y.z", "", "", 400, "invalid", "cursor"},
		{"GET", org + "/dead-letters?cursor=1-x", "", "", 400, "invalid", "cursor"},
		{"GET", org + "/dead-letters?cursor=-5", "", "", 400, "invalid", "cursor"},
		{"GET", "/v1/status?x=1", "", "", 400, "invalid", "query"},
		{"POST", org + "/disable", `{"channel":""}`, "", 400, "invalid", "channel"}, // of a script whose variable is empty
		{"POST", org + "/disable", `{"channel":null}`, "", 400, "invalid", "body"},
		{"POST", org + "/dead-letters/purge", "", "", 400, "invalid", "body"},
		{"POST", org + "/dead-letters/purge", `{"orcid":"0000"}`, "", 400, "invalid", "orcid"},
		{"POST", org + "/dead-letters/purge", `{"orcid":""}`, "", 400, "invalid", "orcid"}, // of a script whose variable is empty
		{"POST", org + "/dead-letters/purge", `{"orcid":null}`, "", 400, "invalid", "body"},
		{"POST", org + "/dead-letters/purge", `{"since":null}`, "", 400, "invalid", "body"},
		{"POST", org + "/dead-letters/purge", `null`, "", 400, "invalid", "body"},
		{"POST", org + "/dead-letters/purge", `{"since":"yesterday"}`, "", 400, "invalid", "body"},
		{"POST", org + "/dead-letters/replay", `{"all":true}`, "", 400, "invalid", "body"},
		{"PUT", org + "/users/0000-0002-1825-0098", "", "", 400, "invalid", "orcid"},
		{"PUT", org + "/users/" + maria, `{"name":"a\u0000b"}`, "", 400, "invalid", "body"},
		{"PUT", org + "/users/" + maria, `{"phone":"1"}`, "", 400, "invalid", "body"},
		{"PUT", org + "/users/" + maria, `{"name":"` + strings.Repeat("x", 400) + `"}`, "", 400, "invalid", "body"},
		{"PUT", "/v1/organisations/nobody/users/" + maria, "", "", 404, "not_found", ""},
		{"DELETE", org + "/users/nonsense", "", "", 400, "invalid", "orcid"},
		{"GET", "/v1/users/nonsense", "", "", 400, "invalid", "orcid"},
	} {
		var header []string
		if c.mediaType != "" {
			header = []string{"Content-Type", c.mediaType}
		}
		a := b.send(c.method, c.path, c.body, header...)
		p := a.problem(t, c.status, c.code)
		if c.key != "" && !slices.ContainsFunc(p.Problems, func(f fieldProblem) bool { return f.Key == c.key && f.Why != "" }) {
			t.Errorf("%s %s %.60s: problems %v, want one of %s", c.method, c.path, c.body, p.Problems, c.key)
		}
		if c.status == 405 && a.Header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", c.method, c.path)
		}
		if t.Failed() {
			t.Fatalf("at %s %s %.60s", c.method, c.path, c.body)
		}
	}
	if after := state(); after != before {
		t.Errorf("something was changed:\n%s\n%s", before, after)
	}
}

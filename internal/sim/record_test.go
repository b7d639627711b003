package sim

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/orcid"
)

func TestRecordStates(t *testing.T) {
	b := setup(t)
	id, primary := b.profile(), b.profile()
	s, p := id.String(), primary.String()
	read := func(name string, status, code int, text string) reply {
		t.Helper()
		got := b.api("GET", "/v3.0/"+s+"/record")
		if got.status != status || code != 0 && !strings.Contains(got.body, `"error-code":`+strconv.Itoa(code)) || !strings.Contains(got.body, text) {
			t.Errorf("%s answered %d %s\nwant %d, %d, %s", name, got.status, got.body, status, code, text)
		}
		return got
	}
	read("good", 200, 0, `"path":"/`+s+`"`)
	must(t, b.r.Deactivate(id))
	read("deactivated", 409, 9044, `"developer-message":"409 Conflict: The ORCID record is deactivated and cannot be edited. Full validation error: `+s+` is deactivated","user-message":"The ORCID record is deactivated."`)
	must(t, b.r.Lock(id))
	read("locked before deactivated", 409, 9018, `"developer-message":"409 Conflict: The ORCID record is locked and cannot be edited. ORCID `+s+` Full validation error: `+s+` is locked","user-message":"The ORCID record is locked."`)
	must(t, b.r.SetClaimed(id, false))
	read("unclaimed before locked", 409, 9036, "")
	b.r.Shift(10 * 24 * time.Hour)
	read("unclaimed for ten days counts no more", 409, 9018, "")
	must(t, b.r.Deprecate(id, primary))
	got := read("deprecated before all", 301, 9007, `"developer-message":"301 Moved Permanently: This account is deprecated. Please refer to account: https://orcid.org/`+p+`. ORCID https://orcid.org/`+s+`","user-message":"This account is deprecated. Please refer to account: https://orcid.org/`+p+`."`)
	if l := got.header.Get("Location"); l != b.http.URL+"/v3.0/"+p+"/record" {
		t.Errorf("Location is %q", l)
	}
	got = b.api("POST", "/v3.0/"+s+"/works")
	if got.status != 409 || !strings.Contains(got.body, `"developer-message":"This account is deprecated.`) || got.header.Get("Location") == "" {
		t.Errorf("POST to a deprecated record answered %d %s", got.status, got.body)
	}
	s = unknown
	read("unknown", 404, 9016, "404 Not Found: The resource was not found.")
	s = p
	tok, err := b.r.IssueToken("one", []string{"/read-limited"}, id)
	must(t, err)
	if got = b.do("GET", "/v3.0/"+p+"/record", "", "Authorization", "Bearer "+tok, "Accept", "application/json"); got.status != 401 || !strings.Contains(got.body, "Full validation error: Access token is for a different record") {
		t.Errorf("another person's token answered %d %s", got.status, got.body)
	}
	if got = b.do("GET", "/v3.0/"+p+"/record", "", "Authorization", "Bearer "+b.tok); got.status != 406 || got.header.Get("Content-Type") != "" {
		t.Errorf("without Accept: %d %s", got.status, got.header)
	}
	must(t, b.r.DeactivateClient("one", true))
	read("client off", 409, 9057, "409 Conflict: The client is locked.")
	if got = b.do("GET", "/v3.0/status", ""); got.status != 200 || got.body != "OK I am here" {
		t.Errorf("status answered %d %q", got.status, got.body)
	}
}

func TestRecordShowsWhatIsPublic(t *testing.T) {
	b := setup(t)
	id := b.profile()
	put, err := b.r.ChangeItem(id, Add, Item{Section: "works", Title: "Shown <&>"})
	must(t, err)
	_, err = b.r.ChangeItem(id, Add, Item{Section: "works", Title: "Hidden", Visibility: Private})
	must(t, err)
	must(t, b.r.Change(id, "employments", Add))
	must(t, b.r.Change(id, "peer-reviews", Add))
	must(t, b.r.Change(id, "emails", Add))
	at := strconv.FormatInt(b.r.Now().UnixMilli(), 10)
	b.r.Shift(time.Minute)
	must(t, b.r.Touch(id))
	got := b.api("GET", "/v3.0/"+id.String()+"/record").body
	for _, want := range []string{
		`"last-modified-date":{"value":` + strconv.FormatInt(b.r.Now().UnixMilli(), 10) + `}`,
		`"put-code":` + strconv.FormatInt(put, 10), `Shown <&>`, `"last-modified-date":{"value":` + at + `}`, `"employment-summary"`,
		`"peer-review-summary"`, `"email":[{`, `"path":"/` + id.String() + `/work/` + strconv.FormatInt(put, 10) + `"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the record lacks %s:\n%s", want, got)
		}
	}
	if strings.Contains(got, "Hidden") {
		t.Error("the record shows what is private")
	}
	own, err := b.r.IssueToken("one", []string{"/read-limited"}, id)
	must(t, err)
	if r := b.do("GET", "/v3.0/"+id.String()+"/works", "", "Authorization", "Bearer "+own, "Accept", "application/json"); !strings.Contains(r.body, "Hidden") {
		t.Errorf("the person's own token does not see it: %s", r.body)
	}
	for part, want := range map[string]string{"person": `"emails"`, "activities": `"works"`, "works": `"group"`, "summary": `"works":{"count":1}`} {
		if r := b.api("GET", "/v3.0/"+id.String()+"/"+part); r.status != 200 || !strings.Contains(r.body, want) {
			t.Errorf("%s answered %d %s", part, r.status, r.body)
		}
	}
	if r := b.api("GET", "/v3.0/"+id.String()+"/hobbies"); r.status != 404 {
		t.Errorf("an unknown part answered %d", r.status)
	}
	// Hiding leaves no trace but the record's own date.
	_, err = b.r.ChangeItem(id, Visibility, Item{Section: "works", PutCode: put})
	must(t, err)
	if r := b.api("GET", "/v3.0/"+id.String()+"/works"); r.body != `{"group":[],"last-modified-date":null,"path":"/`+id.String()+`/works"}` {
		t.Errorf("after hiding: %s", r.body)
	}
}

func TestSearch(t *testing.T) {
	b := setup(t)
	ids := b.r.AddProfiles(5)
	found := func(name, q string, want ...orcid.ID) {
		t.Helper()
		hits := make([]string, len(want))
		for i, id := range want {
			hits[i] = fmt.Sprintf(`{"orcid-identifier":{"uri":"https://orcid.org/%s","path":"%s","host":"orcid.org"}}`, id, id)
		}
		list := "null"
		if len(hits) > 0 {
			list = "[" + strings.Join(hits, ",") + "]"
		}
		body := `{"result":` + list + `,"num-found":` + strconv.Itoa(len(want)) + `}`
		if got := b.api("GET", "/v3.0/search?"+q); got.status != 200 || got.body != body {
			t.Errorf("%s answered %d %s\nwant %s", name, got.status, got.body, body)
		}
	}
	q := func(s string) string { return "q=" + url.QueryEscape(s) }
	found("one", q("orcid:"+ids[1].String()), ids[1])
	found("quoted", q(`orcid:"`+ids[1].String()+`"`), ids[1])
	found("a list", q("orcid:("+ids[2].String()+" OR "+ids[0].String()+" "+unknown+")"), ids[2], ids[0])
	found("all", q("*:*"), ids...)
	found("nobody", q("orcid:"+unknown))
	b.r.Shift(time.Hour)
	since := b.r.Now().Format(time.RFC3339)
	date := "profile-last-modified-date:[" + since + " TO *]"
	b.change(ids[3])
	found("not indexed", q(date))
	b.r.IndexOnce()
	b.r.Shift(29 * time.Second)
	found("indexed, not committed", q(date))
	b.r.Shift(time.Second)
	found("committed", q(date), ids[3])
	found("with a list", q("orcid:("+ids[3].String()+" "+ids[4].String()+") AND "+date), ids[3])
	found("to NOW", q("profile-last-modified-date:["+since+" TO NOW]"), ids[3])
	found("before", q("profile-last-modified-date:[* TO "+since+"}"), ids[0], ids[1], ids[2], ids[4])
	found("by fq", q("*:*")+"&fq="+url.QueryEscape(date), ids[3])
	found("sorted", q("orcid:("+ids[3].String()+" "+ids[0].String()+")")+"&sort="+url.QueryEscape("profile-last-modified-date asc"), ids[0], ids[3])
	must(t, b.r.Touch(ids[0]))
	b.r.Advance(time.Hour)
	found("what is not indexed is not found", q(date), ids[3])
	if got := b.api("GET", "/v3.0/search?start=3&rows=1&"+q("*:*")); !strings.Contains(got.body, ids[3].String()) || strings.Contains(got.body, ids[2].String()) || !strings.Contains(got.body, `"num-found":5`) {
		t.Errorf("a page is %s", got.body)
	}
	long := make([]string, 1025)
	for i := range long {
		long[i] = "x"
	}
	for query, want := range map[string]string{
		"rows=1001&" + q("*:*"):                          "400 9012",
		"rows=x&" + q("*:*"):                             "400 9012",
		"start=-1&" + q("*:*"):                           "400 9012",
		q("family-name:(") + "":                          "500 9008",
		q("orcid:x OR orcid:y"):                          "500 9008",
		q("profile-last-modified-date:[yesterday TO *]"): "500 9008",
		"": "500 9008",
		q("orcid:(" + strings.Join(long, " ") + ")"): "500 9008",
	} {
		got := b.api("GET", "/v3.0/search?"+query)
		status, code, _ := strings.Cut(want, " ")
		if strconv.Itoa(got.status) != status || !strings.Contains(got.body, `"error-code":`+code) {
			t.Errorf("%.60s answered %d %s, want %s", query, got.status, got.body, want)
		}
	}
	if got := b.api("GET", "/v3.0/search?"+q(strings.Repeat("x", 9000))); got.status != 400 || !strings.Contains(got.body, "<html") {
		t.Errorf("a long URL answered %d %s", got.status, got.body)
	}
	tok, err := b.r.IssueToken("one", []string{"/webhook"}, orcid.ID{})
	must(t, err)
	if got := b.do("GET", "/v3.0/search?"+q("*:*"), "", "Authorization", "Bearer "+tok, "Accept", "application/json"); got.status != 403 {
		t.Errorf("without /read-public: %d", got.status)
	}
}

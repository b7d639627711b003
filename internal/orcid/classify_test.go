package orcid

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

const jsonType = "application/json;charset=UTF-8"

// exact holds ORCID's answers as ORCID.md §1.6, §1.8 and §2.1 give them.
var exact = []struct {
	name   string
	op     Op
	status int
	body   string
	header []string
	want   Kind
	code   int
	retry  time.Duration
	detail string // part of it
}{
	{name: "put new", op: OpPut, status: 201, want: Created},
	{name: "put existing", op: OpPut, status: 204, want: Exists},
	{name: "delete own", op: OpDelete, status: 204, want: Deleted},
	{
		name: "delete another client's", op: OpDelete, status: 403, want: NotOurs, code: 9014, detail: "Only the client that register the webhook can unregister it",
		body: `{"response-code":403,"developer-message":"The client application is forbidden to perform the action. Full validation error: Unable to unregister webhook: Only the client that register the webhook can unregister it.","user-message":"The client application is forbidden to perform the action.","error-code":9014,` + moreInfo + `}`,
	},
	{
		name: "delete unknown", op: OpDelete, status: 404, want: NoSuchWebhook, code: 9028, detail: "No webhook found for orcid=0000-0002-1825-0097",
		body: `{"response-code":404,"developer-message":"No webhook found for orcid=0000-0002-1825-0097, and uri=` + testCallback + `.","user-message":"The resource was not found.","error-code":9028,` + moreInfo + `}`,
	},
	{
		name: "put for an unknown iD", op: OpPut, status: 404, want: NoSuchRecord, code: 9011, detail: "404 Not Found (code 9011): The ORCID record or item was not found.",
		body: `{"response-code":404,"developer-message":"404 Not Found: The ORCID record or item was not found.","user-message":"The resource was not found.","error-code":9011,` + moreInfo + `}`,
	},
	{
		name: "bad callback", op: OpPut, status: 400, want: BadURI, code: 9012, detail: "is syntactically incorrect",
		body: `{"response-code":400,"developer-message":"The client application made a bad request to the ORCID API. Full validation error: Webhook uri: ` + testCallback + ` is syntactically incorrect","user-message":"The client application made a bad request to the ORCID API.","error-code":9012,` + moreInfo + `}`,
	},
	{
		name: "route missed", op: OpPut, status: 400, want: Unexpected, code: 9012, detail: "specify the API Version",
		body: `{"response-code":400,"developer-message":"The client application made a bad request to the ORCID API. Full validation error: Please specify the API Version you want to PUT to","user-message":"x","error-code":9012,` + moreInfo + `}`,
	},
	{
		name: "token lacks the scope", op: OpPut, status: 403, want: NoScope, code: 9038, detail: "doesn't have the required scope",
		body: `{"response-code":403,"developer-message":"409 Conflict: The item has a limited or private visibility and your request doesn't have the required scope.","user-message":"You don't have the permissions to execute this action.","error-code":9038,` + moreInfo + `}`,
	},
	{
		name: "public client", op: OpPut, status: 401, want: Unauthorized, code: 9017, detail: "The client application is forbidden to perform the action",
		body: `{"response-code":401,"developer-message":"401 Unauthorized: The client application is not authorized for this ORCID record. Full validation error: The client application is forbidden to perform the action.","user-message":"The client application is not authorized.","error-code":9017,` + moreInfo + `}`,
	},
	{
		name: "token refused", op: OpDelete, status: 401, want: Unauthorized, detail: "invalid_token: Invalid access token: <secret>",
		body: `{"error":"invalid_token","error_description":"Invalid access token: token-2-5eb23750"}`,
	},
	{
		name: "no token at all", op: OpPut, status: 403, want: Unexpected, detail: "forbidden: Forbidden: The server understood",
		body: `{"error":"forbidden","error_description":"Forbidden: The server understood the request but refuses to authorize it."}`,
	},
	{
		name: "locked record", op: OpPut, status: 409, want: Conflict, code: 9018, detail: "is locked",
		body: `{"response-code":409,"developer-message":"409 Conflict: The ORCID record is locked and cannot be edited. ORCID 0000-0002-1825-0097 Full validation error: 0000-0002-1825-0097 is locked","user-message":"The ORCID record is locked.","error-code":9018,` + moreInfo + `}`,
	},
	{
		name: "deactivated record", op: OpRecord, status: 409, want: Conflict, code: 9044, detail: "is deactivated",
		body: `{"response-code":409,"developer-message":"409 Conflict: The ORCID record is deactivated and cannot be edited. Full validation error: 0000-0002-1825-0097 is deactivated","user-message":"The ORCID record is deactivated.","error-code":9044,` + moreInfo + `}`,
	},
	{name: "unclaimed record", op: OpRecord, status: 409, want: Conflict, code: 9036, body: `{"error-code":9036}`},
	{
		name: "client locked", op: OpPut, status: 409, want: ClientLocked, code: 9057, detail: "The client is locked.",
		body: `{"response-code":409,"developer-message":"409 Conflict: The client is locked.","user-message":"x","error-code":9057,` + moreInfo + `}`,
	},
	{
		name: "deprecated record", op: OpRecord, status: 301, want: Redirected, code: 9007, header: []string{"Location", "https://api.orcid.org/v3.0/0000-0001-5109-3700/record"},
		detail: "redirect to https://api.orcid.org, not followed: 301 Moved Permanently: This account is deprecated. Please refer to account: https://orcid.org/0000-0001-5109-3700.",
		body:   `{"response-code":301,"developer-message":"301 Moved Permanently: This account is deprecated. Please refer to account: https://orcid.org/0000-0001-5109-3700. ORCID https://orcid.org/0000-0002-1825-0097","user-message":"x","error-code":9007,` + moreInfo + `}`,
	},
	{name: "deprecated, not a read", op: OpPut, status: 409, want: Conflict, code: 9007, body: `{"error-code":9007,"user-message":"This account is deprecated."}`, detail: "This account is deprecated."},
	{name: "unknown record", op: OpRecord, status: 404, want: NoSuchRecord, code: 9016, body: `{"developer-message":"404 Not Found: The resource was not found.","error-code":9016}`},
	{name: "unknown resource on the webhook route", op: OpPut, status: 404, want: Unexpected, code: 9016, body: `{"error-code":9016}`},
	{name: "private item", op: OpRecord, status: 403, want: Unexpected, code: 9013, body: `{"error-code":9013}`},
	{name: "search start too large", op: OpSearch, status: 400, want: Unexpected, code: 9043, body: `{"error-code":9043}`},
	{name: "search rows bad", op: OpSearch, status: 400, want: Unexpected, code: 9012, body: `{"error-code":9012}`},
	{name: "bad accept", op: OpPut, status: 406, want: Unexpected, code: 9001, body: `{"error-code":9001}`},
	{name: "anything else", op: OpPut, status: 500, want: Unavailable, code: 9008, body: `{"response-code":500,"developer-message":"500 Internal Error","user-message":"Something went wrong in ORCID.","error-code":9008,` + moreInfo + `}`},
	{
		name: "rate limit", op: OpPut, status: 503, want: Unavailable, detail: "503 Service Unavailable: 503 Service Temporarily Unavailable",
		body: "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n",
	},
	{name: "503 with Retry-After", op: OpDelete, status: 503, want: Unavailable, header: []string{"Retry-After", "120"}, retry: 2 * time.Minute, body: "{}"},
	{name: "502", op: OpPut, status: 502, want: Unavailable, body: "<html><body>Bad gateway &amp; more</body></html>", detail: "Bad gateway & more"},
	{name: "cloudflare 520", op: OpPut, status: 520, want: Unavailable, body: "error code: 520"},
	{
		name: "quota", op: OpSearch, status: 429, want: RateLimited, detail: "You have exceeded the daily quota",
		body: "Too Many Requests. You have exceeded the daily quota for anonymous usage of this API. \nYou can increase your daily quota",
	},
	{name: "429 with a date", op: OpPut, status: 429, want: RateLimited, retry: 90 * time.Second, header: []string{
		"Date", "Mon, 23 Nov 2026 02:05:30 GMT", "Retry-After", "Mon, 23 Nov 2026 02:07:00 GMT",
	}},
	{name: "429 for ever", op: OpPut, status: 429, want: RateLimited, retry: 24 * time.Hour, header: []string{"Retry-After", "99999999999"}},
	{name: "429 with nonsense", op: OpPut, status: 429, want: RateLimited, header: []string{"Retry-After", "-5"}},
	{name: "maintenance", op: OpPut, status: 302, want: Redirected, header: []string{"Location", "https://maintenance.orcid.org/page/secret"}, detail: "302 Found: redirect to https://maintenance.orcid.org, not followed"},
	{name: "redirect to the versioned route", op: OpPut, status: 302, want: Redirected, header: []string{"Location", "/v3.0/x"}, detail: "redirect to another path"},
	{name: "a proxy's 404 says nothing about the iD", op: OpPut, status: 404, want: Unexpected, body: "<title>Not here</title>", detail: "Not here"},
	{name: "a proxy's 404 says nothing about the row", op: OpDelete, status: 404, want: Unexpected, body: `{"error":"Not Found"}`},
	{name: "a proxy's 403 says nothing about the owner", op: OpDelete, status: 403, want: Unexpected, body: "<title>Attention Required! | Cloudflare</title>"},
	{name: "a page of 200 is no registration", op: OpPut, status: 200, want: Unexpected, body: "<title>Welcome</title>"},
	{name: "a page of 200 is no removal", op: OpDelete, status: 200, want: Unexpected, body: "<title>Welcome</title>"},
	{name: "created means nothing to a DELETE", op: OpDelete, status: 201, want: Unexpected},
	{name: "code as text", op: OpPut, status: 404, want: NoSuchRecord, code: 9011, body: `{"error-code":"9011"}`},
	{name: "code without its status", op: OpPut, status: 400, want: Unexpected, code: 9011, body: `{"error-code":9011}`},
	{name: "404 cut short", op: OpDelete, status: 404, want: Unexpected, body: `{"response-code":404,"developer-message":"No webhook found for orc`},
}

func TestClassifyKnowsEveryAnswer(t *testing.T) {
	t.Parallel()
	for _, tt := range exact {
		h := http.Header{}
		for i := 0; i+1 < len(tt.header); i += 2 {
			h.Set(tt.header[i], tt.header[i+1])
		}
		got := classify(tt.op, tt.status, h, []byte(tt.body), time.Now())
		if got.Kind != tt.want || got.Status != tt.status || got.Code != tt.code || got.RetryAfter != tt.retry {
			t.Errorf("%s: got %+v; want kind %s, code %d, retry %s", tt.name, got, tt.want, tt.code, tt.retry)
		}
		if !strings.Contains(got.Detail, tt.detail) {
			t.Errorf("%s: detail %q lacks %q", tt.name, got.Detail, tt.detail)
		}
		if (got.Detail == "") != (got.Kind == Created || got.Kind == Exists || got.Kind == Deleted || got.Kind == OK) {
			t.Errorf("%s: detail %q for %s", tt.name, got.Detail, got.Kind)
		}
		// Even before the redactor, which knows the exact texts.
		if strings.Contains(got.Detail, "/hooks/") || strings.Contains(got.Detail, "5eb23750") {
			t.Errorf("%s: detail %q tells too much", tt.name, got.Detail)
		}
	}
}

func TestRetryAfterDateWithoutDateUsesOurClock(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 2, 5, 30, 0, time.UTC)
	h := http.Header{"Retry-After": {"Mon, 23 Nov 2026 02:06:00 GMT"}}
	if got := retryAfter(h, now); got != 30*time.Second {
		t.Errorf("got %s, want 30s", got)
	}
	if got := retryAfter(h, now.Add(time.Hour)); got != 0 {
		t.Errorf("a date in the past gave %s, want 0", got)
	}
}

func TestScrubKeepsHostsAndRecordsOnly(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"see https://orcid.org/0000-0002-1825-0097.":                              "see https://orcid.org/0000-0002-1825-0097.",
		"uri=https://hub.example/hooks/a/b is bad":                                "uri=https://hub.example/… is bad",
		"at http://u:p@hub.example/x":                                             "at http://u:p/…",
		"/0000/webhook/https%3A%2F%2Fhub.example%2Fhooks%2Fa%2Fb missing":         "/0000/webhook/https://hub.example/… missing",
		"https%3a%2f%2fhub.example%2fhooks%2fa?next=http://other.example/private": "https://hub.example/…",
		"Invalid access token: abc":                                               "Invalid access token: <secret>",
		"https://hub.example":                                                     "https://hub.example",
	} {
		if got := scrub(in); got != want {
			t.Errorf("scrub(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestRedactorFindsEveryFormOfTheCallback(t *testing.T) {
	t.Parallel()
	r := newRedactor(testCallback, "tokentoken", "", "abc")
	for _, in := range []string{
		testCallback, escapeSegment(testCallback), strings.ReplaceAll(testCallback, "/", `\/`), "tokentoken",
		"/hooks/APP-1/0000-0002-1825-0097/1/q8Zb3kTn1xWv0LmYc2RdAg", "…RdAg is q8Zb3kTn1xWv0LmYc2RdAg",
	} {
		got := string(r.bytes([]byte("<" + in + ">")))
		mustNotTell(t, got)
		if strings.Contains(got, "tokentoken") {
			t.Errorf("%q tells the token", got)
		}
	}
	if got := string(r.bytes([]byte("abc"))); got != "abc" {
		t.Errorf("too short a secret was replaced: %q", got)
	}
}

func TestAnswerOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want Kind
	}{
		{nil, OK},
		{&TransportError{Op: OpPut, Timeout: true, Err: errTimeout{time.Second}}, Unreachable},
		{&CredentialError{Reason: InvalidScope, Scope: ScopeWebhook}, BadCredential},
		{&AnswerError{OpToken, Answer{Kind: Unavailable}}, Unavailable},
		{errors.New("boom"), Unexpected},
	} {
		if got := AnswerOf(tt.err); got.Kind != tt.want || tt.err != nil && got.Detail == "" && got.Kind != Unavailable {
			t.Errorf("AnswerOf(%v) = %+v, want %s", tt.err, got, tt.want)
		}
	}
}

func TestKindsHaveDistinctWords(t *testing.T) {
	t.Parallel()
	words := map[string]bool{}
	for k := range lastKind {
		if w := k.String(); w == "" || words[w] {
			t.Errorf("kind %d is called %q", k, w)
		}
		words[k.String()] = true
	}
}

func FuzzClassify(f *testing.F) {
	for _, tt := range exact {
		h := ""
		if len(tt.header) > 1 {
			h = tt.header[1]
		}
		f.Add(uint8(tt.op), tt.status, h, []byte(tt.body))
	}
	f.Fuzz(func(t *testing.T, op uint8, status int, header string, body []byte) {
		o := Op(op % uint8(len(ops)))
		h := http.Header{"Retry-After": {header}, "Location": {header}, "Date": {header}}
		a := classify(o, status, h, body, time.Unix(1_800_000_000, 0))
		if again := classify(o, status, h, body, time.Unix(1_800_000_000, 0)); again != a {
			t.Fatalf("not pure: %+v, then %+v", a, again)
		}
		if a.Kind >= lastKind || a.Kind == Unreachable || a.Kind == BadCredential || a.Kind == Cancelled {
			t.Fatalf("kind %s is not an answer's", a.Kind)
		}
		if good := a.Kind == OK || a.Kind == Created || a.Kind == Exists || a.Kind == Deleted; good && (status < 200 || status > 299 || a.Detail != "") {
			t.Fatalf("status %d became %+v", status, a)
		}
		if a.Kind == Deleted && o != OpDelete || (a.Kind == Created || a.Kind == Exists || a.Kind == BadURI) && o != OpPut && o != OpDelete {
			t.Fatalf("%s became %s", o, a.Kind)
		}
		if a.RetryAfter < 0 || a.RetryAfter > maxRetryAfter {
			t.Fatalf("retry after %s", a.RetryAfter)
		}
		if len(a.Detail) > maxDetail || !utf8.ValidString(a.Detail) || strings.ContainsFunc(a.Detail, unicode.IsControl) {
			t.Fatalf("detail %q", a.Detail)
		}
	})
}

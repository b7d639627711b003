package orcid

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Op is what ORCID was asked to do.
type Op uint8

// The operations.
const (
	OpToken  Op = iota // get an access token
	OpPut              // register a webhook
	OpDelete           // unregister a webhook
	OpSearch           // search which records changed
	OpRecord           // read one record
)

// ops lists every operation, for metrics.
var ops = [...]Op{OpToken, OpPut, OpDelete, OpSearch, OpRecord}

// String returns the word that metrics and errors use.
func (o Op) String() string {
	switch o {
	case OpToken:
		return "token"
	case OpPut:
		return "put"
	case OpDelete:
		return "delete"
	case OpSearch:
		return "search"
	case OpRecord:
		return "record"
	}
	return "op-" + strconv.Itoa(int(o))
}

// Kind says what an answer of ORCID means to us.
type Kind uint8

// The kinds of answers. Classify is the only place that decides them, except
// for the last four: AnswerOf makes three of errors, and callers Abandoned.
const (
	Unexpected    Kind = iota // nothing that is documented: try again slowly, look at Detail
	OK                        // a read succeeded
	Created                   // PUT 201: the row is new, and ours
	Exists                    // PUT 204: the row was there before, whoever owns it
	Deleted                   // DELETE 204: our row is gone
	NotOurs                   // DELETE 403/9014: another client owns the row
	NoSuchWebhook             // DELETE 404/9028: there is no such row
	NoSuchRecord              // 404/9011: ORCID does not know the iD
	BadURI                    // PUT 400/9012: the callback URL is not a URI
	NoScope                   // 403/9038 and its like: the credential may not do this
	Unauthorized              // 401 although the token is fresh
	ClientLocked              // 409/9057: ORCID locked the API client
	RateLimited               // 429
	Unavailable               // 5xx (JSON or HTML) and 408: ORCID's trouble, it will pass
	Redirected                // 3xx, never followed
	Conflict                  // 409: locked, deactivated, deprecated, unclaimed
	Unreachable               // no answer: timeout, reset, refused, name not found
	BadCredential             // the token endpoint refuses the credential
	Cancelled                 // the caller gave up; nothing is known
	Abandoned                 // nobody was asked: the row cannot be named, or not be deleted, by us any more
	lastKind
)

var kindWords = [lastKind]string{
	"unexpected", "ok", "created", "exists", "deleted", "not-ours", "no-such-webhook", "no-such-record", "bad-uri",
	"no-scope", "unauthorized", "client-locked", "rate-limited", "unavailable", "redirected", "conflict",
	"unreachable", "bad-credential", "cancelled", "abandoned",
}

// String returns the word that logs and people see.
func (k Kind) String() string {
	if k < lastKind {
		return kindWords[k]
	}
	return "kind-" + strconv.Itoa(int(k))
}

// Answer is what ORCID said to one request.
type Answer struct {
	Kind   Kind
	Status int // HTTP status; 0 when there was no answer
	Code   int // ORCID's error-code, for example 9011; 0 when it named none
	// RetryAfter is how long ORCID asked us to wait, at most 24 h; 0 when it
	// did not say.
	RetryAfter time.Duration
	// Detail is for people: at most 300 bytes on one line, no token and no
	// callback path in it. Empty on success.
	Detail string
}

// maxRetryAfter bounds a Retry-After that would put us to sleep for ever.
const maxRetryAfter = 24 * time.Hour

// problem is the union of ORCID's three error objects: the API's (v2), the
// bearer filter's and the token endpoint's.
type problem struct {
	DeveloperMessage string      `json:"developer-message"`
	UserMessage      string      `json:"user-message"`
	ErrorCode        json.Number `json:"error-code"`
	Error            string      `json:"error"`
	ErrorDescription string      `json:"error_description"`
}

// classify decides what an answer means. It looks at nothing but its
// arguments; now is used only for a Retry-After date in an answer without a
// Date of its own. The body may be anything, also HTML or cut short; secrets
// must have been taken out of it before.
func classify(op Op, status int, header http.Header, body []byte, now time.Time) Answer {
	var p problem
	// Errors are of no interest: what cannot be read stays empty, and then no
	// decision rests on it.
	_ = json.Unmarshal(body, &p)
	code64, _ := strconv.ParseInt(p.ErrorCode.String(), 10, 32)
	a := Answer{Status: status, Code: int(code64), RetryAfter: retryAfter(header, now)}
	a.Kind = kindOf(op, status, a.Code, p.DeveloperMessage)
	switch a.Kind {
	case OK, Created, Exists, Deleted:
		a.Code, a.RetryAfter = 0, 0
	case Redirected:
		a.Detail = detail(status, a.Code, redirectText(header, p))
	default:
		a.Detail = detail(status, a.Code, bodyText(body, p))
	}
	return a
}

// kindOf is the table of ORCID.md §1.6, §1.8 and §2. A code decides only
// together with its status: a 404 page of some proxy must not be read as
// "unknown iD".
func kindOf(op Op, status, code int, message string) Kind {
	webhook := op == OpPut || op == OpDelete
	switch {
	case status == http.StatusCreated && op == OpPut:
		return Created
	case status == http.StatusNoContent && op == OpPut:
		return Exists
	case status == http.StatusNoContent && op == OpDelete:
		return Deleted
	case status == http.StatusOK && !webhook:
		return OK
	case status >= 300 && status < 400:
		return Redirected
	case status == http.StatusTooManyRequests:
		return RateLimited
	case status >= 500 && status < 600, status == http.StatusRequestTimeout:
		return Unavailable
	case status == http.StatusUnauthorized:
		return Unauthorized
	case status == http.StatusConflict && code == 9057:
		return ClientLocked
	case status == http.StatusConflict:
		return Conflict
	case status == http.StatusForbidden && code == 9014 && op == OpDelete:
		return NotOurs
	case status == http.StatusForbidden && (code == 9038 || code == 9014 && op == OpPut):
		return NoScope
	case status == http.StatusNotFound && code == 9028 && op == OpDelete:
		return NoSuchWebhook
	case status == http.StatusNotFound && (code == 9011 && op != OpToken || code == 9016 && op == OpRecord):
		return NoSuchRecord
	case status == http.StatusBadRequest && code == 9012 && webhook:
		// The same code says that the request missed the webhook route. That is
		// about api_url, not about this user, so nobody must be refused for it.
		if strings.Contains(message, "specify the API Version") {
			return Unexpected
		}
		return BadURI
	}
	return Unexpected
}

// retryAfter reads seconds or a date. A date counts from the answer's own Date,
// so that a clock that differs from ORCID's does not matter.
func retryAfter(header http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(header.Get("Retry-After"))
	if v == "" {
		return 0
	}
	if secs, err := strconv.ParseUint(v, 10, 63); err == nil {
		if secs > uint64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(secs) * time.Second
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

package hubapi

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"
)

func TestRateLimitIsTheHubsAndPerClient(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a, other := b.as("uni-a"), b.as("uni-b")
	b.now.Add(time.Second.Milliseconds())
	for i := range perSecond {
		// Whatever the header says, it is the same client.
		res := a.want(200, "-", "GET", "/api/v1/webhook", "", "X-Forwarded-For", "192.0.2."+strconv.Itoa(i))
		if h := res.Header; h.Get("X-RateLimit-Limit") != "40" || h.Get("X-RateLimit-Remaining") != strconv.Itoa(perSecond-1-i) || h.Get("X-RateLimit-Reset") != strconv.FormatInt(b.now.Load()/1000+1, 10) {
			t.Fatalf("request %d: %v", i, h)
		}
	}
	res := a.want(429, `{"error":"Too Many Requests","message":"40 per 1 second"}`, "GET", "/api/v1/webhook", "", "X-Forwarded-For", "198.51.100.1")
	if res.Header.Get("Retry-After") != "1" || res.Header.Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("%v", res.Header)
	}
	other.want(200, "-", "GET", "/api/v1/webhook", "")
	for i := range perSecond {
		if res := b.send("GET", "/api/v1/webhook", "", "X-Forwarded-For", strconv.Itoa(i)); res.code != 401 {
			t.Fatalf("without a token: %d", res.code)
		}
	}
	if res := b.send("GET", "/api/v1/webhook", ""); res.code != 429 {
		t.Errorf("without a token there is no limit: %d", res.code)
	}
	other.want(200, "-", "GET", "/api/v1/webhook", "")
	b.now.Add(time.Second.Milliseconds())
	a.want(200, "-", "GET", "/api/v1/webhook", "")
}

func TestRateLimitByTheMinuteAndItsMemory(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_795_000_020, 0) // a minute begins
	l := newLimiter(func() time.Time { return now })
	h := http.Header{}
	for i := range perMinute {
		if i%perSecond == 0 && i > 0 {
			now = now.Add(time.Second)
		}
		if err := l.take(h, "a"); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	now = now.Add(time.Second)
	if err := l.take(h, "a"); err == nil || err.Error() != "1440 per 1 minute" || h.Get("X-RateLimit-Limit") != "1440" {
		t.Errorf("%v %v", err, h)
	}
	now = now.Truncate(time.Minute).Add(time.Minute)
	if err := l.take(h, "a"); err != nil {
		t.Error(err)
	}
	for i := range 2 * maxTracked {
		_ = l.take(h, strconv.Itoa(i)) // the shared count refuses some
	}
	if len(l.keys) > maxTracked+1 {
		t.Errorf("%d are tracked", len(l.keys))
	}
	now = now.Add(2 * time.Minute)
	if err := l.take(h, "new"); err != nil || len(l.keys) > 2 {
		t.Errorf("%d are tracked after all went: %v", len(l.keys), err)
	}
}

// TestTheAuditLogNamesWhoIsBehindTheProxy, as the limits do.
func TestTheAuditLogNamesWhoIsBehindTheProxy(t *testing.T) {
	t.Parallel()
	req := httptest.NewRequest(http.MethodPut, "/api/v1/webhook", nil)
	req.RemoteAddr = "127.0.0.1:40123"
	req.Header.Set("X-Forwarded-For", "203.0.113.9")
	if by := (&call{Request: req, org: "uni-a"}).by(); by.From != "203.0.113.9" || by.Who != "api client of uni-a" {
		t.Errorf("%+v", by)
	}
}

package admin

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
)

// TestThePageAndTheAPIStandApart: the page is there without a bearer token and
// shows nothing before somebody signs in; being signed in opens no API.
func TestThePageAndTheAPIStandApart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA()
	jar, err := cookiejar.New(nil)
	b.must(err)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Jar: jar, Transport: transport}
	get := func(path string) (int, string) {
		t.Helper()
		res, err := c.Get(b.url + path)
		b.must(err)
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		b.must(err)
		return res.StatusCode, string(raw)
	}
	if status, body := get("/"); status != http.StatusOK || !strings.Contains(body, "Admin token") || strings.Contains(body, "University A") {
		t.Errorf("%d %s", status, body)
	}
	res, err := c.PostForm(b.url+"/sign-in", url.Values{"token": {token}})
	b.must(err)
	res.Body.Close()
	if status, body := get("/"); status != http.StatusOK || !strings.Contains(body, "University A") || strings.Contains(body, apikey) {
		t.Errorf("%d %s", status, body)
	}
	for _, path := range []string{"/v1/status", "/v1/organisations/uni-a/secrets", "/debug/pprof/"} {
		if status, body := get(path); status != http.StatusUnauthorized || strings.Contains(body, "whsec_") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

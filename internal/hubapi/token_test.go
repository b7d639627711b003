package hubapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dispatchd/internal/service"
)

const form = "application/x-www-form-urlencoded"

func TestTokenAsTheHubGaveIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.organisation("uni-p", "chosen by a person")
	basic := func(id, secret string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
	}
	good := "grant_type=client_credentials&client_id=client-uni-a&client_secret=" + secretA
	for name, c := range map[string]struct {
		body   string
		header []string
		status int
		want   string // "" for a token
	}{
		"form":               {good, nil, 200, ""},
		"scope":              {good + "&scope=/webhook", nil, 200, ""},
		"scope among others": {good + "&scope=/read-public+/webhook", nil, 200, ""},
		"empty scope":        {good + "&scope=", nil, 200, ""},
		"basic":              {"grant_type=client_credentials", []string{"Authorization", basic("client-uni-a", secretA)}, 200, ""},
		"basic and id":       {"grant_type=client_credentials&client_id=client-uni-a", []string{"Authorization", basic("client-uni-a", secretA)}, 200, ""},
		"person's secret":    {"grant_type=client_credentials&client_id=client-uni-p&client_secret=chosen+by+a+person", nil, 200, ""},
		"other scope":        {good + "&scope=/read-limited", nil, 400, `{"error":"invalid_scope","error_description":"scope must be empty or contain /webhook."}`},
		"no grant":           {strings.TrimPrefix(good, "grant_type=client_credentials&"), nil, 400, `{"error":"invalid_request","error_description":"grant_type is missing; send grant_type=client_credentials."}`},
		"other grant":        {strings.Replace(good, "client_credentials", "password", 1), nil, 400, `{"error":"unsupported_grant_type","error_description":"Only grant_type=client_credentials works here."}`},
		"wrong secret":       {good + "x", nil, 401, `{"error":"invalid_client"}`},
		"unknown client":     {strings.Replace(good, "uni-a", "uni-x", 1), nil, 401, `{"error":"invalid_client"}`},
		"no client":          {"grant_type=client_credentials", nil, 401, `{"error":"invalid_client"}`},
		"empty secret":       {"grant_type=client_credentials&client_id=client-uni-a&client_secret=", nil, 401, `{"error":"invalid_client"}`},
		"another's secret":   {"grant_type=client_credentials&client_id=client-uni-a&client_secret=" + secretB, nil, 401, `{"error":"invalid_client"}`},
		"wrong basic":        {"grant_type=client_credentials", []string{"Authorization", basic("client-uni-a", "x")}, 401, `{"error":"invalid_client"}`},
		"twice":              {good + "&client_id=client-uni-b", nil, 400, `{"error":"invalid_request","error_description":"client_id is given more than once."}`},
		"two clients":        {good, []string{"Authorization", basic("client-uni-b", secretB)}, 400, `{"error":"invalid_request","error_description":"The client is named twice, and differently."}`},
		"JSON":               {`{"grant_type":"client_credentials"}`, []string{"Content-Type", "application/json"}, 400, `{"error":"invalid_request","error_description":"Send a form: Content-Type: application/x-www-form-urlencoded."}`},
		"not a form":         {"%zz", nil, 400, `{"error":"invalid_request","error_description":"The form could not be read."}`},
		"huge":               {"x=" + strings.Repeat("y", maxBody), nil, 413, `{"error":"invalid_request","error_description":"The form is too large."}`},
	} {
		b.now.Add(time.Hour.Milliseconds()) // what was guessed before is forgotten
		a := b.send("POST", "/oauth/token", c.body, append([]string{"Content-Type", form}, c.header...)...)
		if a.code != c.status || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s %v", name, a.code, a.body, a.Header)
		}
		if c.want != "" {
			if got := strings.TrimSpace(a.body); got != c.want {
				t.Errorf("%s: %s", name, got)
			}
			if basic := len(c.header) > 0 && strings.HasPrefix(c.header[1], "Basic"); c.status == 401 && basic != (a.Header.Get("WWW-Authenticate") != "") {
				t.Errorf("%s: WWW-Authenticate %q", name, a.Header.Get("WWW-Authenticate"))
			}
			continue
		}
		var out map[string]any
		if err := json.Unmarshal([]byte(a.body), &out); err != nil || len(out) != 4 || out["token_type"] != "Bearer" || out["expires_in"] != 86400.0 || out["scope"] != "/webhook" {
			t.Errorf("%s: %s %v", name, a.body, err)
		}
	}
	if a := b.send("GET", "/oauth/token?"+good, ""); a.code != 405 || a.Header.Get("Allow") != "POST, OPTIONS" {
		t.Errorf("GET: %d %v", a.code, a.Header)
	}
	if a := b.send("POST", "/oauth/token?"+good, "grant_type=client_credentials", "Content-Type", form); a.code != 401 {
		t.Errorf("a secret in the URL was taken: %d", a.code)
	}
}

func TestWrongSecretsAreSlowedDownForOneClientOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	try := func(id, secret string) answer {
		t.Helper()
		v := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
		return b.send("POST", "/oauth/token", v.Encode(), "Content-Type", form, "X-Forwarded-For", secret+".example")
	}
	for i := range clientGuesses {
		if a := try("client-uni-a", "guess"); a.code != 401 {
			t.Fatalf("guess %d: %d", i, a.code)
		}
	}
	a := try("client-uni-a", secretA)
	if a.code != 429 || a.Header.Get("Retry-After") != "10" {
		t.Fatalf("after %d guesses: %d %v %s", clientGuesses, a.code, a.Header, a.body)
	}
	if a := try("client-uni-b", secretB); a.code != 200 {
		t.Errorf("another client waits too: %d %s", a.code, a.body)
	}
	b.now.Add(clientRefill.Milliseconds())
	if a := try("client-uni-a", secretA); a.code != 200 {
		t.Errorf("it did not end: %d", a.code)
	}
	for i := range addressGuesses {
		if a := try("nobody-"+strings.Repeat("x", i), "guess"); a.code == 429 {
			break
		}
	}
	if a := try("client-uni-b", secretB); a.code != 429 {
		t.Errorf("one address may guess for ever: %d", a.code)
	}
}

// TestAStrangerBehindTheProxyLocksNobodyOut: all connections come from it, and it
// says for whom.
func TestAStrangerBehindTheProxyLocksNobodyOut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	try := func(from, id, secret string) int {
		t.Helper()
		v := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
		return b.send("POST", "/oauth/token", v.Encode(), "Content-Type", form, "X-Forwarded-For", from).code
	}
	refused := 0
	for i := range addressGuesses + 10 {
		// What the stranger writes before the proxy's own part counts for nothing.
		if try(fmt.Sprintf("192.0.2.%d, 198.51.100.66", i), "nobody-"+strconv.Itoa(i), "guess") == 429 {
			refused++
		}
	}
	if refused != 10 {
		t.Errorf("%d of %d guesses were refused, want 10", refused, addressGuesses+10)
	}
	if got := try("203.0.113.5", "client-uni-a", secretA); got != 200 {
		t.Errorf("an organisation gets no token meanwhile: %d", got)
	}
	for range perSecond {
		b.send("GET", "/api/v1/webhook", "", "X-Forwarded-For", "198.51.100.66")
	}
	if got := b.send("GET", "/api/v1/webhook", "", "X-Forwarded-For", "198.51.100.66").code; got != 429 {
		t.Errorf("the stranger has no limit: %d", got)
	}
	if got := b.send("GET", "/api/v1/webhook", "", "X-Forwarded-For", "203.0.113.5").code; got != 401 {
		t.Errorf("others without a token share the stranger's limit: %d", got)
	}
}

func TestGuessesStayBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_795_000_000, 0)
	g := newGuesses(func() time.Time { return now })
	for i := range 3 * maxTracked {
		g.wrong("client", time.Duration(i).String())
	}
	if len(g.full) > maxTracked+1 {
		t.Errorf("%d are tracked", len(g.full))
	}
	if g.wait("client", "a new address") == 0 {
		t.Error("who comes when there are too many is not counted at all")
	}
	now = now.Add(24 * time.Hour)
	if g.wait("client", "a new address") != 0 {
		t.Error("it does not end")
	}
	g.wrong("client", "x")
	if len(g.full) > 2 {
		t.Errorf("%d are tracked after all ended", len(g.full))
	}
}

func TestTokensEndWithSecretClientAndOrganisation(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	for name, change := range map[string]string{
		"secret": `{"api":{"client_secret":"a new one, for a change of it all"}}`,
		"client": `{"api":{"client_id":"client-new"}}`,
	} {
		c := b.as("uni-a")
		c.want(200, "-", "GET", "/api/v1/webhook", "")
		in, err := service.ReadSettings(strings.NewReader(change))
		b.must(err)
		_, err = b.svc.PatchOrganisation(ctx, operator, "uni-a", in)
		b.must(err)
		c.want(401, "-", "GET", "/api/v1/webhook", "")
		in, err = service.ReadSettings(strings.NewReader(`{"api":{"client_id":"client-uni-a","client_secret":"` + secretA + `"}}`))
		b.must(err)
		_, err = b.svc.PatchOrganisation(ctx, operator, "uni-a", in)
		b.must(err)
		t.Log(name)
	}
	c := b.as("uni-a")
	in, err := service.ReadSettings(strings.NewReader(`{"name":"Another name"}`))
	b.must(err)
	_, err = b.svc.PatchOrganisation(ctx, operator, "uni-a", in)
	b.must(err)
	c.want(200, "-", "GET", "/api/v1/webhook", "")
	b.must(b.svc.RemoveOrganisation(ctx, operator, "uni-a"))
	a := c.want(401, "-", "GET", "/api/v1/webhook", "")
	if a.Header.Get("WWW-Authenticate") != `Bearer realm="dispatchd", error="invalid_token"` || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%v %s", a.Header, a.body)
	}
	v := url.Values{"grant_type": {"client_credentials"}, "client_id": {"client-uni-a"}, "client_secret": {secretA}}
	if a := b.send("POST", "/oauth/token", v.Encode(), "Content-Type", form); a.code != http.StatusUnauthorized {
		t.Errorf("an organisation that goes gets a token: %d", a.code)
	}
}

// TestGuessesAtTheSameTimeAreCounted: many that wait for their check together
// are no more than one after the other.
func TestGuessesAtTheSameTimeAreCounted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.as("uni-a")
	synctest.Test(t, func(t *testing.T) {
		b.api.slow = make(chan struct{}, maxChecks)
		for range maxChecks { // nobody is checked until all are there
			b.api.slow <- struct{}{}
		}
		const many = 30
		statuses := make(chan int, many)
		for range many {
			go func() {
				req := httptest.NewRequest(http.MethodPost, "/oauth/token", strings.NewReader("grant_type=client_credentials&client_id=uni-a&client_secret=wrong"))
				req.Header.Set("Content-Type", form)
				rec := httptest.NewRecorder()
				b.api.ServeHTTP(rec, req)
				statuses <- rec.Code
			}()
		}
		synctest.Wait()
		for range maxChecks {
			<-b.api.slow
		}
		checked := 0
		for range many {
			if <-statuses == http.StatusUnauthorized {
				checked++
			}
		}
		if checked > clientGuesses+maxChecks {
			t.Errorf("%d wrong secrets were checked", checked)
		}
	})
}

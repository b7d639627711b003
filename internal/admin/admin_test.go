package admin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/secret"
	"dispatchd/internal/service"
)

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "Options.Service") {
		t.Errorf("%v", err)
	}
}

// TestNothingWithoutTheToken: every route under /v1 and /debug, and paths that
// do not exist there.
func TestNothingWithoutTheToken(t *testing.T) {
	t.Parallel()
	current := secret.Text(token)
	b := setup(t, func(o *Options) { o.Token = func() secret.Text { return current } })
	b.uniA()
	wrong := []string{"", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + token + "x", "Bearer " + token[:10], "Basic " + token, token}
	for _, route := range []string{
		"GET /v1", "GET /v1/", "GET /v1/status", "GET /v1/ledger", "GET /v1/credentials", "GET /v1/jobs", "GET /v1/registrations", "GET /v1/log-level",
		"PUT /v1/log-level", "POST /v1/reload", "POST /v1/recover", "GET /v1/organisations", "GET /v1/organisations/uni-a", "PUT /v1/organisations/uni-b",
		"PATCH /v1/organisations/uni-a", "DELETE /v1/organisations/uni-a", "POST /v1/organisations/uni-a/disable", "POST /v1/organisations/uni-a/pause",
		"POST /v1/organisations/uni-a/test", "POST /v1/organisations/uni-a/link", "POST /v1/organisations/uni-a/rotate-secret", "POST /v1/organisations/uni-a/move", "GET /v1/organisations/uni-a/secrets",
		"GET /v1/organisations/uni-a/users", "POST /v1/organisations/uni-a/users", "PUT /v1/organisations/uni-a/users/" + josiah,
		"DELETE /v1/organisations/uni-a/users/" + josiah, "GET /v1/users/" + josiah, "GET /v1/organisations/uni-a/attempts",
		"POST /v1/organisations/uni-a/dead-letters/purge", "GET /v1/nothing", "GET /debug/pprof/", "GET /debug/pprof/heap", "GET /debug/nothing",
	} {
		method, path, _ := strings.Cut(route, " ")
		for _, auth := range wrong {
			a := b.send(method, path, "", "Authorization", auth)
			a.problem(t, http.StatusUnauthorized, "unauthorised")
			if !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s: no WWW-Authenticate", route)
			}
		}
	}
	b.want(200, nil, "GET", "/v1/organisations/uni-a", "", "Authorization", "bearer "+token)
	b.want(200, nil, "GET", "/debug/pprof/", "")
	b.want(200, nil, "GET", "/debug/pprof/cmdline", "")
	// Without a configured token nobody gets in, not even with an empty one.
	current = ""
	b.send("GET", "/v1/status", "", "Authorization", "Bearer ").problem(t, 401, "unauthorised")
	b.send("GET", "/v1/status", "", "Authorization", "").problem(t, 401, "unauthorised")
	if n := strings.Count(b.log.String(), "a wrong admin token was sent"); n != 1 {
		t.Errorf("%d log lines about wrong tokens, want one in 10 s", n)
	}
}

func TestCrossOriginRequestsAreRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA()
	for _, h := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example"}} {
		b.send("POST", "/v1/organisations/uni-a/disable", "", h...).problem(t, http.StatusForbidden, "cross_origin")
	}
	var v service.View
	a := b.want(200, &v, "GET", "/v1/organisations/uni-a", "", "Origin", "https://evil.example")
	if !v.Webhook.Enabled || a.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("a page of another site may do something")
	}
}

func TestHealthReadinessAndMetrics(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC)
	var health error
	ready := Readiness{OK: true, Checks: []Check{{Name: "redis", OK: false, Detail: "does not answer", Since: since}}}
	b := setup(t, func(o *Options) {
		o.Health = func() error { return health }
		o.Ready = func() Readiness { return ready }
	})
	none := []string{"Authorization", ""}
	if a := b.want(200, nil, "GET", "/healthz", "", none...); a.body != `{"ok":true,"version":"v1.2.3"}`+"\n" {
		t.Errorf("healthz: %s", a.body)
	}
	if a := b.want(200, nil, "GET", "/readyz", "", none...); a.body != `{"ok":true,"checks":[{"name":"redis","ok":false,"detail":"does not answer","since":"2026-11-23T01:00:00Z"}]}`+"\n" {
		t.Errorf("readyz: %s", a.body)
	}
	health, ready.OK = errBoom, false
	b.want(http.StatusServiceUnavailable, nil, "GET", "/healthz", "", none...)
	b.want(http.StatusServiceUnavailable, nil, "GET", "/readyz", "", none...)
	if a := b.want(200, nil, "GET", "/metrics", "", none...); !strings.Contains(a.body, "dispatchd_test 42") {
		t.Errorf("metrics: %s", a.body)
	}
	b.send("GET", "/nothing", "", none...).problem(t, 404, "not_found")
	if a := b.send("POST", "/metrics", "", none...); a.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("Allow: %q", a.Header.Get("Allow"))
	} else {
		a.problem(t, 405, "method_not_allowed")
	}
}

func TestReloadRecoverAndLogLevel(t *testing.T) {
	t.Parallel()
	level := new(slog.LevelVar)
	var reload, recovered error
	b := setup(t, func(o *Options) {
		o.LogLevel = level
		o.Reload = func(context.Context) ([]string, error) {
			return []string{"uni-a: webhook.url changed; nothing removed"}, reload
		}
		o.Recover = func(context.Context) error { return recovered }
	})
	if a := b.want(200, nil, "POST", "/v1/reload", ""); a.body != `{"changes":["uni-a: webhook.url changed; nothing removed"]}`+"\n" {
		t.Errorf("%s", a.body)
	}
	reload = errors.New("c.toml:3: log.level: must be known\nc.toml:9: smtp.port: must be a port")
	p := b.send("POST", "/v1/reload", "").problem(t, http.StatusUnprocessableEntity, "not_reloaded")
	if len(p.Problems) != 2 || p.Problems[1].Why != "c.toml:9: smtp.port: must be a port" || p.Do == "" {
		t.Errorf("%+v", p)
	}
	reload = &service.Error{Code: service.CodeUnavailable, What: "Redis is away.", Err: errBoom}
	a := b.send("POST", "/v1/reload", "")
	a.problem(t, http.StatusServiceUnavailable, "unavailable")
	if a.Header.Get("Retry-After") == "" || strings.Contains(a.body, "boom") {
		t.Errorf("%v %s", a.Header, a.body)
	}
	b.send("POST", "/v1/recover", "").problem(t, 400, "invalid")
	b.send("POST", "/v1/recover", `{"accept_loss":false}`).problem(t, 400, "invalid")
	b.want(200, nil, "POST", "/v1/recover", `{"accept_loss":true}`)
	recovered = &service.Error{Code: service.CodeConflict, What: "There is nothing to recover."}
	b.send("POST", "/v1/recover", `{"accept_loss":true}`).problem(t, http.StatusConflict, "conflict")

	b.want(200, nil, "PUT", "/v1/log-level", `{"level":"debug"}`)
	if level.Level() != slog.LevelDebug {
		t.Error("the level was not set")
	}
	b.send("PUT", "/v1/log-level", `{"level":"loud"}`).problem(t, 400, "invalid")
	b.send("PUT", "/v1/log-level", "").problem(t, 400, "invalid")
	if a := b.want(200, nil, "GET", "/v1/log-level", ""); a.body != `{"level":"debug"}`+"\n" {
		t.Errorf("%s", a.body)
	}
}

func TestWithoutHooks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.send("POST", "/v1/reload", "").problem(t, http.StatusConflict, "conflict")
	b.send("POST", "/v1/recover", `{"accept_loss":true}`).problem(t, http.StatusConflict, "conflict")
	b.send("GET", "/v1/log-level", "").problem(t, http.StatusConflict, "conflict")
}

// TestOurFaultsSayNothingOutside: the words stand in the log, under the id of
// the answer.
func TestOurFaultsSayNothingOutside(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *Options) {
		o.Recover = func(context.Context) error { return errBoom }
		o.Ready = func() Readiness { panic("readiness went wrong") }
	})
	for _, a := range []answer{b.send("POST", "/v1/recover", `{"accept_loss":true}`), b.send("GET", "/readyz", "")} {
		p := a.problem(t, http.StatusInternalServerError, "internal")
		if strings.Contains(a.body, "boom") || strings.Contains(a.body, "wrong\"") || !strings.Contains(b.log.String(), "id="+p.ID) {
			t.Errorf("%s\n%s", a.body, b.log.String())
		}
	}
	if b.panics.Load() != 1 || !strings.Contains(b.log.String(), errBoom.Error()) {
		t.Errorf("%d panics counted; log %s", b.panics.Load(), b.log.String())
	}
	b.want(200, nil, "GET", "/healthz", "")
}

func TestWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA()
	b.redis.Kill()
	p := b.send("GET", "/v1/organisations", "").problem(t, http.StatusServiceUnavailable, "unavailable")
	if p.Do == "" || !strings.Contains(b.log.String(), "id="+p.ID) {
		t.Errorf("%+v", p)
	}
	b.send("PUT", "/v1/organisations/uni-b", `{"name":"B","credential":"main"}`).problem(t, http.StatusServiceUnavailable, "unavailable")
	b.send("POST", "/v1/organisations/uni-a/users", "orcid\n"+josiah+"\n", "Content-Type", "text/csv").problem(t, http.StatusServiceUnavailable, "unavailable")
	var st service.Status
	b.want(200, &st, "GET", "/v1/status", "")
	if len(st.Problems) != 1 || !strings.Contains(st.Problems[0].What, "Redis") {
		t.Errorf("%+v", st.Problems)
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := filepath.Join(t.TempDir(), "admin.sock")
	ln, err := net.Listen("unix", path)
	b.must(err)
	srv, err := New(b.srv.o)
	b.must(err)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	req, err := http.NewRequest(http.MethodPut, "http://dispatchd/v1/organisations/uni-s", strings.NewReader(`{"name":"S","credential":"main"}`))
	b.must(err)
	req.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
	res, err := (&http.Client{Transport: transport}).Do(req)
	b.must(err)
	res.Body.Close()
	transport.CloseIdleConnections()
	b.must(srv.Shutdown(context.Background()))
	b.must(<-done)
	if res.StatusCode != http.StatusCreated || !strings.Contains(b.log.String(), `who=admin from="unix socket" org=uni-s`) {
		t.Errorf("%d; log %s", res.StatusCode, b.log.String())
	}
}

// FuzzSettings: whatever is sent as settings, the answer is ours and never a
// fault of ours, and what was taken can be read.
func FuzzSettings(f *testing.F) {
	for _, seed := range []string{
		`{"name":"A"}`, `{"name":"A","webhook":{"url":"https://a.example","enabled":true,"headers":{"X-A":"b"},"events":["CREATED"]}}`, `{}`, `null`, `[]`, `{"name":1}`,
		`{"name":"A"}{}`, `{"shoe":1}`, `{"name":"\u0000"}`, `{"webhook":null,"email":{"mode":"never","max_per_hour":-1}}`, `{"concurrency":1e99}`, "\xff", `{"id":"else"}`,
		`{"webhook":{"url":"http://[::1"}}`, `{"timezone":"../../etc/passwd"}`, `{"api":{"client_id":"\n"}}`, strings.Repeat("[", 20000), `{"name":"` + strings.Repeat("a", 66000) + `"}`,
	} {
		f.Add(seed)
	}
	b := setup(f)
	f.Fuzz(func(t *testing.T, body string) {
		do := func(method, path, body string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(method, path, strings.NewReader(body))
			r.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
			w := httptest.NewRecorder()
			b.srv.Handler().ServeHTTP(w, r)
			if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
			}
			return w
		}
		if w := do("PUT", "/v1/organisations/uni-z", body); w.Code < 300 {
			first := do("GET", "/v1/organisations/uni-z", "").Body.String()
			if first != w.Body.String() {
				t.Errorf("PUT answered %s, GET %s", w.Body, first)
			}
			do("PATCH", "/v1/organisations/uni-z", body)
			if again := do("GET", "/v1/organisations/uni-z", "").Body.String(); again != first {
				t.Errorf("the same PATCH changed %s to %s", first, again)
			}
		}
	})
}

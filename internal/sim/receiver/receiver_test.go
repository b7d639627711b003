package receiver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"

	"dispatchd/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const signing = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func setup(t *testing.T, o Options) (*Receiver, *http.Client) {
	t.Helper()
	t.Parallel()
	r, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	if r.Certificate() != nil {
		tr.TLSClientConfig = serverTLS(r.Certificate()).Clone()
		tr.TLSClientConfig.RootCAs = r.Certificate().Pool
	}
	t.Cleanup(func() { tr.CloseIdleConnections(); r.Close() })
	return r, &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// post returns the status, the body, and what went wrong.
func post(t *testing.T, c *http.Client, url, body string, header http.Header) (*http.Response, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, string(got), err
}

func TestBehaviours(t *testing.T) {
	for name, c := range map[string]struct {
		b      Behaviour
		status int
		body   string
		header [2]string
		broken bool
	}{
		"ok":           {b: OK(), status: 204},
		"status":       {b: Status(418, "teapot"), status: 418, body: "teapot"},
		"gone":         {b: Gone(), status: 410, body: "gone"},
		"retry-after":  {b: RetryAfter(503, "17"), status: 503, body: "later", header: [2]string{"Retry-After", "17"}},
		"redirect":     {b: Redirect(307, "http://x.example/"), status: 307, header: [2]string{"Location", "http://x.example/"}},
		"slow":         {b: Slow(time.Millisecond, Status(200, "at last")), status: 200, body: "at last"},
		"flood":        {b: Flood(200, 100_000), status: 200, body: strings.Repeat("x", 100_000)},
		"never fails":  {b: Fail(0, 1, Gone(), OK()), status: 204},
		"always fails": {b: Fail(1, 1, Gone(), OK()), status: 410, body: "gone"},
		"empty script": {b: Script(), status: 204},
		"truncate":     {b: Truncate(), broken: true},
		"reset":        {b: Reset(), broken: true},
	} {
		t.Run(name, func(t *testing.T) {
			r, client := setup(t, Options{Behaviour: c.b})
			resp, body, err := post(t, client, r.URL()+"/a%2Fb?q=1", "hello", nil)
			if (err != nil) != c.broken {
				t.Fatalf("error %v, want one: %v", err, c.broken)
			}
			if err == nil && (resp.StatusCode != c.status || body != c.body || c.header[0] != "" && resp.Header.Get(c.header[0]) != c.header[1]) {
				t.Fatalf("answered %d %q %v", resp.StatusCode, body, resp.Header)
			}
			if err := r.Wait(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			got := r.Requests()[0]
			if got.Method != http.MethodPost || got.Path != "/a%2Fb" || got.Query != "q=1" || string(got.Body) != "hello" || got.Status != c.status {
				t.Errorf("recorded %+v", got)
			}
		})
	}
}

func TestEndlessBehavioursEndWithTheReceiver(t *testing.T) {
	for name, b := range map[string]Behaviour{
		"hang": Hang(), "body": HangBody(), "drip": Drip(time.Millisecond), "gate": Gate(nil, OK()), "slow": Slow(time.Hour, OK()),
	} {
		t.Run(name, func(t *testing.T) {
			arrived := make(chan struct{})
			r, client := setup(t, Options{Behaviour: func(w http.ResponseWriter, q *http.Request) int {
				close(arrived)
				return b(w, q)
			}})
			done := make(chan error, 1)
			go func() {
				_, _, err := post(t, client, r.URL(), "", nil)
				done <- err
			}()
			<-arrived
			r.cancel()
			if err := <-done; errors.Is(err, context.DeadlineExceeded) || name != "slow" && err == nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func TestScriptFailAndPaths(t *testing.T) {
	r, client := setup(t, Options{Behaviour: Script(Status(500, ""), Status(502, ""), OK())})
	status := func(path string) int {
		resp, _, err := post(t, client, r.URL()+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	for i, want := range []int{500, 502, 204, 204} {
		if got := status("/"); got != want {
			t.Errorf("step %d answered %d, want %d", i, got, want)
		}
	}
	open := make(chan struct{})
	close(open)
	r.BehaveFor("/a", Gone())
	r.BehaveFor("/a/b", Gate(open, Status(200, "")))
	for path, want := range map[string]int{"/": 204, "/a": 410, "/a/c": 410, "/a/b/c": 200} {
		if got := status(path); got != want {
			t.Errorf("%s answered %d, want %d", path, got, want)
		}
	}
	r.BehaveFor("/a", nil)
	if got := status("/a"); got != 204 {
		t.Errorf("without its rule /a answered %d", got)
	}
	r.Behave(Fail(0.5, 3, Status(500, ""), OK()))
	failed := 0
	for range 100 {
		if status("/") == 500 {
			failed++
		}
	}
	if failed < 30 || failed > 70 {
		t.Errorf("half of the requests: %d of 100 failed", failed)
	}
}

func TestSignatures(t *testing.T) {
	r, client := setup(t, Options{TLS: true, SigningSecrets: []secret.Text{signing}, RejectUnverified: true})
	wh, err := standardwebhooks.NewWebhook(signing)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(body string) http.Header {
		now := time.Now()
		sig, err := wh.Sign("msg_1", now, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{}
		h.Set("webhook-id", "msg_1")
		h.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
		h.Set("webhook-signature", sig)
		return h
	}
	for name, c := range map[string]struct {
		body   string
		header http.Header
		status int
	}{
		"right":    {"{}", sign("{}"), 204},
		"tampered": {"{ }", sign("{}"), 401},
		"unsigned": {"{}", nil, 401},
	} {
		r.Forget()
		resp, _, err := post(t, client, r.URL(), c.body, c.header)
		if err != nil || resp.StatusCode != c.status {
			t.Errorf("%s: %v, %v; want %d", name, resp, err, c.status)
		}
		if err := r.Wait(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if got := r.Requests()[0]; got.Verified != (c.status == 204) || (got.Signature == nil) != got.Verified {
			t.Errorf("%s: recorded %v, %v", name, got.Verified, got.Signature)
		}
	}
	if err := r.SetSigningSecrets("whsec_***"); err == nil || strings.Contains(err.Error(), "***") {
		t.Errorf("a bad secret gave %v", err)
	}
	if err := r.SetSigningSecrets("whsec_b3RoZXJvdGhlcm90aGVyb3RoZXI=", signing); err != nil {
		t.Fatal(err)
	}
	if resp, _, err := post(t, client, r.URL(), "{}", sign("{}")); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Errorf("with two secrets: %v, %v", resp, err)
	}
}

func TestKeepAndWait(t *testing.T) {
	seen := make(chan string, 10)
	r, client := setup(t, Options{Keep: 2, OnRequest: func(q Request) { seen <- q.Path }})
	for _, p := range []string{"/1", "/2", "/3", "/4", "/5", "/6"} {
		if _, _, err := post(t, client, r.URL()+p, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Wait(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	if got := r.Requests(); len(got) != 2 || got[0].Path != "/5" || got[1].Path != "/6" || r.Count() != 6 || r.Peak() != 1 {
		t.Errorf("kept %+v of %d", got, r.Count())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Wait(ctx, 7); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v", err)
	}
	for _, want := range []string{"/1", "/2", "/3", "/4", "/5", "/6"} {
		if got := <-seen; got != want {
			t.Errorf("the hook saw %s, want %s", got, want)
		}
	}
	if _, err := Start(Options{Addr: "256.0.0.1:0"}); err == nil {
		t.Error("an impossible address was accepted")
	}
}

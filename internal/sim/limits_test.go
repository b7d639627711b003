package sim

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/sim/receiver"
)

func TestLimiterIsNginxs(t *testing.T) {
	t.Parallel()
	l := newLimiter(24, 40)
	now := begin
	// 41 at once: the first passes, forty are delayed one after the other.
	for i := range 41 {
		wait, ok := l.take("a", now)
		want := time.Duration(float64(i) / 24 * float64(time.Second))
		if !ok || wait != want {
			t.Fatalf("request %d: wait %s, %v; want %s", i+1, wait, ok, want)
		}
	}
	for range 3 {
		if _, ok := l.take("a", now); ok {
			t.Fatal("request 42 was let through")
		}
	}
	if wait, ok := l.take("b", now); !ok || wait != 0 {
		t.Errorf("another source: wait %s, %v", wait, ok)
	}
	now = now.Add(42 * time.Millisecond)
	if _, ok := l.take("a", now); !ok {
		t.Error("one place is free after 42 ms")
	}
	if _, ok := l.take("a", now); ok {
		t.Error("two places were free after 42 ms")
	}
	now = now.Add(time.Minute)
	if wait, ok := l.take("a", now); !ok || wait != 0 {
		t.Errorf("after a minute: wait %s, %v", wait, ok)
	}
	if delayed, limited, peak := l.counts(); delayed != 41 || limited != 4 || peak != 47 {
		t.Errorf("counted %d delayed, %d limited, peak %d", delayed, limited, peak)
	}
	if off := newLimiter(-1, 0); func() bool { _, ok := off.take("a", now); return !ok }() {
		t.Error("no limit limits")
	}
}

func TestAboveTheBurstIs503HTML(t *testing.T) {
	b := setup(t, func(o *Options) { o.RateLimit, o.RateBurst = 50, 2 })
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := make(map[int]int)
	for range 20 {
		wg.Go(func() {
			got := b.do("GET", "/v3.0/status", "")
			mu.Lock()
			defer mu.Unlock()
			count[got.status]++
			if got.status == 503 && (got.header.Get("Content-Type") != "text/html" || !strings.Contains(got.body, "<h1>503") || got.header.Get("Retry-After") != "") {
				t.Errorf("503 is %v %s", got.header, got.body)
			}
		})
	}
	wg.Wait()
	if count[200] < 3 || count[503] < 1 || count[200]+count[503] != 20 {
		t.Errorf("20 at once answered %v", count)
	}
	if b.control("GET", "counters", "", nil) != 200 {
		t.Error("the control API is limited too")
	}
	if c := b.r.Counters(); c.Limited != int64(count[503]) || c.Delayed == 0 {
		t.Errorf("counted %d limited, %d delayed", c.Limited, c.Delayed)
	}
}

func TestFaults(t *testing.T) {
	b := setup(t)
	id := b.profile()
	// try makes a PUT of a fresh webhook and says what came of it.
	n := 0
	try := func() (status int, body string, registered bool, err error) {
		n++
		uri := "https://h.example/" + strings.Repeat("x", n)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, b.http.URL+hookPath(id, uri), nil)
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+b.tok)
		req.Header.Set("Accept", "application/json")
		resp, err := b.client().Do(req)
		if err == nil {
			defer resp.Body.Close()
			var text []byte
			text, err = io.ReadAll(resp.Body)
			status, body = resp.StatusCode, string(text)
			if l := resp.Header.Get("Location"); l != "" && status == 302 {
				body = l
			}
			if a := resp.Header.Get("Retry-After"); a != "" {
				body += " after " + a
			}
		}
		hooks, _ := b.r.WebhooksOf(id)
		for _, h := range hooks {
			registered = registered || h.URI == uri
		}
		return status, body, registered, err
	}
	for name, c := range map[string]struct {
		f          Fault
		status     int
		body       string
		broken     bool
		registered bool
	}{
		"500":               {f: Fault{Kind: FaultStatus}, status: 500, body: "Something went wrong in ORCID."},
		"502 HTML":          {f: Fault{Kind: FaultStatus, Status: 502, Body: "<html>Bad gateway"}, status: 502, body: "<html>Bad gateway"},
		"429":               {f: Fault{Kind: FaultStatus, Status: 429, Body: "Too Many Requests.", RetryAfter: "7"}, status: 429, body: "Too Many Requests. after 7"},
		"reset":             {f: Fault{Kind: FaultReset}, broken: true},
		"hang":              {f: Fault{Kind: FaultHang, Delay: 10 * time.Millisecond}, broken: true},
		"truncated":         {f: Fault{Kind: FaultTruncate, Status: 201}, status: 201, broken: true},
		"redirect":          {f: Fault{Kind: FaultRedirect, Location: "https://maintenance.example/"}, status: 302, body: "https://maintenance.example/"},
		"401":               {f: Fault{Kind: FaultUnauthorized}, status: 401, body: "Invalid access token: " + b.tok},
		"slow":              {f: Fault{Kind: FaultSlow, Delay: 10 * time.Millisecond}, status: 201, registered: true},
		"lost answer":       {f: Fault{Kind: FaultReset, Applied: true}, broken: true, registered: true},
		"wrong answer":      {f: Fault{Kind: FaultStatus, Status: 503, Applied: true}, status: 503, registered: true},
		"another operation": {f: Fault{Kind: FaultReset, Operation: "delete"}, status: 201, registered: true},
	} {
		if c.f.Operation == "" {
			c.f.Operation = "put"
		}
		c.f.Count = 1
		if _, err := b.r.InjectFault(c.f); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		status, body, registered, err := try()
		if status != c.status || (err != nil) != c.broken || !c.broken && !strings.Contains(body, c.body) || registered != c.registered {
			t.Errorf("%s: status %d, body %q, registered %v, error %v", name, status, body, registered, err)
		}
		if status, _, _, err := try(); status != 201 {
			t.Errorf("%s: it struck again: %d, %v", name, status, err)
		}
		b.r.ClearFault(0)
	}
	if c := b.r.Counters(); c.Requests["put"][-1] != 3 {
		t.Errorf("%d requests without an answer, want 3", c.Requests["put"][-1])
	}
	for _, bad := range []Fault{
		{Kind: "flood"},
		{Kind: FaultReset, Operation: "patch"},
		{Kind: FaultSlow},
		{Kind: FaultRedirect},
		{Kind: FaultStatus, Status: 42},
		{Kind: FaultReset, Ratio: 2},
	} {
		if _, err := b.r.InjectFault(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	_, err := b.r.InjectFault(Fault{Kind: FaultStatus, Ratio: 0.5})
	must(t, err)
	failed := 0
	for range 200 {
		if b.do("GET", "/v3.0/status", "").status != 200 {
			failed++
		}
	}
	if struck := b.r.Faults()[0].Struck; failed < 60 || failed > 140 || struck != failed {
		t.Errorf("a ratio of a half struck %d of 200, and counted %d", failed, struck)
	}
}

func TestClearingAFaultLetsGoOfWhatHangs(t *testing.T) {
	b := setup(t)
	fault, err := b.r.InjectFault(Fault{Kind: FaultHang, Operation: "token"})
	must(t, err)
	done := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(deadline(t), http.MethodPost, b.http.URL+"/oauth/token", nil) // a GET would be tried again
		if err == nil {
			var resp *http.Response
			if resp, err = b.client().Do(req); err == nil {
				resp.Body.Close()
			}
		}
		done <- err
	}()
	for b.r.Faults()[0].Struck == 0 {
		b.control("GET", "clock", "", nil)
	}
	b.r.ClearFault(fault)
	if err := <-done; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the request that hung ended with %v, want a broken connection", err)
	}
}

func TestControlAPI(t *testing.T) {
	b := setup(t)
	var made struct{ ORCID []orcid.ID }
	if s := b.control("POST", "profiles", `{"count":3,"orcid":["0000-0002-1694-233X"]}`, &made); s != 200 || len(made.ORCID) != 4 {
		t.Fatalf("profiles: %d %v", s, made)
	}
	id := made.ORCID[0]
	var n struct{ Registered, Count, Revoked, Found, ID int }
	if b.control("POST", "webhooks/register-all", `{"client":"one","url":"`+b.recv.URL()+`/p/{orcid}"}`, &n); n.Registered != 4 {
		t.Fatalf("registered %d", n.Registered)
	}
	var put struct {
		PutCode int64 `json:"put_code"`
	}
	if b.control("POST", "profiles/"+id.String()+"/change", `{"section":"works","op":"add","title":"T"}`, &put); put.PutCode == 0 {
		t.Fatal("no put-code")
	}
	var clock struct{ Now time.Time }
	if b.control("POST", "clock", `{"advance":"90s"}`, &clock); !clock.Now.Truncate(time.Millisecond).Equal(begin.Add(90 * time.Second)) {
		t.Fatalf("the clock is %s", clock.Now)
	}
	b.pings(1, "by the control API")
	var ledger struct {
		Entries []struct {
			Kind   string
			ORCID  orcid.ID
			Status int
			At     time.Time
			Done   time.Time
		}
		Next int64
	}
	if b.control("GET", "ledger?kind=post&orcid="+id.String(), "", &ledger); len(ledger.Entries) != 1 || ledger.Entries[0].Status != 204 ||
		ledger.Entries[0].ORCID != id || ledger.Entries[0].Done.Before(ledger.Entries[0].At) || ledger.Next != 2 {
		t.Errorf("ledger is %+v", ledger)
	}
	var hooks struct {
		Webhooks []Webhook
		Found    int
	}
	if b.control("GET", "webhooks?client=one&limit=2", "", &hooks); len(hooks.Webhooks) != 2 || hooks.Found != 4 {
		t.Errorf("webhooks: %+v", hooks)
	}
	if b.control("GET", "webhooks?dead=1", "", &hooks); hooks.Found != 0 {
		t.Errorf("dead webhooks: %+v", hooks)
	}
	var profile Profile
	for _, verb := range []string{"lock", "unlock", "deactivate", "reactivate", "unclaim", "claim", "touch"} {
		if s := b.control("POST", "profiles/"+id.String()+"/"+verb, "", &profile); s != 200 {
			t.Errorf("%s answered %d", verb, s)
		}
	}
	if b.control("POST", "profiles/"+id.String()+"/deprecate", `{"primary":"`+made.ORCID[1].String()+`"}`, &profile); profile.Primary == nil || *profile.Primary != made.ORCID[1] {
		t.Errorf("deprecated: %+v", profile)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "", "", 200},
		{"GET", "clock", "", 200},
		{"GET", "clients", "", 200},
		{"GET", "faults", "", 200},
		{"GET", "profiles?skip=1&limit=1", "", 200},
		{"GET", "profiles/" + id.String(), "", 200},
		{"POST", "change", `{"count":2}`, 200},
		{"POST", "reindex", `{"count":2}`, 200},
		{"POST", "traffic", `{"changes_per_day":10}`, 200},
		{"POST", "index", "", 200},
		{"POST", "send", "", 200},
		{"POST", "sender", `{"paused":true,"threads":2,"replica_lag":"5s"}`, 200},
		{"POST", "webhooks/enable", `{"orcid":"` + id.String() + `","uri":"` + b.uri(id) + `","enabled":false}`, 200},
		{"POST", "clients", `{"id":"three","secret":"s"}`, 200},
		{"POST", "clients/three/deactivate", "", 200},
		{"POST", "clients/three/webhooks-off", "", 200},
		{"POST", "clients/three/secret", `{"secret":"t"}`, 200},
		{"POST", "clients/three/token", `{"scopes":["/webhook"]}`, 200},
		{"POST", "clients/three/revoke-tokens", "", 200},
		{"POST", "faults", `{"kind":"slow","operation":"token","delay":"5ms","count":1}`, 200},
		{"DELETE", "faults/1", "", 200},
		{"DELETE", "faults", "", 200},
		{"POST", "clock", `{"speed":10}`, 200},
		{"POST", "clients", `{"id":"three"}`, 400},
		{"POST", "clients/four/deactivate", "", 404},
		{"POST", "clients/three/explode", "", 404},
		{"POST", "clock", `{"advance":"soon"}`, 400},
		{"POST", "clock", `{"set":"2001-01-01T00:00:00Z"}`, 400},
		{"POST", "clock", `{"warp":9}`, 400},
		{"POST", "faults", `{"kind":"flood"}`, 400},
		{"POST", "sender", `{"threads":-1}`, 400},
		{"GET", "ledger?after=x", "", 400},
		{"GET", "profiles/" + unknown, "", 404},
		{"GET", "profiles/nobody", "", 400},
		{"POST", "profiles/" + id.String() + "/explode", "", 404},
		{"POST", "profiles/" + id.String() + "/change", `{"section":"hobbies"}`, 404},
		{"GET", "nowhere", "", 404},
	} {
		if got := b.do(c.method, "/_sim/"+c.path, c.body); got.status != c.status {
			t.Errorf("%s %s %s answered %d %s, want %d", c.method, c.path, c.body, got.status, got.body, c.status)
		}
	}
	var help struct{ Routes []string }
	if b.control("GET", "", "", &help); len(help.Routes) < 20 {
		t.Errorf("the list of routes has %d lines", len(help.Routes))
	}
	if got := b.do("GET", "/_sim/clients", "").body; strings.Contains(got, "secret") {
		t.Errorf("clients are listed with secrets: %s", got)
	}
	var clients []ClientState
	must(t, json.Unmarshal([]byte(b.do("GET", "/_sim/clients", "").body), &clients))
	if len(clients) != 4 || clients[3].Deactivated.IsZero() || !clients[3].WebhooksOff || clients[0].Tokens != 1 {
		t.Errorf("clients are %+v", clients)
	}
}

func TestServeRunsUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	recv, err := receiver.Start(receiver.Options{})
	must(t, err)
	t.Cleanup(recv.Close)
	r, err := New(Options{Speed: 600})
	must(t, err)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, r) }()
	resp, err := http.Get("http://" + ln.Addr().String() + "/v3.0/status")
	must(t, err)
	resp.Body.Close()
	id := r.AddProfiles(1)[0]
	_, err = r.RegisterAll(DefaultClient().ID, func(orcid.ID) string { return recv.URL() })
	must(t, err)
	must(t, r.Change(id, "works", Add))
	must(t, recv.Wait(deadline(t), 1))
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve = %v", err)
	}
	if err := Serve(t.Context(), ln, r); err == nil {
		t.Error("Serve on a closed listener gave no error")
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

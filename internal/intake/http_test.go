package intake

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/event"
)

func TestAPingAsORCIDSendsIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.dial(t)
	answer := regexp.MustCompile(`\AHTTP/1\.1 204 No Content\r\nDate: [^\r]+ GMT\r\n\r\n\z`)
	for n := range 3 { // over one connection
		c.send(t, rawPing(b.path(n)))
		var got strings.Builder
		for !strings.HasSuffix(got.String(), "\r\n\r\n") {
			line, err := c.r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			got.WriteString(line)
		}
		if c.r.Buffered() > 0 || !answer.MatchString(got.String()) {
			t.Fatalf("answer %d is %q and %d bytes", n, got.String(), c.r.Buffered())
		}
	}
	want := event.Ping{Credential: "main", ORCID: userID(0), AcceptedAt: time.Unix(1_800_000_000, 123_456_000)}
	got := b.log.entries[0][0]
	if got.Credential != want.Credential || got.ORCID != want.ORCID || !got.AcceptedAt.Equal(want.AcceptedAt) || got.CaughtUp {
		t.Errorf("the log has %+v, want %+v", got, want)
	}
	if len(b.log.entries) != 3 {
		t.Errorf("%d entries", len(b.log.entries))
	}
	b.wantResults(t, map[string]int{"accepted": 3})
}

func TestPipelinedPings(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.dial(t)
	var all strings.Builder
	for n := range 20 {
		all.WriteString(rawPing(b.path(n)))
	}
	c.send(t, all.String()+"POST /hooks/unfinished HT")
	for n := range 20 {
		if res := c.answer(t, http.MethodPost); res.StatusCode != http.StatusNoContent {
			t.Fatalf("answer %d: %s", n, res.Status)
		}
	}
	if got := b.log.users(); len(got) != 20 {
		t.Errorf("%d users in the log", len(got))
	}
}

// TestAnswers sends one request each and looks at the answer and what was
// counted. Only those with 204 may reach the log.
func TestAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *Options) { o.PathPrefixes = func() []string { return []string{"/before", "/orcid/in"} } })
	good := b.path(7)
	other := b.pathOf("APP-OTHER", 7)
	head := func(method, path string) string { return method + " " + path + " HTTP/1.1\r\nHost: x\r\n" }
	post := func(path string) string { return head("POST", path) + "Content-Length: 0\r\n\r\n" }
	type answer struct {
		raw    string
		status int
		result string
	}
	cases := map[string]answer{
		"plain":                 {post(good), 204, "accepted"},
		"under the prefix":      {post("/orcid/in" + good), 204, "accepted"},
		"under a former prefix": {post("/before" + good), 204, "accepted"},
		"with a query":          {post(good + "?a=b"), 204, "accepted"},
		"absolute form":         {post("http://hub.example.edu" + good), 204, "accepted"},
		"escaped client id":     {post(strings.Replace(good, "APP-", "APP%2D", 1)), 204, "accepted"},
		"HTTP/1.0":              {"POST " + good + " HTTP/1.0\r\n\r\n", 204, "accepted"},
		"no length":             {head("POST", good) + "\r\n", 204, "accepted"},
		"a body":                {head("POST", good) + "Content-Length: 65536\r\n\r\n" + strings.Repeat("x", 65536), 204, "accepted"},
		"a chunked body":        {head("POST", good) + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 204, "accepted"},
		"a form":                {head("POST", good) + "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 3\r\n\r\nabc", 204, "accepted"},
		"unknown credential":    {post(other), 204, "unknown_credential"},
		"forged token":          {post(good[:len(good)-1] + "!"), 404, "not_found"},
		"another's token":       {post(strings.Replace(good, userID(7).String(), userID(8).String(), 1)), 404, "forged"},
		"another epoch":         {post(strings.Replace(good, "/0/", "/1/", 1)), 404, "forged"},
		"another client":        {post(strings.Replace(good, client, "APP-OTHER", 1)), 404, "forged"},
		"truncated":             {post(good[:len(good)-1]), 404, "not_found"},
		"wrong check digit":     {post("/hooks/x/0000-0002-1825-0098/0/AAAAAAAAAAAAAAAAAAAAAA"), 404, "not_found"},
		"trailing slash":        {post(good + "/"), 404, "not_found"},
		"double slash":          {post("/" + good), 404, "not_found"},
		"dots":                  {post("/x/.." + good), 404, "not_found"},
		"root":                  {post("/"), 404, "not_found"},
		"prefix alone":          {post("/orcid/in"), 404, "not_found"},
		"like the prefix":       {post("/orcid/inx" + good), 404, "not_found"},
		"GET root":              {head("GET", "/") + "\r\n", 404, "not_found"},
		"GET forged":            {head("GET", good[:len(good)-1]+"A") + "\r\n", 405, "method"},
		"OPTIONS *":             {head("OPTIONS", "*") + "\r\n", 404, "not_found"},
		"header too long":       {head("POST", good) + "X: " + strings.Repeat("x", 9000) + "\r\n\r\n", 431, "malformed"},
		"path too long":         {post("/hooks/" + strings.Repeat("x", 9000)), 431, "malformed"},
		"body too long":         {head("POST", good) + "Content-Length: 65537\r\n\r\n", 413, "malformed"},
		"chunked body too long": {head("POST", good) + "Transfer-Encoding: chunked\r\n\r\n10001\r\n" + strings.Repeat("x", 65537) + "\r\n0\r\n\r\n", 413, "malformed"},
		"garbage":               {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", 400, "malformed"},
		"two lengths":           {head("POST", good) + "Content-Length: 0\r\nContent-Length: 5\r\n\r\n", 400, "malformed"},
	}
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "post"} {
		cases["verb "+method] = answer{head(method, good) + "\r\n", 405, "method"}
	}
	want := map[string]int{}
	accepted := 0
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			conn := b.dial(t)
			conn.send(t, c.raw)
			method, _, _ := strings.Cut(c.raw, " ")
			res := conn.answer(t, method)
			body, err := io.ReadAll(res.Body)
			if err != nil || len(body) > 0 {
				t.Errorf("body %q, %v", body, err)
			}
			if res.StatusCode != c.status {
				t.Errorf("answer %s, want %d", res.Status, c.status)
			}
			for _, h := range []string{"Server", "Content-Type", "Location"} {
				if v := res.Header.Get(h); v != "" {
					t.Errorf("%s: %s", h, v)
				}
			}
			if got := res.Header.Get("Allow"); (c.status == 405) != (got == "POST") {
				t.Errorf("Allow: %q with %d", got, c.status)
			}
		})
		want[c.result]++
		if c.result == "accepted" {
			accepted++
		}
	}
	b.wantResults(t, want)
	if got := b.log.users(); got[userID(7).Base()] != accepted || len(got) != 1 {
		t.Errorf("the log has %v, want %d of one user", got, accepted)
	}
	if n := b.spool.Stats().Received; n != 0 {
		t.Errorf("the spool got %d", n)
	}
	// The log at its most talkative shows no path and no token.
	token := good[strings.LastIndex(good, "/")+1:]
	if said := b.words.String(); strings.Contains(said, token) || strings.Contains(said, "/hooks/") {
		t.Errorf("a secret path is in the log:\n%s", said)
	}
	if n := strings.Count(b.words.String(), "APP-OTHER"); n != 1 {
		t.Errorf("the unknown client id is said %d times, want once", n)
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.dial(t)
	c.send(t, "POST "+b.path(1)+" HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if res := c.answer(t, http.MethodPost); res.StatusCode != http.StatusContinue {
		t.Fatalf("first answer %s", res.Status)
	}
	c.send(t, "hello")
	if res := c.answer(t, http.MethodPost); res.StatusCode != http.StatusNoContent {
		t.Fatalf("second answer %s", res.Status)
	}
}

// TestSlowSendersHoldNobodyUp: many connections that send half a request, and
// some that send half a body, do not keep a ping waiting, and are cut.
func TestSlowSendersHoldNobodyUp(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *Options) { o.ReadTimeout = 300 * time.Millisecond })
	var slow []*conn1
	for i := range 100 {
		c := b.dial(t)
		switch raw := rawPing(b.path(i)); i % 3 {
		case 0: // nothing at all
		case 1:
			c.send(t, raw[:len(raw)/2])
		case 2:
			c.send(t, strings.Replace(raw, "Content-Length: 0", "Content-Length: 10", 1)+"12345")
		}
		slow = append(slow, c)
	}
	b.wantPost(t, 1000, http.StatusNoContent)
	for i, c := range slow {
		if res := c.answer(t, http.MethodPost); res.StatusCode != http.StatusRequestTimeout {
			t.Errorf("slow sender %d got %s, want 408", i, res.Status)
		}
		if _, err := c.r.ReadByte(); err == nil {
			t.Errorf("slow sender %d is still connected", i)
		}
	}
	if got := b.log.users(); len(got) != 1 {
		t.Errorf("%d users in the log, want the one whose ping was whole", len(got))
	}
}

// TestConnectionsAboveTheLimitWait: they are served when there is room, and
// never told "too many".
func TestConnectionsAboveTheLimitWait(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *Options) { o.MaxConns = 8 })
	var held []*conn1
	for i := range 8 {
		c := b.dial(t)
		c.send(t, rawPing(b.path(i))[:10])
		held = append(held, c)
	}
	eventually(t, "8 connections are open", func() bool {
		b.conns.mu.Lock()
		defer b.conns.mu.Unlock()
		return len(b.conns.open) == 8
	})
	late := b.dial(t)
	late.send(t, rawPing(b.path(100)))
	for i, c := range held { // all finish their requests; the answers make room
		c.send(t, rawPing(b.path(i))[10:])
		res := c.answer(t, http.MethodPost)
		if res.StatusCode != http.StatusNoContent {
			t.Errorf("connection %d: %s", i, res.Status)
		}
		if i == 0 && !res.Close {
			t.Error("with every place taken, an answer keeps its connection")
		}
	}
	if res := late.answer(t, http.MethodPost); res.StatusCode != http.StatusNoContent {
		t.Errorf("the late one: %s", res.Status)
	}
	if got := b.log.users(); len(got) != 9 {
		t.Errorf("%d of 9 in the log", len(got))
	}
}

func TestGroupsFormWhileALaneWrites(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var begun atomic.Int64
	b := setup(t, func(o *Options) {
		o.Lanes, o.RedisWait = 1, patient
		o.Credential = func(string) (string, bool) { begun.Add(1); return "main", true }
	})
	b.log.do = func(context.Context, []event.Ping) error { <-release; return nil }
	const n = 600
	conns := make([]*conn1, n)
	for i := range conns {
		conns[i] = b.dial(t)
		conns[i].send(t, rawPing(b.path(i)))
	}
	eventually(t, "all wait", func() bool { return begun.Load() == n })
	close(release)
	for i, c := range conns {
		if res := c.answer(t, http.MethodPost); res.StatusCode != http.StatusNoContent {
			t.Errorf("%d: %s", i, res.Status)
		}
	}
	var sizes []int
	for _, e := range b.log.entries {
		sizes = append(sizes, len(e))
		if len(e) > maxGroup {
			t.Errorf("a group of %d", len(e))
		}
	}
	// The first took what was there; the rest goes in whole groups, but for stragglers.
	if len(sizes) > 10 {
		t.Errorf("600 waiting pings took %d appends: %v", len(sizes), sizes)
	}
	if got := b.log.users(); len(got) != n {
		t.Errorf("%d of %d in the log", len(got), n)
	}
	if fmt.Sprint(b.State().Mode) != "log" {
		t.Errorf("state %+v", b.State())
	}
}

package orcid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestNewClientNamesTheBadOption(t *testing.T) {
	t.Parallel()
	good := ClientOptions{APIURL: "https://api.example", SiteURL: "https://site.example/", ClientID: "APP-1", ClientSecret: testSecret}
	c, err := NewClient(good)
	if err != nil {
		t.Fatal(err)
	}
	if c.tokenURL != "https://site.example/oauth/token" || c.timeout != 20*time.Second || c.agent != "dispatchd" {
		t.Errorf("defaults: %q, %s, %q", c.tokenURL, c.timeout, c.agent)
	}
	for want, change := range map[string]func(*ClientOptions){
		"APIURL must be set":          func(o *ClientOptions) { o.APIURL = "" },
		"APIURL must be an absolute":  func(o *ClientOptions) { o.APIURL = "ftp://api.example" },
		"APIURL must not have a user": func(o *ClientOptions) { o.APIURL = "https://u:p@api.example" },
		"TokenURL must be set":        func(o *ClientOptions) { o.SiteURL = "" },
		"TokenURL must be an abs":     func(o *ClientOptions) { o.TokenURL = "/oauth/token" },
		"ClientID must be set":        func(o *ClientOptions) { o.ClientID = "" },
		"ClientSecret must be set":    func(o *ClientOptions) { o.ClientSecret = "" },
		"Timeout must not be neg":     func(o *ClientOptions) { o.Timeout = -1 },
		"UserAgent must be printable": func(o *ClientOptions) { o.UserAgent = "a\r\nb" },
	} {
		o := good
		change(&o)
		if _, err := NewClient(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestPutIsExactlyWhatORCIDExpects(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.api = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+r.Host+r.RequestURI)
		w.WriteHeader(http.StatusCreated)
	}
	c := s.client(t, nil)
	a, err := c.PutWebhook(t.Context(), mustID(t), testCallback)
	if err != nil || a != (Answer{Kind: Created, Status: 201}) {
		t.Fatalf("got %+v, %v", a, err)
	}
	got := s.last()
	const path = "/0000-0002-1825-0097/webhook/https%3A%2F%2Fhub.example%2Fhooks%2FAPP-1%2F0000-0002-1825-0097%2F1%2Fq8Zb3kTn1xWv0LmYc2RdAg%3Fa%3Db%20c%26%C3%BC"
	if got.method != "PUT" || got.uri != path || got.length != 0 {
		t.Errorf("got %s %s with %d bytes; want PUT %s with 0", got.method, got.uri, got.length, path)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer token-1-5eb23750", "Accept": "application/json", "User-Agent": "dispatchd/test (+https://hub.example)",
	} {
		if got.header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.header.Get(name), want)
		}
	}
	token := s.requests[0]
	if token.method != "POST" || token.header.Get("Authorization") != "" || token.header.Get("Content-Type") != "application/x-www-form-urlencoded" ||
		token.header.Get("Accept") != "application/json" || token.header.Get("User-Agent") != "dispatchd/test (+https://hub.example)" {
		t.Errorf("token request: %+v", token)
	}
	for name, want := range map[string]string{
		"client_id": "APP-1", "client_secret": testSecret, "grant_type": "client_credentials", "scope": "/webhook",
	} {
		if token.form.Get(name) != want {
			t.Errorf("token request: %s is %q, want %q", name, token.form.Get(name), want)
		}
	}
}

func TestEveryAnswerOverTheWire(t *testing.T) {
	t.Parallel()
	for _, tt := range exact {
		if tt.op != OpPut && tt.op != OpDelete {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.api = answer(tt.status, jsonType, tt.body, tt.header...)
			c := s.client(t, nil)
			call := c.PutWebhook
			if tt.op == OpDelete {
				call = c.DeleteWebhook
			}
			a, err := call(t.Context(), mustID(t), testCallback)
			if err != nil || a.Kind != tt.want || a.Status != tt.status || a.Code != tt.code {
				t.Fatalf("got %+v, %v; want %s", a, err, tt.want)
			}
			mustNotTell(t, a.Detail)
			// One request, whatever comes; only a 401 is asked again, once.
			want := 1
			if tt.status == http.StatusUnauthorized {
				want = 2
			}
			if tokens, calls := s.count(); tokens != want || calls != want {
				t.Errorf("%d tokens and %d calls, want %d of each", tokens, calls, want)
			}
		})
	}
}

func TestRedirectsAreNeverFollowed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.api = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			w.WriteHeader(http.StatusCreated)
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}
	a, err := s.client(t, nil).PutWebhook(t.Context(), mustID(t), testCallback)
	if err != nil || a.Kind != Redirected {
		t.Fatalf("got %+v, %v; want redirected", a, err)
	}
	if _, calls := s.count(); calls != 1 {
		t.Errorf("%d calls, want 1", calls)
	}
}

func TestRevokedTokenIsRenewedOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store := &memoryStore{tokens: map[string]Token{ScopeWebhook: {ClientID: "APP-1", Access: "revoked-5eb23750"}}}
	s.api = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer revoked-5eb23750" {
			answer(401, jsonType, `{"error":"invalid_token","error_description":"Invalid access token: revoked-5eb23750"}`)(w, r)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
	c := s.client(t, func(o *ClientOptions) { o.Tokens = store })
	for range 2 {
		if a, err := c.DeleteWebhook(t.Context(), mustID(t), testCallback); err != nil || a.Kind != Deleted {
			t.Fatalf("got %+v, %v", a, err)
		}
	}
	if tokens, calls := s.count(); tokens != 1 || calls != 3 {
		t.Errorf("%d tokens and %d calls, want 1 and 3", tokens, calls)
	}
	if got := store.tokens[ScopeWebhook]; got.Access != "token-1-5eb23750" || got.ClientID != "APP-1" || got.Expires.IsZero() {
		t.Errorf("stored %+v (%s)", got, got.Access.Reveal())
	}
}

// hostile serves one API request in a way that http.Server would not.
func hostile(t *testing.T, s *server, behave func(net.Conn)) {
	t.Helper()
	s.api = func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		behave(conn)
	}
}

func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	say := func(text string) func(net.Conn) { return func(c net.Conn) { _, _ = io.WriteString(c, text) } }
	for name, tt := range map[string]struct {
		behave  func(s *server) func(net.Conn)
		want    Kind // of the Answer when ok, else of AnswerOf(err)
		ok      bool
		timeout bool
	}{
		"hang":  {behave: func(s *server) func(net.Conn) { return func(net.Conn) { <-s.release } }, want: Unreachable, timeout: true},
		"close": {behave: func(*server) func(net.Conn) { return say("") }, want: Unreachable},
		"reset": {behave: func(*server) func(net.Conn) {
			return func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }
		}, want: Unreachable},
		"garbage":     {behave: func(*server) func(net.Conn) { return say("SSH-2.0-OpenSSH\r\n\r\n") }, want: Unreachable},
		"half a head": {behave: func(*server) func(net.Conn) { return say("HTTP/1.1 201 Crea") }, want: Unreachable},
		"huge header": {behave: func(*server) func(net.Conn) {
			return say("HTTP/1.1 204 No\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n")
		}, want: Unreachable},
		"204 complete": {behave: func(*server) func(net.Conn) { return say("HTTP/1.1 204 No Content\r\n\r\n") }, want: Exists, ok: true},
		"201 cut short": {behave: func(*server) func(net.Conn) {
			return say("HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\nabc")
		}, want: Created, ok: true},
		"201 whose body never ends": {behave: func(s *server) func(net.Conn) {
			return func(c net.Conn) {
				_, _ = io.WriteString(c, "HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\nabc")
				<-s.release
			}
		}, want: Created, ok: true},
		"503 whose body never ends": {behave: func(s *server) func(net.Conn) {
			return func(c net.Conn) {
				_, _ = io.WriteString(c, "HTTP/1.1 503 X\r\nContent-Length: 10\r\n\r\nabc")
				<-s.release
			}
		}, want: Unavailable, ok: true},
		"404 cut short": {behave: func(*server) func(net.Conn) {
			return say("HTTP/1.1 404 Not Found\r\nContent-Length: 500\r\n\r\n{\"error-code\":")
		}, want: Unreachable},
		"404 whose body never ends": {behave: func(s *server) func(net.Conn) {
			return func(c net.Conn) {
				_, _ = io.WriteString(c, "HTTP/1.1 404 X\r\nContent-Length: 10\r\n\r\n{")
				<-s.release
			}
		}, want: Unreachable, timeout: true},
		"endless body": {behave: func(*server) func(net.Conn) {
			return func(c net.Conn) {
				_, _ = io.WriteString(c, "HTTP/1.1 400 X\r\nContent-Length: 1000000000\r\n\r\n")
				for {
					if _, err := c.Write(make([]byte, 32<<10)); err != nil {
						return
					}
				}
			}
		}, want: Unexpected, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			hostile(t, s, tt.behave(s))
			c := s.client(t, func(o *ClientOptions) {
				if strings.Contains(name, "never") || name == "hang" {
					o.Timeout = time.Second
				}
			})
			if err := c.Check(t.Context()); err != nil { // the token is not what breaks
				t.Fatal(err)
			}
			a, err := c.PutWebhook(t.Context(), mustID(t), testCallback)
			if (err == nil) != tt.ok {
				t.Fatalf("got %+v, %v", a, err)
			}
			if err != nil {
				mustNotTell(t, err.Error())
				var te *TransportError
				if !errors.As(err, &te) || te.Timeout != tt.timeout {
					t.Fatalf("got %v, want a transport error with timeout %v", err, tt.timeout)
				}
				if tt.timeout && (!strings.Contains(err.Error(), "orcid timeout of 1s") || !errors.Is(err, context.DeadlineExceeded)) {
					t.Errorf("%v does not name its timeout", err)
				}
				a = AnswerOf(err)
			}
			if a.Kind != tt.want {
				t.Errorf("got %+v, want %s", a, tt.want)
			}
			if _, calls := s.count(); calls != 1 {
				t.Errorf("%d requests, want 1: a PUT must not be repeated", calls)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := "http://" + ln.Addr().String()
	ln.Close()
	s := newServer(t)
	c := s.client(t, func(o *ClientOptions) { o.APIURL = addr })
	_, err = c.PutWebhook(t.Context(), mustID(t), testCallback)
	var te *TransportError
	if !errors.As(err, &te) || te.Timeout || te.Op != OpPut {
		t.Fatalf("got %v, want a network error", err)
	}
	mustNotTell(t, err.Error())
}

func TestCancelledCallerIsNoTrouble(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.api = func(http.ResponseWriter, *http.Request) {
		cancel()
		<-s.release
	}
	_, err := s.client(t, nil).PutWebhook(ctx, mustID(t), testCallback)
	if !errors.Is(err, context.Canceled) || AnswerOf(err).Kind != Cancelled {
		t.Fatalf("got %v", err)
	}
	mustNotTell(t, err.Error())
}

func TestCallerErrors(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.client(t, nil)
	if _, err := c.PutWebhook(t.Context(), ID{}, testCallback); err == nil {
		t.Error("a zero iD was sent")
	}
	if _, err := c.DeleteWebhook(t.Context(), mustID(t), ""); err == nil {
		t.Error("an empty callback was sent")
	}
	if tokens, calls := s.count(); tokens+calls != 0 {
		t.Errorf("%d requests were made", tokens+calls)
	}
}

func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.api = answer(503, "text/html", "<title>busy</title>")
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	c := s.client(t, func(o *ClientOptions) { o.Metrics = m })
	if n := testutil.CollectAndCount(m.requests); n != len(ops)*len(statusLabels) {
		t.Errorf("%d series before the first request, want %d", n, len(ops)*len(statusLabels))
	}
	if _, err := c.PutWebhook(t.Context(), mustID(t), testCallback); err != nil {
		t.Fatal(err)
	}
	hostile(t, s, func(net.Conn) {})
	if _, err := c.DeleteWebhook(t.Context(), mustID(t), testCallback); err == nil {
		t.Fatal("no error")
	}
	for _, l := range [][2]string{{"token", "200"}, {"put", "5xx"}, {"delete", "network"}} {
		if v := testutil.ToFloat64(m.requests.WithLabelValues(l[0], l[1])); v != 1 {
			t.Errorf("%v: %v, want 1", l, v)
		}
	}
	if n := testutil.CollectAndCount(m.requests); n != len(ops)*len(statusLabels) {
		t.Errorf("%d series, want %d", n, len(ops)*len(statusLabels))
	}
	for status, want := range map[int]string{304: "3xx", 204: "204", 418: "other", 599: "5xx", 600: "other"} {
		if got := statusLabel(status); got != want {
			t.Errorf("status %d is labelled %s, want %s", status, got, want)
		}
	}
}

func TestNothingSecretIsPrinted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.token = answer(400, jsonType, fmt.Sprintf(`{"error":"invalid_request","error_description":"client_secret=%s was odd"}`, testSecret))
	var log bytes.Buffer
	c := s.client(t, func(o *ClientOptions) {
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		o.Tokens = &memoryStore{err: errors.New("redis is away")}
		mustNotTell(t, fmt.Sprintf("%v %+v", *o, o.ClientSecret))
	})
	_, err := c.PutWebhook(t.Context(), mustID(t), testCallback)
	if err == nil {
		t.Fatal("no error")
	}
	mustNotTell(t, err.Error())
	mustNotTell(t, fmt.Sprintf("%+v", AnswerOf(err)))
	if !strings.Contains(log.String(), "stored access token could not be read") {
		t.Errorf("log: %s", log.String())
	}
	mustNotTell(t, log.String())
}

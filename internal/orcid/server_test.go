package orcid

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testID       = "0000-0002-1825-0097"
	testSecret   = "s3cret-of-the-client"
	testCallback = "https://hub.example/hooks/APP-1/0000-0002-1825-0097/1/q8Zb3kTn1xWv0LmYc2RdAg?a=b c&ü"
	moreInfo     = `"more-info":"https://members.orcid.org/api/resources/troubleshooting"`
)

// seen is one request as the server got it.
type seen struct {
	method, uri string
	header      http.Header
	form        url.Values
	length      int64
}

// server plays ORCID: every request goes to api or token, as the test set them.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	requests []seen
	issued   int
	token    http.HandlerFunc // nil issues tokens token-1, token-2, …
	api      http.HandlerFunc
	release  chan struct{} // closed at the end, so that hanging handlers return
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{release: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		s.mu.Lock()
		s.requests = append(s.requests, seen{r.Method, r.RequestURI, r.Header.Clone(), r.PostForm, r.ContentLength})
		token := s.token
		if r.URL.Path == "/oauth/token" && token == nil {
			s.issued++
			n := s.issued
			token = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json;charset=UTF-8")
				fmt.Fprintf(w, `{"access_token":"token-%d-5eb23750","token_type":"bearer","refresh_token":"r","expires_in":631138518,"scope":%q,"orcid":null}`,
					n, r.PostForm.Get("scope"))
			}
		}
		s.mu.Unlock()
		if r.URL.Path == "/oauth/token" {
			token(w, r)
			return
		}
		s.api(w, r)
	}))
	t.Cleanup(func() {
		close(s.release)
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *server) client(t *testing.T, change func(*ClientOptions)) *Client {
	t.Helper()
	o := ClientOptions{
		APIURL: s.URL, SiteURL: s.URL, ClientID: "APP-1", ClientSecret: testSecret,
		UserAgent: "dispatchd/test (+https://hub.example)", Timeout: 10 * time.Second,
	}
	if change != nil {
		change(&o)
	}
	c, err := NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// count returns how many requests came for the token endpoint and the API.
func (s *server) count() (tokens, calls int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if strings.HasPrefix(r.uri, "/oauth/token") {
			tokens++
		} else {
			calls++
		}
	}
	return tokens, calls
}

func (s *server) last() seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[len(s.requests)-1]
}

// answer makes a handler that always says the same.
func answer(status int, contentType, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func mustID(t testing.TB) ID {
	t.Helper()
	id, err := ParseStrict(testID)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// mustNotTell fails when a text for people holds something secret.
func mustNotTell(t testing.TB, text string) {
	t.Helper()
	for _, s := range []string{testSecret, "5eb23750", "q8Zb3kTn1xWv0LmYc2RdAg", "/hooks/", "%2Fhooks"} {
		if strings.Contains(text, s) {
			t.Errorf("%q gives away %q", text, s)
		}
	}
}

// memoryStore is a TokenStore that counts and can fail.
type memoryStore struct {
	mu           sync.Mutex
	tokens       map[string]Token
	loads, saves int
	err          error
}

func (m *memoryStore) LoadToken(_ context.Context, scope string) (Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loads++
	return m.tokens[scope], m.err
}

func (m *memoryStore) SaveToken(_ context.Context, scope string, t Token) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saves++
	if m.err != nil {
		return m.err
	}
	if m.tokens == nil {
		m.tokens = map[string]Token{}
	}
	m.tokens[scope] = t
	return nil
}

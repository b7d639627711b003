package orcid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// tokenTable is ORCID.md §3's errors, and what else may come.
var tokenTable = []struct {
	name   string
	status int
	ctype  string
	body   string
	header []string
	reason Reason // "" when it is no fault of the credential
	kind   Kind   // then
	words  string
}{
	{name: "wrong secret", status: 401, ctype: jsonType, body: `{"error_description":"Client authentication failed","error":"invalid_client"}`, reason: InvalidClient, words: "check client_id and client_secret"},
	{name: "bare 401", status: 401, ctype: "text/html", body: "<title>Nope</title>", reason: InvalidClient, words: "Nope"},
	{name: "no webhooks", status: 401, ctype: jsonType, body: `{"error":"invalid_scope","error_description":"Invalid scope: /webhook"}`, reason: InvalidScope, words: "credential APP-1 lacks /webhook: ORCID says: Invalid scope: /webhook; webhooks need a premium"},
	{name: "no webhooks, documented", status: 400, ctype: jsonType, body: `{"error":"invalid_scope","error_description":"Invalid scope: /webhook"}`, reason: InvalidScope, words: "lacks /webhook"},
	{name: "no webhooks, plain", status: 400, ctype: "text/plain", body: "400 Invalid scope: /webhook", reason: InvalidScope, words: "lacks /webhook"},
	{name: "less than asked for", status: 200, ctype: jsonType, body: `{"access_token":"abc","scope":"/read-public"}`, reason: InvalidScope, words: "granted only: /read-public"},
	{name: "deactivated client", status: 400, ctype: jsonType, body: `{"error":"unauthorized_client","error_description":"deactivated"}`, reason: UnauthorizedClient, words: "ORCID deactivated this client"},
	{name: "wrong endpoint", status: 400, ctype: jsonType, body: `{"error":"unsupported_grant_type"}`, reason: UnsupportedGrantType, words: "check orcid.token_url"},
	{name: "a new reason", status: 403, ctype: jsonType, body: `{"error":"brand_new","error_description":"odd"}`, reason: "brand_new", words: "(brand_new): ORCID says: odd"},
	{name: "an error with status 200", status: 200, ctype: jsonType, body: `{"error":"invalid_client"}`, reason: InvalidClient},
	{name: "server error as OAuth", status: 400, ctype: jsonType, body: `{"error":"server_error"}`, kind: Unavailable},
	{name: "503 HTML", status: 503, ctype: "text/html", body: "<title>busy</title>", header: []string{"Retry-After", "7"}, kind: Unavailable},
	{name: "500 that names the client", status: 500, ctype: jsonType, body: `{"error":"invalid_client"}`, kind: Unavailable},
	{name: "429", status: 429, ctype: "text/plain", body: "Too Many Requests", kind: RateLimited},
	{name: "maintenance", status: 302, ctype: "text/html", header: []string{"Location", "https://m.example/x"}, kind: Redirected},
	{name: "a page", status: 200, ctype: "text/html", body: "<html><title>Sign in</title></html>", kind: Unexpected},
	{name: "415", status: 415, ctype: "text/html", body: "<title>Unsupported</title>", kind: Unexpected},
	{name: "no token in it", status: 200, ctype: jsonType, body: `{}`, kind: Unexpected},
	{name: "a token that breaks the header", status: 200, ctype: jsonType, body: `{"access_token":"a\r\nb"}`, kind: Unexpected},
}

func TestTokenEndpointErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range tokenTable {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.token = answer(tt.status, tt.ctype, tt.body, tt.header...)
			c := s.client(t, nil)
			checked := c.Check(t.Context())
			if checked == nil {
				t.Fatal("Check found nothing")
			}
			a, err := c.PutWebhook(t.Context(), mustID(t), testCallback)
			var ce *CredentialError
			if tt.reason != "" {
				if !errors.As(err, &ce) || ce.Reason != tt.reason || ce.Status != tt.status || ce.Scope != ScopeWebhook || ce.Hint == "" {
					t.Fatalf("got %+v, %v; want reason %s", ce, err, tt.reason)
				}
				if !strings.Contains(err.Error(), tt.words) {
					t.Errorf("%q lacks %q", err, tt.words)
				}
				if AnswerOf(err).Kind != BadCredential || !errors.As(checked, &ce) {
					t.Errorf("Check said %v", checked)
				}
				return
			}
			if err != nil || a.Kind != tt.kind || a.Detail == "" {
				t.Fatalf("got %+v, %v; want %s", a, err, tt.kind)
			}
			if tt.name == "503 HTML" && a.RetryAfter != 7*time.Second {
				t.Errorf("retry after %s, want 7s", a.RetryAfter)
			}
			if errors.As(checked, &ce) || AnswerOf(checked).Kind != tt.kind {
				t.Errorf("Check said %v", checked)
			}
		})
	}
}

func TestTokenEndpointHangs(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.token = func(http.ResponseWriter, *http.Request) { <-s.release }
	c := s.client(t, func(o *ClientOptions) { o.Timeout = 200 * time.Millisecond })
	var te *TransportError
	if err := c.Check(t.Context()); !errors.As(err, &te) || !te.Timeout || te.Op != OpToken || !strings.Contains(err.Error(), "orcid timeout of 200ms") {
		t.Errorf("got %v", err)
	}
}

func TestTokenBodyCutShort(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.token = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", jsonType)
		w.Header().Set("Content-Length", "500")
		fmt.Fprint(w, `{"access_token":"abc"`)
	}
	var te *TransportError
	if err := s.client(t, nil).Check(t.Context()); !errors.As(err, &te) || te.Timeout {
		t.Errorf("got %v, want a network error", err)
	}
}

func TestOneTokenForManyCallers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.api = answer(204, "", "")
	store := &memoryStore{}
	c := s.client(t, func(o *ClientOptions) { o.Tokens = store })
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if a, err := c.PutWebhook(t.Context(), mustID(t), testCallback); err != nil || a.Kind != Exists {
				t.Errorf("got %+v, %v", a, err)
			}
		})
	}
	wg.Wait()
	if tokens, calls := s.count(); tokens != 1 || calls != 50 {
		t.Errorf("%d tokens and %d calls, want 1 and 50", tokens, calls)
	}
	if store.loads != 1 || store.saves != 1 {
		t.Errorf("%d loads and %d saves, want 1 of each", store.loads, store.saves)
	}
}

func TestOneRenewalForManyRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const callers = 5
	var together sync.WaitGroup
	together.Add(callers)
	s.api = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer token-1-5eb23750" {
			together.Done()
			together.Wait() // every caller is refused before anybody renews
			answer(401, jsonType, `{"error":"invalid_token"}`)(w, r)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
	c := s.client(t, nil)
	if err := c.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			if a, err := c.PutWebhook(t.Context(), mustID(t), testCallback); err != nil || a.Kind != Exists {
				t.Errorf("got %+v, %v", a, err)
			}
		})
	}
	wg.Wait()
	if tokens, calls := s.count(); tokens != 2 || calls != 2*callers {
		t.Errorf("%d tokens and %d calls, want 2 and %d", tokens, calls, 2*callers)
	}
}

// tripFunc is a transport without sockets, for bubbles of synctest.
type tripFunc func(*http.Request) (*http.Response, error)

func (f tripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// bubbleClient asks a token endpoint that answers when goOn is closed.
func bubbleClient(t *testing.T, goOn <-chan struct{}, status int, body string) (c *Client, asked *int) {
	t.Helper()
	asked = new(int)
	c, err := NewClient(ClientOptions{
		APIURL: "http://api.test", SiteURL: "http://site.test", ClientID: "APP-1", ClientSecret: testSecret,
		Transport: tripFunc(func(r *http.Request) (*http.Response, error) {
			*asked++
			select {
			case <-goOn:
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, asked
}

func TestFailureIsSharedByThoseWhoWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		c, asked := bubbleClient(t, goOn, 401, `{"error":"invalid_client"}`)
		errs := make(chan error, 5)
		for range cap(errs) {
			go func() { _, err := c.webhook.current(t.Context()); errs <- err }()
		}
		synctest.Wait() // one asks, four wait for it
		close(goOn)
		for range cap(errs) {
			var ce *CredentialError
			if err := <-errs; !errors.As(err, &ce) {
				t.Errorf("got %v", err)
			}
		}
		if *asked != 1 {
			t.Errorf("%d requests, want 1", *asked)
		}
	})
}

func TestAbandonedFlightIsNobodyElsesError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		c, asked := bubbleClient(t, goOn, 200, `{"access_token":"later","scope":"/webhook"}`)
		first, giveUp := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		go func() { _, err := c.webhook.current(first); errs <- err }()
		synctest.Wait()
		impatient, alsoGiveUp := context.WithCancel(t.Context())
		go func() { _, err := c.webhook.current(impatient); errs <- err }()
		got := make(chan Token, 1)
		go func() {
			tok, err := c.webhook.current(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- tok
		}()
		synctest.Wait()
		alsoGiveUp() // one who waits
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("a caller who gave up waiting got %v", err)
		}
		giveUp() // and the one who asks
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("a caller who gave up asking got %v", err)
		}
		synctest.Wait()
		close(goOn)
		if tok := <-got; tok.Access != "later" || *asked != 2 {
			t.Errorf("got %q after %d requests", tok.Access.Reveal(), *asked)
		}
	})
}

func TestTimeoutOfTheOneWhoAsksIsEverybodys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, asked := bubbleClient(t, nil, 0, "")
		errs := make(chan error, 3)
		start := time.Now()
		for range cap(errs) {
			go func() { _, err := c.webhook.current(t.Context()); errs <- err }()
		}
		for range cap(errs) {
			var te *TransportError
			if err := <-errs; !errors.As(err, &te) || !te.Timeout {
				t.Errorf("got %v", err)
			}
		}
		if took := time.Since(start); took != DefaultTimeout || *asked != 1 {
			t.Errorf("%d requests in %s, want 1 in %s", *asked, took, DefaultTimeout)
		}
	})
}

func TestWhichStoredTokenIsUsed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		stored Token
		used   bool
	}{
		"ours, without end":     {Token{ClientID: "APP-1", Access: "stored"}, true},
		"ours, long to go":      {Token{ClientID: "APP-1", Access: "stored", Expires: time.Now().Add(time.Hour)}, true},
		"ours, ending":          {Token{ClientID: "APP-1", Access: "stored", Expires: time.Now().Add(10 * time.Second)}, false},
		"ours, ended":           {Token{ClientID: "APP-1", Access: "stored", Expires: time.Now().Add(-time.Hour)}, false},
		"of the client before":  {Token{ClientID: "APP-0", Access: "stored"}, false},
		"none":                  {Token{}, false},
		"none but for its name": {Token{ClientID: "APP-1"}, false},
	} {
		s := newServer(t)
		s.api = answer(201, "", "")
		store := &memoryStore{tokens: map[string]Token{ScopeWebhook: tt.stored}}
		c := s.client(t, func(o *ClientOptions) { o.Tokens = store })
		if _, err := c.PutWebhook(t.Context(), mustID(t), testCallback); err != nil {
			t.Fatal(err)
		}
		if used := s.last().header.Get("Authorization") == "Bearer stored"; used != tt.used {
			t.Errorf("%s: used %v, want %v", name, used, tt.used)
		}
	}
}

func TestCheckIsNotFooledByAStoredToken(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.token = answer(401, jsonType, `{"error":"invalid_client"}`)
	c := s.client(t, func(o *ClientOptions) {
		o.Tokens = &memoryStore{tokens: map[string]Token{ScopeWebhook: {ClientID: "APP-1", Access: "stored"}}}
	})
	if err := c.Check(t.Context()); err == nil {
		t.Error("a wrong secret passed the check")
	}
}

func TestStoreTroubleIsNoObstacle(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.api = answer(201, "", "")
	store := &memoryStore{err: errors.New("redis is away")}
	c := s.client(t, func(o *ClientOptions) { o.Tokens = store })
	for range 3 {
		if a, err := c.PutWebhook(t.Context(), mustID(t), testCallback); err != nil || a.Kind != Created {
			t.Fatalf("got %+v, %v", a, err)
		}
	}
	if tokens, _ := s.count(); tokens != 1 {
		t.Errorf("%d tokens, want 1", tokens)
	}
}

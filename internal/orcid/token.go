package orcid

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"dispatchd/internal/secret"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// The scopes that a Client asks for, one token each.
const (
	ScopeWebhook = "/webhook"
	ScopeRead    = "/read-public"
)

// Token is an access token as it is kept. The zero Token means none.
type Token struct {
	// ClientID is whose token it is; one of another client is not used, since
	// a row that it registers would not be ours.
	ClientID string
	Access   secret.Text
	// Expires is when it ends (seconds); zero means never. ORCID's last about
	// twenty years.
	Expires time.Time
}

// TokenStore keeps tokens, encrypted, so that a restart asks for none.
type TokenStore interface {
	// LoadToken returns the token of the scope, or a zero Token when there is
	// none. An error is no obstacle: a new token is asked for.
	LoadToken(ctx context.Context, scope string) (Token, error)
	// SaveToken replaces the token of the scope.
	SaveToken(ctx context.Context, scope string, token Token) error
}

// expiryMargin is how long before its end a token is replaced.
const expiryMargin = 30 * time.Second

// tokenSource gives out the token of one scope. However many ask at once, one
// request is made.
type tokenSource struct {
	client *Client
	scope  string
	store  TokenStore

	mu     sync.Mutex
	token  Token
	loaded bool    // the store was asked
	flight *flight // under way, or nil
}

// flight is one request for a token that many may wait for.
type flight struct {
	done  chan struct{}
	token Token
	err   error
	// abandoned says that the caller whose context carried the request gave up:
	// its error is nobody else's.
	abandoned bool
}

// current returns the token at hand, or the stored one, or a new one.
func (s *tokenSource) current(ctx context.Context) (Token, error) {
	return s.get(ctx, func(t Token) bool { return s.usable(t) })
}

// renew returns another token than the one that was refused.
func (s *tokenSource) renew(ctx context.Context, refused Token) (Token, error) {
	return s.get(ctx, func(t Token) bool { return s.usable(t) && t.Access != refused.Access })
}

// fetch asks for a new token, whatever is at hand, and keeps it.
func (s *tokenSource) fetch(ctx context.Context) error {
	t, err := s.request(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.token = t
	s.mu.Unlock()
	s.save(ctx, t)
	return nil
}

func (s *tokenSource) usable(t Token) bool {
	return t.Access.IsSet() && t.ClientID == s.client.clientID &&
		(t.Expires.IsZero() || time.Until(t.Expires) > expiryMargin)
}

// get returns the token at hand if it is good, else joins or starts a flight.
func (s *tokenSource) get(ctx context.Context, good func(Token) bool) (Token, error) {
	for {
		s.mu.Lock()
		if good(s.token) {
			defer s.mu.Unlock()
			return s.token, nil
		}
		f := s.flight
		if f == nil {
			f = &flight{done: make(chan struct{}), abandoned: true}
			s.flight = f
			s.mu.Unlock()
			s.fly(ctx, f, good)
			return f.token, f.err // as it is: a fresh one may live shorter than the margin
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return Token{}, fmt.Errorf("wait for a token: %w", ctx.Err())
		case <-f.done:
		}
		if f.err != nil && !f.abandoned {
			return Token{}, f.err
		}
		// Good or not, s.token says; a flight that began before ours was refused
		// may have brought the refused one.
	}
}

// fly asks the store and then ORCID, and tells everybody who waits. It runs in
// the first caller's goroutine, so that nothing outlives a stopping daemon.
func (s *tokenSource) fly(ctx context.Context, f *flight, good func(Token) bool) {
	defer func() {
		s.mu.Lock()
		if f.token.Access.IsSet() {
			s.token = f.token
		}
		s.flight = nil
		s.mu.Unlock()
		close(f.done)
	}()
	if t, ok := s.load(ctx); ok && good(t) {
		f.token, f.abandoned = t, false
		return
	}
	f.token, f.err = s.request(ctx)
	f.abandoned = f.err != nil && ctx.Err() != nil
	if f.err == nil {
		s.save(ctx, f.token)
	}
}

// save stores a fresh token. It works without until the next start, which asks
// for another.
func (s *tokenSource) save(ctx context.Context, t Token) {
	if s.store == nil {
		return
	}
	if err := s.store.SaveToken(ctx, s.scope, t); err != nil {
		s.client.log.WarnContext(ctx, "access token could not be stored", "scope", s.scope, "err", err)
	}
}

// load asks the store once in the life of the Client.
func (s *tokenSource) load(ctx context.Context) (Token, bool) {
	if s.store == nil || s.loaded { // only flights touch loaded, and they are single
		return Token{}, false
	}
	t, err := s.store.LoadToken(ctx, s.scope)
	if err != nil {
		s.client.log.WarnContext(ctx, "stored access token could not be read", "scope", s.scope, "err", err)
		return Token{}, false
	}
	s.loaded = true
	return t, s.usable(t)
}

// request asks the token endpoint.
func (s *tokenSource) request(ctx context.Context) (Token, error) {
	c := s.client
	limited, cancel := c.limit(ctx)
	defer cancel()
	config := clientcredentials.Config{
		ClientID: c.clientID, ClientSecret: c.secret.Reveal(), TokenURL: c.tokenURL,
		Scopes: []string{s.scope}, AuthStyle: oauth2.AuthStyleInParams,
	}
	trip := &tokenTrip{base: c.http.Transport, agent: c.agent}
	limited = context.WithValue(limited, oauth2.HTTPClient, &http.Client{
		Transport: trip, CheckRedirect: c.http.CheckRedirect,
	})
	t, err := config.Token(limited)
	if trip.status == 0 { // no complete answer
		return Token{}, c.transportError(ctx, limited, OpToken, err)
	}
	c.metrics.answered(OpToken, trip.status)
	if err != nil {
		return Token{}, s.refusal(trip, err)
	}
	if !plainToken(t.AccessToken) {
		return Token{}, &AnswerError{OpToken, Answer{Status: trip.status, Detail: "200 OK: the access token has characters that no header can carry"}}
	}
	if granted, ok := t.Extra("scope").(string); ok && granted != "" && !slices.Contains(strings.Fields(granted), s.scope) {
		return Token{}, s.credentialError(InvalidScope, trip.status, "granted only: "+granted)
	}
	return Token{ClientID: c.clientID, Access: secret.Text(t.AccessToken), Expires: t.Expiry.Truncate(time.Second)}, nil
}

// refusal tells the credential's fault from the endpoint's trouble.
func (s *tokenSource) refusal(trip *tokenTrip, err error) error {
	known := newRedactor("", s.client.secret.Reveal())
	body := known.bytes(trip.body)
	answer := classify(OpToken, trip.status, trip.header, body, time.Now())
	switch answer.Kind {
	case RateLimited, Unavailable, Redirected:
		return &AnswerError{OpToken, answer}
	}
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) { // 200 without a token, or not JSON
		if answer.Kind == OK {
			answer = Answer{Status: trip.status, Detail: detail(trip.status, 0, "the token endpoint answered without a token: "+bodyText(body, problem{}))}
		}
		return &AnswerError{OpToken, answer}
	}
	text := oneLine(scrub(string(known.bytes([]byte(refused.ErrorDescription)))))
	if text == "" {
		text = answer.Detail
	}
	switch reason := Reason(known.bytes([]byte(refused.ErrorCode))); reason {
	case "":
		// ORCID's tutorial shows this one without an error object.
		if strings.Contains(strings.ToLower(string(body)), "invalid scope") {
			return s.credentialError(InvalidScope, trip.status, text)
		}
		if trip.status == http.StatusUnauthorized {
			return s.credentialError(InvalidClient, trip.status, text)
		}
	case "server_error", "temporarily_unavailable":
		answer.Kind = Unavailable
	default:
		return s.credentialError(reason, trip.status, text)
	}
	return &AnswerError{OpToken, answer}
}

func (s *tokenSource) credentialError(reason Reason, status int, text string) *CredentialError {
	return &CredentialError{
		ClientID: s.client.clientID, Scope: s.scope, Reason: Reason(clipTo(oneLine(string(reason)), 64)), Status: status,
		Detail: clipTo(oneLine(text), maxDetail), Hint: hint(reason, s.scope, s.client.tokenURL),
	}
}

// plainToken reports whether t can stand in an Authorization header.
func plainToken(t string) bool {
	return len(t) <= 8<<10 && !strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r > '~' })
}

package sim

import (
	"crypto/subtle"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"dispatchd/internal/orcid"
)

// token is an access token.
type token struct {
	client  *client
	scopes  []string
	expires stamp
	revoked bool
	user    uint64 // base of the person who granted it; 0 for client credentials
}

func (t *token) valid(now stamp) bool { return !t.revoked && now < t.expires }

func (t *token) has(scope string) bool { return slices.Contains(t.scopes, scope) }

// uuid makes a random UUID of version 4 from the seeded source.
func (r *Registry) uuid() string {
	hi, lo := r.rng.Uint64(), r.rng.Uint64()
	hi = hi&^0xf000 | 0x4000
	lo = lo&^(3<<62) | 2<<62
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", hi>>32, hi>>16&0xffff, hi&0xffff, lo>>48, lo&0xffffffffffff)
}

// issue makes a token; the lock is held.
func (r *Registry) issue(c *client, scopes []string, user uint64) string {
	id := r.uuid()
	r.tokens[id] = &token{client: c, scopes: scopes, expires: r.now().plus(r.opts.TokenLife), user: user}
	return id
}

// IssueToken makes a token without HTTP. A non-zero user makes it that
// person's own, good for reading only that record.
func (r *Registry) IssueToken(clientID string, scopes []string, user orcid.ID) (string, error) {
	var id string
	err := r.withClient(clientID, func(c *client) { id = r.issue(c, slices.Clone(scopes), user.Base()) })
	return id, err
}

// Tokens lists the tokens that a client was given, with those that have ended.
func (r *Registry) Tokens(clientID string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for id, t := range r.tokens {
		if t.client.ID == clientID {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// tokenAnswer is the token endpoint's answer. A client-credentials token has a
// null orcid and no name.
type tokenAnswer struct {
	AccessToken  string  `json:"access_token"`
	TokenType    string  `json:"token_type"`
	RefreshToken string  `json:"refresh_token"`
	ExpiresIn    int64   `json:"expires_in"`
	Scope        string  `json:"scope"`
	ORCID        *string `json:"orcid"`
}

// invalidClient has its keys in another order than the other errors.
type invalidClient struct {
	Description string `json:"error_description"`
	Error       string `json:"error"`
}

// form reads a form-encoded body and the client's credentials, from the form
// or from Basic authorization. It reports false after answering 415 or 400.
func form(w http.ResponseWriter, req *http.Request) (url.Values, string, string, bool) {
	kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		writeBody(w, http.StatusUnsupportedMediaType, "", nil)
		return nil, "", "", false
	}
	req.Body = http.MaxBytesReader(w, req.Body, 64<<10)
	if err := req.ParseForm(); err != nil {
		writeBody(w, 400, jsonUTF8, jsonBytes(tokenErrorBody{"invalid_request", "The form cannot be read."}))
		return nil, "", "", false
	}
	id, secret := req.PostForm.Get("client_id"), req.PostForm.Get("client_secret")
	if user, pass, ok := req.BasicAuth(); ok {
		// RFC 6749 §2.3.1: both are form-encoded before they are joined.
		id, secret = unescapeForm(user), unescapeForm(pass)
	}
	return req.PostForm, id, secret, true
}

func unescapeForm(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

// authenticate returns the client, or nil when id and secret do not fit; the
// lock is held.
func (r *Registry) authenticate(id, secret string) *client {
	c := r.clients[id]
	if c == nil || subtle.ConstantTimeCompare([]byte(c.Secret.Reveal()), []byte(secret)) != 1 {
		return nil
	}
	return c
}

// serveToken is POST /oauth/token.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	values, id, secret, ok := form(w, req)
	if !ok {
		return
	}
	status, body := r.grant(values, id, secret)
	r.ledger.add(Entry{Kind: KindToken, at: r.now(), Client: id, Op: values.Get("scope"), Status: status})
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
	writeBody(w, status, jsonUTF8, jsonBytes(body))
}

func (r *Registry) grant(values url.Values, id, secret string) (int, any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.authenticate(id, secret)
	switch {
	case c == nil:
		return 401, invalidClient{"Client authentication failed", "invalid_client"}
	case values.Get("grant_type") != "client_credentials":
		return 400, tokenErrorBody{"unsupported_grant_type", "Unsupported grant type: " + values.Get("grant_type")}
	case c.deactivated != 0:
		return 400, tokenErrorBody{"unauthorized_client", "The client application is deactivated."}
	}
	scopes := strings.Fields(values.Get("scope"))
	for _, s := range scopes {
		if !slices.Contains(c.Scopes, s) {
			return 400, tokenErrorBody{"invalid_scope", "Invalid scope: " + s}
		}
	}
	if len(scopes) == 0 {
		return 400, tokenErrorBody{"invalid_scope", "Invalid scope: "}
	}
	access, refresh := r.issue(c, scopes, 0), r.uuid()
	return 200, tokenAnswer{access, "bearer", refresh, int64(r.opts.TokenLife / time.Second), strings.Join(scopes, " "), nil}
}

// serveRevoke is POST /oauth/revoke: 200 and nothing, also for a token that
// nobody knows.
func (r *Registry) serveRevoke(w http.ResponseWriter, req *http.Request) {
	values, id, secret, ok := form(w, req)
	if !ok {
		return
	}
	r.mu.Lock()
	c := r.authenticate(id, secret)
	if t := r.tokens[values.Get("token")]; c != nil && t != nil && t.client == c {
		t.revoked = true
	}
	r.mu.Unlock()
	status := 200
	if c == nil {
		status = 401
		writeBody(w, status, jsonUTF8, jsonBytes(invalidClient{"Client authentication failed", "invalid_client"}))
	} else {
		writeBody(w, status, "", nil)
	}
	r.ledger.add(Entry{Kind: KindRevoke, at: r.now(), Client: id, Status: status})
}

// bearer finds the request's token. It reports false after answering: 403
// without an Authorization header, 401 for a token that is unknown, expired or
// revoked.
func (r *Registry) bearer(w http.ResponseWriter, req *http.Request) (*token, bool) {
	kind, value, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	value = strings.TrimSpace(value)
	if !strings.EqualFold(kind, "bearer") || value == "" {
		writeBody(w, 403, jsonUTF8, jsonBytes(tokenErrorBody{
			"forbidden", "Forbidden: The server understood the request but refuses to authorize it.",
		}))
		return nil, false
	}
	r.mu.Lock()
	t := r.tokens[value]
	good := t != nil && t.valid(r.now())
	r.mu.Unlock()
	if !good {
		writeInvalidToken(w, value)
		return nil, false
	}
	return t, true
}

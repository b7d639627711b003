package orcid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"dispatchd/internal/secret"
)

// DefaultTimeout bounds one request to ORCID when ClientOptions names no other.
const DefaultTimeout = 20 * time.Second

// maxConns is how many connections we open to ORCID's API at most.
const maxConns = 8

// ClientOptions is what a Client needs to speak for one credential.
type ClientOptions struct {
	// APIURL is the member API, for example https://api.orcid.org; required.
	APIURL string
	// TokenURL is the token endpoint; empty means SiteURL + "/oauth/token".
	TokenURL string
	// SiteURL is where people look at records, for example https://orcid.org;
	// it may be empty when TokenURL is set.
	SiteURL string
	// ClientID and ClientSecret are the credential; required.
	ClientID     string
	ClientSecret secret.Text
	// UserAgent tells ORCID's operators who calls: "dispatchd/<version>
	// (+web_url)". Empty means "dispatchd".
	UserAgent string
	// Timeout bounds one request including its answer's body; 0 means 20 s. A
	// call may make up to four requests (token, request, fresh token, request).
	Timeout time.Duration
	// Transport carries the requests; nil means an own one with at most eight
	// connections and no proxy.
	Transport http.RoundTripper
	// Tokens keeps access tokens over restarts; nil keeps them in memory only.
	Tokens TokenStore
	// Metrics counts requests; nil counts nothing.
	Metrics *Metrics
	// Logger hears of token stores that fail; nil discards.
	Logger *slog.Logger
}

// Client speaks to ORCID's member API for one credential. It is safe for
// concurrent use. It follows no redirect and repeats no request, but for one
// thing: a request answered 401 is sent once more with a fresh token. Rates and
// permits are the caller's.
type Client struct {
	api      string // without trailing slash
	tokenURL string
	clientID string
	secret   secret.Text
	agent    string
	timeout  time.Duration
	http     *http.Client
	idle     func() // closes idle connections of an own transport
	metrics  *Metrics
	log      *slog.Logger

	webhook, read *tokenSource
}

// NewClient makes a Client. It connects to nothing yet.
func NewClient(o ClientOptions) (*Client, error) {
	if o.TokenURL == "" && o.SiteURL != "" {
		o.TokenURL = strings.TrimRight(o.SiteURL, "/") + "/oauth/token"
	}
	for _, u := range []struct{ name, value string }{{"APIURL", o.APIURL}, {"TokenURL", o.TokenURL}} {
		if err := checkBase(u.value); err != nil {
			return nil, fmt.Errorf("orcid client: %s %w", u.name, err)
		}
	}
	switch {
	case o.ClientID == "":
		return nil, errors.New("orcid client: ClientID must be set")
	case !o.ClientSecret.IsSet():
		return nil, errors.New("orcid client: ClientSecret must be set")
	case o.Timeout < 0:
		return nil, fmt.Errorf("orcid client: Timeout must not be negative (got %s)", o.Timeout)
	case strings.ContainsFunc(o.UserAgent, func(r rune) bool { return r < ' ' || r > '~' }):
		return nil, errors.New("orcid client: UserAgent must be printable ASCII")
	}
	c := &Client{
		api:      strings.TrimRight(o.APIURL, "/"),
		tokenURL: o.TokenURL,
		clientID: o.ClientID,
		secret:   o.ClientSecret,
		agent:    o.UserAgent,
		timeout:  o.Timeout,
		metrics:  o.Metrics,
		log:      o.Logger,
		idle:     func() {},
	}
	if c.agent == "" {
		c.agent = "dispatchd"
	}
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if o.Transport == nil {
		own := newTransport()
		o.Transport, c.idle = own, own.CloseIdleConnections
	}
	c.http = &http.Client{
		Transport:     o.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.webhook = &tokenSource{client: c, scope: ScopeWebhook, store: o.Tokens}
	c.read = &tokenSource{client: c, scope: ScopeRead, store: o.Tokens}
	return c, nil
}

// checkBase accepts an absolute http or https URL without query or fragment.
func checkBase(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return errors.New("must be set")
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return errors.New("must be an absolute http or https URL")
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return errors.New("must not have a user, a query or a fragment")
	}
	return nil
}

// newTransport bounds what one credential may hold open. It uses no proxy: one
// that the environment names by accident would see tokens and callbacks.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    10 * time.Second,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        60 * time.Second,
		MaxIdleConns:           maxConns,
		MaxIdleConnsPerHost:    maxConns,
		MaxConnsPerHost:        maxConns,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// Close closes idle connections of the Client's own transport. Calls under way
// are not disturbed, and the Client stays usable.
func (c *Client) Close() { c.idle() }

// PutWebhook registers callbackURL for id. Created means that the row is new
// and ours, Exists that it was there before, whoever owns it. The error is a
// *TransportError, a *CredentialError, or the caller's own cancellation.
func (c *Client) PutWebhook(ctx context.Context, id ID, callbackURL string) (Answer, error) {
	return c.changeWebhook(ctx, OpPut, http.MethodPut, id, callbackURL)
}

// DeleteWebhook unregisters callbackURL for id; see PutWebhook for errors.
func (c *Client) DeleteWebhook(ctx context.Context, id ID, callbackURL string) (Answer, error) {
	return c.changeWebhook(ctx, OpDelete, http.MethodDelete, id, callbackURL)
}

// WebhookURL is the address of a webhook of id at the member API.
func WebhookURL(apiURL string, id ID, callbackURL string) string {
	return strings.TrimRight(apiURL, "/") + "/" + id.String() + "/webhook/" + escapeSegment(callbackURL)
}

func (c *Client) changeWebhook(ctx context.Context, op Op, method string, id ID, callbackURL string) (Answer, error) {
	if id.IsZero() || callbackURL == "" {
		return Answer{}, fmt.Errorf("%s webhook: iD and callback URL must be set", op)
	}
	answer, err := c.do(ctx, call{
		op: op, method: method, source: c.webhook, callback: callbackURL,
		url: WebhookURL(c.api, id, callbackURL),
	})
	var other *AnswerError
	if errors.As(err, &other) {
		// The token endpoint is as unavailable as the API may be: the caller
		// decides by Kind alike.
		return other.Answer, nil
	}
	if err != nil {
		return Answer{}, fmt.Errorf("%s webhook of %s: %w", op, id, err)
	}
	return answer, nil
}

// Check asks the token endpoint for a new token for webhooks, also when one is
// at hand, so that a wrong secret or a missing permission shows at once.
func (c *Client) Check(ctx context.Context) error {
	if err := c.webhook.fetch(ctx); err != nil {
		return fmt.Errorf("check credential: %w", err)
	}
	return nil
}

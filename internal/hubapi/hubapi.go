// Package hubapi is the API that organisations' own programs use, compatible
// with that of the NZ ORCID Hub (docs/hub-api.md lists what differs): access
// tokens under /oauth/token, and under /api/v1 the organisation's settings, its
// users, and callbacks of its own at ORCID. It is a face of package service. It
// promises that a client reads and changes its own organisation only, and that
// no answer but the one that makes a token holds a secret.
package hubapi

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/peer"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
)

// Options wires an API.
type Options struct {
	// Service does everything; must be set.
	Service *service.Service
	// Logger must be set.
	Logger *slog.Logger
	// Panics counts a recovered panic. Default: nobody counts.
	Panics func(component string)
	// Now is the clock of the rate limits. Default: time.Now.
	Now func() time.Time
	// Location is where ORCID has a callback URL that it registered. Default: the
	// answer has no Location.
	Location func(id orcid.ID, callback string) string
	// Wait is how long a request waits for ORCID's answer. Default 15 s.
	Wait time.Duration
}

const (
	maxBody     = 64 << 10
	readTimeout = 30 * time.Second
	// workTimeout is enough for a test event to a receiver that hangs.
	workTimeout = 10 * time.Minute
	defaultWait = 15 * time.Second
)

// API answers the requests of organisations' programs. It is safe for
// concurrent use.
type API struct {
	o       Options
	log     *slog.Logger
	clients *limiter // of the organisations that showed a token
	others  *limiter // of the addresses of everybody else
	guesses *guesses // of secrets
	slow    chan struct{}
}

// New checks the options.
func New(o Options) (*API, error) {
	switch {
	case o.Service == nil:
		return nil, errors.New("hubapi: Options.Service must be set")
	case o.Logger == nil:
		return nil, errors.New("hubapi: Options.Logger must be set")
	}
	if o.Panics == nil {
		o.Panics = func(string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Wait <= 0 {
		o.Wait = defaultWait
	}
	return &API{
		o: o, log: o.Logger.With("component", "hubapi"),
		clients: newLimiter(o.Now), others: newLimiter(o.Now), guesses: newGuesses(o.Now),
		slow: make(chan struct{}, maxChecks),
	}, nil
}

// Owns reports whether a request with this path is for the API.
func Owns(path string) bool {
	return path == "/api" || strings.HasPrefix(path, "/api/") || path == "/oauth/token" || path == "/oauth/token/"
}

// Or answers the requests that are for the API and leaves the others to next.
// It must come before any http.ServeMux: that redirects a path that has "//" in
// it, and a callback URL may stand in ours as it is.
func (a *API) Or(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if Owns(r.URL.Path) {
			a.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// call is one request under way.
type call struct {
	*http.Request
	id    string // names it in its answer and in the log
	org   string // whose client asks; "" before that is known
	route route
}

// by says who asks, for the audit log.
func (c *call) by() service.By {
	return service.By{Who: "api client of " + c.org, From: peer.Of(c.Request)}
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), workTimeout)
	defer cancel()
	c := &call{Request: r.WithContext(ctx), id: secret.NewKey(9).Reveal()}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Request-Id", c.id)
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(readTimeout)) // a writer that cannot is one of a test
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if err, ok := p.(error); ok && err == http.ErrAbortHandler { //nolint:errorlint // net/http compares it like this too
			panic(p)
		}
		a.o.Panics("hubapi")
		a.log.Error("a request panicked", "id", c.id, "method", r.Method, "route", c.route.name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		a.fail(w, c, internal())
	}()
	if err := a.serve(w, c); err != nil {
		a.fail(w, c, a.failureOf(c, err))
	}
}

func (a *API) serve(w http.ResponseWriter, c *call) error {
	route, err := parseRoute(c.URL)
	if err != nil {
		return err
	}
	c.route = route
	e := endpoints[route.name]
	do, ok := e[c.Method]
	switch {
	case ok:
	case c.Method == http.MethodOptions:
		w.Header().Set("Allow", e.allow())
		w.WriteHeader(http.StatusNoContent)
		return nil
	default:
		w.Header().Set("Allow", e.allow())
		return &failure{
			status: http.StatusMethodNotAllowed, error: "Method Not Allowed",
			message: fmt.Sprintf("%s does not work here. Use %s.", clip(c.Method), e.allow()),
		}
	}
	if route.name == routeToken || route.name == routeOpenAPI {
		return do(a, w, c)
	}
	if err := a.authorise(w, c); err != nil {
		return err
	}
	if route.orcidErr != nil {
		return &failure{
			status: http.StatusUnsupportedMediaType, error: "Missing or invalid ORCID iD.", message: route.orcidErr.Error(),
		}
	}
	if route.callbackErr != nil {
		return badCallback(route.callback, route.callbackErr)
	}
	return do(a, w, c)
}

// authorise finds out whose client asks and lets it wait when it asks too often.
func (a *API) authorise(w http.ResponseWriter, c *call) error {
	scheme, token, _ := strings.Cut(c.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	challenge, code := `Bearer realm="dispatchd", error="invalid_token"`, "invalid_token"
	message := "The access token is unknown or has ended. Get one with POST /oauth/token."
	if subtle.ConstantTimeCompare([]byte(strings.ToLower(scheme)), []byte("bearer")) == 1 && token != "" {
		org, err := a.o.Service.TokenOrganisation(c.Context(), secret.Text(token))
		if err != nil {
			return err
		}
		c.org = org
	} else {
		challenge, code, message = `Bearer realm="dispatchd"`, "unauthorized", "Send an access token as `Authorization: Bearer …`. Get one with POST /oauth/token."
	}
	if c.org == "" {
		if err := a.others.take(w.Header(), peer.Of(c.Request)); err != nil {
			return err
		}
		w.Header().Set("WWW-Authenticate", challenge)
		return &failure{status: http.StatusUnauthorized, error: code, message: message}
	}
	return a.clients.take(w.Header(), c.org)
}

// Package admin is the operators' HTTP listener: the JSON API under /v1, which
// is a face of package service and nothing else, the operator's page (package
// page), health, readiness, metrics and profiles. It promises that nothing under /v1 and /debug is answered without
// the token, and that no answer but the two made for it holds a secret.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	operator "dispatchd/internal/admin/page"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
)

// Options wires a Server.
type Options struct {
	// Service does everything; must be set.
	Service *service.Service
	// Token returns the bearer token of /v1 and /debug/pprof; must be set. While
	// it returns nothing, nobody is let in.
	Token func() secret.Text
	// Gatherer is what /metrics shows; must be set.
	Gatherer prometheus.Gatherer
	// Health is nil while the process turns. Default: always.
	Health func() error
	// Ready says whether pings can be stored durably; must be set.
	Ready func() Readiness
	// Reload reads the configuration again and says what changed. Its errors
	// are shown to the operator, so they hold no secret. Default: there is
	// nothing to reload.
	Reload func(ctx context.Context) ([]string, error)
	// Recover accepts that a Redis which forgot lost what it lost. Default:
	// there is nothing to recover.
	Recover func(ctx context.Context) error
	// LogLevel is read and changed by /v1/log-level. Default: it cannot be.
	LogLevel *slog.LevelVar
	// Logger must be set.
	Logger *slog.Logger
	// Panics counts a recovered panic. Default: nobody counts.
	Panics func(component string)
	// Version is shown by /healthz.
	Version string
	// Hosts are names under which the operator's page answers, besides those of
	// this machine itself.
	Hosts []string
}

// Readiness is what /readyz answers.
type Readiness struct {
	// OK is whether pings can be stored durably; a check that is not OK says
	// what is degraded.
	OK     bool    `json:"ok"`
	Checks []Check `json:"checks"`
}

// Check is one thing that readiness looked at.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	// Since is when it became so; zero when nobody knows.
	Since time.Time `json:"since,omitzero"`
}

// The limits of the listener. A request has readTimeout for its header and again for
// its body; an import has it for every piece of the list. A handler has
// workTimeout, enough for the longest test event; an answer has writeTimeout.
const (
	readTimeout   = 30 * time.Second
	writeTimeout  = 30 * time.Second
	workTimeout   = 10 * time.Minute
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
	maxBody       = 64 << 10
	shutdownGrace = 3 * time.Second
)

// Server is the admin listener. It is safe for concurrent use.
type Server struct {
	o       Options
	log     *slog.Logger
	http    *http.Server
	handler http.Handler
	refused rate.Sometimes // log lines about wrong tokens
	cancel  context.CancelFunc
	grace   time.Duration // shutdownGrace, but for tests
	page    http.Handler  // the operator's
}

// New checks the options and builds the routes.
func New(o Options) (*Server, error) {
	switch {
	case o.Service == nil:
		return nil, errors.New("admin: Options.Service must be set")
	case o.Token == nil:
		return nil, errors.New("admin: Options.Token must be set")
	case o.Gatherer == nil:
		return nil, errors.New("admin: Options.Gatherer must be set")
	case o.Ready == nil:
		return nil, errors.New("admin: Options.Ready must be set")
	case o.Logger == nil:
		return nil, errors.New("admin: Options.Logger must be set")
	}
	if o.Health == nil {
		o.Health = func() error { return nil }
	}
	if o.Panics == nil {
		o.Panics = func(string) {}
	}
	s := &Server{o: o, log: o.Logger.With("component", "admin"), grace: shutdownGrace}
	s.refused.Interval = 10 * time.Second
	front, err := operator.New(operator.Options{Service: o.Service, Token: o.Token, Hosts: o.Hosts, Logger: o.Logger, Version: o.Version})
	if err != nil {
		return nil, fmt.Errorf("prepare the operator's page: %w", err)
	}
	s.page = front.Handler()
	s.handler = s.routes()
	base, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.http = &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return base },
	}
	return s, nil
}

// Handler returns the whole listener as a handler.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers on ln until Shutdown; then it returns nil. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the admin listener: %w", err)
	}
	return nil
}

// Shutdown stops taking requests and waits for those under way; an import that
// does not end in time is cut off, which it survives: it can be repeated. It may
// be called twice.
func (s *Server) Shutdown(ctx context.Context) error {
	grace, cancel := context.WithTimeout(ctx, s.grace)
	defer cancel()
	err := s.http.Shutdown(grace)
	s.cancel()
	if err == nil {
		return nil
	}
	// What was cut off gets a moment to say so before its connection goes.
	last, cancelLast := context.WithTimeout(ctx, time.Second)
	defer cancelLast()
	if s.http.Shutdown(last) == nil {
		return nil
	}
	if err := s.http.Close(); err != nil {
		return fmt.Errorf("close the admin listener: %w", err)
	}
	return nil
}

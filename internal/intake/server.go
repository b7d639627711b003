// Package intake is the callback listener: it verifies ORCID's pings, makes
// each durable (intake log in Redis, or the local spool while Redis is away)
// and only then answers 204. The daemon runs it; nothing acknowledged is lost.
package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"dispatchd/internal/callback"
	"dispatchd/internal/event"
	"dispatchd/internal/hub"
	"dispatchd/internal/orcid"
)

// Log is the intake log in Redis.
type Log interface {
	// Append durably appends the pings as one entry; when it returns nil they
	// are safe. It gets at most 256, must return soon after ctx ends, and must
	// not keep the slice.
	Append(ctx context.Context, pings []event.Ping) error
}

// Spool is where pings go while Redis is away.
type Spool interface {
	// Put makes the pings durable on the local disk; it must not keep the slice.
	Put(ctx context.Context, pings []event.Ping) error
	// PutUnsure is Put for pings whose append may have happened.
	PutUnsure(ctx context.Context, pings []event.Ping) error
}

// Options say how the listener works.
type Options struct {
	// Keys returns the callback keys of now. Required; called for each ping.
	Keys func() *callback.Keys
	// Credential returns our name of the credential with an ORCID client id.
	// Required; called for each ping with a valid token.
	Credential func(clientID string) (name string, ok bool)
	// Hub looks a path that is none of ours up among the callback URLs of the
	// Hub, which anybody can guess; nil means that there are none. It must not
	// keep the path, and not block.
	Hub func(path []byte, now time.Time) (credential string, id orcid.ID, v hub.Verdict)
	// PathPrefixes returns the paths of public_url, the present one and those from
	// before, without slash at the end; one is taken off when it is there, since a
	// proxy in front may have done so already. Nil means none; called for each ping.
	PathPrefixes func() []string
	Log          Log   // required
	Spool        Spool // required
	// Guard returns an error while Redis must not be trusted: pings then go to
	// the spool. nil means never. It must not block.
	Guard func() error
	// OnTaken is called after each group of pings that was made durable, in the
	// log or in the spool; nil means nothing. It must not block.
	OnTaken    func()
	Now        func() time.Time      // nil means time.Now
	Logger     *slog.Logger          // nil means none
	Registerer prometheus.Registerer // nil means no metrics
	// MaxConns is how many connections are served at once; more wait in the
	// kernel's queue. From three quarters of it on, every answer closes its
	// connection. 0 means 4096.
	MaxConns int
	Lanes    int // how many appends may run at once; 0 means 2
	// RedisWait is how long a ping waits for Redis before it goes to the
	// spool; 0 means 250 ms.
	RedisWait time.Duration
	// ProbeAfter is how long after Redis failed one ping tries it again, if
	// nobody called LogWorks before; 0 means 10 s.
	ProbeAfter time.Duration
	// SpoolWait is how long the disk may take; 0 means 5 s.
	SpoolWait time.Duration
	// ReadTimeout bounds the reading of one request; 0 means 10 s.
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection is kept between requests; 0 means
	// 120 s. ORCID's client must never see us close first.
	IdleTimeout time.Duration
	// Linger is how long Shutdown goes on accepting while every answer says
	// Connection: close; 0 means 1 s, negative not at all.
	Linger time.Duration
}

const (
	maxHeader  = 8 << 10
	maxBody    = 64 << 10
	maxGroup   = 256   // pings in one entry of the intake log
	retryAfter = "120" // seconds; ORCID ignores it, other senders may not
)

func (o *Options) complete() error {
	switch {
	case o.Keys == nil:
		return errors.New("intake: Keys is required")
	case o.Credential == nil:
		return errors.New("intake: Credential is required")
	case o.Log == nil:
		return errors.New("intake: Log is required")
	case o.Spool == nil:
		return errors.New("intake: Spool is required")
	case o.MaxConns < 0 || o.Lanes < 0:
		return errors.New("intake: MaxConns and Lanes must not be negative")
	case o.RedisWait < 0 || o.ProbeAfter < 0 || o.SpoolWait < 0 || o.ReadTimeout < 0 || o.IdleTimeout < 0:
		return errors.New("intake: times must not be negative")
	}
	if o.PathPrefixes == nil {
		o.PathPrefixes = func() []string { return nil }
	}
	if o.Guard == nil {
		o.Guard = func() error { return nil }
	}
	if o.Hub == nil {
		o.Hub = func([]byte, time.Time) (string, orcid.ID, hub.Verdict) { return "", orcid.ID{}, hub.Unknown }
	}
	if o.OnTaken == nil {
		o.OnTaken = func() {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.MaxConns, 4096)
	setDefault(&o.Lanes, 2)
	setDefault(&o.RedisWait, 250*time.Millisecond)
	setDefault(&o.ProbeAfter, 10*time.Second)
	setDefault(&o.SpoolWait, 5*time.Second)
	setDefault(&o.ReadTimeout, 10*time.Second)
	setDefault(&o.IdleTimeout, 120*time.Second)
	setDefault(&o.Linger, time.Second)
	return nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Server is the callback listener. Make it with New, give it listeners with
// Serve, end it with Shutdown.
type Server struct {
	o       Options
	logger  *slog.Logger
	metrics *metrics
	http    *fasthttp.Server
	writer  *writer
	conns   *connSet
	unknown sync.Map // client ids with a valid token and no credential, each logged once

	mu        sync.Mutex
	closing   bool
	listeners []*listener
}

// New makes a Server; it has nothing to end before Serve.
func New(o Options) (*Server, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, logger: o.Logger.With("component", "intake"), metrics: m, conns: newConnSet(o.MaxConns)}
	s.writer = newWriter(&s.o, s.logger, m)
	s.http = &fasthttp.Server{
		Handler:                      s.handle,
		ErrorHandler:                 s.malformed,
		Logger:                       fasthttpLogger{s.logger},
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		SecureErrorLogMessage:        true, // paths are secrets
		DisablePreParseMultipartForm: true,
		ReadBufferSize:               maxHeader,
		WriteBufferSize:              1 << 10,
		MaxRequestBodySize:           maxBody,
		ReadTimeout:                  o.ReadTimeout,
		WriteTimeout:                 o.ReadTimeout,
		IdleTimeout:                  o.IdleTimeout,
		// fasthttp answers 503 above its own limit, and a 503 costs an attempt
		// of every webhook at ORCID: connSet limits, long before.
		Concurrency: 2*o.MaxConns + 1024,
	}
	return s, nil
}

// Serve accepts connections on ln until Shutdown, then returns nil. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	l := s.conns.wrap(ln)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		_ = l.Close() // nothing was accepted
		return errors.New("intake: Serve after Shutdown")
	}
	s.listeners = append(s.listeners, l)
	s.mu.Unlock()
	if err := s.http.Serve(l); err != nil {
		return fmt.Errorf("serve callbacks on %s: %w", ln.Addr(), err)
	}
	return nil
}

// Shutdown ends the listener and loses nothing: for Linger it accepts on and
// tells every connection to close, then it stops accepting, waits for the
// requests under way, and returns when the last ping is durable. When
// ctx ends first, connections are cut; pings that a handler has already taken
// are still written. Later calls wait for the first.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first := !s.closing
	s.closing = true
	listeners := s.listeners
	s.mu.Unlock()
	if !first {
		return s.writer.wait(ctx)
	}
	s.conns.drain()
	if s.o.Linger > 0 && len(listeners) > 0 {
		timer := time.NewTimer(s.o.Linger)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	for _, l := range listeners {
		_ = l.Close() // it may be closed already
	}
	err := s.http.ShutdownWithContext(ctx)
	if err != nil {
		err = fmt.Errorf("stop the callback listener: %w", err)
		s.conns.closeAll()
	}
	// What is queued is written before; a handler that comes
	// later, on a connection that was cut, is refused.
	s.writer.stop()
	return err
}

// LogWorks tells the Server that somebody else, the spool's Drainer, has just
// appended to the log: pings go there again.
func (s *Server) LogWorks() { s.writer.logWorks() }

// State returns where pings go now, for status and readiness.
func (s *Server) State() State { return s.writer.state() }

// fasthttpLogger takes what fasthttp has to say about broken connections.
type fasthttpLogger struct{ logger *slog.Logger }

// Printf implements fasthttp.Logger. An error's words may quote what was sent,
// the path with its token too, so only its kind is shown.
func (l fasthttpLogger) Printf(format string, args ...any) {
	shown := slices.Clone(args)
	for i, arg := range shown {
		if err, ok := arg.(error); ok {
			shown[i] = kindOf(err)
		}
	}
	l.logger.Debug("connection", "detail", fmt.Sprintf(format, shown...))
}

// kindOf says what kind of error ended a connection, in words of ours only.
func kindOf(err error) string {
	var small *fasthttp.ErrSmallBuffer
	var nerr net.Error
	switch {
	case errors.As(err, &small):
		return "the header is too large"
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return "the body is too large"
	case errors.As(err, &nerr) && nerr.Timeout():
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it was closed in the middle of a request"
	}
	return fmt.Sprintf("not readable as a request (%T)", err)
}

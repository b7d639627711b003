// Package receiver is a recording webhook receiver: a real HTTP server that
// keeps what it was sent, checks signatures, and behaves as badly as it is
// told to. Tests, the demo and the benchmark use it as the organisations.
package receiver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"dispatchd/internal/secret"
	"dispatchd/internal/sim/kept"
	"dispatchd/internal/sim/selfsigned"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Options configure a Receiver; the zero value answers 204 to everything on a
// free loopback port.
type Options struct {
	Addr string // default 127.0.0.1:0
	TLS  bool   // serve HTTPS with a certificate of its own; see Certificate
	// SigningSecrets are Standard Webhooks secrets ("whsec_…"): a request is
	// verified when any of them fits. None means that nothing is checked.
	SigningSecrets []secret.Text
	// RejectUnverified answers 401 to what is not verified.
	RejectUnverified bool
	// Behaviour is how requests are answered; nil means OK().
	Behaviour Behaviour
	// Keep is how many requests are kept, the oldest go first; 0 means 10,000,
	// below 0 none. Count counts all of them.
	Keep int
	// OnRequest is called after each answer, from many goroutines; nil for
	// none.
	OnRequest func(Request)
}

// Request is what was received, and what was answered.
type Request struct {
	At         time.Time // when the headers had come
	RemoteAddr string
	Method     string
	Path       string // escaped, without the query
	Query      string
	Proto      string
	Header     http.Header
	Body       []byte
	// Verified says that the signature fits; Signature is why not, nil when it
	// was not checked.
	Verified  bool
	Signature error
	Status    int // 0 when nothing was answered
}

// Receiver is a running receiver. It is safe for concurrent use.
type Receiver struct {
	*kept.List[Request]

	opts   Options
	ln     net.Listener
	srv    *http.Server
	cert   *selfsigned.Certificate
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	secrets []*standardwebhooks.Webhook
	byPath  []rule
	usual   Behaviour
	active  int
	peak    int
}

type rule struct {
	prefix string
	b      Behaviour
}

// maxBody is how much of a body is kept.
const maxBody = 1 << 20

// Start starts a receiver.
func Start(opts Options) (*Receiver, error) {
	if opts.Addr == "" {
		opts.Addr = "127.0.0.1:0"
	}
	if opts.Keep == 0 {
		opts.Keep = 10_000
	}
	if opts.Behaviour == nil {
		opts.Behaviour = OK()
	}
	r := &Receiver{List: kept.New[Request]("request", opts.Keep), opts: opts, usual: opts.Behaviour, done: make(chan struct{})}
	if err := r.SetSigningSecrets(opts.SigningSecrets...); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", opts.Addr)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("start the receiver: %w", err)
	}
	r.ln = ln
	r.srv = &http.Server{
		Handler: http.HandlerFunc(r.serve), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 75 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    log.New(io.Discard, "", 0), // clients that break off are the point of it
	}
	serve := func() error { return r.srv.Serve(ln) }
	if opts.TLS {
		if r.cert, err = selfsigned.New(); err != nil {
			cancel()
			_ = ln.Close() // nobody uses it yet
			return nil, fmt.Errorf("start the receiver: %w", err)
		}
		r.srv.TLSConfig = serverTLS(r.cert)
		serve = func() error { return r.srv.ServeTLS(ln, "", "") }
	}
	go func() {
		defer close(r.done)
		_ = serve() // ends by Close only
	}()
	return r, nil
}

// URL returns the address without a final slash, for example
// http://127.0.0.1:40123.
func (r *Receiver) URL() string {
	if r.opts.TLS {
		return "https://" + r.ln.Addr().String()
	}
	return "http://" + r.ln.Addr().String()
}

// Certificate returns the certificate of a receiver with TLS, else nil.
func (r *Receiver) Certificate() *selfsigned.Certificate { return r.cert }

// Close ends the receiver and every request under way.
func (r *Receiver) Close() {
	r.cancel()
	_ = r.srv.Close() // the end of it either way
	<-r.done
}

// SetSigningSecrets changes which signatures are verified.
func (r *Receiver) SetSigningSecrets(secrets ...secret.Text) error {
	list := make([]*standardwebhooks.Webhook, len(secrets))
	for i, s := range secrets {
		wh, err := standardwebhooks.NewWebhook(s.Reveal())
		if err != nil {
			return errors.New("signing secret is not whsec_ and base64")
		}
		list[i] = wh
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets = list
	return nil
}

// Behave changes how requests are answered.
func (r *Receiver) Behave(b Behaviour) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.usual = b
}

// BehaveFor changes how requests whose path begins with prefix are answered;
// the longest prefix counts, nil takes the rule away.
func (r *Receiver) BehaveFor(prefix string, b Behaviour) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byPath = slices.DeleteFunc(r.byPath, func(x rule) bool { return x.prefix == prefix })
	if b != nil {
		r.byPath = append(r.byPath, rule{prefix, b})
		slices.SortFunc(r.byPath, func(a, b rule) int { return len(b.prefix) - len(a.prefix) })
	}
}

// Requests returns what is kept, oldest first.
func (r *Receiver) Requests() []Request { return r.Kept() }

// Peak returns the most requests that were under way at once.
func (r *Receiver) Peak() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.peak
}

// Forget drops what was recorded and starts counting anew.
func (r *Receiver) Forget() {
	r.List.Forget()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peak = r.active
}

// serverTLS is the configuration of a receiver with TLS.
func serverTLS(c *selfsigned.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c.TLS}, MinVersion: tls.VersionTLS12}
}

func (r *Receiver) serve(w http.ResponseWriter, req *http.Request) {
	rec := Request{
		At: time.Now(), RemoteAddr: req.RemoteAddr, Method: req.Method, Path: req.URL.EscapedPath(), Query: req.URL.RawQuery,
		Proto: req.Proto, Header: req.Header.Clone(),
	}
	r.mu.Lock()
	r.active++
	r.peak = max(r.peak, r.active)
	behave, secrets := r.usual, r.secrets
	for _, x := range r.byPath {
		if strings.HasPrefix(rec.Path, x.prefix) {
			behave = x.b
			break
		}
	}
	r.mu.Unlock()
	// Recorded also when the behaviour aborts the connection by a panic.
	defer func() { r.record(rec) }()
	var err error
	if rec.Body, err = io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody)); err != nil {
		return
	}
	if len(secrets) > 0 {
		rec.Signature = verify(secrets, rec.Body, req.Header)
		rec.Verified = rec.Signature == nil
		if !rec.Verified && r.opts.RejectUnverified {
			behave = Status(http.StatusUnauthorized, "signature: "+rec.Signature.Error())
		}
	}
	rec.Status = behave(w, req)
}

// verify returns nil when any of the secrets fits.
func verify(secrets []*standardwebhooks.Webhook, body []byte, h http.Header) error {
	var err error
	for _, s := range secrets {
		if err = s.Verify(body, h); err == nil {
			return nil
		}
	}
	return err
}

func (r *Receiver) record(rec Request) {
	r.mu.Lock()
	r.active--
	r.mu.Unlock()
	r.Add(rec)
	if r.opts.OnRequest != nil {
		r.opts.OnRequest(rec)
	}
}

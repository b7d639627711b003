// Package smtpsink is a real SMTP server that keeps what it is sent and
// refuses what it is told to refuse. Tests, the demo and the benchmark use it
// as the mail server.
package smtpsink

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/mail"
	"slices"
	"sync"
	"time"

	"dispatchd/internal/secret"
	"dispatchd/internal/sim/kept"
	"dispatchd/internal/sim/selfsigned"

	"github.com/emersion/go-smtp"
)

// TLS says whether and how a connection is encrypted.
type TLS string

// The ways. The zero value is NoTLS.
const (
	NoTLS    TLS = ""         // in the clear; STARTTLS is not offered
	StartTLS TLS = "starttls" // offered, and required unless OptionalTLS
	Implicit TLS = "tls"      // from the first byte
)

// Options configure a Sink; the zero value takes every mail in the clear on a
// free loopback port.
type Options struct {
	Addr string // default 127.0.0.1:0
	TLS  TLS
	// OptionalTLS takes mail in the clear although STARTTLS is offered.
	OptionalTLS bool
	// Username and Password, when set, are required (AUTH PLAIN or LOGIN).
	Username string
	Password secret.Text
	// Keep is how many mails are kept, the oldest go first; 0 means 10,000.
	Keep int
	// OnMail is called after each mail that was taken; nil for none.
	OnMail func(Mail)
}

// Mail is one mail that was taken.
type Mail struct {
	At   time.Time
	From string   // envelope
	To   []string // envelope
	Data []byte   // headers and body as sent
	TLS  bool
	User string // who logged in; empty for nobody
}

// Message reads the mail's headers; its Body is what follows them.
func (m Mail) Message() (*mail.Message, error) {
	msg, err := mail.ReadMessage(bytes.NewReader(m.Data))
	if err != nil {
		return nil, fmt.Errorf("read the mail: %w", err)
	}
	return msg, nil
}

// Stage is where in the dialogue something is refused.
type Stage string

// The stages.
const (
	AtHello Stage = "hello" // the answer to EHLO
	AtAuth  Stage = "auth"
	AtFrom  Stage = "from"
	AtTo    Stage = "to"
	AtData  Stage = "data" // after the whole mail was read
)

// Refusal is what the sink is told to refuse.
type Refusal struct {
	Stage Stage
	Code  int    // 4xx or 5xx; 0 cuts the connection instead of an answer
	Text  string // default "refused by the sink"
	// Recipient limits AtTo to one address; empty means all.
	Recipient string
	// Count is how often; 0 means until Accept is called.
	Count int
	// Delay comes before the answer; on its own (Code 250) it only slows.
	Delay time.Duration
}

// Sink is a running sink. It is safe for concurrent use.
type Sink struct {
	*kept.List[Mail]

	opts Options
	ln   net.Listener
	srv  *smtp.Server
	cert *selfsigned.Certificate
	done chan struct{}
	stop chan struct{}

	mu       sync.Mutex
	sessions int
	refusals []*Refusal
}

// Start starts a sink.
func Start(opts Options) (*Sink, error) {
	if opts.Addr == "" {
		opts.Addr = "127.0.0.1:0"
	}
	if opts.Keep <= 0 {
		opts.Keep = 10_000
	}
	s := &Sink{List: kept.New[Mail]("mail", opts.Keep), opts: opts, done: make(chan struct{}), stop: make(chan struct{})}
	s.srv = smtp.NewServer(smtp.BackendFunc(s.newSession))
	s.srv.Domain = "sink.invalid"
	s.srv.AllowInsecureAuth = opts.TLS == NoTLS || opts.OptionalTLS
	s.srv.EnableSMTPUTF8 = true
	s.srv.MaxMessageBytes = 32 << 20
	s.srv.ReadTimeout, s.srv.WriteTimeout = time.Minute, time.Minute
	s.srv.ErrorLog = log.New(io.Discard, "", 0) // clients that break off are the point of it
	if opts.TLS != NoTLS {
		cert, err := selfsigned.New()
		if err != nil {
			return nil, fmt.Errorf("start the SMTP sink: %w", err)
		}
		s.cert = cert
		s.srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert.TLS}, MinVersion: tls.VersionTLS12}
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", opts.Addr)
	if err != nil {
		return nil, fmt.Errorf("start the SMTP sink: %w", err)
	}
	s.ln = ln
	if opts.TLS == Implicit {
		s.ln = tls.NewListener(ln, s.srv.TLSConfig)
		s.srv.TLSConfig = nil // STARTTLS within TLS makes no sense
	}
	go func() {
		defer close(s.done)
		_ = s.srv.Serve(s.ln) // ends by Close only
	}()
	return s, nil
}

// Addr returns host:port.
func (s *Sink) Addr() string { return s.ln.Addr().String() }

// Port returns the port.
func (s *Sink) Port() int {
	if a, ok := s.ln.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// Certificate returns the certificate of a sink with TLS, else nil.
func (s *Sink) Certificate() *selfsigned.Certificate { return s.cert }

// Close ends the sink and every connection.
func (s *Sink) Close() {
	close(s.stop)
	_ = s.ln.Close()  // the end of it either way
	_ = s.srv.Close() // the listener is closed already, which it minds
	<-s.done
}

// Mails returns what is kept, oldest first.
func (s *Sink) Mails() []Mail { return s.Kept() }

// Sessions returns how many EHLOs there were since the start: what a client
// that keeps its connection needs few of.
func (s *Sink) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions
}

// Refuse makes the sink refuse; of several that fit, the oldest does.
func (s *Sink) Refuse(r Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals = append(s.refusals, &r)
}

// Accept takes every refusal back.
func (s *Sink) Accept() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals = nil
}

// refusal returns what hits at a stage, or nil.
func (s *Sink) refusal(stage Stage, to string) *Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.refusals {
		if r.Stage != stage || r.Recipient != "" && r.Recipient != to {
			continue
		}
		if r.Count > 0 {
			if r.Count--; r.Count == 0 {
				s.refusals = slices.Delete(s.refusals, i, i+1)
			}
		}
		hit := *r
		return &hit
	}
	return nil
}

// check carries out what was refused at a stage.
func (s *Sink) check(stage Stage, to string, conn *smtp.Conn) error {
	r := s.refusal(stage, to)
	if r == nil {
		return nil
	}
	if r.Delay > 0 {
		t := time.NewTimer(r.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.stop:
		}
	}
	switch {
	case r.Code == 0:
		_ = conn.Conn().Close() // cut on purpose
		return errors.New("connection cut by the sink")
	case r.Code < 400:
		return nil
	}
	text := r.Text
	if text == "" {
		text = "refused by the sink"
	}
	return &smtp.SMTPError{Code: r.Code, EnhancedCode: smtp.EnhancedCode{r.Code / 100, 0, 0}, Message: text}
}

func (s *Sink) newSession(c *smtp.Conn) (smtp.Session, error) {
	if err := s.check(AtHello, "", c); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.sessions++
	s.mu.Unlock()
	return &session{s: s, conn: c}, nil
}

func (s *Sink) take(m Mail) {
	s.Add(m)
	if s.opts.OnMail != nil {
		s.opts.OnMail(m)
	}
}

// Package email owns telling people by e-mail: what each mail says, as text and
// HTML, and handing it to the operator's mail server. The deliver package's
// Router calls it for news, the service for notices.
package email

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	stdmail "net/mail"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/secret"

	gomail "github.com/wneessen/go-mail"
)

// Options configures a Sender.
type Options struct {
	// Host is the mail server's name; it must match its certificate. Required.
	Host string
	// Port is the mail server's; 0 means 587 with "starttls", 465 with "tls"
	// and 25 with "none".
	Port int
	// Username and Password sign in; an empty name means not to.
	Username string
	Password secret.Text
	// TLS is "starttls" (required of the server, not only tried), "tls" or
	// "none"; empty means "starttls".
	TLS string
	// From is the sender, for example "ORCID Hub <no-reply@hub.example.edu>".
	// Required.
	From string
	// Timeout bounds an attempt from connecting to the server's last answer; 0
	// means 15 s.
	Timeout time.Duration
	// UserAgent is the User-Agent header, for example "dispatchd/1.2.0". Required.
	UserAgent string
	// SiteURL is what a researcher's address begins with; empty means
	// https://orcid.org.
	SiteURL string
	// WebURL is where organisations reach the web pages, without a slash at the
	// end; empty means that no mail links to them.
	WebURL string
	// Unsubscribe returns the URL that switches an organisation's e-mail off;
	// nil means that mails carry none.
	Unsubscribe func(o *org.Organisation) string
	// Helo is the name the daemon greets with; empty means the host's.
	Helo string
	// Now is the clock of the Date header; nil means time.Now.
	Now func() time.Time
	// RootCAs are whom the server's certificate must come from; nil means the
	// system's.
	RootCAs *x509.CertPool
}

// Sender mails events to organisations. It keeps no connection and is safe for
// concurrent use.
type Sender struct {
	o         Options
	from      *stdmail.Address
	domain    string // of the sender, for message ids
	templates templates
}

// New makes a Sender. It does not talk to the mail server.
func New(o Options) (*Sender, error) {
	switch o.TLS {
	case "":
		o.TLS = "starttls"
	case "starttls", "tls", "none":
	default:
		return nil, fmt.Errorf(`e-mail sender: tls must be "starttls", "tls" or "none" (got %q)`, o.TLS)
	}
	if o.Host == "" {
		return nil, errors.New("e-mail sender: host must be set")
	}
	if o.Port == 0 {
		o.Port = map[string]int{"starttls": 587, "tls": 465, "none": 25}[o.TLS]
	}
	if o.Port < 1 || o.Port > 65535 {
		return nil, fmt.Errorf("e-mail sender: port must be 1 to 65535 (got %d)", o.Port)
	}
	from, err := stdmail.ParseAddress(o.From)
	if err != nil {
		return nil, fmt.Errorf("e-mail sender: from is not an e-mail address (got %q)", o.From)
	}
	if o.UserAgent == "" || printable(o.UserAgent) != o.UserAgent {
		return nil, fmt.Errorf("e-mail sender: bad user agent %q", o.UserAgent)
	}
	if o.Timeout < 0 {
		return nil, fmt.Errorf("e-mail sender: timeout must not be negative (got %s)", o.Timeout)
	}
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	if o.SiteURL == "" {
		o.SiteURL = "https://orcid.org"
	}
	o.SiteURL = strings.TrimSuffix(o.SiteURL, "/") + "/"
	o.WebURL = strings.TrimSuffix(o.WebURL, "/")
	if o.Now == nil {
		o.Now = time.Now
	}
	_, domain, _ := strings.Cut(from.Address, "@")
	tpl, err := parseTemplates()
	if err != nil {
		return nil, fmt.Errorf("e-mail sender: %w", err)
	}
	s := &Sender{o: o, from: from, domain: domain[strings.LastIndexByte(domain, '@')+1:], templates: tpl}
	if _, err := s.client(context.Background(), time.Time{}); err != nil {
		return nil, fmt.Errorf("e-mail sender: %w", err)
	}
	return s, nil
}

// Send makes one attempt to mail the delivery.
func (s *Sender) Send(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) deliver.Answer {
	start, begun := s.o.Now(), time.Now()
	a := s.attempt(ctx, o, d, who, begun.Add(s.o.Timeout))
	a.Start, a.Duration = start, time.Since(begun)
	return a
}

func (s *Sender) attempt(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation, deadline time.Time) deliver.Answer {
	to, cc := recipients(o)
	if to == "" {
		return deliver.Failure(deliver.KindSettings, "email.address: there is no address, nor a technical contact")
	}
	limited, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	err := s.mail(limited, to, cc, o, d, who)
	if cc != "" && isRecipientRefusal(err) {
		// Which of the two was refused is not said. The copy is a courtesy:
		// it must not keep the news from the one who asked for it.
		err = s.mail(limited, to, "", o, d, who)
	}
	return s.answer(limited, err)
}

// recipients returns whom the message goes to, and the copy if there is one.
func recipients(o *org.Organisation) (to, cc string) {
	to = o.Recipient()
	if o.Email.CC && o.Email.Address != "" && !strings.EqualFold(o.TechnicalContact, to) {
		cc = o.TechnicalContact
	}
	return to, cc
}

func (s *Sender) mail(ctx context.Context, to, cc string, o *org.Organisation, d event.Delivery, who event.Affiliation) error {
	msg, err := s.message(envelope{to: to, cc: cc, id: d.ID()}, s.newsLetter(o, d, who))
	if err != nil {
		return err
	}
	return s.hand(ctx, msg)
}

// hand gives a message to the mail server.
func (s *Sender) hand(ctx context.Context, msg *gomail.Msg) error {
	deadline, _ := ctx.Deadline()
	c, err := s.client(ctx, deadline)
	if err != nil {
		return &settingsError{err}
	}
	session, err := c.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return &sessionError{err}
	}
	err = c.SendWithSMTPClient(session, msg)
	if err == nil || msg.IsDelivered() {
		// The server has taken it; whatever breaks now changes nothing.
		_ = c.CloseWithSMTPClient(session)
		return nil
	}
	_ = session.Close()
	return err //nolint:wrapcheck // answer makes the words
}

// client makes a client whose connections end with ctx and at the deadline,
// however slowly the server talks: go-mail sets a new deadline for each step.
func (s *Sender) client(ctx context.Context, deadline time.Time) (*gomail.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.o.Host, RootCAs: s.o.RootCAs}
	opts := []gomail.Option{
		gomail.WithPort(s.o.Port),
		gomail.WithTimeout(s.o.Timeout),
		gomail.WithTLSConfig(conf),
		gomail.WithoutNoop(),
		gomail.WithDialContextFunc(func(dialCtx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			// Not the address that go-mail makes: it forgets the brackets of IPv6.
			c, err := d.DialContext(dialCtx, network, net.JoinHostPort(s.o.Host, strconv.Itoa(s.o.Port)))
			if err != nil {
				return nil, err //nolint:wrapcheck // answer makes the words
			}
			b := bound(ctx, c, deadline)
			if s.o.TLS != "tls" {
				return b, nil
			}
			tc := tls.Client(b, conf)
			if err := tc.HandshakeContext(dialCtx); err != nil {
				_ = b.Close()
				return nil, err //nolint:wrapcheck // answer makes the words
			}
			return tc, nil
		}),
	}
	plain, login := gomail.SMTPAuthPlain, gomail.SMTPAuthLogin
	switch s.o.TLS {
	case "starttls":
		opts = append(opts, gomail.WithTLSPolicy(gomail.TLSMandatory))
	case "tls":
		opts = append(opts, gomail.WithSSL())
	case "none":
		// Whoever writes "none" and a password means it.
		opts = append(opts, gomail.WithTLSPolicy(gomail.NoTLS))
		plain, login = gomail.SMTPAuthPlainNoEnc, gomail.SMTPAuthLoginNoEnc
	}
	if s.o.Username != "" {
		opts = append(opts, gomail.WithUsername(s.o.Username), gomail.WithPassword(s.o.Password.Reveal()),
			gomail.WithOpportunisticSMTPAuth(gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthSCRAMSHA1, plain, login))
	}
	if s.o.Helo != "" {
		opts = append(opts, gomail.WithHELO(s.o.Helo))
	}
	return gomail.NewClient(s.o.Host, opts...)
}

// boundConn never waits beyond its limit, whatever deadline is set.
type boundConn struct {
	net.Conn
	limit time.Time
	stop  func() bool
}

func bound(ctx context.Context, c net.Conn, limit time.Time) *boundConn {
	b := &boundConn{Conn: c, limit: limit}
	b.stop = context.AfterFunc(ctx, func() { _ = c.Close() })
	return b
}

func (b *boundConn) clamp(t time.Time) time.Time {
	if t.IsZero() || t.After(b.limit) {
		return b.limit
	}
	return t
}

func (b *boundConn) SetDeadline(t time.Time) error { return b.Conn.SetDeadline(b.clamp(t)) }

func (b *boundConn) SetReadDeadline(t time.Time) error { return b.Conn.SetReadDeadline(b.clamp(t)) }

func (b *boundConn) SetWriteDeadline(t time.Time) error { return b.Conn.SetWriteDeadline(b.clamp(t)) }

func (b *boundConn) Close() error {
	b.stop()
	return b.Conn.Close()
}

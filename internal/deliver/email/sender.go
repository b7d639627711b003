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
	// ConnectTimeout bounds connecting alone; 0 means 10 s.
	ConnectTimeout time.Duration
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

// Sender mails news and notices. It keeps a few connections for a while, until
// Close, and is safe for concurrent use.
type Sender struct {
	o         Options
	from      *stdmail.Address
	domain    string // of the sender, for message ids
	templates templates
	pool      pool
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
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
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
	if _, err := s.client(s.dial); err != nil {
		return nil, fmt.Errorf("e-mail sender: %w", err)
	}
	return s, nil
}

// Send makes one attempt to mail the delivery.
func (s *Sender) Send(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) deliver.Answer {
	to, cc := recipients(o)
	if to == "" {
		return deliver.Failure(deliver.KindSettings, noRecipient)
	}
	return s.try(ctx, func(ctx context.Context, cc string) error {
		m, err := s.message(envelope{to: to, cc: cc, id: d.ID()}, s.newsLetter(o, d, who))
		if err != nil {
			return err
		}
		return s.hand(ctx, m)
	}, cc)
}

// noRecipient is why nothing can be sent to an organisation.
const noRecipient = "email.address: there is no address, nor a technical contact"

// try makes one attempt within the time limit, once more without the copy when
// a recipient was refused.
func (s *Sender) try(ctx context.Context, send func(ctx context.Context, cc string) error, cc string) deliver.Answer {
	start, begun := s.o.Now(), time.Now()
	limited, cancel := context.WithDeadline(ctx, begun.Add(s.o.Timeout))
	defer cancel()
	err := send(limited, cc)
	if cc != "" && isRecipientRefusal(err) {
		// Which of the two was refused is not said. The copy is a courtesy:
		// it must not keep the news from the one who asked for it.
		err = send(limited, "")
	}
	a := s.answer(limited, err)
	a.Start, a.Duration = start, time.Since(begun)
	return a
}

// recipients returns whom the message goes to, and the copy if there is one.
func recipients(o *org.Organisation) (to, cc string) {
	to = o.Recipient()
	if o.Email.CC && o.Email.Address != "" && !strings.EqualFold(o.TechnicalContact, to) {
		cc = o.TechnicalContact
	}
	return to, cc
}

// hand gives a message to the mail server, over a kept connection if there is
// one that still works.
func (s *Sender) hand(ctx context.Context, msg *gomail.Msg) error {
	c, err := s.connection(ctx)
	if err != nil {
		return err
	}
	c.mails++
	err = c.client.SendWithSMTPClient(c.session, msg)
	switch {
	case err == nil, answered(err):
		s.pool.put(c)
	default:
		_ = c.bound.Close() // what the server thinks of it is not known
	}
	if msg.IsDelivered() {
		// The server has taken it; whatever breaks now changes nothing.
		return nil
	}
	return err //nolint:wrapcheck // answer makes the words
}

// connection returns a session that is ready for a mail. What was kept is asked
// by RSET first: a server that has gone meanwhile must cost no attempt.
func (s *Sender) connection(ctx context.Context) (*conn, error) {
	deadline, _ := ctx.Deadline()
	for c := s.pool.take(); c != nil; c = s.pool.take() {
		c.bound.use(ctx, deadline)
		if err := c.client.ResetWithSMTPClient(c.session); err == nil {
			return c, nil
		}
		_ = c.bound.Close()
		if err := ctx.Err(); err != nil {
			return nil, &sessionError{err}
		}
	}
	c := &conn{}
	client, err := s.client(func(dialCtx context.Context) (net.Conn, error) {
		raw, err := s.dial(dialCtx)
		if err != nil {
			return nil, err
		}
		c.bound = &boundConn{Conn: raw}
		c.bound.use(ctx, deadline)
		return c.bound, nil
	})
	if err != nil {
		return nil, &settingsError{err}
	}
	c.client = client
	if c.session, err = client.DialToSMTPClientWithContext(ctx); err != nil {
		if c.bound != nil {
			_ = c.bound.Close()
		}
		return nil, &sessionError{err}
	}
	return c, nil
}

// dial connects within its own limit: a server that does not even answer is
// told apart from one that is slow to take a mail.
func (s *Sender) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.ConnectTimeout)
	defer cancel()
	var d net.Dialer
	// Not the address that go-mail makes: it forgets the brackets of IPv6.
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(s.o.Host, strconv.Itoa(s.o.Port)))
	if err != nil {
		return nil, &dialError{err}
	}
	return c, nil
}

// Close ends the connections that are kept. A mail under way ends first.
func (s *Sender) Close() { s.pool.close() }

// client makes a client whose connections come from dial. They are bound to
// their user's deadline, since go-mail sets a new one for each step.
func (s *Sender) client(dial func(context.Context) (net.Conn, error)) (*gomail.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.o.Host, RootCAs: s.o.RootCAs}
	opts := []gomail.Option{
		gomail.WithPort(s.o.Port),
		gomail.WithTimeout(s.o.Timeout),
		gomail.WithTLSConfig(conf),
		gomail.WithoutNoop(),
		gomail.WithDialContextFunc(func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := dial(ctx)
			if err != nil || s.o.TLS != "tls" {
				return c, err
			}
			tc := tls.Client(c, conf)
			if err := tc.HandshakeContext(ctx); err != nil {
				_ = c.Close()
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

// Package webhook owns telling an organisation by HTTP: one signed POST, one
// bounded look at the answer, over kept connections that no other organisation
// shares. The deliver package's Router calls it.
package webhook

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/safedial"
)

// Options configures a Sender.
type Options struct {
	// UserAgent is sent with every POST, for example "dispatchd/1.2.0". Required.
	UserAgent string
	// Timeout bounds an attempt from looking up the name to the last byte of
	// the answer's body; 0 means 15 s.
	Timeout time.Duration
	// Dialer reaches the receivers; nil means one that allows public
	// addresses only.
	Dialer *safedial.Dialer
	// Proxy is an http:// or https:// proxy for all POSTs; nil means none. The
	// environment is never asked. Behind a proxy only addresses written in the
	// URL can be checked here: the proxy resolves names, and has to refuse
	// private addresses itself.
	Proxy *url.URL
	// SiteURL is what a researcher's address begins with; empty means
	// https://orcid.org.
	SiteURL string
	// Now is the clock of timestamps; nil means time.Now. Timeouts use the real one.
	Now func() time.Time
	// RootCAs are whom TLS certificates must come from; nil means the system's.
	RootCAs *x509.CertPool
	// MaxConnsPerHost bounds one organisation's connections to one host; 0
	// means 256. More attempts at once wait for a place, within their timeout.
	MaxConnsPerHost int
	// MaxIdleConns bounds the idle connections of all organisations together;
	// 0 means 1024. The one unused for longest is closed first.
	MaxIdleConns int
	// IdleTimeout is how long an unused connection is kept; 0 means 30 s.
	IdleTimeout time.Duration
}

// Sender posts events to organisations. It is safe for concurrent use.
type Sender struct {
	userAgent string
	timeout   time.Duration
	site      string
	now       func() time.Time
	dial      dialer
	conns     *pool
	targets   targetCache
	signers   signers
	buffers   sync.Pool // *buffers
}

// New makes a Sender; Close it when it is no longer used.
func New(o Options) (*Sender, error) {
	if o.UserAgent == "" || hasControl(o.UserAgent) {
		return nil, fmt.Errorf("webhook sender: bad user agent %q", o.UserAgent)
	}
	if o.Timeout < 0 || o.IdleTimeout < 0 || o.MaxConnsPerHost < 0 || o.MaxIdleConns < 0 {
		return nil, errors.New("webhook sender: limits must not be negative")
	}
	if o.Proxy != nil && (o.Proxy.Scheme != "http" && o.Proxy.Scheme != "https" || o.Proxy.Hostname() == "") {
		return nil, fmt.Errorf("webhook sender: the proxy must be an http:// or https:// URL (got %q)", o.Proxy.Redacted())
	}
	if o.SiteURL == "" {
		o.SiteURL = "https://orcid.org"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Dialer == nil {
		o.Dialer = safedial.New(safedial.Options{})
	}
	o.Timeout = orDefault(o.Timeout, 15*time.Second)
	return &Sender{
		userAgent: o.UserAgent,
		timeout:   o.Timeout,
		site:      strings.TrimSuffix(o.SiteURL, "/") + "/",
		now:       o.Now,
		dial: dialer{
			direct:    o.Dialer,
			proxy:     o.Proxy,
			userAgent: o.UserAgent,
			tls: &tls.Config{
				MinVersion:         tls.VersionTLS12,
				RootCAs:            o.RootCAs,
				NextProtos:         []string{"http/1.1"},
				ClientSessionCache: tls.NewLRUClientSessionCache(256),
			},
		},
		conns:   newPool(orDefault(o.MaxConnsPerHost, 256), orDefault(o.MaxIdleConns, 1024), orDefault(o.IdleTimeout, 30*time.Second)),
		targets: targetCache{byURL: map[string]target{}},
		buffers: sync.Pool{New: func() any { return newBuffers() }},
	}, nil
}

func orDefault[T int | time.Duration](v, d T) T {
	if v == 0 {
		return d
	}
	return v
}

// Close closes the idle connections now and those in use when their attempts
// end. Attempts that begin later fail. It may be called twice.
func (s *Sender) Close() { s.conns.close() }

// Send makes one attempt to post the delivery.
func (s *Sender) Send(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) deliver.Answer {
	return s.post(ctx, o, d.ID(), d, who, false)
}

// Preview implements deliver.Previewer: the body that Send would post now.
func (s *Sender) Preview(o *org.Organisation, d event.Delivery, who event.Affiliation) string {
	return string(s.appendBody(nil, o, d.ID(), d, who, s.now()))
}

// Test posts a PING event at once, outside slots and holds, and returns what
// the receiver answered; the excerpt is there on success too.
func (s *Sender) Test(ctx context.Context, o *org.Organisation) deliver.Answer {
	var b [18]byte
	rand.Read(b[:]) // never fails (crypto/rand documentation)
	d := event.Delivery{Org: o.ID, Channel: event.Webhook, Type: event.Test, LatestAt: s.now()}
	return s.post(ctx, o, "msg_test_"+base64.RawURLEncoding.EncodeToString(b[:]), d, event.Affiliation{Org: o.ID}, true)
}

func (s *Sender) post(ctx context.Context, o *org.Organisation, id string, d event.Delivery, who event.Affiliation, always bool) deliver.Answer {
	start, begun := s.now(), time.Now()
	buf := s.buffers.Get().(*buffers) //nolint:forcetypeassert // only newBuffers fills it
	defer s.buffers.Put(buf)
	a := s.attempt(ctx, buf, o, id, d, who, always, begun.Add(s.timeout), start)
	a.Start, a.Duration = start, time.Since(begun)
	return a
}

func (s *Sender) attempt(ctx context.Context, buf *buffers, o *org.Organisation, id string, d event.Delivery, who event.Affiliation,
	always bool, deadline time.Time, now time.Time,
) deliver.Answer {
	t, err := s.targets.parse(o.Webhook.URL)
	if err != nil {
		return deliver.Failure(deliver.KindSettings, "webhook.url "+err.Error())
	}
	buf.body = s.appendBody(buf.body[:0], o, id, d, who, now)
	buf.head, err = s.appendHead(buf.head[:0], t, o, id, d, buf.body, now)
	if err != nil {
		return deliver.Failure(deliver.KindSettings, err.Error())
	}
	buf.head = append(buf.head, buf.body...) // one write, one packet
	if limit, ok := ctx.Deadline(); ok && limit.Before(deadline) {
		deadline = limit
	}
	x := exchange{s: s, org: o, target: t, buf: buf, deadline: deadline, always: always}
	return x.run(ctx)
}

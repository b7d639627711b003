package liveness

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	probeFirst   = time.Minute
	probeEvery   = time.Hour
	probeAgain   = 5 * time.Minute  // after a failure
	probeTimeout = 20 * time.Second // ORCID's own patience
)

// ProbeOptions wires a Prober. URL, Header and Logger must be set.
type ProbeOptions struct {
	// URL returns where we call ourselves; it holds a token and is never shown.
	URL func() (string, error)
	// Header is what only our own answer has.
	Header string
	Logger *slog.Logger
	// Roots are the authorities that may vouch for the certificate; nil means
	// the system's, nearly those of ORCID's Java.
	Roots      *x509.CertPool
	Registerer prometheus.Registerer
	// First and Every are when to probe; defaults 1 min and 1 h.
	First, Every time.Duration

	// now is for the validity of certificates in tests; nil means time.Now.
	now func() time.Time
}

// ProbeState is what the last probe found.
type ProbeState struct {
	At  time.Time // zero: there was none yet
	Err error     // in words for people, without URL; nil when ORCID can reach us
	// Since is when Err was found first.
	Since time.Time
	// Expires is when the first certificate of the chain ends; zero without TLS.
	Expires time.Time
}

// Prober posts to our own public URL as ORCID would: through DNS, with the
// certificate checked and no redirect followed. The commonest silent death is an
// expired certificate or a proxy that redirects.
type Prober struct {
	o       ProbeOptions
	up      prometheus.Gauge
	expires prometheus.Gauge

	mu    sync.Mutex
	state ProbeState
}

// NewProber checks the options.
func NewProber(o ProbeOptions) (*Prober, error) {
	if o.URL == nil || o.Header == "" || o.Logger == nil {
		return nil, errors.New("liveness: URL, Header and Logger of a Prober must be set")
	}
	if o.First <= 0 {
		o.First = probeFirst
	}
	if o.Every <= 0 {
		o.Every = probeEvery
	}
	f := promauto.With(o.Registerer)
	p := &Prober{
		o: o,
		up: f.NewGauge(prometheus.GaugeOpts{
			Name: "dispatchd_self_probe_up",
			Help: "Whether the last POST to our own public_url, made as ORCID makes it, was answered by us; NaN before the first.",
		}),
		expires: f.NewGauge(prometheus.GaugeOpts{
			Name: "dispatchd_callback_certificate_expiry_timestamp_seconds",
			Help: "When the first certificate of public_url's chain ends; 0 when unknown or without TLS.",
		}),
	}
	p.up.Set(math.NaN())
	return p, nil
}

// Run probes until ctx ends.
func (p *Prober) Run(ctx context.Context) {
	timer := time.NewTimer(p.o.First)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		wait := p.o.Every
		if err := p.Probe(ctx); err != nil {
			wait = min(wait, probeAgain)
		}
		timer.Reset(wait)
	}
}

// State returns what the last probe found.
func (p *Prober) State() ProbeState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Probe makes one probe; its error says in words what ORCID would meet.
func (p *Prober) Probe(ctx context.Context) error {
	expires, err := p.post(ctx)
	if ctx.Err() != nil {
		return ctx.Err() // we are stopping: it says nothing
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil && p.state.Err == nil:
		p.state.Since = now
		p.o.Logger.Error("ORCID cannot reach us", "component", "liveness", "err", err)
	case err == nil && p.state.Err != nil:
		p.o.Logger.Info("ORCID can reach us again", "component", "liveness", "after", now.Sub(p.state.Since).Round(time.Second).String())
		p.state.Since = time.Time{}
	}
	p.state.At, p.state.Err, p.state.Expires = now, err, expires
	p.up.Set(1)
	if err != nil {
		p.up.Set(0)
	}
	p.expires.Set(0)
	if !expires.IsZero() {
		p.expires.Set(float64(expires.Unix()))
	}
	return err
}

// post makes the request on a connection of its own, so that DNS and the
// handshake are part of it. It uses no proxy: ORCID does not use ours.
func (p *Prober) post(ctx context.Context) (expires time.Time, err error) {
	target, err := p.o.URL()
	if err != nil {
		return expires, err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, http.NoBody)
	if err != nil {
		return expires, errors.New("public_url makes no valid request")
	}
	req.Header.Set("User-Agent", "dispatchd-probe")
	transport := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, TLSHandshakeTimeout: probeTimeout,
		TLSClientConfig: &tls.Config{RootCAs: p.o.Roots, MinVersion: tls.VersionTLS12, Time: p.o.now},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return expiryOf(err), errors.New(probeWords(err))
	}
	defer resp.Body.Close()
	if resp.TLS != nil {
		expires = firstEnd(resp.TLS.PeerCertificates)
	}
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return expires, fmt.Errorf("public_url answers %d, a redirect to %s; ORCID follows none", resp.StatusCode, hostOf(resp.Header.Get("Location")))
	case resp.StatusCode != http.StatusNoContent:
		return expires, fmt.Errorf("public_url answers %d instead of 204: what is in front of dispatchd does not pass /hooks/ on to listen.callback", resp.StatusCode)
	case resp.Header.Get(p.o.Header) == "":
		return expires, errors.New("public_url answers 204, but it is not this dispatchd that does: pings get lost there")
	}
	return expires, nil
}

// probeWords says what went wrong without the URL, whose path is secret.
func probeWords(err error) string {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case errors.As(err, &dns):
		return "the host name of public_url is not found: " + dns.Err
	case errors.As(err, &cert):
		return "ORCID would not trust the certificate of public_url: " + cert.Err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "public_url does not answer within " + probeTimeout.String()
	case errors.As(err, &op) && op.Op == "dial":
		return "public_url cannot be connected to: " + op.Err.Error()
	}
	return "public_url does not answer: " + err.Error()
}

// expiryOf finds the end of a certificate that was not trusted.
func expiryOf(err error) time.Time {
	var cert *tls.CertificateVerificationError
	if !errors.As(err, &cert) {
		return time.Time{}
	}
	return firstEnd(cert.UnverifiedCertificates)
}

func firstEnd(chain []*x509.Certificate) (end time.Time) {
	for _, c := range chain {
		if end.IsZero() || c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

func hostOf(location string) string {
	u, err := url.Parse(location)
	if err != nil || u.Host == "" {
		return "somewhere else"
	}
	return u.Scheme + "://" + u.Host
}

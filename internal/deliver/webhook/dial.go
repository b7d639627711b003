package webhook

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"dispatchd/internal/safedial"

	"github.com/valyala/fasthttp"
)

// dialer makes connections ready for a request.
type dialer struct {
	direct    *safedial.Dialer
	proxy     *url.URL // nil: none
	userAgent string
	tls       *tls.Config
}

// phaseError says during what a connection could not be made.
type phaseError struct {
	phase string // "connecting" …
	error
}

func (e *phaseError) Unwrap() error { return e.error }

const handshaking = "making the TLS handshake"

// proxyError says what the proxy answered instead of connecting.
type proxyError struct{ status int }

func (e *proxyError) Error() string { return fmt.Sprintf("the proxy answered %d", e.status) }

// to connects to the target; ctx has a deadline.
func (d *dialer) to(ctx context.Context, t target) (net.Conn, error) {
	c, err := d.raw(ctx, t)
	if err != nil {
		return nil, err
	}
	if !t.tls {
		return c, nil
	}
	return d.handshake(ctx, c, t.host)
}

func (d *dialer) handshake(ctx context.Context, c net.Conn, host string) (net.Conn, error) {
	cfg := d.tls.Clone()
	cfg.ServerName = strings.TrimSuffix(host, ".")
	tc := tls.Client(c, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, &phaseError{handshaking, err}
	}
	return tc, nil
}

func (d *dialer) raw(ctx context.Context, t target) (net.Conn, error) {
	if d.proxy == nil {
		c, err := d.direct.DialContext(ctx, "tcp", t.addr)
		if err != nil {
			return nil, &phaseError{"connecting", err}
		}
		return c, nil
	}
	if err := d.checkWritten(t.host); err != nil {
		return nil, err
	}
	return d.viaProxy(ctx, t)
}

// checkWritten judges a host behind a proxy by what is written: the proxy does
// the looking up.
func (d *dialer) checkWritten(host string) error {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return d.direct.Check(netip.IPv6Loopback())
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		return d.direct.Check(ip)
	}
	return nil
}

func (d *dialer) viaProxy(ctx context.Context, t target) (net.Conn, error) {
	port := d.proxy.Port()
	if port == "" {
		port = "80"
		if d.proxy.Scheme == "https" {
			port = "443"
		}
	}
	// The operator chose the proxy; it may well be inside.
	var plain net.Dialer
	c, err := plain.DialContext(ctx, "tcp", net.JoinHostPort(d.proxy.Hostname(), port))
	if err != nil {
		return nil, &phaseError{"connecting to the proxy", err}
	}
	if d.proxy.Scheme == "https" {
		if c, err = d.handshake(ctx, c, d.proxy.Hostname()); err != nil {
			return nil, err
		}
	}
	if !t.tls {
		return c, nil // the request line names the target
	}
	if err := d.tunnel(ctx, c, t); err != nil {
		_ = c.Close()
		return nil, &phaseError{"connecting through the proxy", err}
	}
	return c, nil
}

func (d *dialer) tunnel(ctx context.Context, c net.Conn, t target) error {
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return fmt.Errorf("set the deadline: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(longAgo) })
	defer stop()
	head := "CONNECT " + t.addr + " HTTP/1.1\r\nHost: " + t.addr + "\r\nUser-Agent: " + d.userAgent + "\r\n"
	if auth := d.proxyAuthorization(); auth != "" {
		head += "Proxy-Authorization: " + auth + "\r\n"
	}
	if _, err := c.Write([]byte(head + "\r\n")); err != nil {
		return fmt.Errorf("ask the proxy: %w", err)
	}
	r := bufio.NewReaderSize(c, headerBytes)
	if _, err := r.Peek(1); err != nil {
		return fmt.Errorf("read the proxy's answer: %w", err)
	}
	var h fasthttp.ResponseHeader
	if err := h.Read(r); err != nil {
		return fmt.Errorf("read the proxy's answer: %w", err)
	}
	// Nothing may follow: the receiver speaks only after our ClientHello.
	if h.StatusCode() != fasthttp.StatusOK || r.Buffered() > 0 {
		return &proxyError{h.StatusCode()}
	}
	return nil
}

func (d *dialer) proxyAuthorization() string {
	if d.proxy == nil || d.proxy.User == nil {
		return ""
	}
	password, _ := d.proxy.User.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(d.proxy.User.Username()+":"+password))
}

// longAgo as a deadline ends reads and writes at once.
var longAgo = time.Unix(1, 0)

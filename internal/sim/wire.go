package sim

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// userAgent is what OpenJDK 21's HttpClient sends.
	userAgent = "Java-http-client/21.0.5"
	// keepIdle is how long the JDK keeps an idle connection (since 20).
	keepIdle = 30 * time.Second
)

// answer is what came of a POST.
type answer struct {
	status int // 0 when there was no complete answer
	err    error
	hung   bool // the headers came, the body did not end: ORCID would wait for ever
	reused bool // on a connection that carried another POST before
}

// poster is ORCID's one shared HttpClient. It writes the bytes of the JDK's
// client itself, since net/http orders and adds headers.
type poster struct {
	timeout, bodyTimeout time.Duration
	tls                  *tls.Config
	dialer               net.Dialer

	mu    sync.Mutex
	idle  map[string][]*wireConn // by scheme and address, the latest used last
	timer *time.Timer            // ends idle connections; nil while there are none
}

// wireConn is one connection to a callback server.
type wireConn struct {
	net.Conn
	in    *bufio.Reader
	key   string
	since time.Time // idle since
}

// end closes the connection; what that may fail with changes nothing.
func (c *wireConn) end() { _ = c.Close() }

func newPoster(o Options) *poster {
	return &poster{
		timeout: o.PostTimeout, bodyTimeout: o.BodyTimeout,
		tls:  &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12},
		idle: make(map[string][]*wireConn),
	}
}

// target is a callback as the JDK's client understands it.
type target struct {
	secure  bool
	address string // host:port to connect to
	host    string // Host header
	path    string // request target
	name    string // for TLS
}

// parseTarget applies what WebhookManagerImpl.doPost and the JDK do to a URI.
func parseTarget(uri string) (target, error) {
	if !strings.HasPrefix(strings.ToLower(uri), "http") {
		uri = "http://" + uri
	}
	u, err := parseJavaURI(uri)
	if err != nil {
		return target{}, err
	}
	scheme := strings.ToLower(u.scheme)
	if scheme != "http" && scheme != "https" {
		return target{}, fmt.Errorf("java.lang.IllegalArgumentException: invalid URI scheme %s", u.scheme)
	}
	if u.host == "" {
		return target{}, errors.New("java.lang.IllegalArgumentException: unsupported URI")
	}
	if u.port > 65535 {
		return target{}, fmt.Errorf("java.lang.IllegalArgumentException: port out of range:%d", u.port)
	}
	t := target{secure: scheme == "https", host: u.host, path: u.path, name: strings.Trim(u.host, "[]")}
	usual := 80
	if t.secure {
		usual = 443
	}
	port := u.port
	if port == -1 {
		port = usual
	}
	if port != usual {
		t.host += ":" + strconv.Itoa(port)
	}
	t.address = net.JoinHostPort(t.name, strconv.Itoa(port))
	if t.path == "" {
		t.path = "/"
	}
	if u.query != "" {
		t.path += "?" + u.query
	}
	t.path = escapeOther(t.path)
	return t, nil
}

// escapeOther percent-encodes what is not ASCII.
func escapeOther(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] < 0x80 {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}

// request returns the bytes of ORCID.md §1.1.
func (t target) request() []byte {
	return []byte("POST " + t.path + " HTTP/1.1\r\nContent-Length: 0\r\nHost: " + t.host + "\r\nUser-Agent: " + userAgent + "\r\n\r\n")
}

// post sends one ping and reads the answer.
func (p *poster) post(ctx context.Context, uri string) answer {
	t, err := parseTarget(uri)
	if err != nil {
		return answer{err: err}
	}
	// The JDK's request timeout runs from the call to the response headers.
	deadline := time.Now().Add(p.timeout)
	c, reused, err := p.conn(ctx, t, deadline)
	if err != nil {
		return answer{err: err}
	}
	a, keep := p.exchange(ctx, c, t, deadline)
	a.reused = reused
	if keep {
		p.put(c)
	} else {
		c.end()
	}
	return a
}

// exchange writes the request and reads one final answer to its end; keep says
// that the connection is good for another.
func (p *poster) exchange(ctx context.Context, c *wireConn, t target, deadline time.Time) (a answer, keep bool) {
	if err := c.SetDeadline(deadline); err != nil {
		return answer{err: readError(err)}, false
	}
	stop := context.AfterFunc(ctx, c.end)
	defer func() { keep = stop() && keep }()
	if _, err := c.Write(t.request()); err != nil {
		return answer{err: readError(err)}, false
	}
	var resp *http.Response
	for resp == nil {
		var err error
		resp, err = http.ReadResponse(c.in, &http.Request{Method: http.MethodPost})
		if err != nil {
			return answer{err: readError(err)}, false
		}
		if s := resp.StatusCode; s >= 100 && s < 200 && s != http.StatusSwitchingProtocols {
			resp = nil // interim: the final one follows
		}
	}
	defer resp.Body.Close()
	if err := c.SetDeadline(time.Now().Add(p.bodyTimeout)); err != nil {
		return answer{err: readError(err)}, false
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return answer{status: resp.StatusCode, hung: true, err: errors.New("the body did not end: ORCID would hang here for ever")}, false
		}
		return answer{err: readError(err)}, false
	}
	keep = !resp.Close && c.in.Buffered() == 0 && (resp.ContentLength >= 0 || len(resp.TransferEncoding) > 0 || resp.StatusCode == http.StatusNoContent)
	return answer{status: resp.StatusCode}, keep
}

// readError words a failure as the JDK would.
func readError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("java.net.http.HttpTimeoutException: request timed out: %w", err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("java.io.IOException: HTTP/1.1 header parser received no bytes, or a body was cut off: %w", err)
	}
	return fmt.Errorf("java.io.IOException: %w", err)
}

// conn returns an idle connection that is still open, or a new one.
func (p *poster) conn(ctx context.Context, t target, deadline time.Time) (*wireConn, bool, error) {
	key := t.address
	if t.secure {
		key = "tls " + key
	}
	for {
		c := p.take(key)
		if c == nil {
			break
		}
		if time.Since(c.since) < keepIdle && alive(c.Conn) {
			return c, true, nil
		}
		c.end()
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	raw, err := p.dialer.DialContext(ctx, "tcp", t.address)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, false, fmt.Errorf("java.net.http.HttpConnectTimeoutException: HTTP connect timed out: %w", err)
		}
		return nil, false, fmt.Errorf("java.net.ConnectException: %w", err)
	}
	c := &wireConn{Conn: raw, key: key}
	if t.secure {
		conf := p.tls.Clone()
		conf.ServerName = t.name
		secure := tls.Client(raw, conf)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = raw.Close() // the handshake's error says more
			return nil, false, fmt.Errorf("javax.net.ssl.SSLHandshakeException: %w", err)
		}
		c.Conn = secure
	}
	c.in = bufio.NewReaderSize(c.Conn, 4096)
	return c, false, nil
}

// take removes and returns the latest used idle connection, or nil.
func (p *poster) take(key string) *wireConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[key]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	if list = list[:len(list)-1]; len(list) == 0 {
		delete(p.idle, key)
	} else {
		p.idle[key] = list
	}
	return c
}

// put keeps a connection for the next POST to the same place.
func (p *poster) put(c *wireConn) {
	if err := c.SetDeadline(time.Time{}); err != nil {
		c.end()
		return
	}
	c.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle[c.key] = append(p.idle[c.key], c)
	if p.timer == nil {
		p.timer = time.AfterFunc(keepIdle, p.sweep)
	}
}

// sweep ends the connections that were idle for too long.
func (p *poster) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, list := range p.idle {
		keep := list[:0]
		for _, c := range list {
			if time.Since(c.since) >= keepIdle {
				c.end()
			} else {
				keep = append(keep, c)
			}
		}
		if p.idle[key] = keep; len(keep) == 0 {
			delete(p.idle, key)
		}
	}
	if p.timer = nil; len(p.idle) > 0 {
		p.timer = time.AfterFunc(keepIdle/10, p.sweep)
	}
}

// close ends every idle connection.
func (p *poster) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	for _, list := range p.idle {
		for _, c := range list {
			c.end()
		}
	}
	clear(p.idle)
}

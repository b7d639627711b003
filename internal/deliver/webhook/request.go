package webhook

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// target is an organisation's URL, taken apart for sending.
type target struct {
	tls   bool
	host  string // without port, ASCII, no brackets
	addr  string // host:port to connect to
	field string // the Host header
	path  string // escaped, begins with a slash
	query string // with its question mark, or empty
}

// parseTarget accepts what org.ValidURL does.
func parseTarget(raw string) (target, error) {
	if err := org.ValidURL(raw); err != nil {
		return target{}, err
	}
	u, err := url.Parse(raw)
	if err != nil {
		return target{}, errors.New("is not a URL")
	}
	t := target{tls: u.Scheme == "https", host: u.Hostname(), path: escapeRest(u.EscapedPath())}
	port := u.Port()
	t.field = ":" + port
	if port == "" {
		t.field, port = "", "80"
		if t.tls {
			port = "443"
		}
	}
	if t.host, err = org.ASCIIHost(t.host); err != nil {
		return target{}, err
	}
	shown := t.host
	if ip, err := netip.ParseAddr(t.host); err == nil {
		shown = bracket(ip.WithZone("").String())
	}
	t.field = shown + t.field
	t.addr = net.JoinHostPort(t.host, port)
	if t.path == "" {
		t.path = "/"
	}
	if u.RawQuery != "" {
		t.query = "?" + escapeRest(u.RawQuery)
	}
	return t, nil
}

func bracket(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// escapeRest escapes what must not stand in a request line and url.Parse lets
// through, for example umlauts in a query.
func escapeRest(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return s
	}
	var b strings.Builder
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// targetCache keeps parsed URLs; it forgets all of them when it is full, which
// takes more organisations than are active at once.
type targetCache struct {
	mu    sync.RWMutex
	byURL map[string]target
}

const targetCacheSize = 4096

func (c *targetCache) parse(raw string) (target, error) {
	c.mu.RLock()
	t, ok := c.byURL[raw]
	c.mu.RUnlock()
	if ok {
		return t, nil
	}
	t, err := parseTarget(raw)
	if err != nil {
		return target{}, err
	}
	c.mu.Lock()
	if len(c.byURL) >= targetCacheSize {
		clear(c.byURL)
	}
	c.byURL[raw] = t
	c.mu.Unlock()
	return t, nil
}

// appendHead appends the request line and the headers up to the empty line. It
// writes nothing that it has not checked: settings come from people.
func (s *Sender) appendHead(b []byte, t target, o *org.Organisation, id string, d event.Delivery, body []byte, now time.Time) ([]byte, error) {
	b = append(b, "POST "...)
	if !t.tls && s.dial.proxy != nil {
		b = append(append(b, "http://"...), t.field...)
	}
	b = append(b, t.path...)
	if o.Webhook.AppendORCID && !d.ORCID.IsZero() {
		if b[len(b)-1] != '/' {
			b = append(b, '/')
		}
		b = d.ORCID.Append(b)
	}
	b = append(b, t.query...)
	b = append(b, " HTTP/1.1"...)
	b = appendHeader(b, "Host", t.field)
	b = appendHeader(b, "User-Agent", s.userAgent)
	b = appendHeader(b, "Content-Type", "application/json")
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = appendHeader(b, "webhook-id", id)
	b = append(b, "\r\nwebhook-timestamp: "...)
	stamp := len(b)
	b = strconv.AppendInt(b, now.Unix(), 10)
	b, err := s.signers.append(b, id, string(b[stamp:]), body, o.Webhook.SigningSecret, o.Webhook.OldSigningSecret)
	if err != nil {
		return b, err
	}
	if o.Webhook.APIKey.IsSet() {
		if hasControl(o.Webhook.APIKey.Reveal()) {
			return b, errors.New("webhook.apikey has control characters")
		}
		b = appendHeader(b, "apikey", o.Webhook.APIKey.Reveal())
	}
	if len(o.Webhook.Headers) > 0 {
		for _, name := range slices.Sorted(maps.Keys(o.Webhook.Headers)) {
			value := o.Webhook.Headers[name]
			if !isToken(name) || hasControl(value) {
				return b, fmt.Errorf("webhook.headers: %q is no header that can be sent", name)
			}
			b = appendHeader(b, name, value)
		}
	}
	if auth := s.dial.proxyAuthorization(); auth != "" && !t.tls {
		b = appendHeader(b, "Proxy-Authorization", auth)
	}
	return append(b, "\r\n\r\n"...), nil
}

func appendHeader(b []byte, name, value string) []byte {
	b = append(b, '\r', '\n')
	b = append(b, name...)
	b = append(b, ':', ' ')
	return append(b, value...)
}

func hasControl(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

// isToken reports whether s may be a header's name.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

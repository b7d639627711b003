package sim

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

// javaURI is what java.net.URI makes of a text. ORCID checks a callback by
// that class and sends to what its HttpClient reads from it, which is not what
// Go's net/url accepts; the behaviour here was compared with OpenJDK 17.
type javaURI struct {
	scheme string // as written; empty when relative
	host   string // as written, with brackets for IPv6; empty when there is none
	port   int    // -1 when not given
	path   string // raw
	query  string // raw, without the question mark
}

var errJavaURI = errors.New("java.net.URISyntaxException")

const (
	javaUnreserved = "_-!.~'()*"
	javaPathExtra  = javaUnreserved + ":@&=+$,;/"
	javaUric       = javaUnreserved + ";/?:@&=+$,[]"
	javaRegName    = javaUnreserved + "$,;:@&=+"
	// javaServer is what may stand in an authority that has brackets.
	javaServer = javaUnreserved + "$,;:@&=+[]%"
)

// parseJavaURI accepts exactly what `new java.net.URI(s)` accepts.
func parseJavaURI(s string) (javaURI, error) {
	u := javaURI{port: -1}
	rest := s
	if i := strings.IndexAny(rest, ":/?#"); i >= 0 && rest[i] == ':' {
		u.scheme, rest = rest[:i], rest[i+1:]
		if !javaScheme(u.scheme) {
			return u, errJavaURI
		}
		if rest == "" || rest[0] == '#' {
			return u, errJavaURI // a scheme-specific part is expected
		}
		if rest[0] != '/' { // opaque
			body, frag, _ := strings.Cut(rest, "#")
			if !javaLegal(body, javaUric) || !javaLegal(frag, javaUric) {
				return u, errJavaURI
			}
			return u, nil
		}
	}
	rest, frag, _ := strings.Cut(rest, "#")
	rest, u.query, _ = strings.Cut(rest, "?")
	hasTail := strings.ContainsAny(s, "?#")
	if authority, ok := strings.CutPrefix(rest, "//"); ok {
		rest = ""
		if i := strings.IndexByte(authority, '/'); i >= 0 {
			authority, rest = authority[:i], authority[i:]
		}
		if authority == "" && rest == "" && !hasTail {
			return u, errJavaURI // an authority is expected
		}
		if err := u.authority(authority); err != nil {
			return u, err
		}
	}
	u.path = rest
	if !javaLegal(u.path, javaPathExtra) || !javaLegal(u.query, javaUric) || !javaLegal(frag, javaUric) {
		return u, errJavaURI
	}
	return u, nil
}

// authority reads [user@]host[:port]. What is no such thing but has legal
// characters is a "registry based" authority to Java: accepted, without host.
func (u *javaURI) authority(a string) error {
	if strings.ContainsAny(a, "[]") {
		return u.bracketed(a)
	}
	if !javaLegal(a, javaRegName) {
		return errJavaURI
	}
	host := a
	if i := strings.IndexByte(a, '@'); i >= 0 {
		host = a[i+1:]
	}
	port := -1
	if h, p, ok := strings.Cut(host, ":"); ok {
		host = h
		if p != "" {
			port = javaPort(p)
			if port < 0 {
				return nil // no server, but a legal registry name
			}
		}
	}
	if javaHost(host) {
		u.host, u.port = host, port
	}
	return nil
}

// bracketed reads an authority with an IPv6 address.
func (u *javaURI) bracketed(a string) error {
	if !javaLegal(strings.ReplaceAll(a, "%", ""), javaServer) {
		return errJavaURI
	}
	if i := strings.IndexByte(a, '@'); i >= 0 {
		a = a[i+1:]
	}
	end := strings.IndexByte(a, ']')
	if !strings.HasPrefix(a, "[") || end < 0 {
		return errJavaURI
	}
	addr, zone, zoned := strings.Cut(a[1:end], "%")
	ip, err := netip.ParseAddr(addr)
	if err != nil || ip.Is4() || zoned && zone == "" {
		return errJavaURI
	}
	port := -1
	if tail := a[end+1:]; tail != "" && tail != ":" {
		if port = javaPort(strings.TrimPrefix(tail, ":")); port < 0 || tail[0] != ':' {
			return errJavaURI
		}
	}
	u.host, u.port = a[:end+1], port
	return nil
}

// javaPort reads a port, or returns -1.
func javaPort(s string) int {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}

func javaScheme(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isAlpha(s[i]) && (i == 0 || !isDigit(s[i]) && strings.IndexByte("+-.", s[i]) < 0) {
			return false
		}
	}
	return s != ""
}

// javaLegal reports whether every character is alphanumeric, one of extra, a
// right escape, or what Java calls "other": not ASCII, no control, no space.
func javaLegal(s, extra string) bool {
	for i, r := range s {
		switch {
		case r == '%':
			if len(s) < i+3 || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return strings.Contains(extra, "%")
			}
		case r < 0x80:
			if !isAlpha(byte(r)) && !isDigit(byte(r)) && !strings.ContainsRune(extra, r) {
				return false
			}
		case unicode.IsControl(r), unicode.Is(unicode.Z, r):
			return false
		}
	}
	return true
}

// javaHost accepts an IPv4 address, or dot-separated labels of which the last
// begins with a letter.
func javaHost(h string) bool {
	if ip, err := netip.ParseAddr(h); err == nil {
		return ip.Is4()
	}
	labels := strings.Split(strings.TrimSuffix(h, "."), ".")
	for _, l := range labels {
		if l == "" || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for i := 0; i < len(l); i++ {
			if !isAlpha(l[i]) && !isDigit(l[i]) && l[i] != '-' {
				return false
			}
		}
	}
	return isAlpha(labels[len(labels)-1][0])
}

func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isHex(c byte) bool   { return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

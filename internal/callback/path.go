package callback

import (
	"bytes"

	"dispatchd/internal/orcid"
)

// parts is a path taken apart; nothing in it is verified.
type parts struct {
	raw     []byte // the client id as it stands in the path, when it has no escapes
	unesc   [maxClientID]byte
	escaped int // bytes of unesc in use; 0 means raw is the client id
	id      orcid.ID
	epoch   int
	token   []byte
}

func (p *parts) clientID() []byte {
	if p.escaped > 0 {
		return p.unesc[:p.escaped]
	}
	return p.raw
}

// Shaped reports whether path has the form of a callback path, whatever its
// token is worth: it tells a wrong verb (405) from a wrong path (404) without
// an answer about the token.
func Shaped(path []byte) bool {
	_, ok := parse(path)
	return ok
}

// parse takes /hooks/{client_id}/{iD}/{epoch}/{token} apart. It accepts one
// spelling of each part, except that any byte of the client id may be escaped:
// proxies differ in what they escape.
func parse(path []byte) (p parts, ok bool) {
	if len(path) > maxPath {
		return p, false
	}
	rest, ok := bytes.CutPrefix(path, []byte(prefix))
	if !ok {
		return p, false
	}
	client, rest, ok := bytes.Cut(rest, []byte{'/'})
	if !ok || !p.setClientID(client) {
		return p, false
	}
	idText, rest, ok := bytes.Cut(rest, []byte{'/'})
	if !ok {
		return p, false
	}
	id, err := orcid.ParseStrict(idText)
	if err != nil {
		return p, false
	}
	p.id = id
	epoch, token, ok := bytes.Cut(rest, []byte{'/'})
	if !ok || len(token) != tokenLen {
		return p, false
	}
	for _, c := range token {
		if !isBase64URL(c) {
			return p, false
		}
	}
	p.token = token
	p.epoch, ok = parseEpoch(epoch)
	return p, ok
}

// parseEpoch accepts what strconv.Itoa writes for 0 to maxEpoch.
func parseEpoch(b []byte) (int, bool) {
	if len(b) == 0 || len(b) > 9 || b[0] == '0' && len(b) > 1 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// setClientID unescapes the client id; the room for it is inside p, so that
// nothing is allocated.
func (p *parts) setClientID(b []byte) bool {
	if bytes.IndexByte(b, '%') < 0 {
		p.raw = b
		return len(b) > 0 && len(b) <= maxClientID
	}
	n := 0
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c == '%' {
			if i+2 >= len(b) {
				return false
			}
			hi, ok1 := unhex(b[i+1])
			lo, ok2 := unhex(b[i+2])
			if !ok1 || !ok2 {
				return false
			}
			c = hi<<4 | lo
			i += 2
		}
		if n == maxClientID {
			return false
		}
		p.unesc[n] = c
		n++
	}
	p.escaped = n
	return n > 0
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func isBase64URL(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

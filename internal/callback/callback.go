// Package callback owns the callback URL: how it is built for a registration,
// and how the token in its path proves that we built it. It is pure; intake
// verifies with it, the registration side builds with it.
package callback

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"dispatchd/internal/orcid"
	"dispatchd/internal/secret"
)

const (
	tokenBytes  = 16                             // of the HMAC; 128 bits cannot be guessed
	tokenLen    = (tokenBytes*8 + 5) / 6         // as it stands in the path: 22 characters
	minKeyLen   = 16                             // bytes of a key
	maxEpoch    = 999_999_999                    // nine digits
	maxClientID = 256                            // bytes, unescaped
	prefix      = "/hooks/"                      // of every path
	message     = "v1|"                          // version of what is signed
	idLen       = len("0000-0000-0000-0000")     // characters of an iD
	maxPath     = 3*maxClientID + idLen + 64     // longest path worth looking at
	scratchLen  = maxClientID + idLen + 32 + 128 // holds the message, the sum and its text
)

// Keys signs and verifies callback URLs. It is immutable and safe for
// concurrent use: the first key signs, all of them verify.
type Keys struct{ keys []*key }

// key is one HMAC key. The pool keeps keyed hash states, because making one
// costs two blocks of SHA-256 and several allocations.
type key struct {
	id   string
	pool sync.Pool // of *mac
}

// mac is a keyed hash with the room its input and output need, so that
// verifying does not allocate.
type mac struct {
	hash    hash.Hash
	scratch [scratchLen]byte
}

// NewKeys makes Keys of the lines of the key file. Each key must have at least
// 16 bytes, and no two may be the same.
func NewKeys(keys []secret.Text) (*Keys, error) {
	if len(keys) == 0 {
		return nil, errors.New("no callback key is given")
	}
	k := &Keys{keys: make([]*key, 0, len(keys))}
	for i, text := range keys {
		raw := []byte(text.Reveal())
		if len(raw) < minKeyLen {
			return nil, fmt.Errorf("callback key %d has %d bytes, want at least %d", i+1, len(raw), minKeyLen)
		}
		sum := sha256.Sum256(raw)
		id := hex.EncodeToString(sum[:4])
		if k.Has(id) {
			return nil, fmt.Errorf("callback key %d stands in the list twice (key id %s)", i+1, id)
		}
		one := &key{id: id}
		one.pool.New = func() any { return &mac{hash: hmac.New(sha256.New, raw)} }
		k.keys = append(k.keys, one)
	}
	return k, nil
}

// SigningID returns the fingerprint of the signing key: the first 8 hex digits
// of its SHA-256.
func (k *Keys) SigningID() string { return k.keys[0].id }

// Has reports whether the key with this fingerprint is among the keys.
func (k *Keys) Has(keyID string) bool { return k.find(keyID) != nil }

func (k *Keys) find(keyID string) *key {
	for _, one := range k.keys {
		if one.id == keyID {
			return one
		}
	}
	return nil
}

// URL returns the callback URL of a registration, signed by the key with the
// fingerprint keyID; an empty keyID means the signing key. The same arguments
// give the same URL for ever, so that an old row at ORCID can be deleted. The
// URL is a secret.
func (k *Keys) URL(publicURL, clientID string, id orcid.ID, epoch int, keyID string) (string, error) {
	if keyID == "" {
		keyID = k.SigningID()
	}
	one := k.find(keyID)
	if one == nil {
		return "", fmt.Errorf("callback key %s is not among the keys any more", keyID)
	}
	base, err := url.Parse(publicURL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" ||
		base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return "", errors.New("public_url must be http(s)://host[:port][/prefix] and nothing more")
	}
	switch {
	case clientID == "" || clientID == "." || clientID == ".." || len(clientID) > maxClientID:
		return "", fmt.Errorf("client id %q cannot stand in a callback URL", clientID)
	case id.IsZero():
		return "", errors.New("callback URL of no iD")
	case epoch < 0 || epoch > maxEpoch:
		return "", fmt.Errorf("epoch %d is not in 0 to %d", epoch, maxEpoch)
	}
	m := one.pool.Get().(*mac)
	defer one.pool.Put(m)
	b := make([]byte, 0, len(publicURL)+len(prefix)+3*len(clientID)+idLen+tokenLen+16)
	b = append(b, strings.TrimRight(publicURL, "/")...)
	b = append(b, prefix...)
	b = append(b, url.PathEscape(clientID)...)
	b = append(b, '/')
	b = id.Append(b)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(epoch), 10)
	b = append(b, '/')
	b = append(b, m.token([]byte(clientID), id, epoch)...)
	return string(b), nil
}

// token computes the token's text; it is valid until m is used again.
func (m *mac) token(clientID []byte, id orcid.ID, epoch int) []byte {
	// client ids may hold any byte, also '|': the iD and the epoch after it
	// have fixed alphabets, so the message still has one reading only.
	b := append(m.scratch[:0], message...)
	b = append(b, clientID...)
	b = append(b, '|')
	b = id.Append(b)
	b = append(b, '|')
	b = strconv.AppendInt(b, int64(epoch), 10)
	m.hash.Reset()
	m.hash.Write(b)
	sum := m.hash.Sum(m.scratch[:0])
	text := m.scratch[len(sum) : len(sum)+tokenLen]
	base64.RawURLEncoding.Encode(text, sum[:tokenBytes])
	return text
}

// Target is what a callback URL stands for.
type Target struct {
	ClientID string // of ORCID, not our name of the credential
	ORCID    orcid.ID
	Epoch    int
}

// Verify reports whether path, which starts at /hooks/ and has no query, is
// one that URL made under any of the keys, and what it stands for. The token
// is compared in constant time. Only a true answer allocates: the client id.
func (k *Keys) Verify(path []byte) (Target, bool) {
	p, ok := parse(path)
	if !ok {
		return Target{}, false
	}
	for _, one := range k.keys {
		if one.matches(&p) {
			return Target{ClientID: string(p.clientID()), ORCID: p.id, Epoch: p.epoch}, true
		}
	}
	return Target{}, false
}

func (k *key) matches(p *parts) bool {
	m := k.pool.Get().(*mac)
	defer k.pool.Put(m)
	return subtle.ConstantTimeCompare(m.token(p.clientID(), p.id, p.epoch), p.token) == 1
}

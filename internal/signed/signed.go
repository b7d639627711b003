// Package signed owns the links that act for somebody who has not signed in: a
// sign-in link, the link that confirms an address, the unsubscribe link. Each
// carries what it is for, what about, and until when, under an HMAC of the
// master key, so that nothing has to be kept to recognise it. Whoever wants a
// link to work once keeps that itself.
package signed

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// What Verify's errors wrap. A page tells a person apart which of them it is.
var (
	ErrMalformed = errors.New("the link is damaged or was not made here")
	ErrExpired   = errors.New("the link has expired")
)

// Signer makes and checks tokens. It is safe for concurrent use.
type Signer struct{ key []byte }

// New makes a Signer of the master key, which must have at least 32 bytes.
func New(master []byte) (*Signer, error) {
	if len(master) < 32 {
		return nil, fmt.Errorf("master key has %d bytes, want at least 32", len(master))
	}
	key, err := hkdf.Key(sha256.New, master, nil, "dispatchd signed links v1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key of signed links: %w", err)
	}
	return &Signer{key}, nil
}

// Sign makes a token, safe in a URL, that says subject for the purpose until
// expires (to the second); the zero time means for ever. The subject can be
// read by whoever has the token.
func (s *Signer) Sign(purpose, subject string, expires time.Time) string {
	body := make([]byte, 8, 8+len(subject)+sha256.Size)
	if !expires.IsZero() {
		binary.BigEndian.PutUint64(body, uint64(expires.Unix()))
	}
	body = append(body, subject...)
	return base64.RawURLEncoding.EncodeToString(append(body, s.mac(purpose, body)...))
}

// Verify returns the subject of a token that was signed for the purpose and
// has not expired. It fails with ErrMalformed or ErrExpired.
func (s *Signer) Verify(purpose, token string, now time.Time) (string, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimSpace(token))
	if err != nil || len(raw) < 8+sha256.Size {
		return "", ErrMalformed
	}
	body, mac := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	if !hmac.Equal(mac, s.mac(purpose, body)) {
		return "", ErrMalformed
	}
	if until := binary.BigEndian.Uint64(body); until != 0 && now.Unix() >= int64(until) {
		return "", ErrExpired
	}
	return string(body[8:]), nil
}

// mac has the purpose's length in it, so that no purpose and body read as others.
func (s *Signer) mac(purpose string, body []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(purpose)))
	h.Write(size[:])
	h.Write([]byte(purpose))
	h.Write(body)
	return h.Sum(nil)
}

// Package secret owns how secrets are held: a text type that never prints
// itself, and the box that encrypts recoverable secrets before they reach
// Redis (AES-256-GCM under the master key) and hashes what is only to be
// recognised (HMAC-SHA-256).
package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"strings"
	"sync"
)

// Text is a secret in the clear. It prints as <secret> (or nothing when empty)
// through fmt, slog, JSON and TOML; only Reveal gives it away.
type Text string

const redacted = "<secret>"

// Reveal returns the secret itself, for the one place that has to send it.
func (t Text) Reveal() string { return string(t) }

// IsSet reports whether there is a secret.
func (t Text) IsSet() bool { return t != "" }

// String implements fmt.Stringer without giving the secret away.
func (t Text) String() string {
	if t == "" {
		return ""
	}
	return redacted
}

// GoString implements fmt.GoStringer without giving the secret away.
func (t Text) GoString() string { return t.String() }

// MarshalText keeps the secret out of JSON and TOML.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// LogValue implements slog.LogValuer without giving the secret away.
func (t Text) LogValue() slog.Value { return slog.StringValue(t.String()) }

// ErrSealed says that a sealed text cannot be opened: it was changed, or
// sealed under another master key or for another use.
var ErrSealed = errors.New("sealed secret cannot be opened with this master key")

// Box seals and opens recoverable secrets. It is safe for concurrent use.
type Box struct {
	aead cipher.AEAD
	// Keyed hashes, because making one costs as much as an import's other work
	// for a user.
	hashes sync.Pool
}

// NewBox makes a Box of the master key, which must have at least 32 bytes.
func NewBox(master []byte) (*Box, error) {
	if len(master) < 32 {
		return nil, fmt.Errorf("master key has %d bytes, want at least 32", len(master))
	}
	key, err := hkdf.Key(sha256.New, master, nil, "dispatchd master v1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the box key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make the cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make the box: %w", err)
	}
	hashKey, err := hkdf.Key(sha256.New, master, nil, "dispatchd keyed hash v1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the hash key: %w", err)
	}
	b := &Box{aead: aead}
	b.hashes.New = func() any { return hmac.New(sha256.New, hashKey) }
	return b, nil
}

// Hash returns 16 bytes by which text is recognised by whoever has the master
// key, and by nobody else. The use keeps hashes of different tables apart; it
// must hold no zero byte.
func (b *Box) Hash(use, text string) []byte {
	h := b.hashes.Get().(hash.Hash)
	defer b.hashes.Put(h)
	h.Reset()
	h.Write([]byte(use + "\x00" + text)) // a hash never fails (documentation of hash.Hash)
	return h.Sum(nil)[:16]
}

const sealedPrefix = "s1:"

// Seal encrypts t. The use (for example "org/uni-a/apikey") is bound to the
// result, so that a sealed text moved elsewhere does not open there. An empty
// secret seals to the empty string.
func (b *Box) Seal(use string, t Text) string {
	if t == "" {
		return ""
	}
	return sealedPrefix + base64.RawStdEncoding.EncodeToString(b.aead.Seal(nil, nil, []byte(t), []byte(use)))
}

// Open decrypts what Seal made for the same use. It fails with ErrSealed.
func (b *Box) Open(use, sealed string) (Text, error) {
	if sealed == "" {
		return "", nil
	}
	body, ok := strings.CutPrefix(sealed, sealedPrefix)
	if !ok {
		return "", fmt.Errorf("%s: unknown form: %w", use, ErrSealed)
	}
	raw, err := base64.RawStdEncoding.DecodeString(body)
	if err != nil {
		return "", fmt.Errorf("%s: %w", use, ErrSealed)
	}
	plain, err := b.aead.Open(nil, nil, raw, []byte(use))
	if err != nil {
		return "", fmt.Errorf("%s: %w", use, ErrSealed)
	}
	return Text(plain), nil
}

// NewKey makes n random bytes in base64url, for keys and tokens made on first
// start.
func NewKey(n int) Text {
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand documentation)
	return Text(base64.RawURLEncoding.EncodeToString(b))
}

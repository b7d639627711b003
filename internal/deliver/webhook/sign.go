package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"strings"
	"sync"

	"dispatchd/internal/secret"
)

// signers keeps the prepared state of signing secrets; it forgets all of them
// when it is full, which takes more organisations than are active at once.
type signers struct {
	mu       sync.RWMutex
	bySecret map[secret.Text]*sync.Pool // of *signer
}

const signersSize = 4096

// signer has the room for its sum, which would be allocated otherwise.
type signer struct {
	hash.Hash
	sum [sha256.Size]byte
}

// append appends the Standard Webhooks signature header with one signature for
// each secret that is set, the current one first.
func (s *signers) append(b []byte, id, stamp string, body []byte, secrets ...secret.Text) ([]byte, error) {
	begun := false
	for _, text := range secrets {
		if !text.IsSet() {
			continue
		}
		pool, err := s.of(text)
		if err != nil {
			return b, err
		}
		if begun {
			b = append(b, ' ')
		} else {
			b = append(b, "\r\nwebhook-signature: "...)
			begun = true
		}
		mac := pool.Get().(*signer) //nolint:forcetypeassert // only prepare fills it
		mac.Reset()
		at := len(b)
		b = append(append(append(append(b, id...), '.'), stamp...), '.') // for a moment, to be hashed
		mac.Write(b[at:])
		mac.Write(body)
		b = append(b[:at], "v1,"...)
		b = base64.StdEncoding.AppendEncode(b, mac.Sum(mac.sum[:0]))
		pool.Put(mac)
	}
	return b, nil
}

func (s *signers) of(text secret.Text) (*sync.Pool, error) {
	s.mu.RLock()
	pool := s.bySecret[text]
	s.mu.RUnlock()
	if pool != nil {
		return pool, nil
	}
	pool, err := prepare(text)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bySecret == nil || len(s.bySecret) >= signersSize {
		s.bySecret = make(map[secret.Text]*sync.Pool)
	}
	s.bySecret[text] = pool
	return pool, nil
}

func prepare(text secret.Text) (*sync.Pool, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text.Reveal(), "whsec_"))
	if err != nil {
		// The error would quote the secret.
		return nil, errors.New(`the signing secret is not "whsec_" and base64; rotate it`)
	}
	return &sync.Pool{New: func() any { return &signer{Hash: hmac.New(sha256.New, key)} }}, nil
}

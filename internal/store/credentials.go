package store

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"dispatchd/internal/secret"
)

// Base is what a callback URL was built from, beside the iD and the epoch.
type Base struct {
	PublicURL string
	ClientID  string // of the ORCID credential
	KeyID     string // fingerprint of the callback key
}

// BaseID returns the small number of a base; a new one gets one. It is never
// forgotten, so that any callback URL that ORCID may still hold can be built
// again.
func (s *Store) BaseID(ctx context.Context, b Base) (int, error) {
	name, err := json.Marshal([...]string{b.PublicURL, b.ClientID, b.KeyID})
	if err != nil {
		return 0, fmt.Errorf("number a callback base: %w", err)
	}
	t, err := s.assigned(ctx, s.scripts.baseNumbers, s.keys.bases(), string(name))
	if err != nil {
		return 0, err
	}
	return int(t.number[string(name)]), nil
}

// Base returns the base of a number that BaseID gave.
func (s *Store) Base(ctx context.Context, id int) (Base, error) {
	has := func(t *numberTable) bool {
		_, ok := t.name(uint64(max(id, 0)))
		return ok
	}
	t, err := s.table(ctx, s.scripts.baseNumbers, s.keys.bases(), has)
	if err != nil {
		return Base{}, err
	}
	name, ok := t.name(uint64(max(id, 0)))
	if !ok {
		return Base{}, fmt.Errorf("callback base %d: %w", id, errNoName)
	}
	var parts [3]string
	if err := json.Unmarshal([]byte(name), &parts); err != nil {
		return Base{}, fmt.Errorf("callback base %d: %w", id, ErrDamaged)
	}
	return Base{parts[0], parts[1], parts[2]}, nil
}

// A secret of an API client is kept as a hash. One that looks as if a machine
// had made it (32 random bytes have 43 characters of base64url) cannot be
// guessed, so SHA-256 is enough and a login costs nothing; any other may have
// been chosen by a person and gets PBKDF2.
const (
	plainHash  = "$sha256$"
	slowHash   = "$pbkdf2-sha256$"
	slowRounds = 210_000

	machineMade     = 43 // characters
	machineDistinct = 16 // different ones among them; 32 random bytes have about 31
)

var b64 = base64.RawURLEncoding

// HashSecret returns the hash that CheckSecret takes; a hash and an empty
// secret stay as they are.
func HashSecret(t secret.Text) (secret.Text, error) {
	plain := t.Reveal()
	if plain == "" || isHash(plain) {
		return t, nil
	}
	if looksRandom(plain) {
		sum := sha256.Sum256([]byte(plain))
		return secret.Text(plainHash + b64.EncodeToString(sum[:])), nil
	}
	salt := make([]byte, 16)
	rand.Read(salt) // never fails (crypto/rand documentation)
	key, err := pbkdf2.Key(sha256.New, plain, salt, slowRounds, sha256.Size)
	if err != nil {
		return "", errors.New("hash the API client's secret: PBKDF2 is not available")
	}
	return secret.Text(slowHash + strconv.Itoa(slowRounds) + "$" + b64.EncodeToString(salt) + "$" + b64.EncodeToString(key)), nil
}

// CheckSecret reports whether given is the secret that kept stands for: a hash
// of HashSecret, or the secret itself as the configuration file has it. It
// takes the same time wherever they differ. An empty kept is nobody's.
func CheckSecret(kept, given secret.Text) bool {
	k, g := kept.Reveal(), given.Reveal()
	if k == "" || g == "" {
		return false
	}
	var want, got []byte
	switch {
	case strings.HasPrefix(k, plainHash):
		sum := sha256.Sum256([]byte(g))
		want, got = []byte(strings.TrimPrefix(k, plainHash)), []byte(b64.EncodeToString(sum[:]))
	case strings.HasPrefix(k, slowHash):
		rounds, salt, key, ok := parseSlow(k)
		if !ok {
			return false
		}
		derived, err := pbkdf2.Key(sha256.New, g, salt, rounds, len(key))
		if err != nil {
			return false
		}
		want, got = key, derived
	default:
		a, b := sha256.Sum256([]byte(k)), sha256.Sum256([]byte(g)) // so that lengths do not show
		want, got = a[:], b[:]
	}
	return subtle.ConstantTimeCompare(want, got) == 1
}

func isHash(s string) bool {
	if sum, ok := strings.CutPrefix(s, plainHash); ok {
		raw, err := b64.DecodeString(sum)
		return err == nil && len(raw) == sha256.Size
	}
	_, _, _, ok := parseSlow(s)
	return ok
}

func parseSlow(s string) (rounds int, salt, key []byte, ok bool) {
	rest, ok := strings.CutPrefix(s, slowHash)
	parts := strings.Split(rest, "$")
	if !ok || len(parts) != 3 {
		return 0, nil, nil, false
	}
	rounds, err1 := strconv.Atoi(parts[0])
	salt, err2 := b64.DecodeString(parts[1])
	key, err3 := b64.DecodeString(parts[2])
	ok = err1 == nil && err2 == nil && err3 == nil && rounds > 0 && rounds <= 1_000_000 && len(key) == sha256.Size
	return rounds, salt, key, ok
}

func looksRandom(s string) bool {
	if len(s) < machineMade {
		return false
	}
	seen := map[rune]bool{}
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return false
		}
		seen[r] = true
	}
	return len(seen) >= machineDistinct
}

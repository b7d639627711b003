// Package orcid knows ORCID: the iD with its check digit, and the API client
// (token, webhook registration, search) with typed errors. It owns no state.
package orcid

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ID is a researcher's ORCID iD. It holds the fifteen digits of the base as a
// number; the check digit follows from them, so every ID made by this package
// is well-formed. The zero ID is the valid-looking 0000-0000-0000-0001, which
// ORCID has never issued; use IsZero to ask whether one was set.
type ID struct{ base uint64 }

// ErrBadID says that a text is not an ORCID iD.
var ErrBadID = errors.New("not an ORCID iD")

const maxBase = 999_999_999_999_999

// FromBase makes an ID of the fifteen digits before the check digit. It fails
// with ErrBadID above fifteen digits.
func FromBase(base uint64) (ID, error) {
	if base > maxBase {
		return ID{}, fmt.Errorf("base %d: %w", base, ErrBadID)
	}
	return ID{base}, nil
}

// ParseStrict accepts exactly the canonical form dddd-dddd-dddd-dddc with a
// right check digit, as it stands in callback URLs. It does not allocate.
func ParseStrict[T ~string | ~[]byte](s T) (ID, error) {
	if len(s) != 19 {
		return ID{}, ErrBadID
	}
	var base uint64
	digits := 0
	for i := 0; i < 18; i++ {
		c := s[i]
		if i == 4 || i == 9 || i == 14 {
			if c != '-' {
				return ID{}, ErrBadID
			}
			continue
		}
		if c < '0' || c > '9' {
			return ID{}, ErrBadID
		}
		base = base*10 + uint64(c-'0')
		digits++
	}
	id := ID{base}
	if digits != 15 || s[18] != id.check() {
		return ID{}, ErrBadID
	}
	return id, nil
}

// Parse accepts what people and files write: the canonical form, sixteen
// characters without hyphens, a lower-case x, typographic dashes, and the
// https://orcid.org/… and orcid:… forms. The check digit must be right.
func Parse(text string) (ID, error) {
	s := strings.TrimSpace(text)
	if u, err := url.Parse(s); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		switch strings.ToLower(u.Host) {
		case "orcid.org", "www.orcid.org", "sandbox.orcid.org", "www.sandbox.orcid.org":
			s = u.Path
		default:
			return ID{}, fmt.Errorf("%q: %w", clip(text), ErrBadID)
		}
	}
	for _, prefix := range []string{"sandbox.orcid.org/", "orcid.org/", "orcid:", "ORCID:", "/"} {
		s = strings.TrimPrefix(s, prefix)
	}
	s, _, _ = strings.Cut(s, "?")
	s, _, _ = strings.Cut(s, "/")
	var digits [16]byte
	n := 0
	for _, r := range s {
		switch r {
		case '-', '‐', '‑', '‒', '–', '—', '−':
			continue
		case 'x':
			r = 'X'
		}
		if n == 16 || (r < '0' || r > '9') && (r != 'X' || n != 15) {
			return ID{}, fmt.Errorf("%q: %w", clip(text), ErrBadID)
		}
		digits[n] = byte(r)
		n++
	}
	if n != 16 {
		return ID{}, fmt.Errorf("%q: %w", clip(text), ErrBadID)
	}
	var id ID
	for _, c := range digits[:15] {
		id.base = id.base*10 + uint64(c-'0')
	}
	if digits[15] != id.check() {
		return ID{}, fmt.Errorf("%q: wrong check digit: %w", clip(text), ErrBadID)
	}
	return id, nil
}

// clip keeps an error readable whatever was fed in.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// check computes the ISO 7064 MOD 11-2 check digit.
func (id ID) check() byte {
	total, rest := 0, id.base
	for pow := uint64(100_000_000_000_000); pow > 0; pow /= 10 {
		total = (total + int(rest/pow)) * 2 % 11
		rest %= pow
	}
	if c := (12 - total) % 11; c != 10 {
		return byte('0' + c)
	}
	return 'X'
}

// Base returns the fifteen digits before the check digit.
func (id ID) Base() uint64 { return id.base }

// IsZero reports whether id was never set.
func (id ID) IsZero() bool { return id.base == 0 }

// Append appends the canonical form to b.
func (id ID) Append(b []byte) []byte {
	var d [15]byte
	rest := id.base
	for i := 14; i >= 0; i-- {
		d[i] = byte('0' + rest%10)
		rest /= 10
	}
	b = append(b, d[0:4]...)
	b = append(b, '-')
	b = append(b, d[4:8]...)
	b = append(b, '-')
	b = append(b, d[8:12]...)
	b = append(b, '-')
	b = append(b, d[12:15]...)
	return append(b, id.check())
}

// String returns the canonical form, for example 0000-0002-1825-0097.
func (id ID) String() string { return string(id.Append(make([]byte, 0, 19))) }

// MarshalText implements encoding.TextMarshaler with the canonical form.
func (id ID) MarshalText() ([]byte, error) { return id.Append(nil), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it accepts what Parse does.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := Parse(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

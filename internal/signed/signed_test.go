package signed

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func newSigner(t *testing.T, fill byte) *Signer {
	t.Helper()
	s, err := New(bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSignVerify(t *testing.T) {
	t.Parallel()
	s := newSigner(t, 1)
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for _, subject := range []string{"", "uni-a", "it@uni-a.example", strings.Repeat("ä", 500)} {
		for _, expires := range []time.Time{{}, now.Add(time.Second), now.Add(15 * time.Minute)} {
			got, err := s.Verify("sign-in", s.Sign("sign-in", subject, expires), now)
			if err != nil || got != subject {
				t.Errorf("subject %q until %v: %q, %v", subject, expires, got, err)
			}
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	s := newSigner(t, 1)
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	good := s.Sign("sign-in", "uni-a", now.Add(time.Minute))
	for name, c := range map[string]struct {
		signer         *Signer
		purpose, token string
		at             time.Time
		want           error
	}{
		"at its end":      {s, "sign-in", good, now.Add(time.Minute), ErrExpired},
		"other purpose":   {s, "sign-out", good, now, ErrMalformed},
		"shifted purpose": {s, "sign-i", good, now, ErrMalformed},
		"other key":       {newSigner(t, 2), "sign-in", good, now, ErrMalformed},
		"empty":           {s, "sign-in", "", now, ErrMalformed},
		"no base64":       {s, "sign-in", "%%%", now, ErrMalformed},
		"short":           {s, "sign-in", "AAAA", now, ErrMalformed},
		"cut":             {s, "sign-in", good[:len(good)-2], now, ErrMalformed},
		"lengthened":      {s, "sign-in", good + "AA", now, ErrMalformed},
	} {
		if _, err := c.signer.Verify(c.purpose, c.token, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for i := range good {
		changed := []byte(good)
		changed[i] = map[bool]byte{true: 'B', false: 'A'}[changed[i] == 'A']
		if _, err := s.Verify("sign-in", string(changed), now); err == nil {
			t.Errorf("byte %d changed: taken", i)
		}
	}
}

func TestNewNeedsAKey(t *testing.T) {
	t.Parallel()
	if _, err := New(make([]byte, 31)); err == nil {
		t.Error("31 bytes taken")
	}
}

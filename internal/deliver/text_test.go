package deliver

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"dispatchd/internal/org"
	"dispatchd/internal/secret"

	"pgregory.net/rapid"
)

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{
		"0": 0, "1": time.Second, " 120 ": 2 * time.Minute, "\t5": 5 * time.Second, "007": 7 * time.Second, "31536000": 365 * day,
		"99999999999999999999999999": retryAfterLimit, strings.Repeat("9", 128): retryAfterLimit,
		t0.Add(time.Hour).Format(http.TimeFormat):  time.Hour,
		t0.Add(-time.Hour).Format(http.TimeFormat): 0,
		t0.Add(time.Hour).Format(time.RFC850):      time.Hour,
		t0.Add(time.Hour).Format(time.ANSIC):       time.Hour,
		"Fri, 31 Dec 9999 23:59:59 GMT":            retryAfterLimit,
	} {
		if got, ok := ParseRetryAfter(header, t0); !ok || got != want {
			t.Errorf("%q: %s %v, want %s", header, got, ok, want)
		}
	}
	for _, header := range []string{
		"", " ", "-1", "+1", "1.5", "1e3", "soon", "0x10", "1s", "1 2", "١٢", "2026-11-23T03:05:32Z",
		strings.Repeat("9", 129), "Mon, 99 Nov 2026 02:05:32 GMT",
	} {
		if got, ok := ParseRetryAfter(header, t0); ok || got != 0 {
			t.Errorf("%q: %s %v, want nothing", header, got, ok)
		}
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	for _, s := range []string{"0", "120", "-1", "Mon, 23 Nov 2026 03:05:32 GMT", "31536000", "nonsense", "9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := ParseRetryAfter(s, t0)
		if d < 0 || d > retryAfterLimit || !ok && d != 0 {
			t.Errorf("%q: %s %v", s, d, ok)
		}
	})
}

func settings() *org.Organisation {
	return &org.Organisation{ID: "uni-a", Webhook: org.Webhook{
		APIKey: `k"ey/<1>`, SigningSecret: "whsec_Zm9vYmFyYmF6", OldSigningSecret: "whsec_b2xkb2xkb2xk",
		Headers: map[string]string{"Authorization": "Bearer tok&en", "X-On": "1"},
	}}
}

func TestSecretsAreReplaced(t *testing.T) {
	t.Parallel()
	all := Secrets(settings())
	for in, want := range map[string]string{
		`bad key k"ey/<1> given`:                       "bad key <secret> given",
		`{"got":"k\"ey/\u003c1\u003e"}`:                `{"got":"<secret>"}`,
		`<p>k&#34;ey/&lt;1&gt;</p>`:                    "<p><secret></p>",
		"?k=k%22ey%2F%3C1%3E&":                         "?k=<secret>&",
		"whsec_Zm9vYmFyYmF6|Zm9vYmFyYmF6|b2xkb2xkb2xk": "<secret>|<secret>|<secret>",
		"Bearer tok&en, tok&en, tok%26en":              "<secret>, <secret>, <secret>",
		"1 error in step 1":                            "1 error in step 1",
		"two k\"ey/<1>k\"ey/<1>":                       "two <secret><secret>",
	} {
		if got := SanitiseText(in, all); got != want {
			t.Errorf("%q → %q, want %q", in, got, want)
		}
	}
	if all := Secrets(&org.Organisation{}); len(all) != 0 {
		t.Errorf("no settings, %d secrets", len(all))
	}
}

func TestSanitise(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                             "",
		"héllo wörld 🎉":                "héllo wörld 🎉",
		"a\nb\r\tc\x00\x1b[31m":        `a\nb\r\tc\x00\x1b[31m`,
		"\xff\xfe ok":                  `\xff\xfe ok`,
		"a\u202eb\u2028c\u0085d\u200b": `a\u202eb\u2028c\x85d\u200b`,
		"\x7f":                         `\x7f`,
		"\xe2\x82":                     `\xe2\x82`,
	} {
		if got := SanitiseText(in, nil); got != want {
			t.Errorf("%q → %q, want %q", in, got, want)
		}
	}
	long := strings.Repeat("é", 1000)
	if got := SanitiseText(long, nil); len(got) != ExcerptBytes || !utf8.ValidString(got) {
		t.Errorf("%d bytes", len(got))
	}
	// Cut in the middle of the secret, by the reader and by the limit.
	if got := Sanitise([]byte("x top-sec"), true, []string{"top-secret"}); got != "x " {
		t.Errorf("cut by the reader: %q", got)
	}
	if got := Sanitise([]byte("x top-sec"), false, []string{"top-secret"}); got != "x top-sec" {
		t.Errorf("not cut: %q", got)
	}
	if got := SanitiseText(strings.Repeat("x", ExcerptBytes-3)+"top-secret", []string{"top-secret"}); strings.Contains(got, "top") {
		t.Errorf("cut by the limit: %q", got[500:])
	}
}

func TestSanitiseProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringMatching(`[a-zA-Z0-9"/<&% é]{6,20}`).Filter(func(s string) bool { return strings.TrimSpace(s) == s }).Draw(t, "key")
		all := Secrets(&org.Organisation{Webhook: org.Webhook{APIKey: secret.Text(key)}})
		body := rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "before")
		body = append(body, key...)
		body = append(body, rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "after")...)
		cut := rapid.IntRange(0, len(body)).Draw(t, "cut")
		got := Sanitise(body[:cut], cut < len(body), all)
		if len(got) > ExcerptBytes || !utf8.ValidString(got) {
			t.Fatalf("%d bytes, valid %v", len(got), utf8.ValidString(got))
		}
		if strings.Contains(got, key) {
			t.Fatalf("%q holds the secret %q", got, key)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q holds %U", got, r)
			}
		}
	})
}

func FuzzSanitise(f *testing.F) {
	f.Add([]byte("a\x00b"), true, "key")
	f.Fuzz(func(t *testing.T, body []byte, truncated bool, key string) {
		got := Sanitise(body, truncated, []string{key})
		if len(got) > ExcerptBytes || !utf8.ValidString(got) {
			t.Errorf("%q", got)
		}
	})
}

func TestRedactURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://a.example/x":                  "https://a.example/x",
		"https://u:p@a.example/x?token=1#f":    "https://a.example/x?…",
		"/login?next=x":                        "/login?…",
		"https://a.example/k%22ey%2F%3C1%3E/x": "https://a.example/<secret>/x",
		"https://a.example/\r\nSet-Cookie: a":  `https://a.example/\r\nSet-Cookie: a`,
		"//u@b.example/@home":                  "//b.example/@home",
		"":                                     "",
	} {
		if got := RedactURL(in, Secrets(settings())); got != want {
			t.Errorf("%q → %q, want %q", in, got, want)
		}
	}
	if got := RedactURL("https://a.example/"+strings.Repeat("é", 300), nil); len(got) > 200 || !utf8.ValidString(got) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

package deliver

import (
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"dispatchd/internal/org"
)

// ExcerptBytes is how much of an answer is kept.
const ExcerptBytes = 512

// shortestHeaderSecret is from how many bytes on a custom header's value is
// taken for a secret: replacing every "1" would make answers unreadable.
const shortestHeaderSecret = 4

const hidden = "<secret>"

// Secrets lists what must not appear in anything kept or shown of an answer:
// the organisation's API key, signing secrets and custom header values, each
// also in the forms in which receivers echo them.
func Secrets(o *org.Organisation) []string {
	var all []string
	add := func(s string, shortest int) {
		s = strings.TrimSpace(s)
		if len(s) < shortest {
			return
		}
		all = append(all, s, url.QueryEscape(s), url.PathEscape(s), html.EscapeString(s))
		if quoted, err := json.Marshal(s); err == nil {
			all = append(all, string(quoted[1:len(quoted)-1]), strings.ReplaceAll(string(quoted[1:len(quoted)-1]), "/", `\/`))
		}
	}
	add(o.Webhook.APIKey.Reveal(), 1)
	for _, s := range []string{o.Webhook.SigningSecret.Reveal(), o.Webhook.OldSigningSecret.Reveal()} {
		add(s, 1)
		add(strings.TrimPrefix(s, "whsec_"), 1)
	}
	for _, v := range o.Webhook.Headers {
		add(v, shortestHeaderSecret)
		// "Bearer abc": the second word alone is as secret as both.
		if _, word, found := strings.Cut(v, " "); found {
			add(word, shortestHeaderSecret)
		}
	}
	// Longest first, so that a secret that contains another goes as a whole.
	slices.SortFunc(all, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(all)
}

// Sanitise makes the excerpt of an answer: at most ExcerptBytes of valid UTF-8
// with the secrets replaced and everything that does not print escaped.
// truncated says that body was cut off: a secret cut in half at its end is left
// out too.
func Sanitise(body []byte, truncated bool, secrets []string) string {
	out := make([]byte, 0, min(len(body)+16, ExcerptBytes))
	for i := 0; i < len(body); {
		piece, size := hidden, 0
		for _, s := range secrets {
			if hasPrefix(body[i:], s) {
				size = len(s)
				break
			}
			if truncated && len(body)-i < len(s) && hasPrefix([]byte(s), string(body[i:])) {
				return string(out)
			}
		}
		if size == 0 {
			piece, size = printable(body[i:])
		}
		if len(out)+len(piece) > ExcerptBytes {
			break
		}
		out = append(out, piece...)
		i += size
	}
	return string(out)
}

// SanitiseText is Sanitise for a short text that was not cut off.
func SanitiseText(text string, secrets []string) string {
	return Sanitise([]byte(text), false, secrets)
}

func hasPrefix(b []byte, s string) bool {
	return len(s) > 0 && len(b) >= len(s) && string(b[:len(s)]) == s
}

// printable returns the first character of b as it may be shown, and how many
// bytes of b that took.
func printable(b []byte) (string, int) {
	if c := b[0]; c >= 0x20 && c < 0x7f {
		return string(b[:1]), 1
	}
	r, size := utf8.DecodeRune(b)
	switch {
	case r == utf8.RuneError && size <= 1:
		return fmt.Sprintf(`\x%02x`, b[0]), 1
	case r == '\n':
		return `\n`, size
	case r == '\r':
		return `\r`, size
	case r == '\t':
		return `\t`, size
	case unicode.IsPrint(r):
		return string(b[:size]), size
	case r < 0x100:
		return fmt.Sprintf(`\x%02x`, r), size
	}
	return fmt.Sprintf(`\u%04x`, r), size
}

// RedactURL shortens a URL to what may be kept: scheme, host and path, without
// query, fragment and user info, and at most 200 bytes.
func RedactURL(raw string, secrets []string) string {
	raw, _, _ = strings.Cut(raw, "#")
	raw, _, cut := strings.Cut(raw, "?")
	scheme, rest, found := strings.Cut(raw, "//")
	if found {
		host, path, slash := strings.Cut(rest, "/")
		if at := strings.LastIndexByte(host, '@'); at >= 0 {
			host = host[at+1:]
		}
		raw = scheme + "//" + host
		if slash {
			raw += "/" + path
		}
	}
	if cut {
		raw += "?…"
	}
	s := SanitiseText(raw, secrets)
	if len(s) <= 200 {
		return s
	}
	n := 197
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

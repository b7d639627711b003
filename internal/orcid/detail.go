package orcid

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxDetail is the most bytes of an Answer's Detail.
const maxDetail = 300

var (
	titleRE = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title>`)
	tagRE   = regexp.MustCompile(`(?s)<[^>]*>`)
	// urlRE finds URLs, also percent-encoded ones inside a path.
	urlRE = regexp.MustCompile(`(?i)(https?)(?:://|%3A%2F%2F)([^\s"'<>]*)`)
	// tokenRE finds the echo of a token that does not match ours exactly, for
	// example because the answer was cut.
	tokenRE = regexp.MustCompile(`(?i)(access token:?\s*)\S+`)
	// recordRE is the one URL worth showing whole: a record.
	recordRE = regexp.MustCompile(`^https?://[^/]+/\d{4}-\d{4}-\d{4}-\d{3}[\dX]$`)
)

// detail makes the text that people see of an answer.
func detail(status, code int, text string) string {
	head := fmt.Sprintf("%d", status)
	if words := http.StatusText(status); words != "" {
		head += " " + words
	}
	if code != 0 {
		head += fmt.Sprintf(" (code %d)", code)
	}
	text = oneLine(scrub(text))
	// ORCID repeats the status words in front of its message.
	text = strings.TrimPrefix(text, fmt.Sprintf("%d %s: ", status, http.StatusText(status)))
	if text == "" || text == head {
		return head
	}
	return clipTo(head+": "+text, maxDetail)
}

// bodyText picks the part of a body that says most.
func bodyText(body []byte, p problem) string {
	switch {
	case p.DeveloperMessage != "":
		return p.DeveloperMessage
	case p.UserMessage != "":
		return p.UserMessage
	case p.ErrorDescription != "" && p.Error != "":
		return p.Error + ": " + p.ErrorDescription
	case p.Error != "":
		return p.Error
	}
	text := string(body[:min(len(body), 8<<10)])
	if m := titleRE.FindStringSubmatch(text); m != nil {
		return html.UnescapeString(m[1])
	}
	return html.UnescapeString(tagRE.ReplaceAllString(text, " "))
}

// redirectText says where a redirect points, down to the host only: the path
// may hold the callback.
func redirectText(header http.Header, p problem) string {
	where := "nowhere"
	if loc, err := url.Parse(header.Get("Location")); err == nil && loc.Host != "" {
		where = loc.Scheme + "://" + loc.Host
	} else if header.Get("Location") != "" {
		where = "another path"
	}
	text := "redirect to " + where + ", not followed"
	if p.DeveloperMessage != "" {
		text += ": " + p.DeveloperMessage
	}
	return text
}

// scrub takes out what must not be shown even when it is not exactly a secret
// that we know: echoed tokens and the paths of URLs.
func scrub(text string) string {
	text = tokenRE.ReplaceAllString(text, "$1<secret>")
	return urlRE.ReplaceAllStringFunc(text, func(u string) string {
		if recordRE.MatchString(strings.TrimRight(u, ".,;:)")) {
			return u
		}
		m := urlRE.FindStringSubmatch(u)
		if i := strings.IndexAny(m[2], "/?#%@\\"); i >= 0 {
			return m[1] + "://" + m[2][:i] + "/…"
		}
		return m[1] + "://" + m[2]
	})
}

// oneLine turns control characters and white space into single spaces and
// invalid UTF-8 into U+FFFD.
func oneLine(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
	}), " ")
}

// clipTo cuts text to at most n bytes at a rune's edge.
func clipTo(text string, n int) string {
	const more = "…"
	if len(text) <= n {
		return text
	}
	n -= len(more)
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + more
}

// The fewest bytes that a redactor treats as a secret, and as the secret last
// segment of a callback; shorter ones would tear innocent words apart.
const (
	minSecret  = 6
	minSegment = 16
)

// redactor replaces known secrets in bodies before anything is made of them.
type redactor struct{ r *strings.Replacer }

// newRedactor knows the token, the client secret and every form in which the
// callback may come back.
func newRedactor(callback string, secrets ...string) redactor {
	var pairs []string
	add := func(s, as string) {
		if len(s) >= minSecret {
			pairs = append(pairs, s, as)
		}
	}
	for _, s := range secrets {
		add(s, "<secret>")
		add(escapeSegment(s), "<secret>")
	}
	if callback != "" {
		add(callback, "<callback>")
		add(escapeSegment(callback), "<callback>")
		add(strings.ReplaceAll(callback, "/", `\/`), "<callback>")
		if u, err := url.Parse(callback); err == nil {
			add(u.EscapedPath(), "<callback>")
			add(escapeSegment(u.EscapedPath()), "<callback>")
			// The last segment is the part that cannot be guessed.
			if last := u.EscapedPath()[strings.LastIndexByte(u.EscapedPath(), '/')+1:]; len(last) >= minSegment {
				add(last, "<callback>")
			}
		}
	}
	return redactor{strings.NewReplacer(pairs...)}
}

func (r redactor) bytes(b []byte) []byte { return []byte(r.r.Replace(string(b))) }

// escapeSegment percent-encodes everything outside RFC 3986's unreserved
// characters, so that a whole URL becomes one path segment.
func escapeSegment(s string) string {
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, len(s)+len(s)/4)
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

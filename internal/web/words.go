package web

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"dispatchd/internal/service"
)

// milliseconds writes how long an attempt took: "42 ms", "1.2 s".
func milliseconds(d time.Duration) string {
	if d < time.Second {
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	}
	return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
}

// sentence makes a sentence of words that a program wrote.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	if s == "" {
		return ""
	}
	r, n := utf8.DecodeRuneInString(s)
	s = string(unicode.ToUpper(r)) + s[n:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// answered says what a receiver said to a test event.
func answered(a service.TestAnswer) string {
	after := " after " + milliseconds(a.Duration) + "."
	switch {
	case a.OK:
		return "It answered " + strconv.Itoa(a.Status) + after
	case strings.HasPrefix(a.Error, "answered "):
		return "It " + a.Error + after
	}
	return strings.TrimSuffix(why(a.Status, a.Error), ".") + "," + after
}

package web

import (
	"regexp"
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

// inPlain has, for what the checks of settings and lists say to programs and
// operators, the words for a person who is neither. It is never changed.
var inPlain = []struct {
	technical *regexp.Regexp
	plain     string
}{
	// Settings; the name of the field stands before it.
	{regexp.MustCompile(`^must start with https?:// or https?:// .*$`), `must begin with https:// or http://`},
	{regexp.MustCompile(`^must not have spaces or control characters$`), `must not have blanks or line breaks in it`},
	{regexp.MustCompile(`^is not a URL$`), `is not a web address`},
	{regexp.MustCompile(`^must name a host$`), `has no server name after https://`},
	{regexp.MustCompile(`^must not have a user name or password; .*$`), `must not have a user name or password in it; if your receiver needs one, ask the operator of this service`},
	{regexp.MustCompile(`^must not have a #fragment$`), `must not have a # in it`},
	{regexp.MustCompile(`^has no valid port .*$`), `has a number after the colon that cannot be one of a port`},
	{regexp.MustCompile(`^has a host that looks like a number but is no IP address$|^has no valid host name$`), `has a server name that cannot be one`},
	{regexp.MustCompile(`^must have at most \d+ bytes \(got \d+\)$`), `is too long`},
	{regexp.MustCompile(`^must have at most \d+ bytes and no control characters$`), `is too long or has characters in it that cannot be sent`},
	{regexp.MustCompile(`^is not a plain e-mail address .*$`), `is not an e-mail address, like name@university.example`},
	{regexp.MustCompile(`^must be set, or technical_contact, .*$`), `must be filled in: no technical contact of yours is known here`},
	// Lists and people.
	{regexp.MustCompile(`^(line \d+: )?(extraneous or missing " in quoted-field|bare " in non-quoted[- ]field)$`), `${1}has a quotation mark (") in the wrong place`},
	{regexp.MustCompile(`^has (\d+) fields, the header has (\d+)$`), `has $1 columns, the first line has $2`},
	{regexp.MustCompile(`^(line \d+: )?has more than \d+ bytes$`), `${1}is too long`},
	{regexp.MustCompile(`^(email|eppn|name) has more than \d+ bytes$`), `the $1 is too long`},
	{regexp.MustCompile(`^(email|eppn|name) has control characters or is not UTF-8$`), `the $1 has characters in it that cannot be read`},
	{regexp.MustCompile(`^"": not an ORCID iD$`), `the ORCID iD is missing`},
	{regexp.MustCompile(`^("(?s:.*)"): wrong check digit: not an ORCID iD$`), `$1 is not an ORCID iD: a digit is mistyped`},
	{regexp.MustCompile(`^("(?s:.*)"): not an ORCID iD$`), `$1 is not an ORCID iD`},
	{regexp.MustCompile(`^the stored record of this researcher is damaged; .*$`), `what is kept of this researcher is damaged: tell the operator of this service`},
	{regexp.MustCompile(`^the first line must be a header such as (.*)$`), `the first line must name the columns, like $1`},
	{regexp.MustCompile(`^unknown column ("(?s:.*)"); known are (.*)$`), `the first line names a column $1; those that are known are $2`},
	{regexp.MustCompile(`^column (".*") comes twice$`), `the first line names the column $1 twice`},
	{regexp.MustCompile(`^there is no column orcid$`), `the first line names no column orcid`},
	{regexp.MustCompile(`^The header of the list is not right\.$`), `The first line of the list is not right.`},
	{regexp.MustCompile(`^The list has no readable header\.$`), `The first line of the list cannot be read.`},
}

// plainly puts what a check says into words for a person who is no programmer.
func plainly(why string) string {
	for _, w := range inPlain {
		if w.technical.MatchString(why) {
			return w.technical.ReplaceAllString(why, w.plain)
		}
	}
	return why
}

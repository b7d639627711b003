package web

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"dispatchd/internal/org"
	"dispatchd/internal/service"
)

// TestPlainWords has what the checks really say put into plain words: what is
// not found in the table any more, because a check says it otherwise, fails.
func TestPlainWords(t *testing.T) {
	t.Parallel()
	technical := regexp.MustCompile(`scheme|bytes|fragment|control|UTF-8|header|\bhost\b|field|check digit|\w\.\w+_|quoted|got |technical_contact`)
	check := func(what, why, want string) {
		t.Helper()
		if got := plainly(why); got != want || technical.MatchString(got) || got == why {
			t.Errorf("%s: %q became %q, want %q", what, why, got, want)
		}
	}
	for text, want := range map[string]string{
		"ftp://a.example":                 "must begin with https:// or http://",
		"a.example/orcid":                 "must begin with https:// or http://",
		"https://a.example/a b":           "must not have blanks or line breaks in it",
		"https://%zz":                     "is not a web address",
		"https://":                        "has no server name after https://",
		"https://u:p@a.example":           "must not have a user name or password in it; if your receiver needs one, ask the operator of this service",
		"https://a.example/#x":            "must not have a # in it",
		"https://a.example:70000/":        "has a number after the colon that cannot be one of a port",
		"https://127.1/":                  "has a server name that cannot be one",
		"https://a..example/":             "has a server name that cannot be one",
		"https://a.example/" + long(3000): "is too long",
	} {
		check(text[:min(len(text), 40)], org.ValidURL(text).Error(), want)
	}
	of := func(o org.Organisation, key string) string {
		t.Helper()
		var bad *org.Invalid
		if !errors.As(o.Validate(), &bad) {
			t.Fatalf("%+v is valid", o)
		}
		for _, p := range bad.Problems {
			if p.Key == key {
				return p.Why
			}
		}
		t.Fatalf("no problem with %s: %v", key, bad)
		return ""
	}
	var key, address, nobody org.Organisation
	key.Webhook.APIKey = "a\nb"
	check("API key", of(key, "webhook.apikey"), "is too long or has characters in it that cannot be sent")
	address.Email.Address = "nobody"
	check("address", of(address, "email.address"), "is not an e-mail address, like name@university.example")
	nobody.Email.Enabled = true
	check("nobody to mail", of(nobody, "email.address"), "must be filled in: no technical contact of yours is known here")

	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	imported := func(list string) (service.ImportReport, *service.Error) {
		t.Helper()
		report, err := w.svc.Import(t.Context(), byTest, "uni-a", strings.NewReader(list), service.CSV, false, nil)
		var e *service.Error
		if err != nil && !errors.As(err, &e) {
			t.Fatal(err)
		}
		return report, e
	}
	for line, want := range map[string]string{
		"\"0000-0002-1825-0097,a,b":              `has a quotation mark (") in the wrong place`,
		"0000-0002-1825-0097,a\"b,c":             `has a quotation mark (") in the wrong place`,
		"0000-0002-1825-0097,a":                  "has 2 columns, the first line has 3",
		long(70_000):                             "is too long",
		"0000-0002-1825-0097," + long(400) + ",": "the name is too long",
		"0000-0002-1825-0097,,\x01":              "the email has characters in it that cannot be read",
		",a,b":                                   "the ORCID iD is missing",
		"0000-0002-1825-0098,,":                  `"0000-0002-1825-0098" is not an ORCID iD: a digit is mistyped`,
		"Josiah,,":                               `"Josiah" is not an ORCID iD`,
	} {
		report, err := imported("orcid,name,email\n" + line + "\n")
		if err != nil || len(report.BadLines) != 1 {
			t.Errorf("%.40q: %v, %+v", line, err, report)
			continue
		}
		check(line[:min(len(line), 40)], report.BadLines[0].Why, want)
	}
	for list, want := range map[string][2]string{
		"":                  {"", "the first line must name the columns, like orcid,email,eppn,name"},
		"surname\nx\n":      {"The first line of the list is not right.", `the first line names a column "surname"; those that are known are orcid, email, eppn, name`},
		"orcid,orcid\nx\n":  {"The first line of the list is not right.", `the first line names the column "orcid" twice`},
		"name\nx\n":         {"The first line of the list is not right.", "the first line names no column orcid"},
		"\"orcid\nx\n":      {"The first line of the list cannot be read.", `line 1: has a quotation mark (") in the wrong place`},
		long(70_000) + "\n": {"The first line of the list cannot be read.", "line 1: is too long"},
	} {
		_, err := imported(list)
		if err == nil || len(err.Problems) != 1 {
			t.Errorf("%.40q: %v", list, err)
			continue
		}
		if want[0] != "" {
			check(list[:min(len(list), 40)], err.What, want[0])
		}
		check(list[:min(len(list), 40)], err.Problems[0].Why, want[1])
	}
	// What is plain already, or another's words, stays as it is.
	for _, same := range []string{"", "The list is empty.", "must have at most 10 users", "no answer within 15s"} {
		if got := plainly(same); got != same {
			t.Errorf("%q became %q", same, got)
		}
	}
}

func long(n int) string { return strings.Repeat("x", n) }

package email

import (
	"fmt"
	"html"
	"strings"
	"time"
	"unicode"

	"dispatchd/internal/event"
	"dispatchd/internal/org"

	gomail "github.com/wneessen/go-mail"
)

// maxName is how many characters of a researcher's name are written.
const maxName = 200

// compose makes the message for one event. Nothing that an organisation or a
// researcher wrote enters a header except checked addresses.
func (s *Sender) compose(to, cc string, o *org.Organisation, d event.Delivery, who event.Affiliation) (*gomail.Msg, error) {
	m := gomail.NewMsg()
	m.FromMailAddress(s.from)
	if err := m.To(to); err != nil {
		return nil, &settingsError{fmt.Errorf("the address %q is not valid", to)}
	}
	if cc != "" {
		if err := m.Cc(cc); err != nil {
			return nil, &settingsError{fmt.Errorf("the technical contact %q is not a valid address", cc)}
		}
	}
	m.Subject("ORCID Profile Update (" + d.ORCID.String() + ")")
	// The same for every attempt, so that a mail server which took it without
	// us hearing of it can drop the second.
	m.SetMessageIDWithValue(d.ID() + "@" + s.domain)
	m.SetDateWithValue(s.o.Now())
	m.SetUserAgent(s.o.UserAgent)
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetGenHeader(gomail.HeaderXAutoResponseSuppress, "DR, RN, NRN, OOF")
	text, page := s.words(o, d, who)
	m.SetBodyString(gomail.TypeTextPlain, text)
	m.AddAlternativeString(gomail.TypeTextHTML, page)
	return m, nil
}

// words says what happened, as plain text and as HTML.
func (s *Sender) words(o *org.Organisation, d event.Delivery, who event.Affiliation) (text, page string) {
	iD := d.ORCID.String()
	url := s.o.SiteURL + iD
	name := printable(who.Name)
	if r := []rune(name); len(r) > maxName {
		name = string(r[:maxName]) + "…"
	}
	if name != "" {
		name += " "
	}
	did, at := "profile was updated", d.LatestAt
	switch d.Type {
	case event.Created:
		did = "has linked their account"
		if !d.CreatedAt.IsZero() {
			at = d.CreatedAt
		}
	case event.Deactivated:
		did = "has deactivated their ORCID record"
	case event.Deprecated:
		did = "profile was merged into another ORCID record"
	case event.Locked:
		did = "profile was locked by ORCID"
	}
	if at.IsZero() {
		at = s.o.Now()
	}
	when := at.In(zone(o)).Format("2006-01-02 15:04 MST")
	why := "You receive this because " + printable(o.Name) + " asked to be told when ORCID records of its researchers change."
	text = "User " + name + "(" + iD + ", " + url + ") " + did + " at " + when + ".\n\n" + why + "\n"
	page = "<!DOCTYPE html>\n<html lang=\"en\"><body>\n" +
		"<p>User " + html.EscapeString(name) + `(<a href="` + html.EscapeString(url) + `" target="_blank">` + iD + "</a>) " + did + " at " + when + ".</p>\n" +
		"<p><small>" + html.EscapeString(why) + "</small></p>\n</body></html>\n"
	return text, page
}

// zone is the organisation's; UTC where it has none or an unknown one.
func zone(o *org.Organisation) *time.Location {
	if loc, err := time.LoadLocation(o.Timezone); err == nil && o.Timezone != "Local" {
		return loc
	}
	return time.UTC
}

// printable drops what is neither printed nor a plain space, so that a name
// cannot break a line, reverse the text or hide a part of it.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == unicode.ReplacementChar:
			return -1
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

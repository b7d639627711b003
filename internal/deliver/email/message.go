package email

import (
	"strings"
	"unicode"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// maxName is how many characters of a researcher's name are written.
const maxName = 200

// newsLetter says what happened to one researcher.
func (s *Sender) newsLetter(o *org.Organisation, d event.Delivery, who event.Affiliation) *letter {
	iD := d.ORCID.String()
	name := personName(who)
	if name != "" {
		name += " "
	}
	at := d.LatestAt
	if d.Type == event.Created && !d.CreatedAt.IsZero() {
		at = d.CreatedAt
	}
	if at.IsZero() {
		at = s.o.Now()
	}
	l := &letter{
		Subject: "ORCID Profile Update (" + iD + ")",
		Paragraphs: [][]span{{
			{Text: "User " + name + "("},
			{Text: iD, URL: s.o.SiteURL + iD},
			{Text: ") " + did(d.Type) + " at " + at.In(o.Zone()).Format("2006-01-02 15:04 MST") + "."},
		}},
	}
	s.foot(l, o)
	return l
}

// foot says why somebody receives a mail about researchers, and how to end it.
func (s *Sender) foot(l *letter, o *org.Organisation) {
	l.Small = append(l.Small, "You receive this because "+printable(o.Name)+" asked to be told when ORCID records of its researchers change.")
	if s.o.WebURL != "" {
		l.Settings = s.o.WebURL + settingsPath
	}
	if s.o.Unsubscribe != nil {
		l.Unsubscribe = s.o.Unsubscribe(o)
	}
}

// settingsPath is the page of the web listener where e-mail is changed.
const settingsPath = "/settings/webhook"

// did says what happened, after "User X".
func did(t event.Type) string {
	switch t {
	case event.Created:
		return "has linked their account"
	case event.Deactivated:
		return "has deactivated their ORCID record"
	case event.Deprecated:
		return "profile was merged into another ORCID record"
	case event.Locked:
		return "profile was locked by ORCID"
	default:
		return "profile was updated"
	}
}

func personName(who event.Affiliation) string {
	name := printable(who.Name)
	if r := []rune(name); len(r) > maxName {
		name = string(r[:maxName]) + "…"
	}
	return name
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

package email

import (
	"bytes"
	"embed"
	"fmt"
	htmltemplate "html/template"
	"strings"
	texttemplate "text/template"

	gomail "github.com/wneessen/go-mail"
)

//go:generate go test -count=1 -run ^TestPreviews$ . -args -update

//go:embed templates
var templateFiles embed.FS

// letter is what a mail says, before it is text and HTML. Every text in it is
// plain: the templates escape.
type letter struct {
	Subject    string
	Title      string
	Paragraphs [][]span
	Items      [][]span // a list
	Rows       []row    // a table
	After      []string // paragraphs below the list or table
	Button     Link
	// Small is in small print at the end: why somebody receives this.
	Small       []string
	Settings    string // URL of the page where the mail is switched off or changed
	Unsubscribe string // URL that switches it off
}

// span is a run of text, with a link behind it when URL is set.
type span struct{ Text, URL string }

// row is one researcher in a digest.
type row struct {
	Name, Email, ORCID, URL string
	What                    []happened
}

type happened struct{ Did, When string }

// Link is a page to go to.
type Link struct{ Text, URL string }

func plain(text string) []span { return []span{{Text: text}} }

// templates render letters.
type templates struct {
	text *texttemplate.Template
	html *htmltemplate.Template
}

func parseTemplates() (templates, error) {
	text, err := texttemplate.ParseFS(templateFiles, "templates/letter.txt")
	if err != nil {
		return templates{}, fmt.Errorf("parse the text template: %w", err)
	}
	html, err := htmltemplate.ParseFS(templateFiles, "templates/letter.html")
	if err != nil {
		return templates{}, fmt.Errorf("parse the HTML template: %w", err)
	}
	return templates{text, html}, nil
}

func (t templates) render(l *letter) (text, page string, err error) {
	var a, b bytes.Buffer
	if err := t.text.Execute(&a, l); err != nil {
		return "", "", fmt.Errorf("write the text of a mail: %w", err)
	}
	if err := t.html.Execute(&b, l); err != nil {
		return "", "", fmt.Errorf("write the HTML of a mail: %w", err)
	}
	return strings.TrimSpace(a.String()) + "\n", b.String(), nil
}

// envelope is whom a letter goes to and what tells it from others.
type envelope struct {
	to, cc string
	id     string // left part of the Message-ID, the same for every try
}

// message makes a mail of a letter. Nothing that an organisation or a
// researcher wrote enters a header, except checked addresses and the printable
// part of a subject.
func (s *Sender) message(e envelope, l *letter) (*gomail.Msg, error) {
	m := gomail.NewMsg()
	m.FromMailAddress(s.from)
	if err := m.To(e.to); err != nil {
		return nil, &settingsError{fmt.Errorf("the address %q is not valid", e.to)}
	}
	if e.cc != "" {
		if err := m.Cc(e.cc); err != nil {
			return nil, &settingsError{fmt.Errorf("the technical contact %q is not a valid address", e.cc)}
		}
	}
	m.Subject(printable(l.Subject))
	// The same for every attempt, so that a mail server which took it without
	// us hearing of it can drop the second.
	m.SetMessageIDWithValue(e.id + "@" + s.domain)
	m.SetDateWithValue(s.o.Now())
	m.SetUserAgent(s.o.UserAgent)
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetGenHeader(gomail.HeaderXAutoResponseSuppress, "DR, RN, NRN, OOF")
	if l.Unsubscribe != "" {
		// RFC 8058: a mail program may post there without asking anything more.
		m.SetGenHeader(gomail.HeaderListUnsubscribe, "<"+l.Unsubscribe+">")
		m.SetGenHeader(gomail.HeaderListUnsubscribePost, "List-Unsubscribe=One-Click")
	}
	text, page, err := s.templates.render(l)
	if err != nil {
		return nil, &settingsError{err}
	}
	m.SetBodyString(gomail.TypeTextPlain, text)
	m.AddAlternativeString(gomail.TypeTextHTML, page)
	return m, nil
}

package email

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/org"

	gomail "github.com/wneessen/go-mail"
)

// maxRows is how many researchers a digest or a summary shows; where there are
// more, all of them are in a table that is attached.
const maxRows = 500

// SendDigest makes one attempt to mail a digest: one mail about all of its
// researchers. It implements deliver.DigestSender.
func (s *Sender) SendDigest(ctx context.Context, o *org.Organisation, d event.Digest, who []event.Affiliation) deliver.Answer {
	to, cc := recipients(o)
	if to == "" {
		return deliver.Failure(deliver.KindSettings, noRecipient)
	}
	return s.try(ctx, func(ctx context.Context, cc string) error {
		m, err := s.digestMessage(envelope{to: to, cc: cc, id: d.ID}, o, d, who)
		if err != nil {
			return err
		}
		return s.hand(ctx, m)
	}, cc)
}

func (s *Sender) digestMessage(e envelope, o *org.Organisation, d event.Digest, who []event.Affiliation) (*gomail.Msg, error) {
	if len(who) != len(d.Items) {
		return nil, &settingsError{fmt.Errorf("the digest is about %d researchers, %d are known", len(d.Items), len(who))}
	}
	m, err := s.message(e, s.digestLetter(o, d, who))
	if err != nil || len(d.Items) <= maxRows {
		return m, err
	}
	table, err := s.digestTable(o, d, who)
	if err != nil {
		return nil, &settingsError{err}
	}
	return m, attach(m, "orcid-updates.csv", table)
}

// digestLetter says what happened to many researchers.
func (s *Sender) digestLetter(o *org.Organisation, d event.Digest, who []event.Affiliation) *letter {
	n := len(d.Items)
	l := &letter{
		Subject: fmt.Sprintf("ORCID Profile Updates (%s)", researchers(n)),
		Title:   researchers(n) + " with news at ORCID",
		Paragraphs: [][]span{plain(fmt.Sprintf("This is what ORCID told us of the researchers of %s until %s.",
			printable(o.Name), d.MadeAt.In(o.Zone()).Format("Monday, 2 January 2006, 15:04 MST")))},
	}
	for i, item := range d.Items[:min(n, maxRows)] {
		iD := item.ORCID.String()
		r := row{Name: personName(who[i]), Email: printable(who[i].Email), ORCID: iD, URL: s.o.SiteURL + iD}
		for _, t := range item.Types {
			r.What = append(r.What, happened{didAlone(t), itemTime(item, t).In(o.Zone()).Format("2006-01-02 15:04 MST")})
		}
		l.Rows = append(l.Rows, r)
	}
	if n > maxRows {
		l.After = append(l.After, fmt.Sprintf("and %s more. All %s are in the attached table.", number(n-maxRows), number(n)))
	}
	s.foot(l, o)
	l.Small = append(l.Small, map[org.Mode]string{
		org.Daily:  "These e-mails are sent once a day, when there is something to tell.",
		org.Weekly: "These e-mails are sent once a week, when there is something to tell.",
	}[o.Email.Mode])
	l.Small = trimEmpty(l.Small)
	return l
}

func itemTime(i event.DigestItem, t event.Type) time.Time {
	if t == event.Created && !i.CreatedAt.IsZero() {
		return i.CreatedAt
	}
	return i.LatestAt
}

// didAlone is did without a subject, for a column.
func didAlone(t event.Type) string {
	switch t {
	case event.Created:
		return "linked their account"
	case event.Deactivated:
		return "record deactivated"
	case event.Deprecated:
		return "record merged into another"
	case event.Locked:
		return "record locked by ORCID"
	default:
		return "profile updated"
	}
}

func (s *Sender) digestTable(o *org.Organisation, d event.Digest, who []event.Affiliation) ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	lines := [][]string{{"name", "email", "orcid", "url", "event", "at"}}
	for i, item := range d.Items {
		for _, t := range item.Types {
			lines = append(lines, s.line(o, who[i], item.ORCID.String(), string(t), itemTime(item, t)))
		}
	}
	if err := w.WriteAll(lines); err != nil {
		return nil, fmt.Errorf("write the table: %w", err)
	}
	return b.Bytes(), nil
}

// line is one line of an attached table.
func (s *Sender) line(o *org.Organisation, who event.Affiliation, iD, what string, at time.Time) []string {
	return []string{cell(who.Name), cell(who.Email), iD, s.o.SiteURL + iD, what, at.In(o.Zone()).Format(time.RFC3339)}
}

// cell keeps a spreadsheet from taking a name for a formula.
func cell(text string) string {
	text = printable(text)
	// Some take the wide forms as well.
	if first, _ := utf8.DecodeRuneInString(text); strings.ContainsRune("=+-@＝＋－＠", first) {
		return "'" + text
	}
	return text
}

func attach(m *gomail.Msg, name string, table []byte) error {
	if err := m.AttachReader(name, bytes.NewReader(table), gomail.WithFileContentType("text/csv; charset=utf-8")); err != nil {
		return &settingsError{fmt.Errorf("attach the table: %w", err)}
	}
	return nil
}

func researchers(n int) string {
	if n == 1 {
		return "1 researcher"
	}
	return number(n) + " researchers"
}

// number writes 1234 as 1,234.
func number(n int) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func trimEmpty(list []string) []string {
	out := list[:0]
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

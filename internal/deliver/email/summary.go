package email

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"

	"dispatchd/internal/event"
	"dispatchd/internal/org"

	gomail "github.com/wneessen/go-mail"
)

// SendSummary mails the summary of a month to the notification address or the
// technical contact, without a copy.
func (s *Sender) SendSummary(ctx context.Context, o *org.Organisation, sum event.Summary) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	to, _ := recipients(o)
	if to == "" {
		return fmt.Errorf("mail the summary of %s: %s", o.ID, noRecipient)
	}
	m, err := s.summaryMessage(envelope{to: to, id: sum.ID}, o, sum)
	if err != nil {
		return err
	}
	if err := s.hand(ctx, m); err != nil {
		return fmt.Errorf("mail the summary of %s: %w", o.ID, s.answer(ctx, err).Err)
	}
	return nil
}

func (s *Sender) summaryMessage(e envelope, o *org.Organisation, sum event.Summary) (*gomail.Msg, error) {
	m, err := s.message(e, s.summaryLetter(o, sum))
	if err != nil || len(sum.Users) <= maxRows {
		return m, err
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	lines := [][]string{{"name", "email", "orcid", "url", "event", "at"}}
	for _, u := range sum.Users {
		lines = append(lines, s.line(o, u.Who, u.ORCID.String(), string(event.Updated), u.At))
	}
	if err := w.WriteAll(lines); err != nil {
		return nil, &settingsError{fmt.Errorf("write the table: %w", err)}
	}
	return m, attach(m, fmt.Sprintf("orcid-updates-%04d-%02d.csv", sum.Year, sum.Month), b.Bytes())
}

func (s *Sender) summaryLetter(o *org.Organisation, sum event.Summary) *letter {
	n := len(sum.Users)
	month := fmt.Sprintf("%s %d", sum.Month, sum.Year)
	l := &letter{
		Subject:    "Updated ORCID Profiles",
		Title:      "Updated ORCID profiles, " + month,
		Paragraphs: [][]span{plain(fmt.Sprintf("The ORCID profiles of %s of %s were updated in %s:", researchers(n), printable(o.Name), month))},
	}
	for _, u := range sum.Users[:min(n, maxRows)] {
		iD := u.ORCID.String()
		name := personName(u.Who)
		if name != "" {
			name += " "
		}
		open := "("
		if mail := printable(u.Who.Email); mail != "" {
			open += mail + ", "
		}
		l.Items = append(l.Items, []span{
			{Text: name + open},
			{Text: iD, URL: s.o.SiteURL + iD},
			{Text: ", updated at " + u.At.In(o.Zone()).Format("2006-01-02 15:04:05") + ")"},
		})
	}
	if n > maxRows {
		l.After = append(l.After, fmt.Sprintf("and %s more. All %s are in the attached table.", number(n-maxRows), number(n)))
	}
	l.After = append(l.After, "Times are those of "+o.Zone().String()+".")
	s.foot(l, o)
	l.Small = append(l.Small, "This summary is sent on the first of every month.")
	return l
}

package email

import (
	"context"
	"fmt"

	gomail "github.com/wneessen/go-mail"
)

// Notice mails a plain text to one address: what a technical contact has to
// know about a channel. The id is the same for every try of a mail.
func (s *Sender) Notice(ctx context.Context, to, subject, text, id string) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	m := gomail.NewMsg()
	m.FromMailAddress(s.from)
	if err := m.To(to); err != nil {
		return fmt.Errorf("the address %q is not valid", to)
	}
	m.Subject(printable(subject))
	m.SetMessageIDWithValue(id + "@" + s.domain)
	m.SetDateWithValue(s.o.Now())
	m.SetUserAgent(s.o.UserAgent)
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetGenHeader(gomail.HeaderXAutoResponseSuppress, "DR, RN, NRN, OOF")
	m.SetBodyString(gomail.TypeTextPlain, text)
	return s.hand(ctx, m)
}

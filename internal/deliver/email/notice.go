package email

import (
	"context"

	gomail "github.com/wneessen/go-mail"
)

// Notice is a mail of the daemon to one person: a sign-in link, the
// confirmation of an address, what happened to a channel. All texts are plain.
type Notice struct {
	To         string
	Subject    string
	Paragraphs []string
	Button     Link     // an empty URL means none
	Small      []string // small print at the end
	// ID is the left part of the Message-ID: the same for every try of a mail.
	ID string
}

// Notice mails a notice.
func (s *Sender) Notice(ctx context.Context, n Notice) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	m, err := s.noticeMessage(n)
	if err != nil {
		return err
	}
	return s.hand(ctx, m)
}

func (s *Sender) noticeMessage(n Notice) (*gomail.Msg, error) {
	l := &letter{Subject: n.Subject, Button: n.Button, Small: n.Small}
	for _, p := range n.Paragraphs {
		l.Paragraphs = append(l.Paragraphs, plain(printable(p)))
	}
	return s.message(envelope{to: n.To, id: n.ID}, l)
}

package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

// ErrNoMail is a Mailer's answer when there is no mail server.
var ErrNoMail = errors.New("no mail server is configured")

// Mailer sends a plain mail to one address; the message id is the same for
// every try of a mail. It returns ErrNoMail when there is no mail server.
type Mailer interface {
	Mail(ctx context.Context, to, subject, text, messageID string) error
}

const (
	noticeFirst = time.Minute    // wait after the first failure; doubles
	noticeMax   = time.Hour      // between tries
	noticeFor   = 24 * time.Hour // then it is given up, and stands in the log
)

// Notices tells technical contacts what the daemon did to their channels. Each
// notice is a job, so that it is mailed although the mail server or the daemon
// goes away meanwhile.
type Notices struct{ s *Service }

// Notices returns what the actors tell.
func (s *Service) Notices() Notices { return Notices{s} }

// ChannelSuspended implements actors.Notices.
func (n Notices) ChannelSuspended(o *org.Organisation, ch event.Channel, reason string) {
	n.tell(o, ch, "suspended", "has been suspended", fmt.Sprintf(
		"dispatchd has stopped delivering to %s.\n\nReason: %s\n\nNothing is lost: your users stay registered with ORCID and their news waits. "+
			"Once the cause is gone, ask the operator of the hub to resume it (dispatchd org resume %s).", place(o, ch), reason, o.ID))
}

// ChannelDown implements actors.Notices.
func (n Notices) ChannelDown(o *org.Organisation, ch event.Channel, since time.Time, lastStatus int, answer string) {
	last := answer
	if lastStatus > 0 {
		last = fmt.Sprintf("status %d, %s", lastStatus, answer)
	}
	n.tell(o, ch, "down", "cannot be reached", fmt.Sprintf(
		"Since %s every delivery to %s has failed.\n\nLast answer: %s\n\nNothing is lost: the news waits and is tried again from time to time. "+
			"You will get one more mail when it works again. After five days of nothing but failure the deliveries are suspended.",
		since.In(zone(o)).Format("2006-01-02 15:04 MST"), place(o, ch), last))
}

// ChannelRecovered implements actors.Notices.
func (n Notices) ChannelRecovered(o *org.Organisation, ch event.Channel, since time.Time) {
	n.tell(o, ch, "recovered", "works again", fmt.Sprintf(
		"Deliveries to %s work again. What had waited since %s is being delivered now.", place(o, ch), since.In(zone(o)).Format("2006-01-02 15:04 MST")))
}

// place says where deliveries go, without what may be secret in a URL.
func place(o *org.Organisation, ch event.Channel) string {
	if ch == event.Email {
		return "the e-mail address " + o.Recipient()
	}
	where, _, _ := strings.Cut(o.Webhook.URL, "?")
	return "the webhook " + where
}

// zone is the organisation's; UTC where it has none.
func zone(o *org.Organisation) *time.Location {
	if loc, err := time.LoadLocation(o.Timezone); err == nil {
		return loc
	}
	return time.UTC
}

func (n Notices) tell(o *org.Organisation, ch event.Channel, kind, headline, text string) {
	s := n.s
	s.log.Warn("notice to the technical contact", "org", o.ID, "channel", string(ch), "notice", kind)
	if s.o.Mailer == nil || o.TechnicalContact == "" {
		return
	}
	j := newJob(jobNotice, o.ID, s.o.Store.Now())
	j.Args = map[string]string{
		"to":      o.TechnicalContact,
		"subject": fmt.Sprintf("ORCID notifications for %s: the %s %s", o.Name, ch, headline),
		"text":    fmt.Sprintf("Dear technical contact of %s,\n\n%s\n", o.Name, text),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.o.Store.SaveJob(ctx, j); err != nil {
		s.log.Warn("a notice could not be noted; it is mailed only if that works at once", "org", o.ID, "notice", kind, "err", err)
	}
	s.startJob(j)
}

// errLater asks for another try of a job.
type errLater struct {
	err  error
	wait time.Duration
}

func (e *errLater) Error() string { return e.err.Error() }
func (e *errLater) Unwrap() error { return e.err }

// noticeJob makes one try to mail a notice.
func (s *Service) noticeJob(ctx context.Context, j *store.Job) error {
	err := s.o.Mailer.Mail(ctx, j.Args["to"], j.Args["subject"], j.Args["text"], j.ID)
	if err == nil || errors.Is(err, ErrNoMail) {
		return nil // without a mail server the log and `dispatchd status` have said it
	}
	age := s.o.Store.Now().Sub(j.Created)
	if age > noticeFor {
		return fmt.Errorf("mail a notice: %w", err)
	}
	j.Failed++
	return &errLater{fmt.Errorf("mail a notice: %w", err), min(noticeFirst<<min(j.Failed-1, 10), noticeMax)}
}

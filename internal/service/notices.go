package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

// ErrNoMail is a Mailer's answer when there is no mail server.
var ErrNoMail = errors.New("no mail server is configured")

// Letter is a mail to one person. All texts are plain: the Mailer makes text and
// HTML of them.
type Letter struct {
	To         string   `json:"to"`
	Subject    string   `json:"subject"`
	Paragraphs []string `json:"paragraphs"`
	// Link is the page to go to, shown as a button with LinkText; empty means none.
	Link     string `json:"link,omitempty"`
	LinkText string `json:"link_text,omitempty"`
	// Small is small print at the end, for example why somebody receives this.
	Small []string `json:"small,omitempty"`
	// ID is the same for every try of a mail.
	ID string `json:"id"`
}

// Mailer hands one mail to the mail server. It returns ErrNoMail when there is
// none.
type Mailer interface {
	Mail(ctx context.Context, l Letter) error
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
	n.s.tell(o, ch, "suspended", way(ch)+" has been suspended",
		fmt.Sprintf("dispatchd has stopped delivering to %s.", place(o, ch)),
		"Reason: "+reason,
		"Nothing is lost: your users stay registered with ORCID and their news waits. "+
			"Once the cause is gone, sign in and press Resume under State of deliveries, "+
			"or ask the operator of the hub to resume it (dispatchd org resume "+o.ID+").")
}

// ChannelDown implements actors.Notices.
func (n Notices) ChannelDown(o *org.Organisation, ch event.Channel, since time.Time, lastStatus int, answer string) {
	last := answer
	if status := strconv.Itoa(lastStatus); lastStatus > 0 && !strings.Contains(answer, status) {
		last = fmt.Sprintf("status %d, %s", lastStatus, answer)
	}
	n.s.tell(o, ch, "down", way(ch)+" cannot be reached",
		fmt.Sprintf("Since %s every delivery to %s has failed.", since.In(o.Zone()).Format("2006-01-02 15:04 MST"), place(o, ch)),
		"Last answer: "+last,
		"Nothing is lost: the news waits and is tried again from time to time. "+
			"You will get one more mail when it works again. After five days of nothing but failure the deliveries are suspended.")
}

// ChannelRecovered implements actors.Notices.
func (n Notices) ChannelRecovered(o *org.Organisation, ch event.Channel, since time.Time) {
	n.s.tell(o, ch, "recovered", way(ch)+" works again",
		fmt.Sprintf("Deliveries to %s work again. What had waited since %s is being delivered now.",
			place(o, ch), since.In(o.Zone()).Format("2006-01-02 15:04 MST")))
}

// way is the channel as people call it.
func way(ch event.Channel) string {
	switch ch {
	case event.Webhook:
		return "the webhook"
	case event.Email:
		return "the e-mail address"
	}
	return "the channel " + string(ch)
}

// place says where deliveries go, without what may be secret in a URL.
func place(o *org.Organisation, ch event.Channel) string {
	if ch == event.Email {
		return "the e-mail address " + o.Recipient()
	}
	if ch != event.Webhook {
		return way(ch)
	}
	where, _, _ := strings.Cut(o.Webhook.URL, "?")
	return "the webhook " + where
}

// tell mails the technical contact what happened to a channel.
func (s *Service) tell(o *org.Organisation, ch event.Channel, kind, headline string, paragraphs ...string) {
	s.log.Warn("notice to the technical contact", "org", o.ID, "channel", string(ch), "notice", kind)
	s.post(o, Letter{
		To:         o.TechnicalContact,
		Subject:    "ORCID notifications for " + o.Name + ": " + headline,
		Paragraphs: append([]string{"Dear technical contact of " + o.Name + ","}, paragraphs...),
		LinkText:   "Open the settings",
		Small:      []string{"You receive this because you are the technical contact of " + o.Name + "."},
	})
}

// post mails a letter about an organisation as a job, so that it is not lost
// when the mail server or the daemon goes away. It must hold no secret: jobs are
// shown. A letter with LinkText and no Link gets that of the settings page.
func (s *Service) post(o *org.Organisation, l Letter) {
	if s.o.Mailer == nil || l.To == "" {
		return
	}
	if l.Link == "" && l.LinkText != "" {
		l.Link = s.link(settingsPath)
	}
	j := newJob(jobNotice, o.ID, s.o.Store.Now())
	l.ID = j.ID
	raw, err := json.Marshal(l)
	if err != nil {
		s.log.Error("a notice cannot be written", "org", o.ID, "err", err)
		return
	}
	j.Args = map[string]string{"letter": string(raw)}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.o.Store.SaveJob(ctx, j); err != nil {
		s.log.Warn("a notice could not be noted; it is mailed only if that works at once", "org", o.ID, "err", err)
	}
	s.startJob(j)
}

// settingsPath is the page of the web listener with an organisation's settings.
const settingsPath = "/settings/webhook"

// link is a page of the web listener; empty when there is none.
func (s *Service) link(path string) string {
	if s.o.WebURL == nil {
		return ""
	}
	base := strings.TrimSuffix(s.o.WebURL(), "/")
	if base == "" {
		return ""
	}
	return base + path
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
	var l Letter
	if err := json.Unmarshal([]byte(j.Args["letter"]), &l); err != nil {
		return fmt.Errorf("read a notice: %w", err)
	}
	err := s.o.Mailer.Mail(ctx, l)
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

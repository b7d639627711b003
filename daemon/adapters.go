package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"dispatchd/actors"
	"dispatchd/internal/callback"
	"dispatchd/internal/deliver/email"
	"dispatchd/internal/deliver/webhook"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

// registrar joins ORCID's client to the callback URLs of one credential.
type registrar struct {
	client   *orcid.Client
	clientID string
	keys     *atomic.Pointer[callback.Keys]
	store    *store.Store
}

// Put registers the callback URL of this user, epoch and base.
func (r *registrar) Put(ctx context.Context, id orcid.ID, epoch, base int) (orcid.Answer, error) {
	url, err := r.url(ctx, id, epoch, base)
	if err != nil {
		return orcid.Answer{}, err
	}
	return r.client.PutWebhook(ctx, id, url)
}

// Delete unregisters it. A row whose key was given up cannot be named any more,
// and one of a client id that the credential had before only that client may
// delete: either stays at ORCID without a request of ours. The first dies of the
// 404 that its pings get; pings of the second are told like any other.
func (r *registrar) Delete(ctx context.Context, id orcid.ID, epoch, base int) (orcid.Answer, error) {
	b, err := r.store.Base(ctx, base)
	if err != nil {
		return orcid.Answer{}, fmt.Errorf("find base %d of a callback URL: %w", base, err)
	}
	switch {
	case !r.keys.Load().Has(b.KeyID):
		return orcid.Answer{Kind: orcid.Abandoned, Detail: "its callback key was given up"}, nil
	case b.ClientID != r.clientID:
		return orcid.Answer{Kind: orcid.Abandoned, Detail: "the credential had another client id then"}, nil
	}
	url, err := r.url(ctx, id, epoch, base)
	if err != nil {
		return orcid.Answer{}, err
	}
	return r.client.DeleteWebhook(ctx, id, url)
}

func (r *registrar) url(ctx context.Context, id orcid.ID, epoch, base int) (string, error) {
	b, err := r.store.Base(ctx, base)
	if err != nil {
		return "", fmt.Errorf("find base %d of a callback URL: %w", base, err)
	}
	url, err := r.keys.Load().URL(b.PublicURL, b.ClientID, id, epoch, b.KeyID)
	if err != nil {
		return "", fmt.Errorf("build a callback URL: %w", err)
	}
	return url, nil
}

// tester posts test events through the webhook channel.
type tester struct {
	sender *atomic.Pointer[webhook.Sender]
}

// Test implements service.Tester.
func (t tester) Test(ctx context.Context, o *org.Organisation) service.TestAnswer {
	a := t.sender.Load().Test(ctx, o)
	out := service.TestAnswer{Status: a.Status, Excerpt: a.Excerpt, Duration: a.Duration}
	out.OK = a.Status >= 200 && a.Status < 300
	if !out.OK {
		out.Error = a.Words()
	}
	return out
}

// hints lets parts that start before the actors hint them once they run.
type hints struct {
	system atomic.Pointer[actors.System]
}

// HintChannel implements fanout.Hints and service.Hints. A hint that comes
// before the actors run is found by their first scan.
func (h *hints) HintChannel(key event.ChannelKey, at time.Time) {
	if s := h.system.Load(); s != nil {
		s.HintChannel(key, at)
	}
}

// HintUser implements fanout.Hints and service.Hints.
func (h *hints) HintUser(id orcid.ID, express bool) {
	if s := h.system.Load(); s != nil {
		s.HintUser(id, express)
	}
}

// mailer sends notices through the e-mail channel.
type mailer struct {
	sender *atomic.Pointer[email.Sender]
}

// Mail implements service.Mailer.
func (m mailer) Mail(ctx context.Context, l service.Letter) error {
	s := m.sender.Load()
	if s == nil {
		return service.ErrNoMail
	}
	return s.Notice(ctx, email.Notice{
		To: l.To, Subject: l.Subject, Paragraphs: l.Paragraphs, Button: email.Link{Text: l.LinkText, URL: l.Link}, Small: l.Small, ID: l.ID,
	})
}

// summaries mails monthly summaries through the e-mail channel. It keeps them
// waiting while there is no mail server.
type summaries struct{ a *app }

// SendSummary implements monthly.Sender.
func (m summaries) SendSummary(ctx context.Context, o *org.Organisation, s event.Summary) error {
	sender := m.a.mail.Load()
	switch {
	case m.a.config.Load().Shadow():
		m.a.log.Info("shadow mode: the summary of a month was not sent", "org", o.ID, "users", len(s.Users))
		return nil
	case sender == nil:
		return service.ErrNoMail
	}
	return sender.SendSummary(ctx, o, s)
}

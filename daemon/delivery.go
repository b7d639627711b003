package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"time"

	"dispatchd/config"
	"dispatchd/internal/deliver"
	"dispatchd/internal/deliver/email"
	"dispatchd/internal/deliver/webhook"
	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/safedial"
)

// emailTimeout bounds one e-mail, from connecting to the server's last answer.
const emailTimeout = 30 * time.Second

func (a *app) userAgent() string { return "dispatchd/" + a.o.Version }

// channels are the senders of one configuration.
type channels struct {
	webhook *webhook.Sender
	email   *email.Sender // nil without a mail server
}

// senders are what the router uses. In shadow mode only what a person asks for
// (a test event, a notice) goes out.
func (c channels) senders(shadow bool) map[event.Channel]deliver.Sender {
	m := map[event.Channel]deliver.Sender{
		event.Webhook: c.webhook,
		// A further channel is one line here: docs/developing.md.
	}
	if c.email != nil {
		m[event.Email] = c.email
	}
	if shadow {
		for ch, s := range m {
			m[ch] = deliver.Shadow(s)
		}
	}
	return m
}

// setDelivery makes the channels of the configuration.
func (a *app) setDelivery(c *config.Config) error {
	ch, err := a.newChannels(c)
	if err != nil {
		return err
	}
	router, err := deliver.New(ch.senders(c.Shadow()), policyOf(c), a.store.Now, rand.Float64, deliver.WithLogger(a.log), deliver.WithMetrics(a.reg))
	if err != nil {
		return fmt.Errorf("prepare deliveries: %w", err)
	}
	a.router = router
	a.sender.Store(ch.webhook)
	a.mail.Store(ch.email)
	a.stop.push("connections of the channels", func(context.Context) error {
		a.sender.Load().Close()
		if m := a.mail.Load(); m != nil {
			m.Close()
		}
		return nil
	})
	return nil
}

// useChannels makes new channels the current ones; attempts under way end with
// the old ones.
func (a *app) useChannels(ch channels, c *config.Config) error {
	if err := a.router.SetPolicy(policyOf(c)); err != nil {
		return fmt.Errorf("use delivery.retry: %w", err)
	}
	senders := ch.senders(c.Shadow())
	for _, name := range event.Channels {
		a.router.SetSender(name, senders[name])
	}
	if old := a.mail.Swap(ch.email); old != nil {
		old.Close()
	}
	a.sender.Swap(ch.webhook).Close()
	return nil
}

// newChannels makes the webhook channel, and e-mail when there is a mail server.
func (a *app) newChannels(c *config.Config) (channels, error) {
	o := webhook.Options{
		UserAgent: a.userAgent(), Timeout: c.Delivery.Timeout, SiteURL: c.ORCID.SiteURL, Now: a.store.Now,
		Dialer: safedial.New(safedial.Options{AllowPrivate: c.Delivery.AllowPrivate}),
	}
	if c.Delivery.Proxy != "" {
		proxy, err := url.Parse(c.Delivery.Proxy)
		if err != nil {
			return channels{}, fmt.Errorf("use delivery.proxy: %w", err)
		}
		if c.Delivery.ProxyUsername != "" {
			proxy.User = url.UserPassword(c.Delivery.ProxyUsername, c.Delivery.ProxyPassword.Reveal())
		}
		o.Proxy = proxy
	}
	w, err := webhook.New(o)
	if err != nil {
		return channels{}, fmt.Errorf("prepare webhooks: %w", err)
	}
	if c.SMTP.Host == "" {
		return channels{webhook: w}, nil
	}
	m, err := email.New(email.Options{
		Host: c.SMTP.Host, Port: c.SMTP.Port, Username: c.SMTP.Username, Password: c.SMTP.Password, TLS: c.SMTP.TLS,
		From: c.SMTP.From, Timeout: emailTimeout, UserAgent: a.userAgent(), SiteURL: c.ORCID.SiteURL, Now: a.store.Now,
		WebURL: c.WebURL, Unsubscribe: func(o *org.Organisation) string { return a.service.UnsubscribeLink(o) },
	})
	if err != nil {
		w.Close()
		return channels{}, fmt.Errorf("prepare e-mail: %w", err)
	}
	return channels{w, m}, nil
}

func policyOf(c *config.Config) deliver.Policy {
	p := deliver.DefaultPolicy()
	p.Retry = c.Delivery.Retry
	p.Timeout = max(c.Delivery.Timeout, emailTimeout)
	return p
}

// timeoutsOf bounds one attempt of each channel.
func timeoutsOf(c *config.Config) map[event.Channel]time.Duration {
	m := map[event.Channel]time.Duration{}
	for _, ch := range event.Channels {
		m[ch] = c.Delivery.Timeout
	}
	m[event.Email] = emailTimeout
	return m
}

package main

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"time"

	"dispatchd/config"
	"dispatchd/internal/deliver"
	"dispatchd/internal/deliver/email"
	"dispatchd/internal/deliver/webhook"
	"dispatchd/internal/event"
	"dispatchd/internal/safedial"
)

// emailTimeout bounds one e-mail, from connecting to the server's last answer.
const emailTimeout = 30 * time.Second

func (a *app) userAgent() string { return "dispatchd/" + a.o.Version }

// setDelivery makes the channels of the configuration.
func (a *app) setDelivery(c *config.Config) error {
	senders, err := a.senders(c)
	if err != nil {
		return err
	}
	router, err := deliver.New(senders, policyOf(c), a.store.Now, rand.Float64, deliver.WithLogger(a.log), deliver.WithMetrics(a.reg))
	if err != nil {
		return fmt.Errorf("prepare deliveries: %w", err)
	}
	a.router = router
	return nil
}

// senders makes the webhook channel, and e-mail when there is a mail server.
func (a *app) senders(c *config.Config) (map[event.Channel]deliver.Sender, error) {
	o := webhook.Options{
		UserAgent: a.userAgent(), Timeout: c.Delivery.Timeout, SiteURL: c.ORCID.SiteURL, Now: a.store.Now,
		Dialer: safedial.New(safedial.Options{AllowPrivate: c.Delivery.AllowPrivate}),
	}
	if c.Delivery.Proxy != "" {
		proxy, err := url.Parse(c.Delivery.Proxy)
		if err != nil {
			return nil, fmt.Errorf("use delivery.proxy: %w", err)
		}
		if c.Delivery.ProxyUsername != "" {
			proxy.User = url.UserPassword(c.Delivery.ProxyUsername, c.Delivery.ProxyPassword.Reveal())
		}
		o.Proxy = proxy
	}
	w, err := webhook.New(o)
	if err != nil {
		return nil, fmt.Errorf("prepare webhooks: %w", err)
	}
	a.sender.Store(w)
	senders := map[event.Channel]deliver.Sender{event.Webhook: w}
	if c.SMTP.Host == "" {
		return senders, nil
	}
	m, err := email.New(email.Options{
		Host: c.SMTP.Host, Port: c.SMTP.Port, Username: c.SMTP.Username, Password: c.SMTP.Password, TLS: c.SMTP.TLS,
		From: c.SMTP.From, Timeout: emailTimeout, UserAgent: a.userAgent(), SiteURL: c.ORCID.SiteURL, Now: a.store.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("prepare e-mail: %w", err)
	}
	senders[event.Email] = m
	return senders, nil
}

func policyOf(c *config.Config) deliver.Policy {
	p := deliver.DefaultPolicy()
	p.Retry = c.Delivery.Retry
	return p
}

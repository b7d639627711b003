package main

import (
	"context"
	"fmt"
	"time"

	"dispatchd/internal/guest"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
)

// setGuests builds what keeps callbacks of organisations' own at ORCID; it
// starts with startAttached.
func (a *app) setGuests() error {
	var err error
	a.guests, err = guest.New(guest.Options{
		Store: a.store, Directory: a.directory, ORCID: guestORCID{a}, Configured: a.configured,
		Due: func(ctx context.Context, now time.Time, limit int) ([]guest.Key, error) {
			due, err := a.store.DueGuests(ctx, now, limit)
			keys := make([]guest.Key, len(due))
			for i, d := range due {
				keys[i] = guest.Key{ORCID: d.ORCID, URL: d.URL}
			}
			return keys, err
		},
		Guard: func() error { return a.store.Guard().Err() },
		Now:   a.store.Now, Logger: a.log, Panics: a.metrics.panicked,
	})
	return err
}

// configured reports whether there is a credential of that name.
func (a *app) configured(credential string) bool {
	_, ok := a.config.Load().ORCID.Credentials[credential]
	return ok
}

// wakeGuests has every callback of an organisation looked at: some may wait for a
// credential that is back, or have lost theirs.
func (a *app) wakeGuests(ctx context.Context) {
	if err := a.store.WakeGuests(ctx); err != nil {
		a.log.Warn("callbacks of organisations are looked at within the hour", "err", err)
	}
}

// guestProblems names the credentials that callbacks of organisations wait for.
func (a *app) guestProblems() (out []service.Problem) {
	for _, s := range a.guests.Stranded() {
		out = append(out, service.Problem{
			What:  fmt.Sprintf("credential %s is not configured, and callbacks of organisations wait for it (%d)", s.Credential, s.Rows),
			Since: s.Since, Cost: "they are neither registered nor removed at ORCID: no other credential may remove what this one registered",
			Do: "put [orcid.credential." + s.Credential + "] back into the configuration file, then: dispatchd reload",
		})
	}
	return out
}

// callbacks lets the service, which is built first, settle callbacks.
type callbacks struct{ a *app }

// Settle implements service.Callbacks.
func (c callbacks) Settle(ctx context.Context, id orcid.ID, url string) (orcid.Answer, error) {
	return c.a.guests.Settle(ctx, id, url)
}

// guestORCID asks ORCID about callbacks of organisations' own, within the one
// rate and before sweeps: somebody waits for the answer.
type guestORCID struct{ a *app }

// Put implements guest.ORCID.
func (g guestORCID) Put(ctx context.Context, credential string, id orcid.ID, url string) (orcid.Answer, error) {
	return g.with(ctx, credential, func(c *orcid.Client) (orcid.Answer, error) { return c.PutWebhook(ctx, id, url) })
}

// Delete implements guest.ORCID.
func (g guestORCID) Delete(ctx context.Context, credential string, id orcid.ID, url string) (orcid.Answer, error) {
	return g.with(ctx, credential, func(c *orcid.Client) (orcid.Answer, error) { return c.DeleteWebhook(ctx, id, url) })
}

func (g guestORCID) with(ctx context.Context, credential string, request func(*orcid.Client) (orcid.Answer, error)) (orcid.Answer, error) {
	system, client := g.a.hints.system.Load(), g.a.orcid.client(credential)
	if system == nil || client == nil {
		return orcid.Answer{}, fmt.Errorf("credential %s: nothing works with it yet", credential)
	}
	done, err := system.Permit(ctx, credential, true)
	if err != nil {
		return orcid.Answer{}, err
	}
	var answer orcid.Answer
	defer func() { done(answer) }() // also when the request panics
	if answer, err = request(client); err != nil {
		answer = orcid.AnswerOf(err)
	}
	return answer, nil
}

// checkCredential asks ORCID for a new token.
func (a *app) checkCredential(ctx context.Context, name string) error {
	client := a.orcid.client(name)
	if client == nil {
		return fmt.Errorf("credential %s: nothing works with it yet", name)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return client.Check(ctx)
}

// callbackLocation is where ORCID has a registration: the address of its PUT.
func (a *app) callbackLocation(id orcid.ID, url string) string {
	return orcid.WebhookURL(a.config.Load().ORCID.APIURL, id, url)
}

package main

import (
	"context"
	"fmt"
	"iter"
	"maps"

	"dispatchd/config"
	"dispatchd/internal/callback"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

// The words for a callback key that nobody knows.
const (
	lockedWhat = "callback_key_file has none of the keys that the callbacks registered at ORCID were made with"
	lockedCost = "pings of all registered callbacks are answered 404; nothing is registered or unregistered, so that not everybody is by mistake"
	lockedDo   = "put the old key back (as a further line of callback_key_file) and reload; " +
		"or, if it is lost: dispatchd registration rearm --all"
)

// locks are the credentials that must not register, with the base that stays in
// force for them meanwhile.
type locks map[string]int

func keysOf(l locks) iter.Seq[string] { return maps.Keys(l) }

// base returns the number of the base from which a credential's callback URLs
// are built now. When registrations stand under keys that are all unknown, the
// file was lost or mixed up: then the base stays what it was and locked is true,
// instead of registering everybody anew.
func (a *app) base(ctx context.Context, c *config.Config, keys *callback.Keys, clientID string) (id int, locked bool, err error) {
	bases, err := a.store.Bases(ctx)
	if err != nil {
		return 0, false, fmt.Errorf("look at the bases of the callback URLs: %w", err)
	}
	newest, known := 0, false
	for n, b := range bases {
		if b.ClientID == clientID && b.KeyID != hubKey {
			newest, known = max(newest, n), known || keys.Has(b.KeyID)
		}
	}
	if newest > 0 && !known {
		registered, err := a.registered(ctx)
		if err != nil || registered {
			return newest, registered, err
		}
	}
	id, err = a.store.BaseID(ctx, store.Base{PublicURL: c.PublicURL, ClientID: clientID, KeyID: keys.SigningID()})
	if err != nil {
		return 0, false, fmt.Errorf("note the base of the callback URLs: %w", err)
	}
	return id, false, nil
}

// locksMore refuses keys that would lock a credential which works now.
func (a *app) locksMore(next locks) error {
	now := a.locks.Load()
	for name := range next {
		if now == nil {
			break
		}
		if _, already := (*now)[name]; !already {
			return fmt.Errorf("callback_key_file: credential %s: %s; keep the old key as a further line", name, lockedWhat)
		}
	}
	return nil
}

// registered reports whether ORCID may hold any row of ours.
func (a *app) registered(ctx context.Context) (bool, error) {
	totals, err := a.store.RegistrationTotals(ctx)
	if err != nil {
		return false, fmt.Errorf("count registrations: %w", err)
	}
	return totals[event.RegAlive]+totals[event.RegPutting]+totals[event.RegDeleting] > 0, nil
}

// AcceptKeys implements service.Registrar: a person says that the old
// callback keys are lost. It reports whether anything was locked.
func (a *app) AcceptKeys(ctx context.Context) (bool, error) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	l := a.locks.Load()
	if l == nil || len(*l) == 0 {
		return false, nil
	}
	if !a.attached.isStarted() {
		return false, &service.Error{Code: service.CodeUnavailable, What: "Redis is not there yet."}
	}
	c, keys := a.config.Load(), a.keys.Load()
	for name := range *l {
		b := store.Base{PublicURL: c.PublicURL, ClientID: c.ORCID.Credentials[name].ClientID, KeyID: keys.SigningID()}
		if _, err := a.store.BaseID(ctx, b); err != nil {
			return false, fmt.Errorf("note the base of the callback URLs: %w", err)
		}
	}
	clients, err := a.newClients(c)
	if err != nil {
		return false, err
	}
	creds, still, err := a.credentials(ctx, c, keys, clients, a.hub.Load())
	if err != nil {
		return false, err
	}
	a.locks.Store(&still)
	a.useClients(clients)
	a.log.Warn("the callback keys of before are given up: everybody is registered anew")
	return true, a.attached.system.SetCredentials(creds)
}

// Rearm implements service.Registrar.
func (a *app) Rearm(ctx context.Context, id orcid.ID, credential string) (bool, error) {
	return a.watch.Rearm(ctx, id, credential)
}

// PauseRegistrations implements service.Registrar; what starts later reads the
// fact.
func (a *app) PauseRegistrations(paused bool) {
	if system := a.hints.system.Load(); system != nil {
		system.PauseRegistrations(paused)
	}
}

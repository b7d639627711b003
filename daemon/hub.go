package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dispatchd/actors"
	"dispatchd/config"
	"dispatchd/internal/event"
	"dispatchd/internal/hub"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

// hubKey stands in a base in the place of a callback key: its URLs are the Hub's.
const hubKey = "hub"

// hubSoon is how long before the Hub's callbacks end rows that are left are a
// problem.
const hubSoon = 7 * 24 * time.Hour

// loadHub reads the Hub's callbacks of a configuration; nil when there are none.
func loadHub(c *config.Config) (*hub.Callbacks, error) {
	if c.Hub.LegacyMap == "" {
		return nil, nil
	}
	m, err := hub.ReadMap(c.Hub.LegacyMap, credentialNames(c))
	if err != nil {
		return nil, err
	}
	return hub.NewCallbacks(c.Hub.LegacyBaseURL, c.Hub.Until(), m)
}

// setHub makes the Hub's callbacks answered, and taken over when Redis is there.
func (a *app) setHub(cb *hub.Callbacks) {
	a.hub.Store(cb)
	if cb != nil {
		a.log.Info("the Hub's callbacks are answered", "callbacks", len(cb.Map.Rows), "until", cb.Until)
		for i, err := range cb.Map.Skipped {
			if i == 10 {
				a.log.Warn("more lines of hub.legacy_map are skipped", "lines", len(cb.Map.Skipped)-i)
				break
			}
			a.log.Warn("a line of hub.legacy_map is skipped: ORCID has no such record", "err", err)
		}
	}
	a.taker.Set(cb)
}

// findHub is what the callback listener asks of paths that are none of ours.
func (a *app) findHub(path []byte, now time.Time) (string, orcid.ID, hub.Verdict) {
	cb := a.hub.Load()
	if cb == nil {
		return "", orcid.ID{}, hub.Unknown
	}
	credential, id, v := cb.Find(path, now)
	if v == hub.Good {
		credential = event.HubCredential(credential)
	}
	return credential, id, v
}

func (a *app) newTaker() error {
	t, err := hub.NewTaker(hub.TakerOptions{
		Store: a.store, Base: a.hubBase, Now: a.store.Now, Logger: a.log, Registerer: a.reg, Panics: a.metrics.panicked,
	})
	a.taker = t
	return err
}

// hubBase numbers the Hub's callback URLs of a credential.
func (a *app) hubBase(ctx context.Context, hubURL, credential string) (int, error) {
	cred, ok := a.config.Load().ORCID.Credentials[credential]
	if !ok {
		return 0, fmt.Errorf("credential %s is not configured any more", credential)
	}
	return a.store.BaseID(ctx, store.Base{PublicURL: hubURL, ClientID: cred.ClientID, KeyID: hubKey})
}

// hubCredentials are those by which the Hub's rows are unregistered, also when
// [hub] is gone from the file: the rows stand in the users' records.
func (a *app) hubCredentials(ctx context.Context, c *config.Config, clients orcidClientMap, cb *hub.Callbacks) ([]actors.Credential, error) {
	if cb != nil {
		// Their bases must be there before the first row that needs one.
		for _, name := range cb.Map.Credentials() {
			if cred, ok := c.ORCID.Credentials[name]; ok {
				if _, err := a.store.BaseID(ctx, store.Base{PublicURL: cb.Base, ClientID: cred.ClientID, KeyID: hubKey}); err != nil {
					return nil, fmt.Errorf("note the base of the Hub's callback URLs: %w", err)
				}
			}
		}
	}
	bases, err := a.store.Bases(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at the bases of the callback URLs: %w", err)
	}
	var out []actors.Credential
	for _, name := range credentialNames(c) {
		cred, base := c.ORCID.Credentials[name], 0
		for n, b := range bases {
			if b.KeyID == hubKey && b.ClientID == cred.ClientID {
				base = max(base, n)
			}
		}
		if base == 0 {
			continue
		}
		out = append(out, actors.Credential{
			Name: event.HubCredential(name), Rate: cred.Rate, BaseID: base, Registrar: hubRegistrar{clients[name].client, a.store},
		})
	}
	return out, nil
}

// hubRegistrar unregisters what the Hub registered; the epoch is the Hub's id of
// the user.
type hubRegistrar struct {
	client *orcid.Client
	store  *store.Store
}

// Put implements actors.Registrar: nobody wants rows of the Hub.
func (hubRegistrar) Put(context.Context, orcid.ID, int, int) (orcid.Answer, error) {
	return orcid.Answer{}, errors.New("a callback of the Hub is never registered again")
}

// Delete implements actors.Registrar.
func (r hubRegistrar) Delete(ctx context.Context, id orcid.ID, epoch, base int) (orcid.Answer, error) {
	b, err := r.store.Base(ctx, base)
	if err != nil {
		return orcid.Answer{}, fmt.Errorf("find base %d of a callback URL: %w", base, err)
	}
	return r.client.DeleteWebhook(ctx, id, hub.CallbackURL(b.PublicURL, epoch))
}

// hubProblems says when the Hub's callbacks end before all are replaced.
func (a *app) hubProblems() []service.Problem {
	p, until := a.taker.Progress()
	if p.Waiting == 0 || until.IsZero() || until.Sub(a.store.Now()) > hubSoon {
		return nil
	}
	return []service.Problem{{
		What: fmt.Sprintf("%d callbacks of the Hub are not replaced yet, and they are answered 404 from %s on", p.Waiting, until.UTC().Format(time.DateTime)),
		Cost: "from then on changes of these researchers are found by catch-up only", Do: "dispatchd credential list, or a later hub.legacy_until",
	}}
}

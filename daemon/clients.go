package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dispatchd/actors"
	"dispatchd/config"
	"dispatchd/internal/callback"
	"dispatchd/internal/event"
	"dispatchd/internal/hub"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
)

// orcidClients keeps one client per credential as long as its settings stay,
// so that a reload does not throw connections and tokens away.
type orcidClients struct {
	mu      sync.Mutex
	metrics *orcid.Metrics
	byName  orcidClientMap
}

// orcidClientMap holds the client of each credential; it is not changed any more.
type orcidClientMap map[string]*orcidClientEntry

type orcidClientEntry struct {
	settings config.Credential
	client   *orcid.Client
}

func credentialNames(c *config.Config) []string {
	return slices.Sorted(maps.Keys(c.ORCID.Credentials))
}

// credentials makes what the actors know of every credential, and says which of
// them must not register with these keys.
func (a *app) credentials(ctx context.Context, c *config.Config, keys *callback.Keys, clients orcidClientMap, callbacks *hub.Callbacks) ([]actors.Credential, locks, error) {
	var out []actors.Credential
	locked := locks{}
	for _, name := range credentialNames(c) {
		cred := c.ORCID.Credentials[name]
		base, lost, err := a.base(ctx, c, keys, cred.ClientID)
		if err != nil {
			return nil, nil, err
		}
		one := actors.Credential{
			Name: name, Rate: cred.Rate, BaseID: base,
			Registrar: &registrar{client: clients[name].client, clientID: cred.ClientID, keys: &a.keys, store: a.store},
		}
		if lost {
			locked[name], one.Locked = base, lockedWhat+"; "+lockedDo
			a.log.Error("A CALLBACK KEY IS LOST: nothing is registered with a credential", "credential", name, "err", lockedWhat, "do", lockedDo)
		}
		out = append(out, one)
	}
	ofHub, err := a.hubCredentials(ctx, c, clients, callbacks)
	return append(out, ofHub...), locked, err
}

// knowFormer lets intake take also pings of the client ids that a credential had
// before and of public URLs from before: their rows go on pinging until they are
// deleted or ORCID gives up on them, and such a ping is as good as any.
func (a *app) knowFormer(ctx context.Context, c *config.Config) error {
	former := map[string]string{}
	for _, name := range credentialNames(c) {
		fact := "client-ids/" + name
		text, err := a.store.Fact(ctx, fact)
		if err != nil {
			return fmt.Errorf("ask for the client ids of credential %s: %w", name, err)
		}
		ids := strings.Fields(text)
		for _, id := range ids {
			former[id] = name
		}
		if now := c.ORCID.Credentials[name].ClientID; !slices.Contains(ids, now) {
			if err := a.store.SetFact(ctx, fact, strings.Join(append(ids, now), " ")); err != nil {
				return fmt.Errorf("note the client ids of credential %s: %w", name, err)
			}
		}
	}
	bases, err := a.store.Bases(ctx)
	if err != nil {
		return fmt.Errorf("look at the bases of the callback URLs: %w", err)
	}
	var urls []string
	for _, b := range bases {
		urls = append(urls, b.PublicURL)
	}
	a.know(c, former, urls)
	return nil
}

// know sets what intake takes: the present client ids go before former ones.
func (a *app) know(c *config.Config, former map[string]string, urls []string) {
	clients := maps.Clone(former)
	if clients == nil {
		clients = map[string]string{}
	}
	for name, cred := range c.ORCID.Credentials {
		clients[cred.ClientID] = name
	}
	var prefixes []string
	for _, raw := range append(urls, c.PublicURL) {
		u, err := url.Parse(raw)
		if err != nil {
			continue // config has checked it
		}
		if p := strings.TrimRight(u.Path, "/"); p != "" && !slices.Contains(prefixes, p) {
			prefixes = append(prefixes, p)
		}
	}
	a.clients.Store(&clients)
	a.prefixes.Store(&prefixes)
}

// sweepMoved looks at every user when the callback URLs of a credential are
// built from something else than last time (public_url, client id, callback
// key): nothing else would wake them. Which base was swept last is kept in
// Redis, so that a change made while the daemon was down is seen too.
func (a *app) sweepMoved(ctx context.Context, creds []actors.Credential, locked locks) error {
	moved := map[string]string{} // fact → base
	sweep := false
	for _, c := range creds {
		if _, ok := locked[c.Name]; ok || event.IsHub(c.Name) {
			continue // nothing is registered with it, or not until a person says so
		}
		fact, base := "swept-base/"+c.Name, strconv.Itoa(c.BaseID)
		last, err := a.store.Fact(ctx, fact)
		if err != nil {
			return fmt.Errorf("ask for the base that was swept last: %w", err)
		}
		if last == base {
			continue
		}
		moved[fact] = base
		if last != "" {
			sweep = true
			a.log.Warn("the callback URLs of a credential change: every user of it is registered anew, the old rows go 10 minutes later", "credential", c.Name)
		}
	}
	if sweep {
		if _, err := a.service.SyncRegistrations(ctx, service.By{Who: "file", From: "changed callback URLs"}); err != nil {
			return err
		}
	}
	for fact, base := range moved {
		if err := a.store.SetFact(ctx, fact, base); err != nil {
			return fmt.Errorf("note the base that is swept: %w", err)
		}
	}
	return nil
}

// newClients makes the ORCID clients of a configuration without using them yet;
// a credential that stays as it is keeps the one it has.
func (a *app) newClients(c *config.Config) (orcidClientMap, error) {
	oc := &a.orcid
	oc.mu.Lock()
	defer oc.mu.Unlock()
	if oc.metrics == nil {
		oc.metrics = orcid.NewMetrics(a.reg)
		a.stop.push("ORCID clients", func(context.Context) error {
			a.useClients(nil)
			return nil
		})
	}
	out := orcidClientMap{}
	for name, cred := range c.ORCID.Credentials {
		if e := oc.byName[name]; e != nil && e.settings == cred {
			out[name] = e
			continue
		}
		client, err := a.newClient(c, cred, a.store.Tokens(name))
		if err != nil {
			return nil, fmt.Errorf("prepare the ORCID client of credential %s: %w", name, err)
		}
		out[name] = &orcidClientEntry{cred, client}
	}
	return out, nil
}

func (a *app) newClient(c *config.Config, cred config.Credential, tokens orcid.TokenStore) (*orcid.Client, error) {
	return orcid.NewClient(orcid.ClientOptions{
		APIURL: c.ORCID.APIURL, TokenURL: c.ORCID.TokenURL, SiteURL: c.ORCID.SiteURL,
		ClientID: cred.ClientID, ClientSecret: cred.ClientSecret,
		UserAgent: fmt.Sprintf("%s (+%s)", a.userAgent(), c.WebURL),
		Tokens:    tokens, Metrics: a.orcid.metrics, Logger: a.log,
	})
}

// useClients makes these the clients in use and lets go of the others;
// requests under way end with the old ones.
func (a *app) useClients(clients orcidClientMap) {
	oc := &a.orcid
	oc.mu.Lock()
	defer oc.mu.Unlock()
	for name, e := range oc.byName {
		if clients[name] != e {
			e.client.Close()
		}
	}
	oc.byName = clients
}

// tryTime is what ORCID gets to say whether it takes a credential.
const tryTime = 15 * time.Second

// tryCredentials asks ORCID for a token with every credential that is new or has
// changed. One that ORCID refuses is an error: the old one would be given up for
// nothing. When ORCID gives no answer the words say so, and it is used untried.
func (a *app) tryCredentials(ctx context.Context, next *config.Config) (untried []string, err error) {
	old := a.config.Load()
	for _, name := range credentialNames(next) {
		cred := next.ORCID.Credentials[name]
		was := old.ORCID.Credentials[name]
		if was.ClientID == cred.ClientID && was.ClientSecret == cred.ClientSecret {
			continue
		}
		// Without the tokens in Redis: they are the old one's until it is given up.
		client, err := a.newClient(next, cred, nil)
		if err != nil {
			return nil, fmt.Errorf("prepare the ORCID client of credential %s: %w", name, err)
		}
		trying, cancel := context.WithTimeout(ctx, tryTime)
		err = client.Check(trying)
		cancel()
		client.Close()
		var refused *orcid.CredentialError
		switch {
		case err == nil:
		case errors.As(err, &refused):
			return nil, fmt.Errorf("orcid.credential.%s: %w", name, refused)
		default:
			untried = append(untried, fmt.Sprintf("orcid.credential.%s: used untried, ORCID gave no answer: %s", name, err))
		}
	}
	return untried, nil
}

// actorStateOf puts the actors' status in the service's words.
func actorStateOf(st actors.Status) service.ActorState {
	out := service.ActorState{InFlight: st.InFlight, Paused: st.Paused, Rate: st.Rate, Speed: st.Speed}
	for _, c := range st.Credentials {
		out.Credentials = append(out.Credentials, service.CredentialState{
			Name: c.Name, State: c.State, Detail: c.Detail, Since: c.Since, Rate: c.Rate, Waiting: c.Waiting,
		})
	}
	return out
}

// healthTimeout bounds asking the actors whether they answer.
const healthTimeout = 2 * time.Second

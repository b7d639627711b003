package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"dispatchd/config"
	"dispatchd/internal/callback"
	"dispatchd/internal/service"
)

// reload reads the configuration again and makes it so, all or nothing: what
// can fail comes before anything that is live is touched. It says what changed.
func (a *app) reload(ctx context.Context) (changes []string, err error) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	// Whatever comes of it, the service manager hears that it is over: it would
	// call us "reloading" for ever.
	a.o.Notify(reloadingState())
	defer func() {
		a.reloadFailed.Store(err != nil)
		a.tellReady(ctx)
		a.metrics.reloaded(err == nil)
		if err != nil {
			a.log.Error("the configuration was not reloaded; the old one stays", "err", err)
			return
		}
		a.log.Info("configuration reloaded", "changes", changes)
	}()
	if a.o.ConfigPath == "" {
		return nil, errors.New("there is no configuration file to read")
	}
	old := a.config.Load()
	next, err := config.Load(a.o.ConfigPath)
	if err != nil {
		return nil, err
	}
	// Another data_dir needs a restart. Until then the keys are those of the one
	// in use: new ones in the other would be used at once.
	dir := cmp.Or(next.DataDir, a.o.Config.DataDir)
	next.DataDir = a.o.Config.DataDir
	made, err := config.EnsureKeys(next)
	if err != nil {
		return nil, err
	}
	next.DataDir = dir
	for _, m := range made {
		a.log.Info("key made; keep a copy of it in a safe place", "path", m)
	}
	changes = withRestarts(config.Diff(old, next), config.Diff(a.o.Config, next))
	config.KeepRunning(next, a.o.Config)
	if !a.attached.isStarted() {
		return nil, errors.New("redis is not there yet, so organisations cannot be changed; reload again when it is")
	}
	keys, err := callback.NewKeys(next.CallbackKeys)
	if err != nil {
		return nil, fmt.Errorf("use the callback keys: %w", err)
	}
	untried, err := a.tryCredentials(ctx, next)
	if err != nil {
		return nil, err
	}
	clients, err := a.newClients(next)
	if err != nil {
		return nil, err
	}
	callbacks, err := loadHub(next)
	if err != nil {
		return nil, err
	}
	creds, locked, err := a.credentials(ctx, next, keys, clients, callbacks)
	if err != nil {
		return nil, err
	}
	if err := a.locksMore(locked); err != nil {
		return nil, err
	}
	ch, err := a.newChannels(next)
	if err != nil {
		return nil, err
	}
	fileChanges, err := a.applyFile(ctx, old, next)
	if err != nil {
		ch.webhook.Close()
		return nil, err
	}
	// From here on only what config.Load has checked can fail: nothing.
	if err := a.setKeys(next); err != nil {
		return nil, err
	}
	if err := a.knowFormer(ctx, next); err != nil {
		a.log.Error("pings by URLs of before are not taken until the next reload", "err", err)
	}
	a.locks.Store(&locked)
	a.useClients(clients)
	if err := a.attached.system.SetCredentials(creds); err != nil {
		return nil, err
	}
	if err := a.sweepMoved(ctx, creds, locked); err != nil {
		// The rest is live already: at the next start or reload it is made up for.
		a.log.Error("users are not registered anew yet; reload again", "err", err)
	}
	if err := a.attached.system.SetLimits(limitsOf(next)); err != nil {
		return nil, err
	}
	if err := a.useChannels(ch, next); err != nil {
		return nil, err
	}
	a.config.Store(next)
	a.setHub(callbacks)
	if !slices.Equal(credentialNames(old), credentialNames(next)) {
		a.wakeGuests(ctx)
	}
	a.o.Level.Set(next.Log.Level)
	return append(sayOnce(changes, fileChanges), untried...), nil
}

// withRestarts says of what needs a restart what differs from what runs, not
// only from the last reload, so that it is said until it is done.
func withRestarts(sinceReload, sinceStart []string) []string {
	needed := func(line string) bool { return strings.HasPrefix(line, "restart needed: ") }
	out := slices.DeleteFunc(sinceReload, needed)
	return append(out, slices.DeleteFunc(sinceStart, func(line string) bool { return !needed(line) })...)
}

// sayOnce joins what differs in the file with what was done about its
// organisations; of an organisation in both only what was done is said.
func sayOnce(differs, done []string) []string {
	about := func(line string) string {
		id, _, _ := strings.Cut(line, ": ")
		return id
	}
	ids := map[string]bool{}
	for _, line := range done {
		ids[about(line)] = true
	}
	return append(slices.DeleteFunc(differs, func(line string) bool { return ids[about(line)] }), done...)
}

// applyFile checks organisations against the new credentials, so the new
// configuration must be visible while it does.
func (a *app) applyFile(ctx context.Context, old, next *config.Config) ([]string, error) {
	a.config.Store(next)
	changes, err := a.service.ApplyFile(ctx, service.By{Who: "file", From: "reload"}, next.Organisations)
	if err != nil {
		a.config.Store(old)
	}
	return changes, err
}

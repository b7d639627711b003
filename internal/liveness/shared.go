package liveness

import (
	"context"
	"slices"

	"dispatchd/internal/event"
)

// byCredential makes the latest ping of each user that of the credential, where
// several have registered the user: a ping of another one says nothing about its
// row. While nothing is noted by credential, the latest of all stands. The users
// must be the caller's own, and not be saved.
func (w *Watcher) byCredential(ctx context.Context, credential string, users []*event.User) error {
	shared := slices.DeleteFunc(slices.Clone(users), func(u *event.User) bool { return u == nil || !u.Shared() })
	if len(shared) == 0 {
		return nil
	}
	names := []string{credential}
	for _, u := range shared {
		names = append(names, credentialsOf(u)...)
	}
	slices.Sort(names[1:])
	names = slices.Compact(names)
	pings, err := w.o.Store.PingsOf(ctx, idsOf(shared), names)
	if err != nil {
		return err
	}
	for i, u := range shared {
		for _, at := range pings[i] {
			if !at.IsZero() {
				u.LastPing = pings[i][0]
				break
			}
		}
	}
	return nil
}

// credentialsOf lists the credentials that have registrations of the user.
func credentialsOf(u *event.User) (names []string) {
	for i := range u.Registrations {
		if c := u.Registrations[i].Credential; !slices.Contains(names, c) {
			names = append(names, c)
		}
	}
	return names
}

// forgetPings drops what is kept by credential of one that is leaving the user,
// and of the last one, too: the record has its pings.
func (w *Watcher) forgetPings(ctx context.Context, u *event.User) error {
	leaving := slices.DeleteFunc(credentialsOf(u), func(c string) bool {
		return slices.ContainsFunc(u.Registrations, func(r event.Registration) bool { return r.Credential == c && r.State != event.RegDeleting })
	})
	if len(leaving) == 0 {
		return nil
	}
	if !u.Shared() {
		leaving = credentialsOf(u)
	}
	return w.o.Store.DropPings(ctx, u.ORCID, leaving)
}

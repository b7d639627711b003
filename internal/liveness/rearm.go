package liveness

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/register"
)

// The reasons for which a registration is made anew.
const (
	reasonAtRisk = "at_risk" // it changed in a long outage and stayed silent after it
	reasonSilent = "silent"  // two changes in a row without a ping
	reasonAsked  = "asked"   // an operator's word
)

// maxConflicts bounds how often a record is edited anew because somebody else
// was faster.
const maxConflicts = 20

// Rearm makes the registrations of a user with a credential anew, on an
// operator's word. It reports whether there was anything to do.
func (w *Watcher) Rearm(ctx context.Context, id orcid.ID, credential string) (bool, error) {
	return w.rearm(ctx, id, credential, reasonAsked)
}

// rearm plans a registration with a new epoch. Nobody is hinted: recovery finds
// the work, behind what people wait for.
func (w *Watcher) rearm(ctx context.Context, id orcid.ID, credential, reason string) (bool, error) {
	for range maxConflicts {
		users, err := w.o.Store.Users(ctx, []orcid.ID{id})
		if err != nil {
			return false, err
		}
		if len(users) != 1 || users[0] == nil {
			return false, nil
		}
		now := w.o.Now()
		next := register.Rearm(*users[0], credential, now)
		if slices.Equal(next.Registrations, users[0].Registrations) {
			return false, nil
		}
		_, err = w.o.Store.SaveUser(ctx, next, now)
		if errors.Is(err, event.ErrConflict) {
			continue
		}
		if err != nil {
			return false, err
		}
		w.metrics.rearmed.WithLabelValues(reason).Inc()
		w.log.Info("a registration is made anew", "orcid", id, "credential", credential, "reason", reason)
		return true, nil
	}
	return false, fmt.Errorf("make the registration of %s anew: %w", id, event.ErrConflict)
}

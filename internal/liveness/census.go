package liveness

import (
	"context"
	"fmt"
	"time"

	"dispatchd/internal/event"
)

const (
	// countEvery is the pause between two counts while no registration changes;
	// while some do it is countTicks ticks. A count that takes long rests countRest
	// times as long, so that it costs Redis next to nothing, and after each page
	// pageRest times as long as that took, so that deliveries meanwhile hardly wait
	// for it: a million users are some ten seconds of Redis.
	countEvery = 15 * time.Minute
	countTicks = 2
	countRest  = 200
	pageRest   = 4
)

// Count is how many registrations are wanted and how many of those live, by a
// look at every user: what is wanted is computed, never kept as a number.
type Count struct {
	At     time.Time // when the look ended; zero: there was none yet
	Wanted int       // users times the credentials that an enabled organisation of theirs has
	// Missing are those of Wanted that ORCID has not confirmed, or not any more.
	Missing int
}

// Counted returns the latest count.
func (w *Watcher) Counted() Count {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// census looks at every user when it is time to.
func (w *Watcher) census(ctx context.Context) error {
	began := time.Now()
	pause := countEvery
	if w.changed.Load() {
		pause = countTicks * w.o.Tick
	}
	// Only this goroutine counts: try sees to it.
	if !w.counted.IsZero() && began.Sub(w.counted) < max(pause, countRest*w.countTook) {
		return nil
	}
	w.changed.Store(false)
	var c Count
	var took time.Duration
	for _, o := range w.o.Directory.All() {
		if !o.AnyEnabled() {
			continue
		}
		serves := w.serves(o.Credential)
		for cursor, more := "", true; more; more = cursor != "" {
			page := time.Now()
			ids, next, err := w.o.Store.Members(ctx, o.ID, cursor, pageUsers)
			if err != nil {
				return fmt.Errorf("count the registrations: %w", err)
			}
			users, err := w.o.Store.Users(ctx, ids)
			if err != nil {
				return fmt.Errorf("count the registrations: %w", err)
			}
			for _, u := range users {
				// Whoever is in several organisations of the credential counts with
				// the first of them.
				if u == nil || firstOrg(u, serves) != o.ID {
					continue
				}
				c.Wanted++
				if !alive(u, o.Credential) {
					c.Missing++
				}
			}
			cursor = next
			busy := time.Since(page)
			took += busy
			select {
			case <-ctx.Done():
				return fmt.Errorf("count the registrations: %w", context.Cause(ctx))
			case <-time.After(pageRest * busy):
			}
		}
	}
	c.At = w.o.Now()
	w.counted, w.countTook = time.Now(), took
	w.mu.Lock()
	w.count = c
	w.mu.Unlock()
	return nil
}

// alive reports whether ORCID has confirmed a registration of the user with the
// credential that is not on its way out.
func alive(u *event.User, credential string) bool {
	for i := range u.Registrations {
		if r := &u.Registrations[i]; r.Credential == credential && r.State == event.RegAlive {
			return true
		}
	}
	return false
}

package fanout

import (
	"context"
	"errors"
	"time"

	"dispatchd/internal/store"
)

const (
	// refusedRetry is how often a lane tries again what Redis refuses.
	refusedRetry = time.Minute
	// refusedMost is how many such entries a lane goes past before it waits: all
	// of them are read whenever they are tried again.
	refusedMost = 1000
)

// Refused tells of entries of the intake log that Redis refuses to process, as
// when a hand made a key another type. They wait in the log and hold up nobody
// else; what they cause in other partitions is done, and is not done twice.
type Refused struct {
	Entries int
	Since   time.Time // when the oldest was written
	Err     error     // of the latest
	// Full says that a lane goes past no more of them: all news behind waits.
	Full bool
}

// Refused tells what waits so in all lanes.
func (r *Reader) Refused() (all Refused) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.refused {
		all.join(l)
	}
	return all
}

func (all *Refused) join(x Refused) {
	if x.Entries == 0 {
		return
	}
	if all.Entries == 0 || x.Since.Before(all.Since) {
		all.Since = x.Since
	}
	all.Entries, all.Err, all.Full = all.Entries+x.Entries, x.Err, all.Full || x.Full
}

// applyEach applies entries, and without those that Redis refuses if it must. It
// stops before one that is too much.
func (r *Reader) applyEach(ctx context.Context, l *lane, entries []store.Entry) error {
	counts, err := r.apply(ctx, l.number, entries)
	switch {
	case err == nil:
		for i, e := range entries {
			l.applied = append(l.applied, appliedRow{e.Committed(), counts[i]})
		}
		l.after = entries[len(entries)-1].ID
		return nil
	case !errors.Is(err, store.ErrAnswered):
		return err
	case len(entries) == 1:
		if l.refused.Full = l.refused.Entries == refusedMost; l.refused.Full {
			return nil
		}
		l.refused.join(Refused{Entries: 1, Since: entries[0].Committed(), Err: err})
		l.after = entries[0].ID
		return nil
	}
	r.metrics.errors.Inc()
	for i := 0; i < len(entries) && !l.refused.Full; i++ {
		if err := r.applyEach(ctx, l, entries[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// tell publishes what a lane went past. After it began anew it knows all of it
// only at the end of the log.
func (r *Reader) tell(l *lane, end bool) {
	r.mu.Lock()
	was := r.refused[l.number]
	if !end && l.refused.Entries <= was.Entries {
		r.mu.Unlock()
		return
	}
	r.refused[l.number] = l.refused
	r.mu.Unlock()
	now := l.refused
	switch {
	case now.Entries > 0 && was.Entries == 0:
		r.log.Error("entries of the intake log wait, because Redis refuses what they need; the others go on", "lane", l.number, "err", now.Err)
	case now.Entries == 0 && was.Entries > 0:
		r.log.Info("what waited in the intake log was processed", "lane", l.number)
	}
	switch {
	case now.Full && !was.Full:
		r.log.Error("a lane of the intake log waits with all that is behind: Redis refuses too many of its entries", "lane", l.number, "entries", now.Entries)
	case was.Full && !now.Full:
		r.log.Info("a lane of the intake log goes on", "lane", l.number)
	}
}

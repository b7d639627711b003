package fanout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// parkedRetry is how often what was set aside is tried again.
const parkedRetry = time.Minute

// parking collects what a batch cannot process: it must neither be lost nor hold
// up everybody behind it.
type parking struct {
	items   []store.Item
	damaged []string
	at      time.Time // of the newest entry with a damaged line
}

// lines takes the lines of an entry that cannot be read.
func (p *parking) lines(e store.Entry, counts *store.Processed) {
	if len(e.Damaged) == 0 {
		return
	}
	p.damaged, p.at = append(p.damaged, e.Damaged...), e.Committed()
	pings, announced := e.DamagedPings()
	counts.Pings += pings
	counts.Parked += pings
	counts.Announced += announced
}

// park sets aside, before the entries can be removed.
func (r *Reader) park(ctx context.Context, lane int, p parking) error {
	if len(p.items)+len(p.damaged) == 0 {
		return nil
	}
	if err := r.o.Store.Park(ctx, lane, p.items, p.damaged, p.at); err != nil {
		return err
	}
	r.log.Error("pings were set aside: a stored record or a line of the intake log is damaged; `dispatchd status` says whose",
		"lane", lane, "pings", len(p.items), "lines", len(p.damaged))
	return nil
}

// retryParked tries what was set aside again. That Redis refuses it is no reason
// for others to wait.
func (r *Reader) retryParked(ctx context.Context, lane int) error {
	err := r.unpark(ctx, lane)
	stuck := errors.Is(err, store.ErrAnswered)
	if stuck && !r.stuck[lane] {
		r.log.Error("what was set aside cannot be tried again; the news goes on", "lane", lane, "err", err)
	}
	if stuck || err == nil {
		r.stuck[lane] = stuck
		return nil
	}
	return err
}

// unpark appends what was set aside to the log again if the record can be read
// now, or is gone.
func (r *Reader) unpark(ctx context.Context, lane int) error {
	list, err := r.o.Store.ParkedIn(ctx, lane)
	if err != nil {
		return err
	}
	var waiting []store.Parked
	var ids []orcid.ID
	for _, p := range list {
		if p.Line == "" {
			waiting, ids = append(waiting, p), append(ids, p.Item.ORCID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	users, err := r.o.Store.LookUp(ctx, ids, make([]time.Time, len(ids)))
	if err != nil {
		return fmt.Errorf("look up who was set aside: %w", err)
	}
	var items []store.Item
	var done []store.Parked
	for i, u := range users {
		if u == nil || !u.Damaged {
			items, done = append(items, waiting[i].Item), append(done, waiting[i])
		}
	}
	if len(items) == 0 {
		return nil
	}
	if err := r.o.Store.AppendItems(ctx, items); err != nil {
		return err
	}
	if _, err := r.o.Store.Unpark(ctx, done); err != nil {
		return err
	}
	r.log.Info("what was set aside goes on", "lane", lane, "pings", len(items))
	return nil
}

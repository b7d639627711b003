package liveness

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
)

// pageUsers is how many users are looked at between two notes of the cursor:
// ten calls of ORCID.
const pageUsers = 10 * orcid.MaxSearchIDs

func progressFact(credential string) string { return "catch-up/" + credential }

func (w *Watcher) load(ctx context.Context, credential string) (progress, error) {
	var p progress
	text, err := w.o.Store.Fact(ctx, progressFact(credential))
	if err != nil || text == "" {
		return p, err
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		w.log.Error("the progress of catch-up is damaged; the last two days are caught up", "credential", credential, "err", err)
		return progress{Owed: w.o.Now().Add(-afterLoss)}, nil
	}
	return p, nil
}

func (w *Watcher) save(ctx context.Context, credential string, p progress) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("note the progress of catch-up: %w", err)
	}
	return w.o.Store.SetFact(ctx, progressFact(credential), string(text))
}

// handOver makes every credential owe a round for the gaps that nobody caught
// up with yet.
func (w *Watcher) handOver(ctx context.Context, credentials []string) error {
	since, until := w.o.Gaps.fresh()
	if since.IsZero() {
		return nil
	}
	if err := w.Owe(ctx, credentials, since); err != nil {
		return err
	}
	w.o.Gaps.handed(until)
	return nil
}

// Owe asks for a round of each credential over what changed since then.
func (w *Watcher) Owe(ctx context.Context, credentials []string, since time.Time) error {
	for _, c := range credentials {
		if err := w.change(ctx, c, func(p *progress) { p.owe(since) }); err != nil {
			return fmt.Errorf("note what is to be caught up: %w", err)
		}
	}
	w.Kick()
	return nil
}

// OweLost asks for a round over all that a Redis which was rolled back may have
// lost: its own notes tell until when it knew everything.
func (w *Watcher) OweLost(ctx context.Context, credentials []string) error {
	for _, c := range credentials {
		err := w.change(ctx, c, func(p *progress) {
			since := p.Done
			if p.Round != nil {
				// What the round has told may be lost as well.
				since, p.Round = p.Round.Since.Add(overlap), nil
			}
			if since.IsZero() {
				since = w.o.Now().Add(-afterLoss)
			}
			p.owe(since)
		})
		if err != nil {
			return fmt.Errorf("note what is to be caught up: %w", err)
		}
	}
	w.Kick()
	return nil
}

// change edits the progress of a credential; one goroutine at a time does.
func (w *Watcher) change(ctx context.Context, credential string, f func(*progress)) error {
	w.editing.Lock()
	defer w.editing.Unlock()
	p, err := w.load(ctx, credential)
	if err != nil {
		return err
	}
	f(&p)
	return w.save(ctx, credential, p)
}

// catchUp begins the round of a credential that is due, or goes on with the one
// under way, to its end.
func (w *Watcher) catchUp(ctx context.Context, credential string) error {
	var r *round
	err := w.changeIf(ctx, credential, func(p *progress) bool {
		changed := p.begin(credential, w.o.Every(), w.o.Now())
		r = p.Round
		return changed
	})
	if err != nil || r == nil {
		return err
	}
	if behind, err := w.behind(ctx); err != nil || behind {
		return err
	}
	if r.Calls == 0 && r.At.IsZero() && r.Org == "" {
		if err := w.plan(ctx, credential, r); err != nil {
			return err
		}
	}
	for done := false; !done; {
		if behind, err := w.behind(ctx); err != nil || behind {
			return err // the round goes on from here
		}
		before := r.Org + "/" + r.Cursor + r.At.String()
		if r.Slices {
			done, err = w.stepSlice(ctx, credential, r)
		} else {
			done, err = w.stepUsers(ctx, credential, r)
		}
		if err != nil {
			return fmt.Errorf("catch up with %s: %w", credential, err)
		}
		if !done && before == r.Org+"/"+r.Cursor+r.At.String() {
			return fmt.Errorf("catch up with %s: a step got nowhere", credential)
		}
		gone := false
		err := w.change(ctx, credential, func(p *progress) {
			if p.Round == nil || !p.Round.Began.Equal(r.Began) {
				gone = true // a loss was accepted meanwhile: all of it again
				return
			}
			p.Round = r
			if done {
				p.finish()
			}
		})
		if err != nil || gone {
			return err
		}
	}
	w.metrics.rounds.WithLabelValues(r.Why).Inc()
	w.log.Info("caught up", "credential", credential, "reason", r.Why, "since", r.Since, "users", r.Users, "changed", r.Found,
		"without_ping", r.Told, "calls", r.Calls, "by_slices", r.Slices)
	return nil
}

// changeIf is change, written only when f says so.
func (w *Watcher) changeIf(ctx context.Context, credential string, f func(*progress) bool) error {
	w.editing.Lock()
	defer w.editing.Unlock()
	p, err := w.load(ctx, credential)
	if err != nil || !f(&p) {
		return err
	}
	return w.save(ctx, credential, p)
}

// plan chooses the way with fewer calls.
func (w *Watcher) plan(ctx context.Context, credential string, r *round) error {
	users := 0
	for _, o := range w.served(credential) {
		n, err := w.o.Store.MemberCount(ctx, o.ID)
		if err != nil {
			return err
		}
		users += n
	}
	if !worthCounting(users) {
		return nil
	}
	_, total, err := w.o.ORCID.ChangedBetween(ctx, credential, r.Since, r.Began, 0, 1)
	if err != nil {
		return fmt.Errorf("count changes: %w", err)
	}
	w.called(r)
	if r.Slices = bySlices(users, total); r.Slices {
		r.At, r.Width = r.Since, firstWidth(r.Began.Sub(r.Since), total)
	}
	return nil
}

func (w *Watcher) called(r *round) {
	r.Calls++
	w.metrics.calls.Inc()
}

// served lists the organisations that a credential serves, by their ids.
func (w *Watcher) served(credential string) []*org.Organisation {
	return slices.DeleteFunc(slices.Clone(w.o.Directory.All()), func(o *org.Organisation) bool {
		return o.Credential != credential || !o.AnyEnabled()
	})
}

// serves reports whether the credential serves the organisation now.
func (w *Watcher) serves(credential string) func(orgID string) bool {
	return func(orgID string) bool {
		o, ok := w.o.Directory.Organisation(orgID)
		return ok && o.Credential == credential && o.AnyEnabled()
	}
}

// stepUsers asks for the changes of the next users. Whoever belongs to several
// organisations of the credential is looked at with the first of them.
func (w *Watcher) stepUsers(ctx context.Context, credential string, r *round) (done bool, err error) {
	orgs := w.served(credential)
	i := slices.IndexFunc(orgs, func(o *org.Organisation) bool { return o.ID >= r.Org })
	if i < 0 {
		return true, nil
	}
	if orgs[i].ID != r.Org {
		r.Org, r.Cursor = orgs[i].ID, "" // the first, or the one of the cursor is gone
	}
	ids, next, err := w.o.Store.Members(ctx, r.Org, r.Cursor, pageUsers)
	if err != nil {
		return false, err
	}
	users, err := w.o.Store.Users(ctx, ids)
	if err != nil {
		return false, err
	}
	serves := w.serves(credential)
	users = slices.DeleteFunc(users, func(u *event.User) bool {
		return u == nil || firstOrg(u, serves) != r.Org
	})
	r.Users += len(users)
	var hits []*event.User
	for part := range slices.Chunk(users, orcid.MaxSearchIDs) {
		changed, err := w.o.ORCID.ChangedSince(ctx, credential, idsOf(part), r.Since)
		if err != nil {
			return false, err
		}
		w.called(r)
		hits = append(hits, among(part, changed)...)
	}
	if err := w.found(ctx, credential, r, hits); err != nil {
		return false, err
	}
	if r.Cursor = next; next != "" {
		return false, nil
	}
	if i+1 == len(orgs) {
		return true, nil
	}
	r.Org = orgs[i+1].ID
	return false, nil
}

// stepSlice reads who of all ORCID changed in the next slice of time.
func (w *Watcher) stepSlice(ctx context.Context, credential string, r *round) (done bool, err error) {
	var ids []orcid.ID
	var end time.Time
	for {
		end = r.At.Add(max(r.Width, time.Second))
		if end.After(r.Began) {
			end = r.Began
		}
		var total int
		ids, total, err = w.o.ORCID.ChangedBetween(ctx, credential, r.At, end, 0, orcid.MaxSearchRows)
		if err != nil {
			return false, err
		}
		w.called(r)
		if total <= len(ids) {
			r.Width = nextWidth(max(r.Width, time.Second), total)
			break
		}
		if r.Width <= time.Second {
			if ids, err = w.readSecond(ctx, credential, r, end, total); err != nil {
				return false, err
			}
			break
		}
		r.Width = nextWidth(min(r.Width, end.Sub(r.At)), total)
	}
	users, err := w.o.Store.Users(ctx, ids)
	if err != nil {
		return false, err
	}
	serves := w.serves(credential)
	users = slices.DeleteFunc(users, func(u *event.User) bool { return u == nil || firstOrg(u, serves) == "" })
	r.Users += len(users)
	if err := w.found(ctx, credential, r, users); err != nil {
		return false, err
	}
	r.At = end
	return !end.Before(r.Began), nil
}

// maxReads is how often a second with more changes than a page is read anew
// because others joined them meanwhile.
const maxReads = 5

// readSecond reads the pages of the narrowest slice from its end: whoever leaves
// it meanwhile (by changing again) moves those behind to pages that are still to
// be read.
func (w *Watcher) readSecond(ctx context.Context, credential string, r *round, end time.Time, total int) ([]orcid.ID, error) {
	for range maxReads {
		var all []orcid.ID
		grown := false
		for page := (total - 1) / orcid.MaxSearchRows; page >= 0 && !grown; page-- {
			ids, now, err := w.o.ORCID.ChangedBetween(ctx, credential, r.At, end, page*orcid.MaxSearchRows, orcid.MaxSearchRows)
			if err != nil {
				return nil, err
			}
			w.called(r)
			all = append(all, ids...)
			grown = now > total
			total = now
		}
		if !grown {
			slices.SortFunc(all, func(a, b orcid.ID) int { return int(min(max(int64(a.Base())-int64(b.Base()), -1), 1)) })
			return slices.Compact(all), nil
		}
	}
	return nil, fmt.Errorf("ORCID's search of %s grows while it is read", r.At.Format(time.RFC3339))
}

// firstOrg is the first of the user's organisations that is served; empty when
// none is.
func firstOrg(u *event.User, serves func(string) bool) (first string) {
	for _, a := range u.Affiliations {
		if serves(a.Org) && !a.Muted && (first == "" || a.Org < first) {
			first = a.Org
		}
	}
	return first
}

func idsOf(users []*event.User) []orcid.ID {
	ids := make([]orcid.ID, len(users))
	for i, u := range users {
		ids[i] = u.ORCID
	}
	return ids
}

// among returns the users whose iDs are listed.
func among(users []*event.User, ids []orcid.ID) []*event.User {
	listed := make(map[orcid.ID]bool, len(ids))
	for _, id := range ids {
		listed[id] = true
	}
	return slices.DeleteFunc(slices.Clone(users), func(u *event.User) bool { return !listed[u.ORCID] })
}

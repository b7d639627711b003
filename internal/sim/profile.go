package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"dispatchd/internal/orcid"
)

// indexStatus is the profile's indexing_status.
type indexStatus uint8

const (
	indexDone    indexStatus = iota
	indexPending             // changed: the 60 s loop takes it, not twice in 5 min
	indexAgain               // REINDEX: the 90 s loop takes it
)

// String returns ORCID's word.
func (s indexStatus) String() string {
	return [...]string{"DONE", "PENDING", "REINDEX"}[s]
}

// profile is one researcher. It is kept small: there may be millions.
type profile struct {
	base        uint64
	created     stamp
	modified    stamp // last_modified
	lastIndexed stamp
	// search is the last_modified that search finds from lastIndexed plus the
	// search lag on; until then it finds searchBefore.
	search, searchBefore stamp
	status               indexStatus
	locked               bool
	unclaimed            bool
	hooks                []*hook // its rows of the webhook table
	rec                  *record // nil until something is on record
}

// record is what is on record beside the name every profile has.
type record struct {
	deactivated stamp
	primary     uint64 // base of the record that this one was merged into; 0 when none
	items       []Item
}

// id returns the profile's iD.
func (p *profile) id() orcid.ID {
	id, err := orcid.FromBase(p.base)
	if err != nil {
		panic(err) // every profile is made of an orcid.ID
	}
	return id
}

func (p *profile) record() *record {
	if p.rec == nil {
		p.rec = &record{}
	}
	return p.rec
}

// ORCID gives out iDs of this range since 2021 (OrcidGenerationManager).
const (
	firstBase = 900_000_000_000
	countBase = 100_000_000
)

// AddProfiles makes n claimed records with iDs of ORCID's newest range, which
// are indexed and not changed yet.
func (r *Registry) AddProfiles(n int) []orcid.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	out := make([]orcid.ID, 0, max(n, 0))
	for len(out) < n && len(r.all) < countBase/2 {
		base := firstBase + r.rng.Uint64N(countBase)
		if r.profiles[base] != nil {
			continue
		}
		out = append(out, r.addProfile(base, now).id())
	}
	return out
}

// AddProfile makes a record with this iD; one that exists stays as it is.
func (r *Registry) AddProfile(id orcid.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.profiles[id.Base()] == nil {
		r.addProfile(id.Base(), r.now())
	}
}

func (r *Registry) addProfile(base uint64, now stamp) *profile {
	p := &profile{base: base, created: now, modified: now, search: now, searchBefore: now}
	r.profiles[base] = p
	r.all = append(r.all, p)
	return p
}

// Profile is the truth about one record.
type Profile struct {
	ORCID        orcid.ID  `json:"orcid"`
	Created      time.Time `json:"created"`
	LastModified time.Time `json:"last_modified"`
	Indexing     string    `json:"indexing_status"` // DONE, PENDING, REINDEX
	LastIndexed  time.Time `json:"last_indexed,omitzero"`
	Unclaimed    bool      `json:"unclaimed,omitempty"`
	Locked       bool      `json:"locked,omitempty"`
	Deactivated  time.Time `json:"deactivated,omitzero"`
	Primary      *orcid.ID `json:"primary,omitempty"`
	Items        []Item    `json:"items,omitempty"`
}

// Profile returns the truth about one record, also what is not public.
func (r *Registry) Profile(id orcid.ID) (Profile, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.find(id)
	if err != nil {
		return Profile{}, err
	}
	return p.truth(), nil
}

// Profiles returns the truth about up to limit records, from the skip-th on in
// the order they were made.
func (r *Registry) Profiles(skip, limit int) []Profile {
	r.mu.Lock()
	defer r.mu.Unlock()
	skip = min(max(skip, 0), len(r.all))
	some := r.all[skip:min(len(r.all), skip+max(limit, 0))]
	out := make([]Profile, len(some))
	for i, p := range some {
		out[i] = p.truth()
	}
	return out
}

func (p *profile) truth() Profile {
	out := Profile{
		ORCID: p.id(), Created: p.created.time(), LastModified: p.modified.time(), Indexing: p.status.String(),
		LastIndexed: p.lastIndexed.time(), Unclaimed: p.unclaimed, Locked: p.locked,
	}
	if p.rec != nil {
		out.Deactivated = p.rec.deactivated.time()
		if p.rec.primary != 0 {
			id, err := orcid.FromBase(p.rec.primary)
			if err == nil {
				out.Primary = &id
			}
		}
		out.Items = append(out.Items, p.rec.items...)
	}
	return out
}

// touch sets last_modified and, when asked, the indexing status.
func (r *Registry) touch(p *profile, now stamp, status indexStatus) {
	p.modified = now
	if status == indexDone || p.status == status {
		return // nothing to queue: not asked for, or queued already
	}
	p.status = status
	if status == indexPending {
		r.pending = append(r.pending, p)
	} else {
		r.reindex = append(r.reindex, p)
	}
}

// state changes a record's state and notes it in the ledger.
func (r *Registry) state(id orcid.ID, op string, status indexStatus, f func(p *profile, now stamp) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.find(id)
	if err != nil {
		return err
	}
	now := r.write()
	if err := f(p, now); err != nil {
		return fmt.Errorf("%s %s: %w", op, id, err)
	}
	r.touch(p, now, status)
	r.ledger.add(Entry{Kind: KindChange, at: now, base: p.base, Op: op})
	return nil
}

// Lock locks a record: it pings, and reads answer 409/9018.
func (r *Registry) Lock(id orcid.ID) error {
	return r.state(id, "lock", indexAgain, func(p *profile, _ stamp) error { p.locked = true; return nil })
}

// Unlock unlocks a record: it pings.
func (r *Registry) Unlock(id orcid.ID) error {
	return r.state(id, "unlock", indexAgain, func(p *profile, _ stamp) error { p.locked = false; return nil })
}

// Deactivate removes everything from a record: it pings, and reads answer
// 409/9044.
func (r *Registry) Deactivate(id orcid.ID) error {
	return r.state(id, "deactivate", indexPending, func(p *profile, now stamp) error {
		rec := p.record()
		rec.deactivated, rec.items = now, nil
		return nil
	})
}

// Reactivate undoes Deactivate, without bringing the items back: it pings.
func (r *Registry) Reactivate(id orcid.ID) error {
	return r.state(id, "reactivate", indexPending, func(p *profile, _ stamp) error {
		p.record().deactivated = 0
		return nil
	})
}

// Deprecate merges a record into another: both ping, and reads of the first
// answer 301/9007 with the primary's Location.
func (r *Registry) Deprecate(id, primary orcid.ID) error {
	if id == primary {
		return fmt.Errorf("deprecate %s: a record cannot be merged into itself", id)
	}
	return r.state(id, "deprecate", indexAgain, func(p *profile, now stamp) error {
		into, err := r.find(primary)
		if err != nil {
			return err
		}
		rec := p.record()
		rec.primary, rec.items = primary.Base(), nil
		r.touch(into, now, indexPending)
		r.ledger.add(Entry{Kind: KindChange, at: now, base: into.base, Op: "merge"})
		return nil
	})
}

// SetClaimed says whether the person took the record over. One that is
// unclaimed and younger than ten days answers 409/9036.
func (r *Registry) SetClaimed(id orcid.ID, claimed bool) error {
	op := "unclaim"
	if claimed {
		op = "claim"
	}
	return r.state(id, op, indexPending, func(p *profile, _ stamp) error { p.unclaimed = !claimed; return nil })
}

// Touch raises last_modified without marking the record for indexing, as a
// granted token or a verified e-mail address does: no ping of its own.
func (r *Registry) Touch(id orcid.ID) error {
	return r.state(id, "touch", indexDone, func(*profile, stamp) error { return nil })
}

// MassReindex marks n random records, or all when n is 0 or below, for
// re-indexing, and raises their last_modified when bump is set: a burst of
// pings without a visible change. It returns how many.
func (r *Registry) MassReindex(n int, bump bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.write()
	chosen := r.all
	if n > 0 && n < len(r.all) {
		chosen = r.sample(n)
	}
	for _, p := range chosen {
		at := p.modified
		if bump {
			at = now
		}
		r.touch(p, at, indexAgain)
	}
	r.ledger.add(Entry{Kind: KindChange, at: now, Op: "mass-reindex", Count: len(chosen)})
	return len(chosen)
}

// sample returns n different random profiles; the lock is held.
func (r *Registry) sample(n int) []*profile {
	n = min(n, len(r.all))
	if n > len(r.all)/2 {
		out := make([]*profile, n)
		for i, j := range r.rng.Perm(len(r.all))[:n] {
			out[i] = r.all[j]
		}
		return out
	}
	return pick(r.rng, r.all, n)
}

// pick returns n different elements of all; n is at most half of them.
func pick(rng *rand.Rand, all []*profile, n int) []*profile {
	seen := make(map[int]bool, n)
	out := make([]*profile, 0, n)
	for len(out) < n {
		if i := rng.IntN(len(all)); !seen[i] {
			seen[i] = true
			out = append(out, all[i])
		}
	}
	return out
}

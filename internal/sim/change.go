package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"dispatchd/internal/orcid"
)

// Op is what is done to a section of a record.
type Op string

// The operations. Each of them pings, whatever the visibility.
const (
	Add        Op = "add"        // a new item
	Edit       Op = "edit"       // the item's content
	Delete     Op = "delete"     // the item goes
	Visibility Op = "visibility" // the item is shown to others, or hidden
	Order      Op = "order"      // the item's display-index rises by one
)

// The visibilities. Only Public items are in what /read-public tokens read.
const (
	Public  = "public"
	Limited = "limited"
	Private = "private"
)

// Item is one entry of a section, for example a work.
type Item struct {
	Section      string    `json:"section"`
	PutCode      int64     `json:"put_code"`
	Title        string    `json:"title,omitempty"`
	Visibility   string    `json:"visibility"`
	DisplayIndex int       `json:"display_index"`
	Created      time.Time `json:"created,omitzero"`
	Modified     time.Time `json:"last_modified,omitzero"`
}

// sections lists the sections of a record by where ORCID shows them.
var (
	personSections   = [...]string{"name", "other-names", "biography", "researcher-urls", "emails", "addresses", "keywords", "external-identifiers"}
	activitySections = [...]string{
		"distinctions", "educations", "employments", "fundings", "invited-positions", "memberships",
		"peer-reviews", "qualifications", "research-resources", "services", "works",
	}
)

// sectionLocale is the one preference that is changed like a section.
const sectionLocale = "locale"

// knownSection returns the name as it is kept, so that items share one string.
func knownSection(s string) (string, bool) {
	for _, list := range [][]string{activitySections[:], personSections[:], {sectionLocale}} {
		if i := slices.Index(list, s); i >= 0 {
			return list[i], true
		}
	}
	return "", false
}

// single reports whether a section holds one value that has no put-code.
func single(section string) bool {
	return section == "name" || section == "biography" || section == sectionLocale
}

// Change does op to the newest item of a section (a new public one for Add),
// with now as the time of the change. An Edit, Visibility or Order of an empty
// section adds an item first, so that any record can be changed by any op but
// Delete.
func (r *Registry) Change(id orcid.ID, section string, op Op) error {
	_, err := r.ChangeItem(id, op, Item{Section: section})
	return err
}

// ChangeItem does op to one item: that with the PutCode, or the newest of the
// Section when it is 0. Title and Visibility are what it gets; an empty
// Visibility toggles between public and private for the op Visibility and
// otherwise means public for a new item. It returns the item's put-code.
func (r *Registry) ChangeItem(id orcid.ID, op Op, want Item) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.find(id)
	if err != nil {
		return 0, err
	}
	return r.change(p, r.write(), op, want)
}

// change is ChangeItem under the lock.
func (r *Registry) change(p *profile, now stamp, op Op, want Item) (int64, error) {
	section, ok := knownSection(want.Section)
	if !ok {
		return 0, fmt.Errorf("section %q: %w", want.Section, ErrUnknown)
	}
	switch want.Visibility {
	case "", Public, Limited, Private:
	default:
		return 0, fmt.Errorf("visibility must be public, limited or private (got %q)", want.Visibility)
	}
	rec := p.record()
	at := rec.index(section, want.PutCode)
	if at < 0 && want.PutCode != 0 && op != Add {
		return 0, fmt.Errorf("put-code %d in %s of %s: %w", want.PutCode, section, p.id(), ErrUnknown)
	}
	if op == Delete && at < 0 {
		return 0, fmt.Errorf("%s of %s is empty: %w", section, p.id(), ErrUnknown)
	}
	if !slices.Contains([]Op{Add, Edit, Delete, Visibility, Order}, op) {
		return 0, fmt.Errorf("operation must be add, edit, delete, visibility or order (got %q)", op)
	}
	if at < 0 || op == Add && !single(section) {
		r.nextPut++
		rec.items = append(rec.items, Item{Section: section, PutCode: r.nextPut, Visibility: Public, Created: now.time()})
		at = len(rec.items) - 1
	}
	it := &rec.items[at]
	it.Modified = now.time()
	if want.Title != "" {
		it.Title = want.Title
	}
	if want.Visibility != "" {
		it.Visibility = want.Visibility
	}
	put := it.PutCode
	switch op {
	case Add, Edit:
		if it.Title == "" {
			it.Title = fmt.Sprintf("%s %d", strings.TrimSuffix(section, "s"), put)
		}
	case Visibility:
		if want.Visibility == "" {
			it.Visibility = map[string]string{Public: Private, Limited: Private, Private: Public}[it.Visibility]
		}
	case Order:
		it.DisplayIndex++
	case Delete:
		rec.items = slices.Delete(rec.items, at, at+1)
	}
	r.touch(p, now, indexPending)
	r.ledger.add(Entry{Kind: KindChange, at: now, base: p.base, Section: section, Op: string(op), PutCode: put})
	return put, nil
}

// index finds an item by put-code, or the newest of the section for 0.
func (rec *record) index(section string, put int64) int {
	for i := len(rec.items) - 1; i >= 0; i-- {
		if rec.items[i].Section == section && (put == 0 || rec.items[i].PutCode == put) {
			return i
		}
	}
	return -1
}

// ChangeRandom edits the works of n different random records at once and
// returns them.
func (r *Registry) ChangeRandom(n int) []orcid.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.write()
	chosen := r.sample(max(n, 0))
	out := make([]orcid.ID, len(chosen))
	for i, p := range chosen {
		if _, err := r.change(p, now, Edit, Item{Section: "works"}); err != nil {
			panic(err) // editing the works of an existing record cannot fail
		}
		out[i] = p.id()
	}
	return out
}

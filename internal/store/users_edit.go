package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
)

// Affiliated is one user of an import.
type Affiliated struct {
	ORCID       orcid.ID
	Affiliation event.Affiliation
}

// Joined is what became of one user of AffiliateAll.
type Joined uint8

// The fates of a user.
const (
	JoinUnknown    Joined = iota // not known to be done, after an error
	JoinSame                     // a user of the organisation already, with this data
	JoinUpdated                  // a user already; the personal data is new
	JoinAdded                    // a user of the organisation now
	JoinSuppressed               // on the suppression list: not taken
	JoinDamaged                  // the stored record cannot be read; nothing was changed
)

// maxConflicts bounds how often a record is edited anew because somebody else
// was faster; each time means that somebody got on.
const maxConflicts = 100

// Affiliate joins the user to a.Org and asks for a look at the user from work
// on (zero: does not ask). The member index is written before the record, so
// that a crash forgets nobody, and seen to be right after it. When
// the user is affiliated already, only the personal data is updated: empty
// fields leave what is there, neither AffiliatedAt nor Announce is set again,
// no work is asked for, and added is false. A zero AffiliatedAt means now. It
// fails with ErrSuppressed for a user who was erased. After an error it may be
// called again.
func (s *Store) Affiliate(ctx context.Context, id orcid.ID, a event.Affiliation, work time.Time) (added bool, err error) {
	list, err := s.AffiliateAll(ctx, a.Org, []Affiliated{{id, a}}, work)
	if err != nil {
		return false, err
	}
	switch list[0] {
	case JoinSuppressed:
		return false, fmt.Errorf("affiliate %s with %s: %w", id, a.Org, ErrSuppressed)
	case JoinDamaged:
		return false, fmt.Errorf("affiliate %s with %s: %w", id, a.Org, ErrDamaged)
	}
	return list[0] == JoinAdded, nil
}

// AffiliateAll is Affiliate for many users of one organisation, an import's
// batch of about a thousand. Affiliation.Org may be left out. After an error
// joined tells only of those that are known to be done.
func (s *Store) AffiliateAll(ctx context.Context, orgID string, list []Affiliated, work time.Time) (joined []Joined, err error) {
	joined = make([]Joined, len(list))
	if !org.ValidID(orgID) {
		return joined, fmt.Errorf("affiliate %d users: %q is not an organisation's id", len(list), orgID)
	}
	for i := range list {
		if o := list[i].Affiliation.Org; o != "" && o != orgID {
			return joined, fmt.Errorf("affiliate %s with %s: the affiliation names %q", list[i].ORCID, orgID, o)
		}
	}
	// Asked before, so that not even the member index gets to know who was
	// erased; the script asks again.
	free, err := s.unsuppressed(ctx, list, joined)
	if err != nil {
		return joined, fmt.Errorf("affiliate %d users with %s: %w", len(list), orgID, err)
	}
	now := s.Now()
	ids := make([]orcid.ID, len(free))
	for k, i := range free {
		ids[k] = list[i].ORCID
	}
	removed, err := s.memberCalls(ctx, s.scripts.memberAdd, orgID, ids)
	if err != nil {
		return joined, fmt.Errorf("affiliate %d users with %s: %w", len(list), orgID, err)
	}
	edits := make([]userEdit, len(free))
	for k, i := range free {
		e := &edits[k]
		*e = userEdit{id: list[i].ORCID, hash: s.userHash(list[i].ORCID), spares: true}
		e.apply = func(u *event.User) bool {
			a := list[i].Affiliation
			a.Org = orgID
			if a.AffiliatedAt.IsZero() {
				a.AffiliatedAt = now
			}
			e.fate = JoinSame
			if !slices.ContainsFunc(u.Affiliations, func(b event.Affiliation) bool { return b.Org == orgID }) {
				e.fate = JoinAdded
				u.Affiliations = append(u.Affiliations, a)
				e.work = lowerWork(work)
				return true
			}
			e.work = ""
			if updatePersonal(u, a) {
				e.fate = JoinUpdated
			}
			return e.fate == JoinUpdated
		}
	}
	err = s.editUsers(ctx, s.scripts.userAdd, edits)
	var out []orcid.ID
	for k, i := range free {
		switch e := &edits[k]; {
		case e.done:
			joined[i] = e.fate
			if e.fate == JoinSuppressed {
				out = append(out, e.id)
			}
		case err == nil:
			err = fmt.Errorf("user %s: not done", e.id)
		}
	}
	if len(out) > 0 {
		// Erased since they were put into the index.
		if _, ierr := s.memberCalls(ctx, s.scripts.memberRemove, orgID, out); err == nil {
			err = ierr
		}
	}
	if err == nil {
		err = s.stayInIndex(ctx, orgID, keptOut(ids, out), removed)
	}
	if err != nil {
		return joined, fmt.Errorf("affiliate %d users with %s: %w", len(list), orgID, err)
	}
	return joined, nil
}

// keptOut returns the ids without those of out.
func keptOut(ids, out []orcid.ID) []orcid.ID {
	if len(out) == 0 {
		return ids
	}
	return slices.DeleteFunc(ids, func(id orcid.ID) bool { return slices.Contains(out, id) })
}

func lowerWork(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return "<" + strconv.FormatInt(at.UnixMilli(), 10)
}

// updatePersonal copies what a gives into the affiliation with the same
// organisation; it reports whether anything is different.
func updatePersonal(u *event.User, a event.Affiliation) (changed bool) {
	for i := range u.Affiliations {
		if u.Affiliations[i].Org != a.Org {
			continue
		}
		b := u.Affiliations[i]
		set := func(to *string, text string) {
			if text != "" && *to != text {
				*to, changed = text, true
			}
		}
		set(&b.Email, a.Email)
		set(&b.EPPN, a.EPPN)
		set(&b.Name, a.Name)
		u.Affiliations[i] = b
	}
	return changed
}

// Unaffiliate takes the user out of the organisation and asks for a look at the
// user from work on (zero: does not ask). The organisation's own callbacks of
// the user end first. The record is written before the member index. It reports whether the user was affiliated.
func (s *Store) Unaffiliate(ctx context.Context, id orcid.ID, orgID string, work time.Time) (removed bool, err error) {
	list, damaged, err := s.unaffiliate(ctx, orgID, []orcid.ID{id}, work)
	if err == nil && len(damaged) > 0 {
		err = fmt.Errorf("take %s out of %s: %w", id, orgID, ErrDamaged)
	}
	return list[0], err
}

// UnaffiliateAll is Unaffiliate for many users of one organisation, the batch
// of a job. After an error removed tells only of those that are known to be
// done, and calling it again finishes the rest. Who has a damaged record is not
// removed.
func (s *Store) UnaffiliateAll(ctx context.Context, orgID string, ids []orcid.ID, work time.Time) (removed []bool, err error) {
	removed, _, err = s.unaffiliate(ctx, orgID, ids, work)
	return removed, err
}

func (s *Store) unaffiliate(ctx context.Context, orgID string, ids []orcid.ID, work time.Time) (removed []bool, damaged []orcid.ID, err error) {
	removed = make([]bool, len(ids))
	fail := func(err error) ([]bool, []orcid.ID, error) {
		return removed, damaged, fmt.Errorf("take %d users out of %s: %w", len(ids), orgID, err)
	}
	// First: nothing would tell of them when the affiliation is gone.
	if _, err := s.EndGuests(ctx, orgID, ids); err != nil {
		return fail(err)
	}
	raws, err := s.readRaw(ctx, s.scripts.userRead, ids, nil)
	if err != nil {
		return fail(err)
	}
	edits := make([]userEdit, len(ids))
	for i := range ids {
		edits[i] = userEdit{id: ids[i], work: lowerWork(work), raw: raws[i], spares: true}
		edits[i].apply = func(u *event.User) bool {
			n := len(u.Affiliations)
			u.Affiliations = slices.DeleteFunc(u.Affiliations, func(a event.Affiliation) bool { return a.Org == orgID })
			edits[i].adds = len(u.Affiliations) < n
			return edits[i].adds
		}
	}
	err = s.editUsers(ctx, s.scripts.userDrop, edits)
	gone := make([]orcid.ID, 0, len(ids))
	for i := range edits {
		switch {
		case !edits[i].done:
		case edits[i].fate == JoinDamaged:
			damaged = append(damaged, ids[i])
		default:
			removed[i] = edits[i].adds
			gone = append(gone, ids[i])
		}
	}
	// Also when only some are done: those are out of the record, and a second
	// call would find nothing to tell by.
	if ierr := s.leaveIndex(ctx, orgID, gone); err == nil {
		err = ierr
	}
	if err != nil {
		return fail(err)
	}
	return removed, damaged, nil
}

// SetMuted says whether the organisation wants to be told of one of its users,
// and asks for a look at the user from work on. It reports whether the user is
// affiliated with it at all.
func (s *Store) SetMuted(ctx context.Context, id orcid.ID, orgID string, muted bool, work time.Time) (affiliated bool, err error) {
	raws, err := s.readRaw(ctx, s.scripts.userRead, []orcid.ID{id}, nil)
	if err != nil {
		return false, fmt.Errorf("mute a user of %s: %w", orgID, err)
	}
	edit := userEdit{id: id, work: lowerWork(work), raw: raws[0]}
	edit.apply = func(u *event.User) bool {
		i := slices.IndexFunc(u.Affiliations, func(a event.Affiliation) bool { return a.Org == orgID })
		affiliated = i >= 0
		if !affiliated || u.Affiliations[i].Muted == muted {
			return false
		}
		u.Affiliations[i].Muted = muted
		return true
	}
	if err := s.editUsers(ctx, s.scripts.userAdd, []userEdit{edit}); err != nil {
		return affiliated, fmt.Errorf("mute a user of %s: %w", orgID, err)
	}
	return affiliated, nil
}

// leaveIndex takes users out of the member index whose records are not
// affiliated any more. Somebody may affiliate one of them again meanwhile:
// whoever is last, of this look at the records and stayInIndex, puts the number
// back. A member too many is harmless, one too few would be forgotten.
func (s *Store) leaveIndex(ctx context.Context, orgID string, ids []orcid.ID) error {
	if _, err := s.memberCalls(ctx, s.scripts.memberRemove, orgID, ids); err != nil {
		return err
	}
	users, err := s.Users(ctx, ids)
	if err != nil {
		return err
	}
	var back []orcid.ID
	for i, u := range users {
		if u != nil && slices.ContainsFunc(u.Affiliations, func(a event.Affiliation) bool { return a.Org == orgID }) {
			back = append(back, ids[i])
		}
	}
	_, err = s.memberCalls(ctx, s.scripts.memberAdd, orgID, back)
	return err
}

// stayInIndex puts users whose records were just affiliated into the member
// index again if anybody was taken out since they were put there first.
func (s *Store) stayInIndex(ctx context.Context, orgID string, ids []orcid.ID, removed int64) error {
	_, now, err := s.memberSize(ctx, orgID)
	if err != nil || now == removed {
		return err
	}
	_, err = s.memberCalls(ctx, s.scripts.memberAdd, orgID, ids)
	return err
}

// userEdit is one record to be changed, whatever it is when its turn comes.
type userEdit struct {
	id orcid.ID
	// raw is the record as it was last seen, with its ping; "" is none. An old
	// one costs one more round. It may be a guess where apply has something to
	// write to what is guessed, so that the guess is tried.
	raw  string
	work string // as userSaveBody takes it; apply may set it
	// apply changes the user and reports whether there is anything to write. It
	// is called once a round.
	apply     func(u *event.User) bool
	adds      bool   // apply's own note
	fate      Joined // likewise; what became of it when it is done
	hash      string // refuses a user who is on the suppression list under it
	spares    bool   // a damaged record is this edit's fate, and no error of all
	done      bool   // written, or nothing to write
	conflicts int
}

// editUsers edits every record and writes it, again for those that were changed
// by somebody else meanwhile.
func (s *Store) editUsers(ctx context.Context, sc *script, edits []userEdit) error {
	todo := make([]*userEdit, len(edits))
	for i := range edits {
		todo[i] = &edits[i]
	}
	for len(todo) > 0 {
		var open, later []*userEdit
		var list []*saving
		busy := make(map[orcid.ID]bool, len(todo))
		for _, e := range todo {
			if busy[e.id] { // edits of one user take effect in their order
				later = append(later, e)
				continue
			}
			busy[e.id] = true
			v, err := s.edited(ctx, e)
			switch {
			case e.spares && unreadable(err):
				e.done, e.fate = true, JoinDamaged
			case err != nil:
				return fmt.Errorf("user %s: %w", e.id, err)
			case v == nil:
				e.done = true
			default:
				open, list = append(open, e), append(list, v)
			}
		}
		err := s.saveUsers(ctx, sc, list)
		var again []*userEdit
		for i, e := range open {
			e.done, e.raw = list[i].saved, list[i].found
			if list[i].suppressed {
				e.done, e.fate = true, JoinSuppressed
			}
			if e.done {
				continue
			}
			again = append(again, e)
			if e.conflicts++; e.conflicts > maxConflicts && err == nil {
				err = fmt.Errorf("user %s: %w", e.id, ErrConflict)
			}
		}
		if err != nil {
			return err
		}
		todo = append(again, later...)
	}
	return nil
}

// edited applies an edit to the record as it was last seen; nil means that
// there is nothing to write.
func (s *Store) edited(ctx context.Context, e *userEdit) (*saving, error) {
	u := &event.User{ORCID: e.id}
	if e.raw != "" {
		var err error
		if u, err = s.decodeUser(ctx, e.id, e.raw); err != nil {
			return nil, err
		}
	}
	version := u.Version
	if !e.apply(u) {
		return nil, nil
	}
	record, err := s.encodeUser(ctx, u)
	if err != nil {
		return nil, err
	}
	return &saving{id: e.id, version: version, record: record, ping: u.LastPing, work: e.work, hash: e.hash}, nil
}

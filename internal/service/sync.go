package service

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// SyncOptions say how a list is made an organisation's.
type SyncOptions struct {
	DryRun   bool // only say what would be done
	Force    bool // also when more than a tenth of the users would be removed
	Announce bool // send CREATED of everybody who is new
}

// SyncReport is what a sync did, or with DryRun would do.
type SyncReport struct {
	ImportReport
	DryRun bool `json:"dry_run,omitempty"`
	// Members is how many users there were before.
	Members int `json:"members"`
	// Total and ToRemove are how many lines the list has and how many users are
	// to be removed, for who shows how far it is.
	Total    int `json:"total"`
	ToRemove int `json:"to_remove"`
	// Removed counts the users who are not in the list.
	Removed int `json:"removed"`
	// Kept counts the users who would be removed, but that a bad line names or
	// somebody added meanwhile.
	Kept int `json:"kept"`
	// Withheld says why nobody is removed although somebody is not in the list;
	// empty when everything was done.
	Withheld string `json:"withheld,omitempty"`
	// NeedsForce says that without Force nothing at all is done.
	NeedsForce bool `json:"needs_force,omitempty"`
}

// maxRemoved is the share of users that a sync removes without Force, in percent.
const maxRemoved = 10

// Sync makes an organisation's users those of a list: good lines are imported as
// by Import, and users who are not in the list removed. The list is read to its
// end before anything is changed. When more than a tenth of the users would be
// removed, nothing is done without Force. A bad line never removes anybody: the
// iD it names is kept, and when it names none, nobody is removed. Whoever is
// added by others meanwhile stays. A sync that is cut off is to be repeated.
func (s *Service) Sync(ctx context.Context, by By, orgID string, r io.Reader, f Format, o SyncOptions, progress func(SyncReport)) (SyncReport, error) {
	report := SyncReport{DryRun: o.DryRun, ImportReport: ImportReport{BadLines: []BadLine{}}}
	if _, err := s.get(orgID); err != nil {
		return report, err
	}
	began := s.began()
	// The list is needed twice; nobody else can open it, and it goes with the
	// process.
	file, err := os.CreateTemp("", "dispatchd-sync-")
	if err != nil {
		return report, Explain("keep the list", err)
	}
	defer file.Close()
	if err := os.Remove(file.Name()); err != nil {
		return report, Explain("keep the list", err)
	}
	plan, err := s.planSync(ctx, orgID, r, file, f, &report)
	if err != nil {
		return report, err
	}
	if plan.tooMany(report.Members) && !o.Force {
		report.NeedsForce = true
	}
	if o.DryRun {
		return report, s.guessSync(ctx, plan, &report)
	}
	if report.NeedsForce {
		report.Added, report.Removed = 0, 0
		return report, &Error{
			Code: CodeConflict, What: fmt.Sprintf("The list would remove %s of the %s (more than %d %%), so nothing was changed.",
				count(len(plan.gone), "user", "users"), count(report.Members, "user", "users"), maxRemoved),
			Do: "Look at it with --dry-run, and if it is right, repeat with --force.",
		}
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return report, Explain("read the list again", err)
	}
	tell := func(p ImportReport) {
		report.ImportReport = p
		if progress != nil {
			progress(report)
		}
	}
	report.ImportReport, err = s.affiliateList(ctx, orgID, bufio.NewReaderSize(file, maxImportLine), f, o.Announce, tell)
	if err == nil && report.Withheld == "" {
		err = s.removeMissing(ctx, orgID, plan.gone, began, &report, progress)
	}
	s.audit(by, "users synchronised", "org", orgID, "lines", report.Lines, "added", report.Added, "known", report.Known, "removed", report.Removed,
		"suppressed", report.Suppressed, "bad", report.Bad, "force", o.Force)
	return report, err
}

// syncPlan is what a sync is about to do.
type syncPlan struct {
	added []uint64 // in the list and no members yet
	gone  []uint64 // members that are not in the list
}

func (p syncPlan) tooMany(members int) bool { return 100*len(p.gone) > maxRemoved*members }

// planSync reads the list to its end, copies it, and compares it with the member
// index. A user takes 16 bytes of it, whatever the list says about them.
func (s *Service) planSync(ctx context.Context, orgID string, r io.Reader, copied io.Writer, f Format, report *SyncReport) (syncPlan, error) {
	var listed, kept []uint64
	out := bufio.NewWriterSize(copied, 1<<20)
	unread := 0
	err := readList(io.TeeReader(r, out), f, listReader{
		take: func(_ int, id orcid.ID, _ Person) error {
			report.Lines++
			listed = append(listed, id.Base())
			return ctx.Err()
		},
		bad: func(line int, id orcid.ID, why error) {
			report.bad(line, why)
			if id.IsZero() {
				unread++
			} else {
				kept = append(kept, id.Base())
			}
		},
	})
	if err == nil {
		if ferr := out.Flush(); ferr != nil {
			return syncPlan{}, Explain("keep the list", ferr)
		}
	}
	if err = listError(err); err != nil {
		return syncPlan{}, err
	}
	members, err := s.memberBases(ctx, orgID)
	if err != nil {
		return syncPlan{}, err
	}
	listed, kept = unique(listed), unique(kept)
	report.Members = len(members)
	plan := syncPlan{added: without(listed, members)}
	missing := without(members, listed)
	plan.gone = without(missing, kept)
	report.Kept = len(missing) - len(plan.gone)
	if unread > 0 && len(plan.gone) > 0 {
		report.Withheld = fmt.Sprintf("%s no iD that can be read, so it is not known who is missing", count(unread, "line has", "lines have"))
		report.Kept, plan.gone = len(missing), nil
	}
	report.Total, report.ToRemove = report.Lines, len(plan.gone)
	report.Added, report.Removed, report.Known = len(plan.added), len(plan.gone), len(listed)-len(plan.added)
	return plan, nil
}

// guessSync corrects the counts of a dry run by who asked to be erased.
func (s *Service) guessSync(ctx context.Context, plan syncPlan, report *SyncReport) error {
	for part := range slices.Chunk(plan.added, importBatch) {
		found, err := s.o.Store.Suppressions(ctx, basesToIDs(part))
		if err != nil {
			return Explain("read the suppression list", err)
		}
		for _, f := range found {
			if !f.Since.IsZero() {
				report.Suppressed++
				report.Added--
			}
		}
	}
	return nil
}

// removeMissing removes the members that are not in the list.
func (s *Service) removeMissing(ctx context.Context, orgID string, gone []uint64, began time.Time, report *SyncReport, progress func(SyncReport)) error {
	report.Removed = 0
	for part := range slices.Chunk(gone, importBatch) {
		if err := ctx.Err(); err != nil {
			return err
		}
		users, _, err := s.o.Store.ReadableUsers(ctx, basesToIDs(part))
		if err != nil {
			return Explain("read users", err)
		}
		ids := make([]orcid.ID, 0, len(users))
		for i, u := range users {
			switch {
			case u == nil: // a member without a record is one too many; damaged ones stay so too
				if id, err := orcid.FromBase(part[i]); err == nil {
					ids = append(ids, id)
				}
			case joinedSince(u.Affiliations, orgID, began):
				report.Kept++
			default:
				ids = append(ids, u.ORCID)
			}
		}
		n, err := s.removeUsers(ctx, orgID, ids)
		if err != nil {
			return err
		}
		report.Removed += n
		if progress != nil {
			progress(*report)
		}
	}
	return nil
}

// joinedSince reports whether somebody affiliated the user after that time,
// which is stored in whole seconds.
func joinedSince(list []event.Affiliation, orgID string, since time.Time) bool {
	return slices.ContainsFunc(list, func(a event.Affiliation) bool {
		return a.Org == orgID && !a.AffiliatedAt.Before(since.Truncate(time.Second))
	})
}

// memberBases returns the bases of an organisation's members, sorted.
func (s *Service) memberBases(ctx context.Context, orgID string) ([]uint64, error) {
	var out []uint64
	for cursor := ""; ; {
		ids, next, err := s.o.Store.Members(ctx, orgID, cursor, 10*jobBatch)
		if err != nil {
			return nil, Explain("list users", err)
		}
		for _, id := range ids {
			out = append(out, id.Base())
		}
		if next == "" {
			return unique(out), nil
		}
		cursor = next
	}
}

// unique sorts in place and leaves each out that comes again.
func unique(list []uint64) []uint64 {
	slices.Sort(list)
	return slices.Compact(list)
}

// without returns what is in a and not in b; both are sorted and unique.
func without(a, b []uint64) []uint64 {
	var out []uint64
	for _, x := range a {
		for len(b) > 0 && b[0] < x {
			b = b[1:]
		}
		if len(b) == 0 || b[0] != x {
			out = append(out, x)
		}
	}
	return out
}

func basesToIDs(bases []uint64) []orcid.ID {
	out := make([]orcid.ID, 0, len(bases))
	for _, b := range bases {
		if id, err := orcid.FromBase(b); err == nil { // they come from iDs
			out = append(out, id)
		}
	}
	return out
}

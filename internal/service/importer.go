package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// Format is how an import is written.
type Format string

// The formats.
const (
	CSV    Format = "csv"    // header orcid,email,eppn,name; only orcid needed
	NDJSON Format = "ndjson" // one {"orcid","email","eppn","name"} a line
)

// BadLine is a line that was not imported.
type BadLine struct {
	Line int    `json:"line"`
	Why  string `json:"why"`
}

// ImportReport is what an import did so far. Lines = Added + Known + Suppressed
// + Bad.
type ImportReport struct {
	Lines      int `json:"lines"`
	Added      int `json:"added"`
	Known      int `json:"known"`      // were users already
	Updated    int `json:"updated"`    // of Known: their data was updated
	Suppressed int `json:"suppressed"` // asked to be erased: not taken
	Bad        int `json:"bad"`
	// BadLines holds the first bad lines, at most 1,000.
	BadLines []BadLine `json:"bad_lines"`
}

// bad counts a line that is not imported.
func (r *ImportReport) bad(line int, why error) {
	r.Lines++
	r.Bad++
	if len(r.BadLines) < maxBadLines {
		r.BadLines = append(r.BadLines, BadLine{line, why.Error()})
	}
}

const (
	importBatch   = 1000
	maxBadLines   = 1000
	maxImportLine = 64 << 10
)

// errDamagedUser is what an import says of a user whose record it cannot read.
var errDamagedUser = errors.New("the stored record of this researcher is damaged; erase it with `dispatchd user erase` and add the researcher again")

// Import affiliates every researcher of a list with an organisation. Good lines
// are imported, bad ones reported with their number. CREATED events are sent
// only with announce. Progress, when not nil, is called after every batch. The
// list is never held as a whole. An import that is cut off has imported what its
// last report says; repeating it as a whole does what is left and changes
// nothing else.
func (s *Service) Import(ctx context.Context, by By, orgID string, r io.Reader, f Format, announce bool, progress func(ImportReport)) (ImportReport, error) {
	if _, err := s.get(orgID); err != nil {
		return ImportReport{BadLines: []BadLine{}}, err
	}
	report, err := s.affiliateList(ctx, orgID, r, f, announce, progress)
	s.audit(by, "users imported", "org", orgID, "lines", report.Lines, "added", report.Added, "known", report.Known,
		"suppressed", report.Suppressed, "bad", report.Bad, "announce", announce)
	return report, err
}

// affiliateList is what Import and Sync have in common.
func (s *Service) affiliateList(ctx context.Context, orgID string, r io.Reader, f Format, announce bool, progress func(ImportReport)) (ImportReport, error) {
	report := ImportReport{BadLines: []BadLine{}}
	batch := make([]store.Affiliated, 0, importBatch)
	lines := make([]int, 0, importBatch)
	now := s.o.Store.Now()
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		joined, err := s.affiliateBatch(ctx, orgID, batch)
		if err != nil {
			return Explain("affiliate users", err)
		}
		for i, fate := range joined {
			switch fate {
			case store.JoinDamaged:
				report.bad(lines[i], errDamagedUser)
				continue
			case store.JoinAdded:
				report.Added++
			case store.JoinSuppressed:
				report.Suppressed++
			case store.JoinUpdated:
				report.Updated++
				report.Known++
			case store.JoinSame, store.JoinUnknown:
				report.Known++
			}
			report.Lines++
		}
		batch, lines = batch[:0], lines[:0]
		if progress != nil {
			progress(report)
		}
		return nil
	}
	err := readList(r, f, listReader{
		take: func(line int, id orcid.ID, p Person) error {
			batch, lines = append(batch, affiliated(orgID, id, p, now, announce)), append(lines, line)
			if len(batch) < importBatch {
				return nil
			}
			return flush()
		},
		bad: func(line int, _ orcid.ID, why error) { report.bad(line, why) },
	})
	if err == nil {
		err = flush()
	}
	return report, listError(err)
}

// affiliateBatch waits for a Redis that does not answer: a long list should not
// end because of a moment. What was done of the batch counts as known then.
func (s *Service) affiliateBatch(ctx context.Context, orgID string, batch []store.Affiliated) ([]store.Joined, error) {
	began := time.Now()
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		joined, err := s.tryBatch(ctx, orgID, batch)
		if !errors.Is(err, store.ErrAway) || time.Since(began) > s.o.ListPatience {
			return joined, err
		}
		select {
		case <-ctx.Done():
			return joined, err
		case <-time.After(wait):
		}
	}
}

func (s *Service) tryBatch(ctx context.Context, orgID string, batch []store.Affiliated) ([]store.Joined, error) {
	s.leaving.RLock()
	defer s.leaving.RUnlock()
	if err := s.joinable(orgID); err != nil {
		return nil, err
	}
	return s.o.Store.AffiliateAll(ctx, orgID, batch, s.o.Store.Now())
}

// listError says in words that a list could not be read, when nobody has said
// yet what is wrong.
func listError(err error) error {
	var own *Error
	if err == nil || errors.As(err, &own) || errors.Is(err, context.Canceled) {
		return err
	}
	return invalid("The list could not be read to its end.", err)
}

// listReader takes what a list holds.
type listReader struct {
	// take gets every good line; its error ends the reading.
	take func(line int, id orcid.ID, p Person) error
	// bad gets every other line, with the iD where it could be read.
	bad func(line int, id orcid.ID, why error)
}

// readList reads a list to its end.
func readList(r io.Reader, f Format, to listReader) error {
	take := func(line int, text string, p Person) error {
		id, err := orcid.Parse(text)
		if err != nil {
			to.bad(line, orcid.ID{}, err)
			return nil
		}
		if err := p.check(); err != nil {
			to.bad(line, id, err)
			return nil
		}
		return to.take(line, id, p)
	}
	bad := func(line int, why error) { to.bad(line, orcid.ID{}, why) }
	switch f {
	case CSV:
		return readCSV(r, take, bad)
	case NDJSON:
		return readNDJSON(r, take, bad)
	}
	return invalid("The import has an unknown format.", fmt.Errorf("%q is neither csv nor ndjson", f))
}

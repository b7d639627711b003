package hub

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"dispatchd/internal/orcid"
)

// The limit of pings per callback of the Hub. ORCID sends one in five minutes,
// and a few duplicates; whoever sends more is not ORCID.
const (
	pingEvery = 30 * time.Second
	pingBurst = 10
)

// maxUserID bounds the Hub's user ids: they stand where an epoch would.
const maxUserID = 999_999_999

// Row is one callback that the Hub registered: /services/<user>/updated, by the
// credential that can delete it.
type Row struct {
	UserID     int
	ORCID      orcid.ID
	Credential string // our name of it

	full atomic.Int64 // when all its pings may come again, ns; see allow
}

// allow takes one ping off the row's allowance (the generic cell rate algorithm).
func (r *Row) allow(now time.Time) bool {
	for {
		full := r.full.Load()
		next := max(full, now.UnixNano()) + int64(pingEvery)
		if next-now.UnixNano() > int64(pingBurst*pingEvery) {
			return false
		}
		if r.full.CompareAndSwap(full, next) {
			return true
		}
	}
}

// Map is the file hub.legacy_map. It is never changed.
type Map struct {
	Rows []*Row // by user id
	// Skipped says which lines name no iD that ORCID can have: the Hub's check
	// lets such iDs through, but nothing can be registered for them.
	Skipped []error
	byID    map[int]*Row
}

// Find returns the row of a user id; nil when there is none.
func (m *Map) Find(userID int) *Row { return m.byID[userID] }

// maxProblems bounds the errors that are told at once.
const maxProblems = 20

// ReadMap reads a CSV file with the header user_id,orcid,credential. Every
// mistake is an error with file and line, all of them at once, except iDs that
// do not exist: those lines are skipped.
func ReadMap(path string, credentials []string) (*Map, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("hub.legacy_map: %w", err)
	}
	defer f.Close()
	m := &Map{byID: map[int]*Row{}}
	var problems []error
	bad := func(line int, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s:%d: %w", path, line, fmt.Errorf(format, args...)))
	}
	t, err := newTable(path, f, "user_id", "orcid", "credential")
	if err != nil {
		return nil, err
	}
	for {
		rec, line, err := t.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			bad(line, "%w", err)
			continue
		}
		userID, err := strconv.Atoi(rec["user_id"])
		id, idErr := orcid.Parse(rec["orcid"])
		switch {
		case err != nil || userID < 1 || userID > maxUserID:
			bad(line, "user_id must be a number from 1 to %d (got %q)", maxUserID, clip(rec["user_id"]))
		case !slices.Contains(credentials, rec["credential"]):
			bad(line, "there is no [orcid.credential.NAME] of the name %q", clip(rec["credential"]))
		case m.byID[userID] != nil:
			bad(line, "user_id %d comes twice", userID)
		case idErr != nil:
			m.Skipped = append(m.Skipped, fmt.Errorf("%s:%d: %w", path, line, idErr))
		default:
			row := &Row{UserID: userID, ORCID: id, Credential: credentialIn(credentials, rec["credential"])}
			m.byID[userID], m.Rows = row, append(m.Rows, row)
		}
	}
	if n := len(problems); n > 0 {
		if n > maxProblems {
			problems = append(problems[:maxProblems], fmt.Errorf("… and %d more", n-maxProblems))
		}
		return nil, errors.Join(problems...)
	}
	slices.SortFunc(m.Rows, func(a, b *Row) int { return a.UserID - b.UserID })
	return m, nil
}

// credentialIn returns the one string that all rows of a credential share.
func credentialIn(all []string, name string) string { return all[slices.Index(all, name)] }

// table reads a CSV file with a header by the names of its columns.
type table struct {
	path    string
	r       *csv.Reader
	columns []string
}

// newTable reads the header, in which every wanted column must stand; others
// are left out.
func newTable(path string, r io.Reader, wanted ...string) (*table, error) {
	br := bufio.NewReader(r)
	if bom, err := br.Peek(3); err == nil && bytes.Equal(bom, []byte("\xef\xbb\xbf")) {
		_, _ = br.Discard(3) // it was peeked
	}
	t := &table{path: path, r: csv.NewReader(br)}
	t.r.FieldsPerRecord = -1
	header, err := t.r.Read()
	if err != nil {
		return nil, fmt.Errorf("%s:1: there is no readable header: %w", path, plain(err))
	}
	for _, name := range header {
		t.columns = append(t.columns, strings.ToLower(strings.TrimSpace(name)))
	}
	for _, name := range wanted {
		if !slices.Contains(t.columns, name) {
			return nil, fmt.Errorf("%s:1: there is no column %s (there is %s)", path, name, clip(strings.Join(t.columns, ",")))
		}
	}
	return t, nil
}

// next returns the next record by column, trimmed, and its line.
func (t *table) next() (map[string]string, int, error) {
	fields, err := t.r.Read()
	if err != nil {
		var pe *csv.ParseError
		if errors.As(err, &pe) {
			return nil, pe.StartLine, pe.Err
		}
		return nil, 0, err
	}
	line, _ := t.r.FieldPos(0)
	if len(fields) != len(t.columns) {
		return nil, line, fmt.Errorf("has %d fields, the header has %d", len(fields), len(t.columns))
	}
	rec := make(map[string]string, len(fields))
	for i, name := range t.columns {
		rec[name] = strings.TrimSpace(fields[i])
	}
	return rec, line, nil
}

// plain leaves out the parser's own line numbers.
func plain(err error) error {
	var pe *csv.ParseError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// clip keeps an error readable whatever was fed in.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Credentials lists the credentials that rows name, each once.
func (m *Map) Credentials() []string {
	var out []string
	for _, r := range m.Rows {
		if !slices.Contains(out, r.Credential) {
			out = append(out, r.Credential)
		}
	}
	return out
}

package service

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"dispatchd/internal/orcid"
)

// FuzzImport feeds both readers of lists: neither panics, every record is
// either taken or reported, in the order of the lines, what is taken is fit to
// be stored, and the report adds up.
func FuzzImport(f *testing.F) {
	b := setup(f)
	if _, _, err := b.svc.PutOrganisation(context.Background(), tester, "uni-a", uniA()); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		"orcid\n0000-0002-1825-0097\n",
		"orcid,email,eppn,name\n0000-0002-1825-0097,jc@a.example,jc,Josiah\nx,,,\n",
		"\xef\xbb\xbfORCID;Name\r\n\"0000-0002-1825-0097\";\"a;b\"\r\n;;\r\n",
		"orcid\tname\nhttps://orcid.org/0000-0002-1694-233X\t\"unclosed\n0000-0002-1825-0097\tb\n",
		"orcid,orcid\n", "name\n", "", "\n\n", "orcid\n\"\"\"", "orcid,name\n0000-0002-1825-0097,\x00\n",
		`{"orcid":"0000-0002-1825-0097","name":"J"}` + "\n\n{\n" + `{"orcid":"x"}` + "\n" + `{"orcid":"0000-0002-1825-0097"} {}` + "\n",
		`{"orcid":1}`, `null`, `[]`, `{"who":"x"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, list []byte) {
		for format, read := range map[Format]func(io.Reader, func(int, string, Person) error, func(int, error)) error{
			CSV: readCSV, NDJSON: readNDJSON,
		} {
			records, last := 0, 0
			count := func(line int) {
				records++
				if line <= last || line > bytes.Count(list, []byte("\n"))+1 {
					t.Errorf("record %d is said to be in line %d, the one before was in line %d", records, line, last)
				}
				last = line
			}
			err := read(bytes.NewReader(list), func(line int, text string, p Person) error {
				count(line)
				id, err := orcid.Parse(text)
				if err != nil || p.check() != nil {
					return nil //nolint:nilerr // a bad line is no error of the reader
				}
				again, err := orcid.ParseStrict(id.String())
				if err != nil || again != id {
					t.Errorf("%q was read as %s", text, id)
				}
				for _, field := range []string{p.Email, p.EPPN, p.Name} {
					if !utf8.ValidString(field) || strings.ContainsAny(field, "\x00\r\n") || len(field) > maxPerson {
						t.Errorf("taken: %q", field)
					}
				}
				return nil
			}, func(line int, err error) {
				count(line)
				if err == nil || len(err.Error()) > 1000 {
					t.Errorf("line %d is bad because of %.2000v", line, err)
				}
			})
			var own *Error
			if errors.As(err, &own) && len(own.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(own.Error()))
			}
			report, ierr := b.svc.Import(context.Background(), tester, "uni-a", bytes.NewReader(list), format, false, nil)
			if report.Lines != report.Added+report.Known+report.Bad || len(report.BadLines) != min(report.Bad, maxBadLines) {
				t.Errorf("the report does not add up: %+v", report)
			}
			if (ierr == nil) != (err == nil) || ierr == nil && report.Lines != records {
				t.Errorf("%d records were read (%v) and %d reported (%v)", records, err, report.Lines, ierr)
			}
		}
	})
}

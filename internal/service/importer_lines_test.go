package service

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// TestImportABadLineSpoilsNoOther holds what a file may do to its lines: a quote
// that is never closed, or a line without end, costs that line only.
func TestImportABadLineSpoilsNoOther(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	list := "\n" +
		"orcid,name\n" +
		"0000-0002-1825-0097,\"never closed\n" + // 3
		"0000-0001-5109-3700,ok\n" +
		"\n" +
		"0000-0002-1694-233X," + strings.Repeat("x", 3*maxImportLine) + "\n" + // 6
		"0000-0002-1694-233X,\"closed\"\n" +
		"0000-0002-1825-0097,a \"bare\" quote\n" + // 8
		"0000-0002-1825-0097,last"
	report, err := b.svc.Import(ctx, tester, "uni-a", strings.NewReader(list), CSV, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var lines []int
	for _, l := range report.BadLines {
		lines = append(lines, l.Line)
	}
	if report.Lines != 6 || report.Added != 3 || !slices.Equal(lines, []int{3, 6, 8}) {
		t.Errorf("report %+v", report)
	}
	for _, bad := range []string{"\n\n\n", "orcid,\"name\n0000-0002-1825-0097,x\n", strings.Repeat("orcid,", maxImportLine) + "\n0000-0002-1825-0097\n"} {
		if _, err := b.svc.Import(ctx, tester, "uni-a", strings.NewReader(bad), CSV, false, nil); code(err) != CodeInvalid {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func TestAHeaderThatComesInPiecesIsRead(t *testing.T) {
	t.Parallel()
	const semicolons = "orcid;email\n0000-0002-1825-0097;a@b.example\n"
	for _, list := range []string{semicolons, "\r\n\n" + semicolons, "orcid;email", "\norcid;email", "orc", "orcid\n", "orcid;" + strings.Repeat("x", 5000)} {
		read := func(r io.Reader) (out []string) {
			err := readCSV(r, func(line int, orcid string, p Person) error {
				out = append(out, fmt.Sprint(line, orcid, p))
				return nil
			}, func(line int, why error) { out = append(out, fmt.Sprint(line, why)) })
			return append(out, fmt.Sprint(err))
		}
		if got := read(strings.NewReader(list)); strings.HasSuffix(list, semicolons) && !strings.Contains(got[0], "0000-0002-1825-0097") {
			t.Errorf("%.20q: %q", list, got)
		}
		whole, pieces := read(strings.NewReader(list)), read(iotest.OneByteReader(strings.NewReader(list)))
		if !slices.Equal(whole, pieces) {
			t.Errorf("%.20q: %q, in pieces %q", list, whole, pieces)
		}
	}
}

package cli

import (
	"strings"
	"testing"
	"time"

	"dispatchd/internal/service"
)

func TestProgressFitsItsRoom(t *testing.T) {
	t.Parallel()
	far := service.RegistrationReport{Sweep: service.Sweep{Left: 582_112, Total: 1_000_000, Speed: 23.96, SecondsLeft: 24_295}}
	paused := far
	paused.Paused, paused.Sweep.Speed = true, 0
	for _, c := range []struct {
		report service.RegistrationReport
		room   int
		want   string
	}{
		{far, 79, "[########............]  41%  582,112 left, 24.0/s, about 6h44m"},
		{far, 60, "[####......]  41%  582,112 left, 24.0/s, about 6h44m"},
		{far, 45, "[####......]  41%  582,112 left, about 6h44m"},
		{far, 39, "[##...]  41%  582,112 left, about 6h44m"},
		{far, 30, "[####......]  41%  about 6h44m"},
		{far, 20, "41% about 6h44m"},
		{far, 9, "41% abou…"},
		{paused, 79, "[########............]  41%  582,112 left, 0.0/s, paused"},
		{paused, 39, "[####......]  41%  582,112 left, paused"},
	} {
		if got := progress(c.report, c.room); got != c.want || textWidth(got) > c.room {
			t.Errorf("in %d columns: %q, want %q", c.room, got, c.want)
		}
	}
}

func TestTheBarOfAnImportFits(t *testing.T) {
	t.Parallel()
	began := time.Now()
	b := &bar{s: &session{now: func() time.Time { return began.Add(20 * time.Second) }}, began: began}
	d := drawing{0.4321, true, 432_100, []word{{"432,100 lines", 5}, {"431,999 new", 1}, {"101 bad", 3}}}
	for room, want := range map[int]string{
		99: "[########............]  43%  432,100 lines, 431,999 new, 101 bad, 21,605/s, 26s left",
		79: "[####......]  43%  432,100 lines, 431,999 new, 101 bad, 21,605/s, 26s left",
		59: "[##...]  43%  432,100 lines, 101 bad, 21,605/s, 26s left",
		39: "[##...]  43%  432,100 lines, 26s left",
	} {
		if got := progressLine(room, d.part, d.known, append(d.words, b.pace(d)...)...); got != want {
			t.Errorf("in %d columns: %q, want %q", room, got, want)
		}
	}
	// Of standard input nobody knows the size.
	d.known = false
	if got := progressLine(79, 0, false, append(d.words, b.pace(d)...)...); strings.Contains(got, "[") || got != "432,100 lines, 431,999 new, 101 bad, 21,605/s" {
		t.Errorf("without a size: %q", got)
	}
}

package store

import (
	"context"
	"testing"
	"time"
)

func TestMonths(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		note := func(user uint64, m Month, at time.Time) {
			b.Helper()
			b.must(b.s.NoteMonths(ctx, []Changed{{Org: "uni-a", Month: m, ORCID: testID(b.T, user), At: at}}))
		}
		users := func(m Month) []Changed {
			b.Helper()
			list, err := b.s.MonthUsers(ctx, "uni-a", m, 0, 100)
			b.must(err)
			return list
		}
		note(1, "2026-11", begin)
		note(2, "2026-11", begin.Add(-time.Hour))
		note(1, "2026-11", begin.Add(time.Minute))
		note(1, "2026-11", begin.Add(-time.Minute)) // out of order
		note(1, "2026-11", begin.Add(time.Minute))  // again
		if l := users("2026-11"); len(l) != 2 || l[0].ORCID != testID(b.T, 2) || !l[1].At.Equal(begin.Add(time.Minute)) {
			b.Fatalf("%+v", l)
		}
		if l, err := b.s.MonthUsers(ctx, "uni-a", "2026-11", 1, 1); err != nil || len(l) != 1 || l[0].ORCID != testID(b.T, 1) {
			b.Errorf("the second page: %+v, %v", l, err)
		}
		if m, err := b.s.MonthSent(ctx, "uni-a"); err != nil || m != "" {
			b.Errorf("%q, %v", m, err)
		}
		b.must(b.s.SetMonthSent(ctx, "uni-a", "2026-11"))
		b.must(b.s.SetMonthSent(ctx, "uni-a", "2026-10")) // never back
		if m, err := b.s.MonthSent(ctx, "uni-a"); err != nil || m != "2026-11" {
			b.Errorf("%q, %v", m, err)
		}
		// What is fanned out after the summary stands in the next one.
		note(3, "2026-11", begin)
		if l := users("2026-11"); len(l) != 2 {
			b.Errorf("%+v", l)
		}
		if l := users("2026-12"); len(l) != 1 || l[0].ORCID != testID(b.T, 3) || !l[0].At.Equal(begin) {
			b.Errorf("%+v", l)
		}
		if n, err := b.s.EraseFromMonths(ctx, "uni-a", testID(b.T, 3)); err != nil || n != 1 {
			b.Errorf("erased from %d, %v", n, err)
		}
		if n, err := b.s.EraseFromMonths(ctx, "uni-a", testID(b.T, 3)); err != nil || n != 0 {
			b.Errorf("erased again from %d, %v", n, err)
		}
		if l := users("2026-12"); len(l) != 0 {
			b.Errorf("%+v", l)
		}
		b.must(b.s.ForgetMail(ctx, "uni-a"))
		if m, err := b.s.MonthSent(ctx, "uni-a"); err != nil || m != "" || len(users("2026-11")) != 0 {
			b.Errorf("after forgetting: %q, %v", m, err)
		}
	})
}

func TestAnErasedUserLeavesTheOpenDigest(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.enable("uni-a", "email")
		b.mailTo(1, 11, 111)
		b.clock.us.Store(begin.Add(tomorrow).UnixMicro())
		d := b.mustOpen()
		b.close(d, b.failed("retry", 451))
		if n, err := b.s.EraseFromMonths(ctx, "uni-a", testID(b.T, 11)); err != nil || n != 1 {
			b.Errorf("erased from %d, %v", n, err)
		}
		b.clock.advance(time.Minute)
		if d := b.mustOpen(); len(d.Items) != 2 || d.Items[0].ORCID != testID(b.T, 1) || d.Items[1].ORCID != testID(b.T, 111) {
			b.Errorf("%+v", d.Items)
		}
	})
}

func TestMailedIsCountedByTheMinute(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		for i := range 100 {
			b.must(b.s.CountMail(ctx, "uni-a", begin.Add(time.Duration(i)*time.Minute)))
			b.must(b.s.CountMail(ctx, "uni-a", begin.Add(time.Duration(i)*time.Minute)))
		}
		got, err := b.s.Mailed(ctx, "uni-a")
		b.must(err)
		last := begin.Unix()/60 + 99
		if len(got) > 61 || got[last] != 2 || got[last-59] != 2 {
			b.Errorf("%d minutes, %v", len(got), got)
		}
	})
}

func TestMonthNames(t *testing.T) {
	t.Parallel()
	auckland, err := time.LoadLocation("Pacific/Auckland")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 12, 31, 11, 30, 0, 0, time.UTC)
	if m := MonthOf(at); m != "2026-12" || m.Add(1) != "2027-01" || m.Add(-12) != "2025-12" {
		t.Errorf("%s %s", m, m.Add(1))
	}
	if m := MonthOf(at.In(auckland)); m != "2027-01" {
		t.Errorf("in Auckland it is %s", m)
	}
}

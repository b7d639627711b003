package store

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

func TestChecksAreMadeAtTheLaterTimeAndDroppedOnce(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
		early := event.Check{Kind: event.CheckBaseline, ORCID: testID(t, 150000), Credential: "main", At: at}
		late := early
		late.At = at.Add(time.Hour)
		other := event.Check{Kind: event.CheckAtRisk, ORCID: testID(t, 150000), Credential: "main", At: at}
		spaced := event.Check{Kind: event.CheckBaseline, ORCID: testID(t, 3), Credential: "with space", At: at}
		for _, list := range [][]event.Check{{early, other, spaced}, {late}, {early}} {
			if err := s.AddChecks(ctx, list); err != nil {
				t.Fatal(err)
			}
		}
		dueAt := func(now time.Time, skip, limit int) (all []event.Check, err error) {
			for _, kind := range checkKinds {
				due, kerr := s.DueChecks(ctx, kind, now, skip, limit)
				all, err = append(all, due...), errors.Join(err, kerr)
			}
			return all, err
		}
		due, err := dueAt(at, 0, 10)
		if err != nil || len(due) != 2 || !slices.Contains(due, other) || !slices.Contains(due, spaced) {
			t.Fatalf("due now: %v, %v; want %v and %v", due, err, other, spaced)
		}
		if err := s.DropChecks(ctx, append(due, early)); err != nil { // early was moved meanwhile
			t.Fatal(err)
		}
		due, err = dueAt(at.Add(time.Hour), 0, 10)
		if err != nil || !slices.Equal(due, []event.Check{late}) {
			t.Fatalf("due in an hour: %v, %v; want only %v", due, err, late)
		}
		if err := s.AddChecks(ctx, []event.Check{early, other, spaced}); err != nil {
			t.Fatal(err)
		}
		if due, err = dueAt(at.Add(time.Hour), 0, 1); err != nil || len(due) != 2 || !due[0].At.Equal(at) {
			t.Fatalf("one due of each kind: %v, %v; want the earliest", due, err)
		}
		if due, err = dueAt(at.Add(time.Hour), 1, 1); err != nil || !slices.Equal(due, []event.Check{late}) {
			t.Fatalf("the next: %v, %v; want %v", due, err, late)
		}
	})
}

func TestSilencesAreKeptPerCredential(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		at := time.Date(2026, 11, 23, 12, 0, 0, int(7*time.Millisecond), time.UTC)
		ids := make([]orcid.ID, checksPerCall+7)
		all := map[orcid.ID]event.Silence{}
		for i := range ids {
			ids[i] = testID(t, uint64(i+1))
			all[ids[i]] = event.Silence{At: at, Count: i}
		}
		if err := s.SetSilences(ctx, "main", all); err != nil {
			t.Fatal(err)
		}
		if err := s.SetSilences(ctx, "main", map[orcid.ID]event.Silence{ids[3]: {}}); err != nil {
			t.Fatal(err)
		}
		got, err := s.Silences(ctx, "main", ids)
		if err != nil || len(got) != len(ids) {
			t.Fatalf("%d silences, %v; want %d", len(got), err, len(ids))
		}
		for i, one := range got {
			want := event.Silence{At: at, Count: i}
			if i == 3 {
				want = event.Silence{}
			}
			if one != want {
				t.Errorf("silence %d is %v, want %v", i, one, want)
			}
		}
		if got, err = s.Silences(ctx, "other", ids[:2]); err != nil || got[0] != (event.Silence{}) || got[1] != (event.Silence{}) {
			t.Errorf("another credential has %v, %v", got, err)
		}
	})
}

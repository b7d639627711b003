package store

import (
	"slices"
	"testing"
)

func TestUsersOfTheHubAreTakenOnce(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		var all []int
		for i := range 2*hubPerCall + 1 {
			all = append(all, 1+i*1000)
		}
		if err := s.NoteHubTaken(ctx, all[:hubPerCall+1]); err != nil {
			t.Fatal(err)
		}
		if err := s.NoteHubTaken(ctx, all[:2]); err != nil { // again
			t.Fatal(err)
		}
		taken, err := s.HubTaken(ctx, all)
		if err != nil || len(taken) != len(all) {
			t.Fatalf("%d answers, %v", len(taken), err)
		}
		if slices.Contains(taken[:hubPerCall+1], false) || slices.Contains(taken[hubPerCall+1:], true) {
			t.Error("the answers are not what was noted")
		}
		if taken, err := s.HubTaken(ctx, nil); err != nil || len(taken) != 0 {
			t.Errorf("of none: %v %v", taken, err)
		}
	})
}

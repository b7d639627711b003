package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

func TestGuestsAreSavedEndedAndCounted(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		at := time.Unix(1_795_000_000, 0).UTC()
		s.nowFunc = func() time.Time { return at }
		ids := []orcid.ID{testID(t, 42), testID(t, 43)}
		reg := event.Registration{Credential: "main", Epoch: 1, State: event.RegPutting, Changed: at, Tries: 2, Status: 503, RetryAt: at.Add(time.Minute)}
		var first event.Guest
		for i, id := range ids {
			for _, o := range []string{"uni-a", "uni-b"} {
				g, err := s.AddGuest(ctx, event.Guest{ORCID: id, URL: "https://" + o + ".example/; x=%20?" + fmt.Sprint(i), Orgs: []string{o}, Registration: reg}, o, at.Add(time.Hour))
				must(err)
				if i == 0 && o == "uni-a" {
					first = g
				}
			}
		}
		list, err := s.Guests(ctx, ids[0])
		must(err)
		if len(list) != 2 || !reflect.DeepEqual(list[0], first) || list[0].Registration != reg || !slices.Equal(list[1].Orgs, []string{"uni-b"}) {
			t.Fatalf("%+v", list)
		}
		// An old version, and one that is not there.
		old := first
		old.Version = "x"
		if _, err := s.SaveGuest(ctx, old, at); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrConflict) {
			t.Errorf("an old version: %v", err)
		}
		old.Version = ""
		if _, err := s.SaveGuest(ctx, old, at); !errors.Is(err, ErrConflict) {
			t.Errorf("over another: %v", err)
		}
		first.Registration.State = event.RegAlive
		first, err = s.SaveGuest(ctx, first, at.Add(2*time.Hour))
		must(err)
		totals := func(want map[event.RegState]int64) {
			t.Helper()
			got, err := s.GuestTotals(ctx)
			must(err)
			for state, n := range got {
				if n != want[state] {
					t.Errorf("%s: %d, want %d", state, n, want[state])
				}
			}
		}
		totals(map[event.RegState]int64{event.RegPutting: 3, event.RegAlive: 1})
		due := func(now time.Time) int {
			t.Helper()
			list, err := s.DueGuests(ctx, now, 10)
			must(err)
			return len(list)
		}
		if due(at) != 0 || due(at.Add(time.Hour)) != 3 || due(at.Add(2*time.Hour)) != 4 {
			t.Errorf("due: %d %d %d", due(at), due(at.Add(time.Hour)), due(at.Add(2*time.Hour)))
		}
		// Leaving ends those of the organisation only.
		for _, id := range ids {
			_, err := s.Affiliate(ctx, id, event.Affiliation{Org: "uni-a"}, time.Time{})
			must(err)
		}
		_, err = s.UnaffiliateAll(ctx, "uni-a", ids, time.Time{})
		must(err)
		for i, id := range ids {
			list, err := s.Guests(ctx, id)
			must(err)
			for _, g := range list {
				if g.Gone != (g.Orgs[0] == "uni-a") || g.Registration.Credential != "main" {
					t.Errorf("user %d: %+v", i, g)
				}
			}
		}
		if due(at) != 2 {
			t.Errorf("%d are due", due(at))
		}
		if n, err := s.EndGuests(ctx, "", ids); err != nil || n != 2 {
			t.Errorf("ended %d: %v", n, err)
		}
		if _, err := s.SaveGuest(ctx, first, time.Time{}); !errors.Is(err, ErrConflict) {
			t.Errorf("removed what was changed meanwhile: %v", err)
		}
		must(s.WakeGuests(ctx))
		for _, id := range ids {
			list, err := s.Guests(ctx, id)
			must(err)
			for _, g := range list {
				_, err := s.SaveGuest(ctx, g, time.Time{})
				must(err)
			}
		}
		if due(at.Add(100*time.Hour)) != 0 {
			t.Error("what is gone is due")
		}
		totals(nil)
		for i := range MaxGuests {
			_, err := s.AddGuest(ctx, event.Guest{ORCID: ids[0], URL: fmt.Sprint(i), Orgs: []string{"uni-a"}}, "uni-a", at)
			must(err)
		}
		if _, err := s.AddGuest(ctx, event.Guest{ORCID: ids[0], URL: "more", Orgs: []string{"uni-a"}}, "uni-a", at); !errors.Is(err, ErrFull) {
			t.Errorf("one more: %v", err)
		}
		// One organisation's do not use up another's.
		for i := range MaxGuests {
			_, err := s.AddGuest(ctx, event.Guest{ORCID: ids[0], URL: fmt.Sprint("b", i), Orgs: []string{"uni-b"}}, "uni-b", at)
			must(err)
		}
		if _, err := s.AddGuest(ctx, event.Guest{ORCID: ids[0], URL: "b more", Orgs: []string{"uni-b"}}, "uni-b", at); !errors.Is(err, ErrFull) {
			t.Errorf("one more of another: %v", err)
		}
		// What is to go is counted by itself.
		for i := range MaxGuests {
			_, err := s.AddGuest(ctx, event.Guest{ORCID: ids[0], URL: fmt.Sprint("gone", i), Orgs: []string{"uni-a"}, Gone: true}, "uni-a", at)
			must(err)
		}
		if _, err := s.AddGuest(ctx, event.Guest{ORCID: ids[0], URL: "more", Orgs: []string{"uni-a"}, Gone: true}, "uni-a", at); !errors.Is(err, ErrFull) {
			t.Errorf("one more that is to go: %v", err)
		}
	})
}

// TestASharedGuestStaysForTheOthers: it goes with the last who wants it.
func TestASharedGuestStaysForTheOthers(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id := context.Background(), testID(t, 42)
		_, err := s.AddGuest(ctx, event.Guest{ORCID: id, URL: "https://x.example", Orgs: []string{"uni-a", "uni", "uni-b"}}, "uni-b", s.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			leaves string
			left   []string
			gone   bool
		}{
			{"uni", []string{"uni-a", "uni-b"}, false},
			{"uni", []string{"uni-a", "uni-b"}, false},
			{"uni-a", []string{"uni-b"}, false},
			{"uni-b", []string{"uni-b"}, true},
		} {
			if _, err := s.EndGuests(ctx, step.leaves, []orcid.ID{id}); err != nil {
				t.Fatal(err)
			}
			list, err := s.Guests(ctx, id)
			if err != nil || len(list) != 1 || !slices.Equal(list[0].Orgs, step.left) || list[0].Gone != step.gone {
				t.Errorf("without %s: %+v, %v", step.leaves, list, err)
			}
		}
		if due, err := s.DueGuests(ctx, s.Now().Add(time.Second), 10); err != nil || len(due) != 1 {
			t.Errorf("due: %v, %v", due, err)
		}
	})
}

// TestADamagedGuestFailsNoOther: it is put off as it is, and removed.
func TestADamagedGuestFailsNoOther(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id, at := context.Background(), testID(t, 42), s.Now()
		for _, url := range []string{"https://a.example", "https://b.example", "https://c.example", "https://d.example"} {
			if _, err := s.AddGuest(ctx, event.Guest{ORCID: id, URL: url, Orgs: []string{"uni-a"}}, "uni-a", at); err != nil {
				t.Fatal(err)
			}
		}
		key := s.keys.guests(userPartition(id), id)
		garbage := map[string]string{"https://a.example": "garbage", "https://b.example": "0;uni-a;{", "https://c.example": ""}
		for url, raw := range garbage {
			if err := s.rdb.HSet(ctx, key, url, raw).Err(); err != nil {
				t.Fatal(err)
			}
		}
		read := func(want int) []event.Guest {
			t.Helper()
			list, err := s.Guests(ctx, id)
			if err != nil || len(list) != want || list[want-1].Damaged || list[want-1].URL != "https://d.example" {
				t.Fatalf("%+v, %v", list, err)
			}
			return list
		}
		for _, g := range read(4)[:3] {
			if !g.Damaged {
				t.Errorf("%+v", g)
			}
			if _, err := s.SaveGuest(ctx, g, at.Add(time.Hour)); err != nil {
				t.Error(err)
			}
			if raw := s.rdb.HGet(ctx, key, g.URL).Val(); raw != garbage[g.URL] && garbage[g.URL] != "" {
				t.Errorf("%s became %q", g.URL, raw)
			}
		}
		if due, err := s.DueGuests(ctx, at.Add(time.Minute), 10); err != nil || len(due) != 1 || due[0].URL != "https://d.example" {
			t.Errorf("due: %v, %v", due, err)
		}
		for _, g := range read(4)[:3] {
			if _, err := s.SaveGuest(ctx, g, time.Time{}); err != nil {
				t.Error(err)
			}
		}
		read(1)
		if due, err := s.DueGuests(ctx, at.Add(2*time.Hour), 10); err != nil || len(due) != 1 {
			t.Errorf("due: %v, %v", due, err)
		}
	})
}

// TestWhatNamesNoGuestIsSetAside: it stands before no other, and is said once.
func TestWhatNamesNoGuestIsSetAside(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		var said bytes.Buffer
		s.log = slog.New(slog.NewTextHandler(&said, nil))
		ctx, id, at := context.Background(), testID(t, 42), s.Now()
		if _, err := s.AddGuest(ctx, event.Guest{ORCID: id, URL: "https://a.example", Orgs: []string{"uni-a"}}, "uni-a", at); err != nil {
			t.Fatal(err)
		}
		p := userPartition(id)
		bad := []string{"https://secret.example", "x https://secret.example", "0" + guestMember(id, "https://secret.example")}
		for i, member := range bad {
			if err := s.rdb.ZAdd(ctx, s.keys.guestWork(p), redis.Z{Score: float64(i), Member: member}).Err(); err != nil {
				t.Fatal(err)
			}
		}
		elsewhere := redis.Z{Score: 1, Member: guestMember(id, "https://secret.example")}
		if err := s.rdb.ZAdd(ctx, s.keys.guestWork((p+1)%Partitions), elsewhere).Err(); err != nil {
			t.Fatal(err)
		}
		if due, err := s.DueGuests(ctx, at, len(bad)); err != nil || len(due) != 0 {
			t.Errorf("due: %v, %v", due, err)
		}
		for range 3 {
			if due, err := s.DueGuests(ctx, at.Add(time.Hour), len(bad)); err != nil || len(due) != 1 || due[0].ORCID != id {
				t.Errorf("due: %v, %v", due, err)
			}
		}
		if text := said.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "count=3") || strings.Contains(text, "secret") {
			t.Error(text)
		}
	})
}

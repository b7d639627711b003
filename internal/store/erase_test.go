package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

func TestWhoWasErasedIsNotTakenAgain(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, ids := context.Background(), sequence(t, 5)
		if err := s.Suppress(ctx, ids[1], true); err != nil {
			t.Fatal(err)
		}
		if err := s.Suppress(ctx, ids[3], false); err != nil {
			t.Fatal(err)
		}
		joined, err := s.AffiliateAll(ctx, "uni-a", affiliated(ids, s.Now()), s.Now())
		want := []Joined{JoinAdded, JoinSuppressed, JoinAdded, JoinSuppressed, JoinAdded}
		if err != nil || !slices.Equal(joined, want) {
			t.Fatalf("%v, %v, want %v", joined, err, want)
		}
		if n, err := s.MemberCount(ctx, "uni-a"); err != nil || n != 3 {
			t.Errorf("%d members, %v", n, err)
		}
		if u, err := s.User(ctx, ids[1]); err != nil || u != nil {
			t.Errorf("there is a record: %+v, %v", u, err)
		}
		if _, err := s.Affiliate(ctx, ids[3], event.Affiliation{Org: "uni-b"}, s.Now()); !errors.Is(err, ErrSuppressed) {
			t.Errorf("%v, want ErrSuppressed", err)
		}
		if _, err := s.Unsuppress(ctx, ids[1]); !errors.Is(err, ErrConflict) {
			t.Errorf("lifted while ORCID has not confirmed: %v", err)
		}
		first, err := s.Suppressions(ctx, ids)
		if err != nil || !first[1].Erasing || first[3].Erasing || first[3].Since.IsZero() || !first[0].Since.IsZero() {
			t.Errorf("%+v, %v", first, err)
		}
		if err := s.Suppress(ctx, ids[1], false); err != nil {
			t.Fatal(err)
		}
		if again, err := s.Suppressions(ctx, ids[1:2]); err != nil || again[0].Erasing || !again[0].Since.Equal(first[1].Since) {
			t.Errorf("%+v, %v, want done since %v", again, err, first[1].Since)
		}
		if n, err := s.SuppressedTotal(ctx); err != nil || n != 2 {
			t.Errorf("%d on the list, %v", n, err)
		}
		if lifted, err := s.Unsuppress(ctx, ids[1]); err != nil || !lifted {
			t.Fatal(lifted, err)
		}
		if added, err := s.Affiliate(ctx, ids[1], event.Affiliation{Org: "uni-a"}, s.Now()); err != nil || !added {
			t.Error(added, err)
		}
	})
}

// TestTheScriptItselfRefusesWhoIsErased: an erasure between the look at the list
// and the write is not missed, and leaves nobody in the member index.
func TestTheScriptItselfRefusesWhoIsErased(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id := context.Background(), testID(t, 42)
		if err := s.Suppress(ctx, id, true); err != nil {
			t.Fatal(err)
		}
		e := []userEdit{{id: id, hash: s.userHash(id), apply: func(u *event.User) bool {
			u.Affiliations = []event.Affiliation{{Org: "uni-a"}}
			return true
		}}}
		if err := s.editUsers(ctx, s.scripts.userAdd, e); err != nil || e[0].fate != JoinSuppressed {
			t.Fatalf("%v, %v", e[0].fate, err)
		}
		if u, err := s.User(ctx, id); err != nil || u != nil {
			t.Errorf("there is a record: %+v, %v", u, err)
		}
	})
}

func TestTheSuppressionListTellsNobodyWhoIsOnIt(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id := context.Background(), testID(t, 182509)
		if err := s.Suppress(ctx, id, false); err != nil {
			t.Fatal(err)
		}
		all, err := s.rdb.HGetAll(ctx, s.keys.suppressed(userPartition(id))).Result()
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		for field, value := range all {
			if len(field) != 16 || strings.Contains(field+value, "182509") || strings.Contains(field, mixedField(id)) {
				t.Errorf("field %x, value %s", field, value)
			}
		}
	})
}

// traceOf gives uni-a a dead letter, a flying slot and attempts of the user, and
// the same of another one.
func traceOf(t *testing.T, s *Store, id, other orcid.ID) event.Delivery {
	t.Helper()
	ctx := context.Background()
	var flying event.Delivery
	for i, u := range []orcid.ID{id, other} {
		for _, ch := range event.Channels {
			if err := s.SetChannel(ctx, "uni-a", ch, true); err != nil {
				t.Fatal(err)
			}
			entry := fmt.Sprintf("%d-%d", 1000+i, len(ch))
			if _, err := s.Enqueue(ctx, 0, []Target{{Org: "uni-a", Channel: ch, ORCID: u, Type: event.Updated, At: s.Now().Add(-time.Second), Entry: entry}}, 0); err != nil {
				t.Fatal(err)
			}
			c, err := s.Claim(ctx, "uni-a", ch, 1, time.Minute)
			if err != nil || len(c.Deliveries) != 1 {
				t.Fatal(len(c.Deliveries), err)
			}
			d := c.Deliveries[0]
			if ch == event.Webhook {
				if u == id {
					flying = d
				}
				continue
			}
			o := event.Outcome{Result: event.Dead, Attempt: event.Attempt{
				DeliveryID: d.ID(), ORCID: u, Channel: ch, Type: d.Type, Number: 1, Start: s.Now(), Status: 550,
				Error: "no such mailbox", Excerpt: "550 " + id.String() + " is unknown", Result: event.Dead,
			}}
			if _, err := s.Finish(ctx, d, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	return flying
}

func TestTracesAreShownAndErased(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id, other := context.Background(), testID(t, 1), testID(t, 2)
		flying := traceOf(t, s, id, other)
		orgs := make([]string, 60) // more than one round
		for i := range orgs {
			orgs[i] = fmt.Sprintf("uni-%d", i)
		}
		orgs[40] = "uni-a"
		got, err := s.Traces(ctx, orgs, id)
		if err != nil || len(got) != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
		w, e := got[0], got[1]
		if w.Org != "uni-a" || w.Channel != event.Webhook || w.Slot == nil || !w.Slot.InFlight || !slices.Equal(w.Slot.Types, []event.Type{event.Updated}) || w.Dead != nil {
			t.Errorf("webhook: %+v", w)
		}
		if e.Channel != event.Email || e.Slot != nil || e.Dead == nil || e.Dead.Status != 550 || len(e.Attempts) != 1 || e.Attempts[0].Status != 550 {
			t.Errorf("e-mail: %+v", e)
		}
		gone, err := s.EraseTraces(ctx, orgs, id)
		// The attempt of the other one names the iD in what the receiver said.
		if err != nil || gone.Slots != 1 || gone.DeadLetters != 1 || gone.Attempts != 2 || !gone.Lease.After(s.Now()) {
			t.Errorf("%+v, %v", gone, err)
		}
		if got, err := s.Traces(ctx, orgs, id); err != nil || len(got) != 0 {
			t.Errorf("left: %+v, %v", got, err)
		}
		if rest, err := s.Traces(ctx, orgs, other); err != nil || len(rest) != 2 || rest[0].Slot == nil || rest[1].Dead == nil {
			t.Errorf("of the other: %+v, %v", rest, err)
		}
		// What was on its way ends late, and is erased the second time.
		o := event.Outcome{Result: event.Delivered, Attempt: event.Attempt{ORCID: id, Channel: event.Webhook, Start: s.Now(), Result: event.Delivered}}
		if f, err := s.Finish(ctx, flying, o); err != nil || !f.Stale {
			t.Errorf("%+v, %v", f, err)
		}
		if gone, err := s.EraseTraces(ctx, orgs, id); err != nil || gone.Attempts != 1 || !gone.Lease.IsZero() {
			t.Errorf("%+v, %v", gone, err)
		}
		l, err := s.Ledger(ctx, []string{"uni-a"})
		if d := slices.DeleteFunc(l.Differences(), func(d string) bool { return !strings.Contains(d, "slot") && !strings.Contains(d, "dead") }); err != nil || len(d) > 0 {
			t.Errorf("the books: %v, %v", d, err)
		}
	})
}

func TestWhatIsWatchedIsShownAndErased(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id, other := context.Background(), testID(t, 1), testID(t, 2)
		for _, u := range []orcid.ID{id, other} {
			v := event.User{ORCID: u, Registrations: []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 1}}}
			if _, err := s.SaveUser(ctx, v, time.Time{}); err != nil {
				t.Fatal(err)
			}
			if err := s.AddChecks(ctx, []event.Check{{Kind: event.CheckAtRisk, ORCID: u, Credential: "main", At: s.Now().Add(time.Hour)}}); err != nil {
				t.Fatal(err)
			}
			if err := s.NotePings(ctx, []event.Ping{{Credential: "main", ORCID: u, AcceptedAt: s.Now()}}); err != nil {
				t.Fatal(err)
			}
			if err := s.SetSilences(ctx, "main", map[orcid.ID]event.Silence{u: {At: s.Now(), Count: 1}}); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []int{1, 1, 0} {
			read := s.Watched
			if i == 1 {
				read = s.EraseWatched
			}
			got, err := read(ctx, id)
			if err != nil || len(got) != want {
				t.Fatalf("round %d: %+v, %v", i, got, err)
			}
			if want == 1 && (got[0].Credential != "main" || len(got[0].Checks) != 1 || got[0].Due.IsZero() || got[0].Silent.IsZero() || got[0].LastPing.IsZero()) {
				t.Errorf("round %d: %+v", i, got)
			}
		}
		if got, err := s.Watched(ctx, other); err != nil || len(got) != 1 {
			t.Errorf("of the other: %+v, %v", got, err)
		}
	})
}

func TestHistoryTellsWhatIsNotUsual(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id := context.Background(), testID(t, 7)
		reg := func(state event.RegState, epoch, tries, status int) event.Registration {
			return event.Registration{Credential: "main", State: state, Epoch: epoch, Tries: tries, Status: status, Changed: s.Now()}
		}
		version := ""
		save := func(list ...event.Registration) {
			t.Helper()
			u := event.User{ORCID: id, Version: version, Registrations: list}
			if len(list) > 0 {
				u.Affiliations = []event.Affiliation{{Org: "uni-a"}}
			}
			var err error
			if version, err = s.SaveUser(ctx, u, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		want := func(n int, lines ...string) {
			t.Helper()
			list, err := s.History(ctx, id)
			if err != nil || len(list) != n {
				t.Fatalf("%+v, %v, want %d lines", list, err, n)
			}
			for i, line := range lines {
				if h := list[i]; fmt.Sprintf("%s %d %d %s", h.What, h.Epoch, h.Status, h.Credential) != line {
					t.Errorf("line %d is %+v, want %s", i, h, line)
				}
			}
		}
		save(reg(event.RegPutting, 1, 0, 0))
		save(reg(event.RegAlive, 1, 0, 0))
		want(0) // the usual way
		save(reg(event.RegAlive, 1, 0, 0), reg(event.RegNone, 2, 0, 0))
		save(reg(event.RegAlive, 1, 0, 0), reg(event.RegPutting, 2, 0, 0))
		save(reg(event.RegAlive, 1, 0, 0), reg(event.RegPutting, 2, 1, 503))
		save(reg(event.RegAlive, 1, 0, 0), reg(event.RegPutting, 2, 2, 503))
		save(reg(event.RegAlive, 1, 0, 0), reg(event.RegAlive, 2, 0, 0))
		save(reg(event.RegDeleting, 1, 0, 0), reg(event.RegAlive, 2, 0, 0))
		save(reg(event.RegAlive, 2, 0, 0))
		want(5, "gone 1 0 main", "remove 1 0 main", "alive 2 0 main", "failing 2 503 main", "planned 2 0 main")
		for range historyKept {
			save(reg(event.RegRefused, 2, 0, 404))
			save(reg(event.RegPutting, 2, 0, 0))
		}
		want(historyKept, "refused 2 404 main")
		if ttl, err := s.rdb.TTL(ctx, historyKey(s.keys, id)).Result(); err != nil || ttl < 89*24*time.Hour {
			t.Errorf("it stays %v, %v", ttl, err)
		}
		save()
		want(0) // with the record
	})
}

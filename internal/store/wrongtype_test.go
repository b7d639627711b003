package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
)

// TestKindsAreThoseOfTheDesign: a key that wrongType does not know right would be
// called damaged while another is.
func TestKindsAreThoseOfTheDesign(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	example := strings.NewReplacer("<p>", "{p3}", "<c>", "{p3}:o:uni-a:w", "{l<n>}", "{l0}", "<organisation>", "uni-a", "<yyyy-mm>", "2026-11",
		"<user>", "00d3c9be4f21", "<bucket>", "7", "<hash>", "q9", "<n>", "1")
	keys := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.Contains(cells[1], ":") {
			continue
		}
		kind, _, _ := strings.Cut(strings.TrimSpace(cells[2]), ",")
		kind, _, _ = strings.Cut(kind, " ")
		for _, key := range strings.Fields(strings.ReplaceAll(cells[1], "`", "")) {
			key = "prefix:" + example.Replace(key)
			keys++
			if got := kindOf(key); got != kind {
				t.Errorf("%s is a %q, DESIGN.md says %q", key, got, kind)
			}
		}
	}
	if keys < 40 {
		t.Errorf("only %d keys were found in DESIGN.md", keys)
	}
}

// twins are two organisations of one partition, with both channels enabled.
func twins(t *testing.T, s *Store) (a, b string) {
	t.Helper()
	a = "uni-a"
	for i := 0; b == ""; i++ {
		if name := fmt.Sprintf("uni-b%d", i); orgPartition(name) == orgPartition(a) {
			b = name
		}
	}
	for _, org := range []string{a, b} {
		for _, ch := range event.Channels {
			if err := s.SetChannel(t.Context(), org, ch, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	return a, b
}

// breakKey makes a key a string, or a list if it is one, and returns how to put
// back what was there.
func breakKey(t *testing.T, rdb *redis.Client, key string) (mend func()) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	was := rdb.Exists(ctx, key).Val() == 1
	if was {
		must(rdb.Rename(ctx, key, key+":kept").Err())
	}
	must(rdb.Set(ctx, key, "x", 0).Err())
	return func() {
		must(rdb.Del(ctx, key).Err())
		if was {
			must(rdb.Rename(ctx, key+":kept", key).Err())
		}
	}
}

func wantWrongType(t *testing.T, err error, key string) {
	t.Helper()
	var wrong *WrongType
	if !errors.Is(err, ErrAnswered) || !errors.As(err, &wrong) || wrong.Key != key || wrong.Is != "string" {
		t.Errorf("%v does not name %s", err, key)
	}
}

func enqueued(t *testing.T, s *Store, list []Target) {
	t.Helper()
	if _, err := s.Enqueue(t.Context(), 0, list, 0); err != nil {
		t.Fatal(err)
	}
}

// takes claims the next n deliveries of a channel, which must be due.
func takes(t *testing.T, s *Store, org string, ch event.Channel, n int) []event.Delivery {
	t.Helper()
	c, err := s.Claim(t.Context(), org, ch, n, time.Hour)
	if err != nil || len(c.Deliveries) != n {
		t.Fatalf("claimed %+v of %s, want %d: %v", c, org, n, err)
	}
	return c.Deliveries
}

var channelKeys = []string{"due", "slots", "control"}

// TestEndLeasesBesideAWrongType: what is damaged of one organisation keeps no
// other's deliveries from being due at the start.
func TestEndLeasesBesideAWrongType(t *testing.T) {
	t.Parallel()
	for _, name := range append([]string{"digest"}, channelKeys...) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			s, rdb, ctx := attached(t, srv.URL()), srv.Client(t), t.Context()
			a, b := twins(t, s)
			now := s.Now()
			var list []Target
			for i, org := range []string{a, b, "uni-c"} {
				list = append(list, Target{
					Org: org, Channel: event.Webhook, ORCID: testID(t, uint64(i)+1), Type: event.Updated, At: now, Due: now,
					Entry: fmt.Sprintf("%d-0", now.UnixMilli()),
				})
			}
			if err := s.SetChannel(ctx, "uni-c", event.Webhook, true); err != nil {
				t.Fatal(err)
			}
			enqueued(t, s, list)
			for _, x := range list {
				takes(t, s, x.Org, x.Channel, 1)
			}
			channel, want := event.Webhook, 2
			if name == "digest" { // its own hold has it looked at
				channel, want = event.Email, 3
				key := s.keys.control(orgPartition(a), a, channel)
				if err := rdb.HSet(ctx, key, "digest", fmt.Sprintf("%d;1;x", now.Add(time.Hour).UnixMilli())).Err(); err != nil {
					t.Fatal(err)
				}
				if err := rdb.ZAdd(ctx, s.keys.ready(orgPartition(a)), redis.Z{Score: float64(now.UnixMilli()), Member: a + "/e"}).Err(); err != nil {
					t.Fatal(err)
				}
			}
			key := s.keys.channel(orgPartition(a), a, channel) + name
			breakKey(t, rdb, key)
			n, err := s.EndLeases(ctx)
			if n != want || !errors.Is(err, event.ErrIncomplete) {
				t.Errorf("ended %d leases, want %d: %v", n, want, err)
			}
			wantWrongType(t, err, key)
			for _, x := range list[1:] {
				takes(t, s, x.Org, x.Channel, 1)
			}
		})
	}
}

// TestListsBesideDamage: what is due in other partitions, and what else can be
// read in the same one, is found.
func TestListsBesideDamage(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s, rdb, ctx := attached(t, srv.URL()), srv.Client(t), context.Background()
	now := s.Now()
	orgs := []string{"uni-a", "uni-b", "uni-c"}
	var ids []orcid.ID
	var list []Target
	for i, org := range orgs {
		ids = append(ids, testID(t, uint64(i)+1))
		if err := s.SetChannel(ctx, org, event.Webhook, true); err != nil {
			t.Fatal(err)
		}
		list = append(list, Target{Org: org, Channel: event.Webhook, ORCID: ids[i], Type: event.Updated, At: now, Due: now, Entry: "1-1"})
		if _, err := s.SaveGuest(ctx, event.Guest{ORCID: ids[i], URL: "https://x.example/", Orgs: []string{org}}, now); err != nil {
			t.Fatal(err)
		}
	}
	enqueued(t, s, list)
	if err := s.SetWork(ctx, ids, now); err != nil {
		t.Fatal(err)
	}
	soon := now.Add(time.Second)
	ready := func() (int, error) {
		found, _, err := s.Ready(ctx, soon, 10)
		return len(found), err
	}
	users := func() (int, error) {
		found, _, err := s.DueUsers(ctx, soon, 10)
		return len(found), err
	}
	guests := func() (int, error) {
		found, err := s.DueGuests(ctx, soon, 10)
		return len(found), err
	}
	for _, c := range []struct {
		name string
		find func() (int, error)
		key  string
	}{
		{"ready", ready, s.keys.ready(orgPartition("uni-a"))},
		{"users", users, s.keys.userWork(userPartition(ids[0]))},
		{"callbacks", guests, s.keys.guestWork(userPartition(ids[0]))},
	} {
		if n, err := c.find(); n != 3 || err != nil {
			t.Fatalf("%s: found %d, %v", c.name, n, err)
		}
		mend := breakKey(t, rdb, c.key)
		n, err := c.find()
		if n != 2 || !errors.Is(err, event.ErrIncomplete) {
			t.Errorf("%s: found %d, %v; want the 2 of other partitions", c.name, n, err)
		}
		wantWrongType(t, err, c.key)
		mend()
		if c.name != "callbacks" { // those are set aside
			rdb.ZAdd(ctx, c.key, redis.Z{Score: 1, Member: "what is this"}, redis.Z{Score: 1, Member: "/w"})
			if n, err := c.find(); n != 3 || !errors.Is(err, event.ErrIncomplete) {
				t.Errorf("%s beside damaged members: found %d, %v", c.name, n, err)
			}
			rdb.ZRem(ctx, c.key, "what is this", "/w")
		}
		if n, err := c.find(); n != 3 || err != nil {
			t.Errorf("%s when mended: found %d, %v", c.name, n, err)
		}
	}
}

// TestClaimBesideAWrongType: claims that go to Redis together stand each for
// itself; one that Redis refuses takes nothing from the others.
func TestClaimBesideAWrongType(t *testing.T) {
	t.Parallel()
	for _, name := range channelKeys {
		srv := redistest.Start(t)
		s, rdb, ctx := attached(t, srv.URL()), srv.Client(t), context.Background()
		a, b := twins(t, s)
		now := s.Now()
		list := []Target{
			{Org: a, Channel: event.Webhook, ORCID: testID(t, 1), Type: event.Updated, At: now, Due: now, Entry: "1-1"},
			{Org: b, Channel: event.Webhook, ORCID: testID(t, 2), Type: event.Updated, At: now, Due: now, Entry: "1-1"},
		}
		enqueued(t, s, list)
		key := s.keys.channel(orgPartition(a), a, event.Webhook) + name
		mend := breakKey(t, rdb, key)
		var batch []claimQuery
		for _, x := range []Target{list[1], list[0], list[1]} {
			batch = append(batch, claimQuery{event.ChannelKey{Org: x.Org, Channel: x.Channel}, 1, time.Hour})
		}
		got, errs := s.claimBatch(ctx, batch)
		if errs[0] != nil || errs[2] != nil || len(got[0].Deliveries)+len(got[2].Deliveries) != 1 {
			t.Errorf("%s: the other organisation claimed %+v, %v", name, got, errs)
		}
		wantWrongType(t, errs[1], key)
		mend()
		takes(t, s, a, event.Webhook, 1)
	}
}

func TestSetChannels(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s, rdb, ctx := attached(t, srv.URL()), srv.Client(t), context.Background()
	var list []ChannelSwitch
	for i := range channelsAtOnce + 3 {
		list = append(list, ChannelSwitch{event.ChannelKey{Org: fmt.Sprintf("uni-%d", i), Channel: event.Webhook}, i != 1})
	}
	for _, want := range []int{len(list) - 1, 0} {
		if changed, err := s.SetChannels(ctx, list); err != nil || len(changed) != want {
			t.Fatalf("%d were changed, want %d: %v", len(changed), want, err)
		}
	}
	control := func(org string) string { return s.keys.control(orgPartition(org), org, event.Webhook) }
	rdb.Del(ctx, control("uni-7"))
	rdb.HSet(ctx, control("uni-1"), "enabled", "1")
	breakKey(t, rdb, control("uni-3"))
	changed, err := s.SetChannels(ctx, list)
	if len(changed) != 2 || changed[0].Org != "uni-1" || changed[0].Enabled || changed[1].Org != "uni-7" || !changed[1].Enabled {
		t.Errorf("changed %+v", changed)
	}
	if !errors.Is(err, event.ErrIncomplete) {
		t.Error(err)
	}
	wantWrongType(t, err, control("uni-3"))
}

func TestChannelsBesideDamage(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s, rdb, ctx := attached(t, srv.URL()), srv.Client(t), context.Background()
	a, b := twins(t, s)
	keys := []event.ChannelKey{{Org: a, Channel: event.Webhook}, {Org: a, Channel: event.Email}, {Org: b, Channel: event.Webhook}}
	wrong := s.keys.control(orgPartition(a), a, event.Webhook)
	breakKey(t, rdb, wrong)
	if err := rdb.HSet(ctx, s.keys.control(orgPartition(a), a, event.Email), "flight", "many").Err(); err != nil {
		t.Fatal(err)
	}
	states, err := s.Channels(ctx, keys)
	if !errors.Is(err, event.ErrIncomplete) || !strings.Contains(err.Error(), "flight") {
		t.Error(err)
	}
	wantWrongType(t, err, wrong)
	if len(states) != 3 || !states[0].Unread || !states[1].Unread || states[2].Unread || !states[2].Enabled {
		t.Errorf("%+v", states)
	}
	if _, err := s.Breaker(ctx, a, event.Webhook); err == nil {
		t.Error("a breaker that cannot be read counts as closed")
	}
	if br, err := s.Breaker(ctx, b, event.Webhook); err != nil || br != (event.Breaker{}) {
		t.Errorf("another's breaker: %+v, %v", br, err)
	}
}

// TestEnqueueDoesNothingBesideAWrongType: it is tried again and again, so what it
// did each time would be told each time, and a dead letter that it took away to
// join it with news would be nowhere.
func TestEnqueueDoesNothingBesideAWrongType(t *testing.T) {
	t.Parallel()
	for _, name := range append([]string{"dead", "dead-at", "ready"}, channelKeys...) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			s, rdb, ctx := attached(t, srv.URL()), srv.Client(t), t.Context()
			a, b := twins(t, s)
			now := s.Now()
			p := orgPartition(a)
			died := Target{Org: a, Channel: event.Webhook, ORCID: testID(t, 1), Type: event.Created, At: now, Due: now, Entry: "1-1"}
			enqueued(t, s, []Target{died})
			if _, err := s.Finish(ctx, takes(t, s, a, event.Webhook, 1)[0], event.Outcome{Result: event.Dead}); err != nil {
				t.Fatal(err)
			}
			key := s.keys.channel(p, a, event.Webhook) + name
			if name == "ready" {
				key = s.keys.ready(p)
			}
			mend := breakKey(t, rdb, key)
			news := []Target{
				{Org: b, Channel: event.Webhook, ORCID: testID(t, 2), Type: event.Updated, At: now, Due: now, Entry: "2-1"},
				{Org: a, Channel: event.Webhook, ORCID: testID(t, 1), Type: event.Updated, At: now, Due: now, Entry: "2-1"},
			}
			for range 2 {
				_, err := s.Enqueue(ctx, 0, news, 0)
				wantWrongType(t, err, key)
			}
			if n := rdb.HLen(ctx, s.keys.slots(p, b, event.Webhook)).Val(); n != 0 {
				t.Errorf("%d slots were made", n)
			}
			mend()
			if n := rdb.HLen(ctx, s.keys.dead(p, a, event.Webhook)).Val(); n != 1 {
				t.Errorf("%d dead letters, want the one", n)
			}
			enqueued(t, s, news)
			l, err := s.Ledger(ctx, []string{a, b})
			if err != nil {
				t.Fatal(err)
			}
			if l.Opened != 3 || l.Coalesced != 0 || l.Superseded != 1 || l.Pending != 2 || l.Dead != 0 {
				t.Errorf("when mended: %+v", l)
			}
		})
	}
}

// TestClaimTakesNothingThatItCannotReturn: what flew for nobody would be a dead
// letter after five leases.
func TestClaimTakesNothingThatItCannotReturn(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s, rdb, ctx := attached(t, srv.URL()), srv.Client(t), t.Context()
	a, _ := twins(t, s)
	now := s.Now()
	list := []Target{{Org: a, Channel: event.Webhook, ORCID: testID(t, 1), Type: event.Updated, At: now, Due: now, Entry: "1-1"}}
	enqueued(t, s, list)
	key := s.keys.ready(orgPartition(a))
	mend := breakKey(t, rdb, key)
	_, err := s.Claim(ctx, a, event.Webhook, 1, time.Hour)
	wantWrongType(t, err, key)
	mend()
	takes(t, s, a, event.Webhook, 1)
}

// TestFinishBesideAWrongType: outcomes that go to Redis together stand each for
// its channel; one that Redis refuses takes nothing from the others, and what only
// the log of the attempts needs keeps none from being written.
func TestFinishBesideAWrongType(t *testing.T) {
	t.Parallel()
	for _, name := range append([]string{"attempts", "tally"}, channelKeys...) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			s, rdb, ctx := attached(t, srv.URL()), srv.Client(t), t.Context()
			a, b := twins(t, s)
			now := s.Now()
			var list []Target
			for i, org := range []string{b, a, a, b} {
				ch := event.Webhook
				if i == 3 {
					ch = event.Email
				}
				list = append(list, Target{Org: org, Channel: ch, ORCID: testID(t, uint64(i)+1), Type: event.Updated, At: now, Due: now, Entry: "1-1"})
			}
			enqueued(t, s, list)
			var batch []finishQuery
			flying := slices.Concat(takes(t, s, b, event.Webhook, 1), takes(t, s, a, event.Webhook, 2), takes(t, s, b, event.Email, 1))
			for _, d := range flying {
				batch = append(batch, finishQuery{d, event.Outcome{Result: event.Delivered, Attempt: event.Attempt{Start: now, Status: 200}}})
			}
			p := orgPartition(a)
			key := s.keys.channel(p, a, event.Webhook) + name
			mend := breakKey(t, rdb, key)
			_, errs := s.finishBatch(ctx, batch)
			aside := name == "attempts" || name == "tally"
			for i, q := range batch {
				switch {
				case q.d.Org == a && !aside:
					wantWrongType(t, errs[i], key)
				case errs[i] != nil:
					t.Errorf("%s: %v", q.d.Org, errs[i])
				}
			}
			mend()
			again, errs := s.finishBatch(ctx, batch)
			for i, q := range batch {
				if errs[i] != nil || again[i].Stale != (q.d.Org == b || aside) && name != "due" && name != "control" {
					t.Errorf("%s again when mended: %+v, %v", q.d.Org, again[i], errs[i])
				}
			}
			l, err := s.Ledger(ctx, []string{a, b})
			if err != nil {
				t.Fatal(err)
			}
			if l.Delivered != 4 || l.Pending != 0 || len(l.broken) > 0 {
				t.Errorf("when mended: %+v", l)
			}
		})
	}
}

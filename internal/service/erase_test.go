package service

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// slot opens a slot of uni-a's webhook for the user.
func (b *testBundle) slot(t testing.TB, id orcid.ID) {
	t.Helper()
	target := store.Target{Org: "uni-a", Channel: event.Webhook, ORCID: id, Type: event.Updated, At: b.store.Now().Add(-time.Second), Entry: fmt.Sprintf("%d-1", id.Base()%1000+1)}
	if _, err := b.store.Enqueue(context.Background(), 0, []store.Target{target}, 0); err != nil {
		t.Fatal(err)
	}
}

// await polls until f is true.
func await(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// keysWith returns every key of Redis that holds one of the texts.
func (b *testBundle) keysWith(t testing.TB, texts ...string) (out []string) {
	t.Helper()
	ctx := context.Background()
	rdb := b.redis.Client(t)
	all, err := rdb.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range all {
		raw, err := rdb.Do(ctx, "DUMP", key).Text()
		if err != nil {
			t.Fatal(err)
		}
		var values any
		switch kind, _ := rdb.Type(ctx, key).Result(); kind {
		case "hash":
			values = rdb.HGetAll(ctx, key).Val()
		case "list":
			values = rdb.LRange(ctx, key, 0, -1).Val()
		case "set":
			values = rdb.SMembers(ctx, key).Val()
		case "zset":
			values = rdb.ZRange(ctx, key, 0, -1).Val()
		case "stream":
			values = rdb.XRange(ctx, key, "-", "+").Val()
		default:
			values = raw
		}
		all := key + fmt.Sprint(values)
		for _, text := range texts {
			if strings.Contains(all, text) {
				out = append(out, key+" has "+text)
			}
		}
	}
	return out
}

func TestAnErasureLeavesNoTraceAndOutlivesARestart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	b.uniA(t)
	id, other := person(t, 7), person(t, 8)
	for _, u := range []orcid.ID{id, other} {
		p := Person{Email: "mail-" + u.String(), EPPN: "eppn", Name: "Name of " + u.String()}
		if _, err := b.svc.AddUser(ctx, tester, "uni-a", u, p); err != nil {
			t.Fatal(err)
		}
		b.slot(t, u)
		r, err := b.store.User(ctx, u)
		if err != nil {
			t.Fatal(err)
		}
		r.Affiliations[0].Announce = false
		r.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 2, Base: 1, Changed: b.store.Now()}}
		if _, err := b.store.SaveUser(ctx, *r, time.Time{}); err != nil {
			t.Fatal(err)
		}
		if err := b.store.AddChecks(ctx, []event.Check{{Kind: event.CheckBaseline, ORCID: u, Credential: "main", At: b.store.Now()}}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := b.store.Claim(ctx, "uni-a", event.Webhook, 1, 2*time.Second)
	if err != nil || len(c.Deliveries) != 1 {
		t.Fatal(c, err)
	}
	flying := c.Deliveries[0]
	if flying.ORCID != id {
		t.Fatalf("%s flies", flying.ORCID)
	}
	old := store.Job{ID: "replay-old", Kind: jobReplay, State: jobDone, Org: "uni-a", Args: map[string]string{"orcid": id.String()}}
	if err := b.store.SaveJob(ctx, old); err != nil {
		t.Fatal(err)
	}
	export, err := b.svc.ExportUser(ctx, tester, id)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(export)
	if err != nil || !strings.Contains(string(raw), "mail-"+id.String()) || strings.Contains(string(raw), other.String()) || strings.Contains(string(raw), "key-1") {
		t.Errorf("%v: %s", err, raw)
	}
	if a := export.Affiliations; len(a) != 1 || len(a[0].Slots) != 1 || !a[0].Slots[0].InFlight || len(export.History) == 0 || len(export.Watched) != 1 || len(export.NotHere) == 0 {
		t.Errorf("%s", raw)
	}

	e, err := b.svc.EraseUser(ctx, tester, id)
	if err != nil || e.Waiting == "" || len(e.AgesOut) == 0 {
		t.Fatalf("%+v, %v", e, err)
	}
	if again, err := b.svc.EraseUser(ctx, tester, id); err != nil || again.Job.ID != e.Job.ID {
		t.Errorf("a second job: %+v, %v", again, err)
	}
	// From the first moment on nobody can add the user.
	if r := b.imported(t, listOf(t, 7, 8)); r.Suppressed != 1 || r.Added != 0 {
		t.Errorf("%+v", r)
	}
	waits := func(for_ string) func() bool {
		return func() bool {
			now, err := b.svc.Erasure(ctx, e.Job.ID)
			return err == nil && strings.Contains(now.Waiting, for_)
		}
	}
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- b.svc.Run(run) }()
	await(t, "waiting for ORCID", waits("ORCID to confirm that 1 registration is gone"))
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := b.svc.Unsuppress(ctx, tester, id); code(err) != CodeConflict {
		t.Errorf("lifted meanwhile: %v", err)
	}
	// Killed and started again; then the user's actor unregisters.
	b = setupOn(t, b.redis, b.data)
	b.uniA(t)
	run, stop = context.WithCancel(ctx)
	go func() { ended <- b.svc.Run(run) }()
	u, err := b.store.User(ctx, id)
	if err != nil || u == nil || len(u.Affiliations) != 0 || len(u.Registrations) != 1 {
		t.Fatalf("%+v, %v: the row at ORCID must stay known", u, err)
	}
	// A ping that was on its way, and the end of the attempt.
	if err := b.store.Append(ctx, []event.Ping{{Credential: "main", ORCID: id, AcceptedAt: b.store.Now()}}); err != nil {
		t.Fatal(err)
	}
	u.Registrations = nil
	if _, err := b.store.SaveUser(ctx, *u, time.Time{}); err != nil {
		t.Fatal(err)
	}
	o := event.Outcome{Result: event.Delivered, Attempt: event.Attempt{DeliveryID: flying.ID(), ORCID: id, Channel: event.Webhook, Start: b.store.Now(), Result: event.Delivered}}
	if _, err := b.store.Finish(ctx, flying, o); err != nil {
		t.Fatal(err)
	}
	await(t, "waiting for the log", waits("the intake log"))
	for lane := range store.Lanes {
		entries, err := b.store.ReadLog(ctx, lane, "", 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if err := b.store.RemoveEntries(ctx, lane, []store.Processed{{ID: entry.ID, Pings: 1, Unknown: 1}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	await(t, "the end", func() bool {
		now, err := b.svc.Erasure(ctx, e.Job.ID)
		return err == nil && now.Job.State == jobDone
	})
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	done, err := b.svc.Erasure(ctx, e.Job.ID)
	want := map[string]int{"affiliations": 1, "registrations": 1, "slots": 1, "attempts": 1, "checks": 1, "dead_letters": 0}
	for name, n := range want {
		if done.Removed[name] != n {
			t.Errorf("%s: removed %d, want %d", name, done.Removed[name], n)
		}
	}
	if err != nil || done.Waiting != "" {
		t.Errorf("%+v, %v", done, err)
	}
	// Nothing in Redis names the iD any more, in none of its forms.
	mixed := fmt.Sprint(b.members(t, "uni-a"))
	if left := b.keysWith(t, id.String(), fmt.Sprint(id.Base())); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if strings.Contains(mixed, fmt.Sprint(id.Base())) || len(b.members(t, "uni-a")) != 1 {
		t.Errorf("members: %s", mixed)
	}
	story, err := b.svc.User(ctx, id)
	if err != nil || story.Suppressed.IsZero() || story.Erasing || len(story.Affiliations) != 0 || len(story.History) != 0 {
		t.Errorf("%+v, %v", story, err)
	}
	if story, err := b.svc.User(ctx, other); err != nil || len(story.Affiliations) != 1 || len(story.Affiliations[0].Slots) != 1 || len(story.Watched) != 1 {
		t.Errorf("of the other: %+v, %v", story, err)
	}
}

func TestADamagedRecordStopsNobodyElse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	b.uniA(t)
	b.imported(t, listOf(t, 0, 20))
	b.damage(t, person(t, 3))
	if r := b.imported(t, listOf(t, 0, 21)); r.Added != 1 || r.Known != 19 || r.Bad != 1 || r.BadLines[0].Line != 5 || !strings.Contains(r.BadLines[0].Why, "damaged") {
		t.Errorf("%+v", r)
	}
	page, err := b.svc.Users(ctx, "uni-a", "", 100)
	if err != nil || len(page.Users) != 21 {
		t.Errorf("%d users, %v", len(page.Users), err)
	}
	if p, err := b.svc.RegistrationProgress(ctx, "uni-a"); err != nil || p.Users != 20 {
		t.Errorf("%+v, %v", p, err)
	}
	story, err := b.svc.User(ctx, person(t, 3))
	if err != nil || !story.Damaged {
		t.Errorf("%+v, %v", story, err)
	}
	item := store.Item{Kind: store.KindPing, Subject: "main", ORCID: person(t, 3), At: b.store.Now()}
	if err := b.store.Park(ctx, 1, []store.Item{item}, []string{"p what"}, b.store.Now()); err != nil {
		t.Fatal(err)
	}
	problems := fmt.Sprint(b.svc.Status(ctx).Problems)
	if !strings.Contains(problems, "the stored record of "+person(t, 3).String()+" is damaged") || !strings.Contains(problems, "1 line of the intake log is damaged") {
		t.Errorf("%s", problems)
	}
	if err := b.svc.RemoveUser(ctx, tester, "uni-a", person(t, 3)); code(err) != CodeConflict {
		t.Errorf("%v", err)
	}
	if _, err := b.svc.EraseUser(ctx, tester, person(t, 3)); err != nil {
		t.Fatal(err)
	}
	b.runJobs(t)
	if list, err := b.svc.Parked(ctx); err != nil || len(list) != 1 || list[0].Line == "" {
		t.Errorf("%+v, %v", list, err)
	}
	if n, err := b.svc.DropParkedLines(ctx, tester); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if err := b.svc.Unsuppress(ctx, tester, person(t, 3)); err != nil {
		t.Fatal(err)
	}
	if r := b.imported(t, listOf(t, 0, 21)); r.Added != 1 || r.Known != 20 || r.Bad != 0 {
		t.Errorf("%+v", r)
	}
}

func TestStatusTellsDamageFromARedisThatIsDown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, rdb := context.Background(), b.redis.Client(t)
	b.uniA(t)
	b.imported(t, listOf(t, 0, 20))
	keys, err := rdb.Keys(ctx, "*:u-meta").Result()
	if err != nil || len(keys) == 0 {
		t.Fatal(keys, err)
	}
	if err := rdb.HSet(ctx, keys[0], "r1", "many").Err(); err != nil {
		t.Fatal(err)
	}
	said := fmt.Sprint(b.svc.Status(ctx).Problems)
	if strings.Contains(said, "does not answer") || !strings.Contains(said, "cannot be read") || !strings.Contains(said, "many") {
		t.Errorf("of damage: %s", said)
	}
	if err := rdb.HDel(ctx, keys[0], "r1").Err(); err != nil {
		t.Fatal(err)
	}
	// What of one channel cannot be read hides neither others nor the rest.
	control, err := rdb.Keys(ctx, "*:o:uni-a:w:control").Result()
	if err != nil || len(control) != 1 {
		t.Fatal(control, err)
	}
	if err := rdb.Set(ctx, control[0], "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	st := b.svc.Status(ctx)
	if said := fmt.Sprint(st.Problems); !strings.Contains(said, control[0]+" is a string, not a hash") {
		t.Errorf("of a key of another type: %s", said)
	}
	if st.Users != 20 || len(st.Channels) != 1 || !st.Channels[0].Channels[0].Unread || st.Channels[0].Channels[1].Unread {
		t.Errorf("beside a key of another type: %+v", st)
	}
	if list, err := b.svc.Organisations(ctx); err != nil || len(list) != 1 || !list[0].Channels[0].Unread {
		t.Errorf("listed %+v, %v", list, err)
	}
	if _, err := b.svc.Organisation(ctx, "uni-a"); err == nil || !strings.Contains(err.Error(), control[0]) {
		t.Errorf("the organisation itself: %v", err)
	}
	b.redis.Kill()
	if st := b.svc.Status(ctx); !st.Unknown || !strings.Contains(fmt.Sprint(st.Problems), "Redis does not answer") {
		t.Errorf("of a Redis that is down: %+v", st)
	}
}

// TestAnErasureTakesDamagedCallbacksAlong: the others go as always.
func TestAnErasureTakesDamagedCallbacksAlong(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, rdb := context.Background(), b.redis.Client(t)
	b.uniA(t)
	id := person(t, 3)
	if _, err := b.svc.AddUser(ctx, tester, "uni-a", id, Person{}); err != nil {
		t.Fatal(err)
	}
	urls := []string{"https://a.example/1", "https://a.example/2", "https://a.example/3"}
	for _, url := range urls {
		if _, err := b.svc.PutCallback(ctx, tester, "uni-a", id, url); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := rdb.Keys(ctx, "*:g:*").Result()
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	if err := rdb.HSet(ctx, keys[0], urls[0], "garbage", urls[1], "0;uni-a;{").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.svc.PutCallback(ctx, tester, "uni-a", id, urls[0]); code(err) != CodeConflict {
		t.Errorf("over a damaged one: %v", err)
	}
	if _, err := b.svc.PutCallback(ctx, tester, "uni-a", id, urls[2]); err != nil {
		t.Errorf("beside a damaged one: %v", err)
	}
	story, err := b.svc.User(ctx, id)
	if err != nil || len(story.Callbacks) != 3 || story.Callbacks[0].State != "damaged" || story.Callbacks[1].URL != urls[1] || story.Callbacks[2].State == "damaged" {
		t.Errorf("%+v, %v", story.Callbacks, err)
	}
	begun, err := b.svc.EraseUser(ctx, tester, id)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	defer func() { stop(); <-ended }()
	go func() { ended <- b.svc.Run(running) }()
	await(t, "the end of the readable callback", func() bool {
		list, err := b.store.Guests(ctx, id)
		return err == nil && len(list) == 1 && list[0].Gone && list[0].URL == urls[2]
	})
	// As the keeper does once ORCID has confirmed.
	list, err := b.store.Guests(ctx, id)
	if err == nil {
		_, err = b.store.SaveGuest(ctx, list[0], time.Time{})
	}
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the erasure", func() bool {
		e, err := b.svc.Erasure(ctx, begun.Job.ID)
		if err != nil || e.Job.State == jobFailed {
			t.Fatalf("%+v, %v", e, err)
		}
		return e.Job.State == jobDone && e.Removed["damaged_records"] == 2 && e.Removed["callbacks"] == 1
	})
}

// damage writes over the stored record of a user.
func (b *testBundle) damage(t testing.TB, id orcid.ID) {
	t.Helper()
	ctx := context.Background()
	rdb := b.redis.Client(t)
	keys, err := rdb.Keys(ctx, "*:u:*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		for field := range rdb.HGetAll(ctx, key).Val() {
			before, err := b.store.User(ctx, id)
			if err != nil || before == nil {
				t.Fatal(before, err)
			}
			raw := rdb.HGet(ctx, key, field).Val()
			rdb.HSet(ctx, key, field, "\x00\x00\x00\x00\xff garbage")
			if _, err := b.store.User(ctx, id); err != nil {
				return
			}
			rdb.HSet(ctx, key, field, raw)
		}
	}
	t.Fatal("no record found")
}

package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/redistest"
)

func (b *slotBundle) hold(h event.Hold, until time.Time, reason string) time.Time {
	b.Helper()
	next, err := b.s.SetHold(context.Background(), "uni-a", event.Webhook, h, until, reason)
	b.must(err)
	return next
}

func TestHoldsAreSeparateAndTheLatestCounts(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		if next := b.hold(event.HoldPause, event.Forever, "an operator's; with ; in it"); !next.IsZero() {
			b.Errorf("an empty channel is next ready at %s", next)
		}
		next := b.enqueue(b.target("uni-a", event.Webhook, 7, event.Updated), b.target("uni-a", event.Webhook, 8, event.Updated))
		if got := next[event.ChannelKey{Org: "uni-a", Channel: event.Webhook}]; !got.Equal(event.Forever) {
			b.Errorf("a paused channel is next ready at %s", got)
		}
		b.clock.advance(quiet)
		if c := b.claim(10); len(c.Deliveries) != 0 || !c.HeldUntil.Equal(event.Forever) || !c.Next.Equal(event.Forever) {
			b.Fatalf("claimed while paused: %+v", c)
		}
		began := b.clock.now()
		b.hold(event.HoldRetryAfter, began.Add(time.Minute), "429")
		b.clock.advance(30 * time.Second)
		b.hold(event.HoldRetryAfter, began.Add(2*time.Minute), "429 again")
		st := b.state("uni-a", event.Webhook)
		want := map[event.Hold]HoldInfo{
			event.HoldPause:      {Until: event.Forever, Reason: "an operator's; with ; in it", Since: begin},
			event.HoldRetryAfter: {Until: began.Add(2 * time.Minute), Reason: "429 again", Since: began},
		}
		if !maps.Equal(st.Holds, want) {
			b.Errorf("holds %+v, want %+v", st.Holds, want)
		}
		if next := b.hold(event.HoldPause, time.Time{}, ""); !next.Equal(began.Add(2 * time.Minute)) {
			b.Errorf("clearing the pause also cleared the other hold: next %s", next)
		}
		b.clock.advance(90 * time.Second)
		if st := b.state("uni-a", event.Webhook); len(st.Holds) != 0 || st.Waiting != 2 || !st.OldestFirst.Equal(begin) {
			b.Errorf("an ended hold is shown: %+v", st)
		}
		if c := b.claim(1); len(c.Deliveries) != 1 {
			b.Errorf("nothing claimed after the hold: %+v", c)
		}
	})
}

func TestTheBreakerIsKeptWithItsHold(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.ping(7)
		want := event.Breaker{Failures: 12, FirstFailure: begin, Trips: 2, HeldSince: begin, NotifiedDown: true, Slow: true}
		until := begin.Add(10 * time.Minute)
		next, err := b.s.SetBreaker(ctx, "uni-a", event.Webhook, want, until)
		b.must(err)
		st := b.state("uni-a", event.Webhook)
		if st.Breaker != want || !next.Equal(until) || !st.Holds[event.HoldBreaker].Until.Equal(until) || !st.Next.Equal(until) {
			b.Errorf("next %s, state %+v", next, st)
		}
		if _, err := b.s.SetHold(ctx, "uni-a", event.Webhook, event.HoldBreaker, time.Time{}, ""); err != nil {
			b.Fatal(err)
		}
		if st := b.state("uni-a", event.Webhook); st.Breaker != want {
			b.Errorf("clearing the hold cleared the state: %+v", st)
		}
		next, err = b.s.SetBreaker(ctx, "uni-a", event.Webhook, event.Breaker{}, time.Time{})
		b.must(err)
		if st := b.state("uni-a", event.Webhook); st.Breaker != (event.Breaker{}) || len(st.Holds) != 0 || !next.Equal(begin.Add(quiet)) {
			b.Errorf("next %s, state %+v", next, st)
		}
	})
}

func TestADisabledChannelIgnoresNewsAndIsNotClaimed(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		next := b.enqueue(b.target("uni-a", event.Email, 7, event.Updated), b.target("uni-x", event.Webhook, 7, event.Created))
		if len(next) != 2 || !next[event.ChannelKey{Org: "uni-x", Channel: event.Webhook}].IsZero() {
			b.Errorf("touched %v", next)
		}
		b.ping(7)
		b.ping(8)
		b.clock.advance(quiet)
		d := b.claim(1).Deliveries[0]
		b.must(b.s.SetChannel(ctx, "uni-a", event.Webhook, false))
		if c := b.claim(10); len(c.Deliveries) != 0 || !c.Next.IsZero() {
			b.Errorf("claimed from a disabled channel: %+v", c)
		}
		ready, later, err := b.s.Ready(ctx, b.clock.now().Add(time.Hour), 10)
		if err != nil || len(ready) != 0 || !later.IsZero() {
			b.Errorf("a disabled channel is ready: %v, %s, %v", ready, later, err)
		}
		n, more, err := b.s.CancelSlots(ctx, "uni-a", event.Webhook, 1)
		if err != nil || n != 1 || !more {
			b.Errorf("cancelled %d, more %v, %v", n, more, err)
		}
		n, more, err = b.s.CancelSlots(ctx, "uni-a", event.Webhook, 100)
		if err != nil || n != 1 || more {
			b.Errorf("cancelled %d, more %v, %v", n, more, err)
		}
		if f := b.finish(d, event.Outcome{Result: event.Delivered}); !f.Stale {
			b.Error("finishing a cancelled slot is not stale")
		}
		if l := b.audit(); l.Ignored["disabled"] != 2 || l.Cancelled != 2 || l.Pending != 0 {
			b.Errorf("ledger %+v", l)
		}
		b.enable("uni-a", event.Webhook)
		b.ping(7)
		b.sizes(1, 0, 0)
	})
}

func TestReadyListsTheLongestReadyFirst(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		var want []event.ChannelKey
		for i := range 150 {
			org := fmt.Sprintf("org-%03d", i)
			b.enable(org, event.Email)
			b.enqueue(b.target(org, event.Email, 7, event.Updated))
			want = append(want, event.ChannelKey{Org: org, Channel: event.Email})
			b.clock.advance(time.Second)
		}
		at := begin.Add(quiet + 99*time.Second) // 100 of them are due
		ready, next, err := b.s.Ready(ctx, at, 1000)
		if err != nil || !slices.Equal(ready, want[:100]) || !next.Equal(at.Add(time.Second)) {
			b.Errorf("%d ready, next %s, %v", len(ready), next, err)
		}
		if ready, _, err = b.s.Ready(ctx, at, 5); err != nil || !slices.Equal(ready, want[:5]) {
			b.Errorf("limited: %v, %v", ready, err)
		}
		if ready, next, err = b.s.Ready(ctx, begin, 5); err != nil || len(ready) != 0 || !next.Equal(begin.Add(quiet)) {
			b.Errorf("early: %v, %s, %v", ready, next, err)
		}
		states, err := b.s.Channels(ctx, want)
		b.must(err)
		for i, st := range states {
			if first := begin.Add(time.Duration(i) * time.Second); st.Waiting != 1 || !st.Enabled || !st.OldestFirst.Equal(first) || !st.Next.Equal(first.Add(quiet)) {
				b.Fatalf("channel %d: %+v", i, st)
			}
		}
	})
}

func TestLeavingRemovesOneUserOnly(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.enable("uni-a", event.Email)
		b.enqueue(b.target("uni-a", event.Webhook, 7, event.Updated), b.target("uni-a", event.Email, 7, event.Updated))
		b.clock.advance(quiet)
		b.finish(b.claimOne(), b.failed(event.Dead, 400))
		b.ping(8)
		n, err := b.s.CancelUser(context.Background(), "uni-a", testID(b.T, 7))
		if err != nil || n != 2 {
			b.Fatalf("cancelled %d, %v", n, err)
		}
		b.sizes(1, 0, 0)
		if l := b.audit(); l.Cancelled != 1 || l.Purged != 1 {
			b.Errorf("ledger %+v", l)
		}
	})
}

func TestDroppingAnOrganisationLeavesNoKey(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	clock := newFakeClock()
	b := &slotBundle{T: t, s: attached(t, srv.URL(), func(o *Options) { o.Now = clock.now }), clock: clock}
	b.enable("uni-a", event.Channels[:]...)
	b.enable("uni-b", event.Webhook)
	for u := range uint64(5) {
		b.ping(u + 1)
		b.enqueue(b.target("uni-a", event.Email, u+1, event.Updated), b.target("uni-b", event.Webhook, u+1, event.Updated))
	}
	clock.advance(quiet)
	for _, d := range b.claim(3).Deliveries {
		b.finish(d, b.failed(event.Dead, 400))
	}
	b.claim(1)
	b.hold(event.HoldSuspend, event.Forever, "410")
	for range 2 {
		b.must(b.s.DropOrganisation(context.Background(), "uni-a"))
	}
	left, err := srv.Client(t).Keys(context.Background(), "*o:uni-a:*").Result()
	b.must(err)
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if l := b.audit(); l.Pending != 5 || l.Cancelled != 7 || l.Purged != 3 {
		t.Errorf("ledger %+v", l)
	}
	ready, _, err := b.s.Ready(context.Background(), event.Forever, 10)
	if err != nil || len(ready) != 1 || ready[0].Org != "uni-b" {
		t.Errorf("ready %v, %v", ready, err)
	}
}

// TestTheLastDayIsCountedByTheHour: also what the attempt log has no room for.
func TestTheLastDayIsCountedByTheHour(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.clock.advance(b.s.Now().Truncate(time.Hour).Add(time.Hour + time.Minute).Sub(b.s.Now())) // an hour has just begun
		none := event.Delivery{Org: "uni-a", ORCID: testID(b.T, 7), Type: event.Updated, Token: "none"}
		many := func(n int, ch event.Channel, r event.Result, change func(*event.Outcome)) {
			b.Helper()
			var all sync.WaitGroup
			for range n { // as a busy organisation's: merged into batches
				all.Go(func() {
					d, o := none, b.failed(r, 500)
					d.Channel = ch
					if change != nil {
						change(&o)
					}
					if _, err := b.s.Finish(ctx, d, o); err != nil {
						b.Error(err)
					}
				})
			}
			all.Wait()
		}
		day := func() [DayHours]Hour {
			b.Helper()
			day, err := b.s.LastDay(ctx, "uni-a")
			b.must(err)
			return day
		}
		want := [DayHours]Hour{}
		if got := day(); got != want {
			b.Errorf("nothing was sent: %v", got)
		}
		many(600, event.Webhook, event.Delivered, nil)
		many(150, event.Webhook, event.Retry, nil)
		many(50, event.Email, event.Dead, nil)
		many(50, event.Email, event.Delivered, nil)
		many(3, event.Webhook, event.Released, func(o *event.Outcome) { o.Attempt.Status = 0 }) // no attempts
		many(3, event.Webhook, event.Cancelled, nil)
		many(3, event.Webhook, event.Delivered, func(o *event.Outcome) { o.Attempt.Result = event.Shadow })
		want[23] = Hour{650, 200}
		if got := day(); got != want {
			b.Errorf("in the first hour: %v", got)
		}
		b.clock.advance(22 * time.Hour)
		many(300, event.Webhook, event.Delivered, nil)
		want[1], want[23] = Hour{650, 200}, Hour{300, 0}
		if got := day(); got != want {
			b.Errorf("22 hours later: %v", got)
		}
		b.clock.advance(2 * time.Hour)
		want[21], want[1], want[23] = want[23], Hour{}, Hour{}
		if got := day(); got != want {
			b.Errorf("the first hour is a day ago: %v", got)
		}
		many(1, event.Webhook, event.Retry, nil)
		many(1, event.Webhook, event.Retry, nil)
		want[23] = Hour{0, 2}
		if got := day(); got != want {
			b.Errorf("one more hour: %v", got)
		}
		key := b.s.keys.tally(orgPartition("uni-a"), "uni-a", event.Webhook)
		if n, err := b.s.rdb.HLen(ctx, key).Result(); err != nil || n != 2 {
			b.Errorf("%d fields, %v: those of more than a day ago stay", n, err)
		}
		if ttl, err := b.s.rdb.PTTL(ctx, key).Result(); err != nil || ttl <= 0 || ttl > 24*time.Hour {
			b.Errorf("expires in %v, %v", ttl, err)
		}
		b.must(b.s.DropOrganisation(ctx, "uni-a"))
		if n, err := b.s.rdb.Exists(ctx, key, b.s.keys.tally(orgPartition("uni-a"), "uni-a", event.Email)).Result(); err != nil || n != 0 {
			b.Errorf("%d tallies of an organisation that went, %v", n, err)
		}
	}, func(o *Options) { o.AttemptLog = 70 })
}

// A receiver that answers 410 was asked: whoever looks why nothing comes any
// more finds that attempt, though it counts none of the slot's.
func TestAnAnswerThatGivesTheSlotBackIsLogged(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.ping(7)
		b.clock.advance(quiet)
		for _, status := range []int{410, 0} { // 0: nobody was asked
			o := b.failed(event.Released, status)
			o.RetryAt = b.clock.now()
			b.finish(b.claimOne(), o)
		}
		list, err := b.s.Attempts(ctx, "uni-a", event.Webhook, 10)
		b.must(err)
		if len(list) != 1 || list[0].Status != 410 || list[0].Result != event.Released {
			b.Errorf("attempts %+v", list)
		}
		day, err := b.s.LastDay(ctx, "uni-a")
		b.must(err)
		if got := day[DayHours-1]; got != (Hour{Failed: 1}) {
			b.Errorf("counted %+v", got)
		}
		if d := b.claimOne(); d.Attempt != 1 {
			b.Errorf("attempt %d, want 1", d.Attempt)
		}
	})
}

func TestTheAttemptLogIsCappedByCountAgeAndExcerpts(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.ping(7)
		try := func(i int, r event.Result) {
			b.Helper()
			b.clock.advance(time.Hour)
			d := b.claimOne()
			o := b.failed(r, 500)
			o.Attempt.DeliveryID, o.Attempt.Number = d.ID(), i
			o.Attempt.ORCID, o.Attempt.Channel, o.Attempt.Type = d.ORCID, d.Channel, d.Type
			o.Attempt.Duration, o.Attempt.Excerpt = time.Duration(i), fmt.Sprintf("line 1 of %d\nline 2", i)
			b.finish(d, o)
		}
		for i := range 80 {
			try(i, event.Retry)
		}
		list, err := b.s.Attempts(ctx, "uni-a", event.Webhook, 100)
		b.must(err)
		if len(list) != 70 {
			b.Fatalf("%d attempts kept, want 70", len(list))
		}
		for i, a := range list {
			want := 79 - i
			excerpt := ""
			if i < 50 {
				excerpt = fmt.Sprintf("line 1 of %d\nline 2", want)
			}
			if a.Number != want || a.Excerpt != excerpt || a.Result != event.Retry || a.ORCID != testID(b.T, 7) || a.Status != 500 || a.Error != "status 500" {
				b.Fatalf("attempt %d: %+v", i, a)
			}
		}
		if list, err = b.s.Attempts(ctx, "uni-a", event.Webhook, 3); err != nil || len(list) != 3 || list[0].Number != 79 {
			b.Errorf("latest 3: %+v, %v", list, err)
		}
		d := event.Delivery{Org: "uni-a", Channel: event.Webhook, ORCID: testID(b.T, 7), Type: event.Updated, Token: "none"}
		for _, r := range []event.Result{event.Released, event.Cancelled} {
			b.finish(d, b.failed(r, 0)) // no attempt was made
		}
		if f := b.finish(d, b.failed(event.Delivered, 200)); !f.Stale { // logged though stale
			b.Error("a delivery without slot is not stale")
		}
		if list, err = b.s.Attempts(ctx, "uni-a", event.Webhook, 2); err != nil || list[0].Result != event.Delivered || list[1].Number != 79 {
			b.Errorf("latest: %+v, %v", list, err)
		}
		b.clock.advance(attemptAge + time.Minute)
		if list, err = b.s.Attempts(ctx, "uni-a", event.Webhook, 100); err != nil || len(list) != 0 {
			b.Errorf("%d attempts older than 90 days are shown, %v", len(list), err)
		}
		for range 64 { // looked after at about every 64th
			try(0, event.Retry)
		}
		n, err := b.s.rdb.LLen(ctx, b.s.keys.attempts(orgPartition("uni-a"), "uni-a", event.Webhook)).Result()
		if err != nil || n != 64 {
			b.Errorf("%d attempts kept, %v: old ones are not trimmed", n, err)
		}
	}, func(o *Options) { o.AttemptLog = 70 })
}

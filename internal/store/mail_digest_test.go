package store

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
)

// tomorrow is when digests of these tests are due after begin.
const tomorrow = 24 * time.Hour

// mailTo is news by e-mail that is due with the next digest.
func (b *slotBundle) mailTo(users ...uint64) {
	b.Helper()
	var list []Target
	for _, u := range users {
		t := b.target("uni-a", event.Email, u, event.Updated)
		t.Due = begin.Add(tomorrow)
		list = append(list, t)
	}
	b.enqueue(list...)
}

func (b *slotBundle) open(most int) event.Opened {
	b.Helper()
	o, err := b.s.OpenDigest(context.Background(), "uni-a", most, lease)
	b.must(err)
	return o
}

func (b *slotBundle) mustOpen() event.Digest {
	b.Helper()
	o := b.open(DigestUsers)
	if o.Digest == nil {
		b.Fatalf("no digest: %+v", o)
	}
	return *o.Digest
}

func (b *slotBundle) close(d event.Digest, o event.Outcome, gone ...orcid.ID) time.Time {
	b.Helper()
	next, err := b.s.FinishDigest(context.Background(), d, o, gone, begin.Add(2*tomorrow))
	b.must(err)
	return next
}

func (b *slotBundle) mailSizes(waiting, dead int) {
	b.Helper()
	if st := b.state("uni-a", event.Email); st.Waiting != waiting || st.InFlight != 0 || st.Dead != dead {
		b.Fatalf("waiting %d, in flight %d, dead %d; want %d, 0, %d", st.Waiting, st.InFlight, st.Dead, waiting, dead)
	}
}

func upTo(n uint64) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(i) + 1
	}
	return out
}

func TestSixHundredChangesAreOneDigest(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.enable("uni-a", event.Email)
		for _, chunk := range slices.Collect(slices.Chunk(upTo(600), 100)) {
			b.mailTo(chunk...)
			b.clock.advance(time.Minute)
		}
		b.mailTo(7) // coalesces
		if o := b.open(DigestUsers); o.Digest != nil || o.More || !o.Next.Equal(begin.Add(tomorrow)) {
			b.Fatalf("before its time: %+v", o)
		}
		b.clock.us.Store(begin.Add(tomorrow).UnixMicro())
		d := b.mustOpen()
		if len(d.Items) != 600 || d.Attempt != 1 || d.Crashes != 0 || d.ID == "" || d.Ended != "" || !d.MadeAt.Equal(begin.Add(tomorrow)) {
			b.Fatalf("%d items, %+v", len(d.Items), d)
		}
		if c, err := b.s.Claim(context.Background(), "uni-a", event.Email, 10, lease); err != nil || len(c.Deliveries) != 0 {
			b.Errorf("slots are claimed one by one while the digest is under way: %+v, %v", c, err)
		}
		if o := b.open(DigestUsers); o.Digest != nil || !o.More {
			b.Errorf("opened twice: %+v", o)
		}
		if next := b.close(d, event.Outcome{Result: event.Delivered, Attempt: event.Attempt{Start: b.clock.now()}}); !next.IsZero() {
			b.Errorf("next %s", next)
		}
		b.mailSizes(0, 0)
		if st := b.state("uni-a", event.Email); len(st.Holds) != 0 {
			b.Errorf("still held: %+v", st.Holds)
		}
		if l := b.audit(); l.Delivered != 600 || l.Pending != 0 {
			b.Errorf("ledger %+v", l)
		}
		log, err := b.s.Attempts(context.Background(), "uni-a", event.Email, 10)
		b.must(err)
		if len(log) != 1 {
			b.Errorf("%d attempts in the log, want one for the mail", len(log))
		}
		b.close(d, event.Outcome{Result: event.Delivered}) // again: nothing happens
	})
}

// TestADigestStaysTheSame: retries and crashes tell of the same users under the
// same id; what came meanwhile is told by the next one.
func TestADigestStaysTheSame(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.enable("uni-a", event.Email)
		b.mailTo(1, 2, 3)
		b.clock.us.Store(begin.Add(tomorrow).UnixMicro())
		first := b.mustOpen()
		b.clock.advance(time.Second)
		news := b.target("uni-a", event.Email, 2, event.Updated)
		other := b.target("uni-a", event.Email, 9, event.Updated)
		news.Due, other.Due = begin.Add(2*tomorrow), begin.Add(2*tomorrow)
		b.enqueue(news, other)
		retry := b.failed(event.Retry, 451)
		if next := b.close(first, retry); !next.Equal(retry.RetryAt) {
			b.Errorf("next %s, want %s", next, retry.RetryAt)
		}
		same := func(what string, d event.Digest, attempt, crashes int) {
			b.Helper()
			if d.ID != first.ID || len(d.Items) != 3 || d.Attempt != attempt || d.Crashes != crashes {
				b.Fatalf("%s: %+v, first %+v", what, d, first)
			}
			for i := range d.Items {
				if d.Items[i].ORCID != first.Items[i].ORCID || !d.Items[i].LatestAt.Equal(first.Items[i].LatestAt) {
					b.Fatalf("%s: item %d is %+v, was %+v", what, i, d.Items[i], first.Items[i])
				}
			}
		}
		b.clock.advance(30 * time.Second)
		second := b.mustOpen()
		same("after a failure", second, 2, 0)
		b.clock.advance(lease) // crash
		third := b.mustOpen()
		same("after a crash", third, 2, 1)
		if next := b.close(third, event.Outcome{Result: event.Delivered}); !next.Equal(begin.Add(2 * tomorrow)) {
			b.Errorf("next %s, want the next digest", next)
		}
		b.mailSizes(2, 0) // user 2 again, user 9
		b.clock.us.Store(begin.Add(2 * tomorrow).UnixMicro())
		next := b.mustOpen()
		if next.ID == first.ID || len(next.Items) != 2 {
			b.Errorf("the next digest: %+v", next)
		}
		b.close(next, event.Outcome{Result: event.Delivered})
		if l := b.audit(); l.Delivered != 5 || l.Pending != 0 {
			b.Errorf("ledger %+v", l)
		}
	})
}

func TestADigestThatDiesLeavesDeadLetters(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.enable("uni-a", event.Email)
		b.mailTo(1, 2, 3)
		b.clock.us.Store(begin.Add(tomorrow).UnixMicro())
		d := b.mustOpen()
		b.enqueue(b.target("uni-a", event.Email, 3, event.Created)) // other news, which lives
		b.close(d, event.Outcome{Result: event.Dead, Attempt: event.Attempt{Start: b.clock.now(), Status: 550, Error: "no such user"}})
		b.mailSizes(1, 3)
		list, _, err := b.s.DeadLetters(context.Background(), "uni-a", event.Email, "", 10)
		b.must(err)
		if len(list) != 3 || list[0].Status != 550 || list[0].Reason != "no such user" || list[0].Attempts != 1 {
			b.Errorf("%+v", list)
		}
		if n, _, err := b.s.Replay(context.Background(), "uni-a", event.Email, Selection{}, 100); err != nil || n != 3 {
			b.Fatalf("replayed %d, %v", n, err)
		}
		again := b.mustOpen()
		if len(again.Items) < 2 || again.ID == d.ID {
			b.Errorf("after a replay: %+v", again)
		}
		b.close(again, event.Outcome{Result: event.Delivered})
	})
}

// TestClosingGoesOnAfterACrash: the mail is out, and the books of a part of its
// users are closed; nobody is told twice.
func TestClosingGoesOnAfterACrash(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.enable("uni-a", event.Email)
		for chunk := range slices.Chunk(upTo(2500), 250) {
			b.mailTo(chunk...)
		}
		b.clock.us.Store(begin.Add(tomorrow).UnixMicro())
		d := b.mustOpen()
		if len(d.Items) != 2500 {
			b.Fatalf("%d items", len(d.Items))
		}
		ctx, cancel := context.WithCancel(context.Background())
		portions := 0
		b.s.nowFunc = func() time.Time { // asked once or more for every portion
			if portions++; portions > 3 {
				cancel()
			}
			return b.clock.now()
		}
		_, err := b.s.FinishDigest(ctx, d, event.Outcome{Result: event.Delivered}, nil, begin.Add(2*tomorrow))
		b.s.nowFunc = b.clock.now
		left := b.state("uni-a", event.Email).Waiting
		if err == nil || left == 0 || left == 2500 {
			b.Fatalf("%d left, %v: the test did not cut it off", left, err)
		}
		b.audit()
		b.clock.advance(lease)
		again := b.mustOpen()
		if again.ID != d.ID || again.Ended != event.Delivered {
			b.Fatalf("%+v", again.Ended)
		}
		// Whatever is said of it now, it was delivered.
		b.close(again, event.Outcome{Result: event.Retry, RetryAt: b.clock.now()})
		b.mailSizes(0, 0)
		if l := b.audit(); l.Delivered != 2500 {
			b.Errorf("ledger %+v", l)
		}
	})
}

func TestWhoLeftIsNotInTheDigest(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.enable("uni-a", event.Email)
		b.mailTo(1, 2, 3)
		b.clock.us.Store(begin.Add(tomorrow).UnixMicro())
		d := b.mustOpen()
		b.close(d, b.failed(event.Retry, 451))
		_, err := b.s.CancelUser(ctx, "uni-a", testID(b.T, 1))
		b.must(err)
		b.clock.advance(time.Minute)
		d = b.mustOpen()
		if len(d.Items) != 2 {
			b.Fatalf("%+v", d.Items)
		}
		b.close(d, event.Outcome{Result: event.Delivered}, testID(b.T, 2)) // found to have left
		b.mailSizes(0, 0)
		if l := b.audit(); l.Delivered != 1 || l.Cancelled != 2 {
			b.Errorf("ledger %+v", l)
		}
		// Disabled while a digest is open: nothing of it comes back.
		b.mailTo(4)
		b.clock.advance(time.Hour)
		b.mustOpen()
		b.must(b.s.SetChannel(ctx, "uni-a", event.Email, false))
		_, _, err = b.s.CancelSlots(ctx, "uni-a", event.Email, 100)
		b.must(err)
		b.must(b.s.DropDigest(ctx, "uni-a"))
		b.enable("uni-a", event.Email)
		b.mailTo(4)
		if d := b.mustOpen(); len(d.Items) != 1 || d.Crashes != 0 {
			b.Errorf("%+v", d)
		}
	})
}

func TestRetime(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.enable("uni-a", event.Email)
		b.enqueue(b.target("uni-a", event.Email, 1, event.Updated), b.target("uni-a", event.Email, 2, event.Updated))
		next, err := b.s.Retime(ctx, "uni-a", begin.Add(tomorrow), false)
		b.must(err)
		b.at("after the change to a digest", next, tomorrow)
		b.clock.advance(quiet)
		if c, err := b.s.Claim(ctx, "uni-a", event.Email, 10, lease); err != nil || len(c.Deliveries) != 0 {
			b.Errorf("%+v, %v", c, err)
		}
		next, err = b.s.Retime(ctx, "uni-a", b.clock.now(), true)
		b.must(err)
		b.at("after the change back", next, quiet)
		c, err := b.s.Claim(ctx, "uni-a", event.Email, 1, lease)
		b.must(err)
		if len(c.Deliveries) != 1 {
			b.Fatalf("%+v", c)
		}
		_, err = b.s.Retime(ctx, "uni-a", begin.Add(tomorrow), false)
		b.must(err)
		if f := b.finish(c.Deliveries[0], event.Outcome{Result: event.Delivered}); f.Stale {
			b.Error("one that was under way was touched")
		}
		b.mailSizes(1, 0)
	})
}

// TestDigestsLoseNothing: whatever happens in whatever order, by single mails
// and digests in turn, everybody's latest news is told after it came.
func TestDigestsLoseNothing(t *testing.T) {
	t.Parallel()
	for range 3 {
		clock := newFakeClock()
		b := &slotBundle{T: t, s: attached(t, redistest.Start(t).URL(), func(o *Options) { o.Now = clock.now }), clock: clock}
		digestsLoseNothing(b, rand.Uint64())
	}
}

func digestsLoseNothing(b *slotBundle, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	b.Logf("seed %d", seed)
	ctx := context.Background()
	b.enable("uni-a", event.Email)
	pinged, told := map[orcid.ID]time.Time{}, map[orcid.ID]time.Time{}
	tell := func(id orcid.ID, at time.Time) {
		if at.After(told[id]) {
			told[id] = at
		}
	}
	var digest *event.Digest
	var single []event.Delivery
	result := func() event.Outcome {
		return b.failed([]event.Result{event.Delivered, event.Delivered, event.Retry, event.Released}[rnd.IntN(4)], 451)
	}
	step := func() {
		switch rnd.IntN(8) {
		case 0, 1, 2:
			t := b.target("uni-a", event.Email, 1+uint64(rnd.IntN(5)), []event.Type{event.Updated, event.Updated, event.Created}[rnd.IntN(3)])
			if rnd.IntN(2) == 0 {
				t.Due = b.clock.now().Add(time.Duration(rnd.IntN(200)) * time.Second)
			}
			b.enqueue(t)
			pinged[t.ORCID] = t.At
		case 3:
			if o := b.open(1 + rnd.IntN(6)); o.Digest != nil {
				digest = o.Digest
			}
		case 4:
			if digest != nil {
				o := result()
				ended := digest.Ended
				if _, err := b.s.FinishDigest(ctx, *digest, o, nil, b.clock.now().Add(time.Minute)); err != nil {
					b.Fatal(err)
				}
				if o.Result == event.Delivered && ended == "" {
					for _, i := range digest.Items {
						tell(i.ORCID, i.LatestAt)
					}
				}
				if rnd.IntN(3) > 0 {
					digest = nil
				}
			}
		case 5:
			c, err := b.s.Claim(ctx, "uni-a", event.Email, 2, lease)
			b.must(err)
			single = append(single, c.Deliveries...)
		case 6:
			if n := len(single); n > 0 {
				i := rnd.IntN(n)
				o := result()
				b.finish(single[i], o)
				if o.Result == event.Delivered {
					tell(single[i].ORCID, single[i].LatestAt)
				}
				single = slices.Delete(single, i, i+1)
			}
		case 7:
			if rnd.IntN(4) == 0 {
				_, err := b.s.Retime(ctx, "uni-a", b.clock.now().Add(time.Duration(rnd.IntN(100))*time.Second), rnd.IntN(2) == 0)
				b.must(err)
			}
		}
		b.clock.advance(time.Duration(1+rnd.IntN(40_000_000)) * time.Microsecond)
	}
	for i := range 400 {
		step()
		if i%10 == 0 {
			b.audit()
		}
	}
	for range 30 {
		b.clock.advance(3 * time.Hour)
		if o := b.open(DigestUsers); o.Digest != nil {
			if o.Digest.Ended == "" {
				for _, i := range o.Digest.Items {
					tell(i.ORCID, i.LatestAt)
				}
			}
			b.close(*o.Digest, event.Outcome{Result: event.Delivered})
		}
		b.audit()
	}
	dead := b.state("uni-a", event.Email).Dead // of crashes
	for id, at := range pinged {
		if told[id].Before(at) && dead == 0 {
			b.Errorf("seed %d: %s changed at %s and was told of at %s", seed, id, at, told[id])
		}
	}
	b.mailSizes(0, dead)
}

package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// kill makes a dead letter of every user named, one a second.
func (b *slotBundle) kill(users ...uint64) {
	b.Helper()
	for _, u := range users {
		b.ping(u)
	}
	b.clock.advance(quiet)
	for range users {
		b.clock.advance(time.Second)
		c := b.claim(1)
		b.finish(c.Deliveries[0], b.failed(event.Dead, 400))
	}
}

func (b *slotBundle) deadLetters(cursor string, n int) ([]DeadLetter, string) {
	b.Helper()
	list, next, err := b.s.DeadLetters(context.Background(), "uni-a", event.Webhook, cursor, n)
	b.must(err)
	return list, next
}

func (b *slotBundle) replay(sel Selection, n int) (int, bool) {
	b.Helper()
	moved, more, err := b.s.Replay(context.Background(), "uni-a", event.Webhook, sel, n)
	b.must(err)
	return moved, more
}

func TestADeadLetterTellsItsStory(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7)
		b.clock.advance(quiet)
		b.finish(b.claimOne(), b.failed(event.Retry, 503))
		b.clock.advance(30 * time.Second)
		o := b.failed(event.Dead, 422)
		o.Attempt.Error = "the receiver answered 422 | really\n" + strings.Repeat("é", 200)
		b.finish(b.claimOne(), o)
		list, next := b.deadLetters("", 10)
		if len(list) != 1 || next != "" {
			b.Fatalf("dead letters %+v, next %q", list, next)
		}
		d := list[0]
		if d.ORCID != testID(b.T, 7) || d.Channel != event.Webhook || !slices.Equal(d.Types, []event.Type{event.Updated}) ||
			d.Attempts != 2 || d.Status != 422 || !d.FirstAt.Equal(begin) || !d.LatestAt.Equal(begin) || !d.DiedAt.Equal(b.clock.now()) ||
			!strings.HasPrefix(d.Reason, "the receiver answered 422 | really\né") || !strings.HasSuffix(d.Reason, "é…") || len(d.Reason) > maxReason+3 {
			b.Errorf("dead letter %+v", d)
		}
	})
}

func TestDeadLettersArePagedWithoutGapsOrRepeats(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		var users []uint64
		for u := range uint64(25) {
			users = append(users, u+1)
			b.ping(u + 1)
		}
		b.clock.advance(quiet)
		for i, d := range b.claim(100).Deliveries {
			if i%10 == 0 {
				b.clock.advance(time.Millisecond) // ten die in the same one
			}
			b.finish(d, b.failed(event.Dead, 400))
		}
		for _, page := range []int{1, 4, 10, 25, 1000} {
			var got []uint64
			cursor, last := "", event.Forever
			for {
				list, next := b.deadLetters(cursor, page)
				for _, d := range list {
					got = append(got, d.ORCID.Base())
					if d.DiedAt.After(last) {
						b.Fatal("not the newest first")
					}
					last = d.DiedAt
				}
				if cursor = next; cursor == "" {
					break
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, users) {
				b.Errorf("pages of %d gave %v", page, got)
			}
		}
		for _, bad := range []string{"x", "1", "1-x", "-", "x-1"} {
			if _, _, err := b.s.DeadLetters(context.Background(), "uni-a", event.Webhook, bad, 1); err == nil {
				b.Errorf("cursor %q was taken", bad)
			}
		}
	})
}

func TestOnlySoManyDeadLettersAreKept(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.kill(1, 2, 3, 4, 5)
		list, _ := b.deadLetters("", 10)
		var got []uint64
		for _, d := range list {
			got = append(got, d.ORCID.Base())
		}
		slices.Sort(got)
		if !slices.Equal(got, []uint64{3, 4, 5}) {
			b.Errorf("kept %v", got)
		}
		if l := b.audit(); l.Dropped != 2 || l.Died != 5 || l.Dead != 3 {
			b.Errorf("ledger %+v", l)
		}
	}, func(o *Options) { o.DeadLetters = 3 })
}

func TestNewsRevivesADeadLetterWithItsTypes(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7, event.Created)
		b.clock.advance(quiet)
		b.finish(b.claimOne(), b.failed(event.Dead, 400))
		b.sizes(0, 0, 1)
		b.clock.advance(time.Second)
		b.ping(7) // the dead CREATED must not be lost
		b.sizes(1, 0, 0)
		b.clock.advance(quiet)
		d := b.claimOne()
		if d.Type != event.Created || d.Attempt != 1 || !d.CreatedAt.Equal(begin) {
			b.Fatalf("claimed %+v", d)
		}
		// CREATED dies again, UPDATED goes on; then UPDATED dies too: one letter.
		b.finish(d, b.failed(event.Dead, 400))
		b.sizes(1, 0, 1)
		b.audit()
		d = b.claimOne()
		b.finish(d, b.failed(event.Dead, 410))
		list, _ := b.deadLetters("", 10)
		if len(list) != 1 || !slices.Equal(list[0].Types, []event.Type{event.Created, event.Updated}) || list[0].Status != 410 {
			b.Fatalf("dead letters %+v", list)
		}
		if l := b.audit(); l.Superseded != 2 || l.Died != 3 || l.Dead != 1 {
			b.Errorf("ledger %+v", l)
		}
	})
}

func TestNewsDuringTheLastAttemptSavesTheSlot(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		b.ping(7)
		b.clock.advance(quiet)
		d := b.claimOne()
		b.ping(7)
		f := b.finish(d, b.failed(event.Dead, 400))
		b.at("due again", f.Next, 2*quiet)
		b.sizes(1, 0, 0)
		b.clock.advance(quiet)
		if d := b.claimOne(); d.Attempt != 1 {
			b.Errorf("attempt %d", d.Attempt)
		}
	})
}

func TestReplaySelectsAndIsDueAtOnce(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.kill(1, 2, 3, 4)
		list, _ := b.deadLetters("", 10)
		if n, more := b.replay(Selection{ORCID: testID(b.T, 77)}, 10); n != 0 || more {
			b.Errorf("replayed %d of an unknown user", n)
		}
		if n, more := b.replay(Selection{ORCID: list[1].ORCID, Since: list[0].DiedAt}, 10); n != 0 || more {
			b.Errorf("replayed %d before since", n)
		}
		if n, more := b.replay(Selection{ORCID: list[0].ORCID, Until: list[1].DiedAt}, 10); n != 0 || more {
			b.Errorf("replayed %d after until", n)
		}
		if n, more := b.replay(Selection{ORCID: list[3].ORCID}, 10); n != 1 || more {
			b.Errorf("replayed %d, more %v", n, more)
		}
		if d := b.claimOne(); d.ORCID != list[3].ORCID || d.Attempt != 1 {
			b.Errorf("claimed %+v", d)
		}
		if n, more := b.replay(Selection{Since: list[1].DiedAt}, 1); n != 1 || !more {
			b.Errorf("replayed %d, more %v", n, more)
		}
		if d := b.claimOne(); d.ORCID != list[1].ORCID {
			b.Errorf("claimed %+v", d)
		}
		n, more, err := b.s.Purge(ctx, "uni-a", event.Webhook, Selection{Until: list[3].DiedAt}, 10)
		if err != nil || n != 0 || more {
			b.Errorf("purged %d after until, more %v, %v", n, more, err)
		}
		n, more, err = b.s.Purge(ctx, "uni-a", event.Webhook, Selection{ORCID: list[0].ORCID}, 1)
		if err != nil || n != 1 || more {
			b.Errorf("purged %d, more %v, %v", n, more, err)
		}
		n, more, err = b.s.Purge(ctx, "uni-a", event.Webhook, Selection{}, 5000)
		if err != nil || n != 1 || more {
			b.Errorf("purged %d, more %v, %v", n, more, err)
		}
		b.sizes(0, 2, 0)
		if l := b.audit(); l.Replayed != 2 || l.Purged != 2 || l.Superseded != 2 || l.Opened != 6 {
			b.Errorf("ledger %+v", l)
		}
		b.must(b.s.SetChannel(ctx, "uni-a", event.Webhook, false))
		if _, _, err := b.s.Replay(ctx, "uni-a", event.Webhook, Selection{ORCID: orcid.ID{}}, 1); !errors.Is(err, ErrDisabled) {
			b.Errorf("replay to a disabled channel: %v", err)
		}
	})
}

func TestReplayJoinsTheSlotThatIsOpen(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		split := func() {
			b.Helper()
			b.ping(7, event.Created, event.Updated)
			b.clock.advance(quiet)
			b.finish(b.claimOne(), b.failed(event.Dead, 400))
			b.sizes(1, 0, 1) // CREATED is dead, UPDATED waits
		}
		split()
		d := b.claimOne()
		b.finish(d, b.failed(event.Retry, 503))
		if n, _ := b.replay(Selection{}, 10); n != 1 {
			b.Fatalf("replayed %d", n)
		}
		d = b.claimOne() // not in 30 s, but now
		if d.Type != event.Created || d.Attempt != 1 {
			b.Errorf("claimed %+v", d)
		}
		b.finish(d, event.Outcome{Result: event.Delivered})
		b.finish(b.claimOne(), event.Outcome{Result: event.Delivered})
		b.sizes(0, 0, 0)
		if l := b.audit(); l.Replayed != 1 || l.Coalesced != 2 || l.Superseded != 1 || l.Delivered != 2 {
			b.Errorf("ledger %+v", l)
		}

		split()
		d = b.claimOne()
		b.replay(Selection{}, 10) // while UPDATED flies
		b.sizes(0, 1, 0)
		b.finish(d, event.Outcome{Result: event.Delivered})
		if d := b.claimOne(); d.Type != event.Created {
			b.Errorf("claimed %+v", d)
		}
	})
}

// TestAReplayThatFailsTakesNoDeadLetterAway: see TestAnEntryThatFailsHalfwayIsNotApplied.
func TestAReplayThatFailsTakesNoDeadLetterAway(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		b.kill(1)
		for _, name := range []string{"slots", "due"} {
			key := b.s.keys.channel(orgPartition("uni-a"), "uni-a", event.Webhook) + name
			b.must(b.s.rdb.Set(ctx, key, "x", 0).Err())
			if _, _, err := b.s.Replay(ctx, "uni-a", event.Webhook, Selection{}, 10); err == nil {
				b.Errorf("replayed with %s of another type", name)
			}
			b.must(b.s.rdb.Del(ctx, key).Err())
			if list, _ := b.deadLetters("", 10); len(list) != 1 {
				b.Errorf("with %s of another type: %d dead letters left, want 1", name, len(list))
			}
		}
		if n, _ := b.replay(Selection{}, 10); n != 1 {
			b.Errorf("replayed %d, want 1", n)
		}
		b.claimOne()
	})
}

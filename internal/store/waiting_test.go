package store

import (
	"context"
	"testing"
	"time"

	"dispatchd/internal/event"
)

func TestWaitingTellsWhatIsDueAndWhatIsNot(t *testing.T) {
	slotsOnBoth(t, func(b *slotBundle) {
		ctx := context.Background()
		waiting := func() Waiting {
			b.Helper()
			w, err := b.s.Waiting(ctx, "uni-a", event.Webhook)
			b.must(err)
			return w
		}
		if w := waiting(); w.Due != 0 || len(w.Later) != 0 {
			b.Errorf("nothing waits: %+v", w)
		}
		b.ping(1)
		b.clock.advance(time.Hour)
		d := b.claimOne()
		if w := waiting(); w.Due != 0 || len(w.Later) != 0 {
			b.Errorf("one is under way: %+v", w)
		}
		again := b.s.Now().Add(10 * time.Minute)
		o := b.failed(event.Retry, 503)
		o.RetryAt = again
		b.finish(d, o)
		b.ping(2)
		b.ping(3)
		w := waiting()
		if w.Due+len(w.Later) != 3 {
			b.Fatalf("%+v", w)
		}
		retried := w.Later[len(w.Later)-1]
		if retried.ORCID != testID(b.T, 1) || retried.Attempts != 1 || !retried.Due.Equal(again.Truncate(time.Millisecond)) {
			b.Errorf("what is tried again: %+v", retried)
		}
		b.clock.advance(time.Hour)
		if w := waiting(); w.Due != 3 || len(w.Later) != 0 {
			b.Errorf("all are due: %+v", w)
		}
		if _, err := b.s.Waiting(ctx, "", event.Webhook); err == nil {
			b.Error("no organisation named, and no error")
		}
	})
}

package actors

import (
	"context"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

var post = event.ChannelKey{Org: "uni-a", Channel: event.Email}

func (b *bundle) mailing(mode org.Mode, perHour int) {
	b.dir.set(org.Organisation{ID: "uni-a", Name: "A", Credential: "main", Email: org.Email{Enabled: true, Mode: mode, MaxPerHour: perHour}})
}

// mailbox takes mails and digests, and fails as often as it is told.
type mailbox struct {
	mu    sync.Mutex
	fail  int
	mails []event.Delivery // of a digest: Token is its id, Generation how many it is about
	at    []time.Time
}

func (m *mailbox) take(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mails, m.at = append(m.mails, d), append(m.at, time.Now())
	if m.fail > 0 {
		m.fail--
		out := failing(ctx, o, d, who)
		out.RetryAt = time.Now().Add(30 * time.Second)
		return out
	}
	return delivered(ctx, o, d, who)
}

func (m *mailbox) got() ([]event.Delivery, []time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]event.Delivery(nil), m.mails...), append([]time.Time(nil), m.at...)
}

func TestADigestIsOneMail(t *testing.T) {
	bubble(t, func(b *bundle) {
		var box mailbox
		b.mailing(org.Daily, 0)
		b.start(deliverFunc(box.take), rarely)
		b.news(post, 1, 600)
		sleep(time.Minute)
		mails, _ := box.got()
		if len(mails) != 1 || mails[0].Generation != 600 || b.slots.waiting(post) != 0 {
			b.Fatalf("%d mails, %d waiting", len(mails), b.slots.waiting(post))
		}
		done := b.slots.ended()
		if len(done) != 1 || !done[0].due.Equal(time.Date(2000, 1, 1, 8, 0, 0, 0, time.UTC)) {
			b.Errorf("what came meanwhile is due %s", done[0].due)
		}
		if b.slots.count("claim") != 0 {
			b.Error("slots were claimed one by one")
		}
	})
}

// TestADigestIsTriedAgainAsItWas: same id and same researchers until it is taken.
func TestADigestIsTriedAgainAsItWas(t *testing.T) {
	bubble(t, func(b *bundle) {
		box := mailbox{fail: 2}
		b.mailing(org.Weekly, 0)
		b.start(deliverFunc(box.take), rarely)
		b.news(post, 1, 3)
		sleep(20 * time.Second)
		b.users.change(id(2), func(u *event.User) { u.Affiliations = nil }) // leaves in between
		b.news(post, 10, 2)
		sleep(10 * time.Minute)
		mails, _ := box.got()
		if len(mails) != 4 {
			b.Fatalf("%d mails", len(mails))
		}
		for i, m := range mails[:3] {
			if m.Token != mails[0].Token || m.Attempt != i+1 {
				b.Errorf("try %d: %+v", i, m)
			}
		}
		if mails[0].Generation != 3 || mails[1].Generation != 2 || mails[3].Token == mails[0].Token || mails[3].Generation != 2 {
			b.Errorf("%+v", mails)
		}
		if done := b.slots.ended(); len(done[2].gone) != 1 || done[2].gone[0] != id(2) {
			b.Errorf("gone: %v", done[2].gone)
		}
	})
}

func TestADigestOfNobodyIsNotSent(t *testing.T) {
	bubble(t, func(b *bundle) {
		var box mailbox
		b.mailing(org.Daily, 0)
		b.start(deliverFunc(box.take), rarely)
		b.slots.put(post, time.Now(), id(1), id(2)) // not affiliated
		b.sys.HintChannel(post, time.Time{})
		sleep(time.Minute)
		if mails, _ := box.got(); len(mails) != 0 || b.slots.waiting(post) != 0 {
			b.Errorf("%d mails, %d waiting", len(mails), b.slots.waiting(post))
		}
	})
}

// TestAnOpenDigestIsEndedFirst: it was begun before the organisation changed to
// single mails, or before a restart.
func TestAnOpenDigestIsEndedFirst(t *testing.T) {
	bubble(t, func(b *bundle) {
		box := mailbox{fail: 1}
		b.mailing(org.Daily, 0)
		b.start(deliverFunc(box.take), rarely)
		b.news(post, 1, 3)
		sleep(time.Second)
		b.mailing(org.Each, 0)
		sleep(10 * time.Second)
		b.news(post, 5, 2)
		sleep(10 * time.Minute)
		mails, _ := box.got()
		if len(mails) != 4 || mails[1].Token != mails[0].Token || mails[1].Generation != 3 {
			b.Fatalf("%+v", mails)
		}
		if b.slots.waiting(post) != 0 {
			b.Errorf("%d waiting", b.slots.waiting(post))
		}
	})
}

func TestMailsAnHour(t *testing.T) {
	bubble(t, func(b *bundle) {
		var box mailbox
		b.mailing(org.Each, 5)
		b.start(deliverFunc(box.take), rarely)
		b.news(post, 1, 17)
		sleep(30 * time.Minute)
		mails, _ := box.got()
		_, holds, _ := b.slots.state(post)
		if len(mails) != 5 || holds[event.HoldRate].IsZero() {
			b.Fatalf("%d mails, holds %v", len(mails), holds)
		}
		// A restart does not forget what was sent.
		b.stop()
		b.start(deliverFunc(box.take), rarely)
		b.sys.HintChannel(post, time.Time{})
		sleep(20 * time.Minute)
		if mails, _ = box.got(); len(mails) != 5 {
			b.Fatalf("%d mails after a restart", len(mails))
		}
		sleep(4 * time.Hour)
		mails, at := box.got()
		if len(mails) != 17 || b.slots.waiting(post) != 0 {
			b.Fatalf("%d mails, %d waiting", len(mails), b.slots.waiting(post))
		}
		for i := 5; i < len(at); i++ {
			if at[i].Sub(at[i-5]) < time.Hour {
				b.Errorf("mails %d to %d came within %s", i-5, i, at[i].Sub(at[i-5]))
			}
		}
	})
}

func TestMailRate(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 2, 5, 32, 0, time.UTC)
	r := mailRate{}
	r.note(now.Add(-2 * time.Hour))
	for i := range 3 {
		r.note(now.Add(-time.Duration(10*i) * time.Minute))
	}
	for _, c := range []struct {
		limit, n int
		next     time.Duration // after now; 0: at once
	}{
		{4, 1, 0},
		{20, 17, 0},
		{3, 0, 41*time.Minute - 32*time.Second}, // the one of 20 minutes ago
		{2, 0, 51*time.Minute - 32*time.Second},
		{1, 0, 61*time.Minute - 32*time.Second},
	} {
		n, next := r.room(now, c.limit)
		if n != c.n || (c.next == 0) != next.IsZero() || c.next != 0 && next.Sub(now) != c.next {
			t.Errorf("limit %d: %d, next %s", c.limit, n, next.Sub(now))
		}
	}
	if len(r) != 3 {
		t.Errorf("%d minutes are kept", len(r))
	}
}

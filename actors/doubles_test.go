package actors

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// The user leaves and comes back while the registration waits: both times the
// organisation is owed a CREATED, since leaving has cancelled the first.
func TestWhoComesBackIsAnnouncedAgain(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.orcid.took = 10 * time.Second
		b.start(deliverFunc(delivered))
		b.users.affiliate(id(1), true, "uni-a")
		b.sys.HintUser(id(1), true)
		sleep(time.Second)
		if n := len(b.announcements()); n != 1 {
			b.Fatalf("%d announcements at first", n)
		}
		b.users.change(id(1), func(u *event.User) { u.Affiliations = nil })
		b.users.affiliate(id(1), true, "uni-a")
		b.sys.HintUser(id(1), true)
		sleep(time.Minute)
		if got := b.announcements(); len(got) != 2 {
			b.Errorf("announcements %q, want two", got)
		}
		if u, _ := b.users.record(id(1)); len(u.Affiliations) != 1 || u.Affiliations[0].Announce {
			b.Errorf("the record is %+v", u)
		}
	})
}

func (b *bundle) announcements() []string {
	b.users.mu.Lock()
	defer b.users.mu.Unlock()
	return slices.Clone(b.users.announced)
}

// Redis's clock jumps, or this process is stopped for longer than a lease: the
// slot is claimed again while its POST is still on its way here.
func TestALeaseThatEndsEarlyMakesNoSecondPost(t *testing.T) {
	bubble(t, func(b *bundle) {
		var posts atomic.Int64
		b.start(deliverFunc(func(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
			if d.ORCID != id(2) {
				return delivered(ctx, o, d, who) // makes room for more than one
			}
			posts.Add(1)
			pause(ctx, 12*time.Second)
			return delivered(ctx, o, d, who)
		}))
		b.news(hook, 1, 1)
		sleep(time.Second)
		b.news(hook, 2, 1)
		sleep(time.Second)
		b.slots.mu.Lock()
		for _, s := range b.slots.channel(hook).slots {
			s.due = time.Now()
		}
		b.slots.mu.Unlock()
		b.sys.HintChannel(hook, time.Time{})
		sleep(2 * time.Minute)
		if posts.Load() != 1 || b.slots.waiting(hook) != 0 {
			b.Errorf("%d POSTs and %d slots left, want 1 and 0", posts.Load(), b.slots.waiting(hook))
		}
	})
}

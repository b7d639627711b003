package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
)

var begin = time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)

// fakeClock is virtual time for Options.Now.
type fakeClock struct{ us atomic.Int64 }

func newFakeClock() *fakeClock {
	c := new(fakeClock)
	c.us.Store(begin.UnixMicro())
	return c
}
func (c *fakeClock) now() time.Time          { return time.UnixMicro(c.us.Load()).UTC() }
func (c *fakeClock) advance(d time.Duration) { c.us.Add(d.Microseconds()) }

// slotBundle is one store in virtual time with helpers that fail the test.
type slotBundle struct {
	*testing.T
	s       *Store
	clock   *fakeClock
	entries int
	orgs    []string
}

const (
	quiet = time.Minute
	lease = time.Minute
)

// slotsOnBoth runs a test in virtual time on a real redis-server and on
// miniredis, and audits the books at its end.
func slotsOnBoth(t *testing.T, run func(b *slotBundle), change ...func(*Options)) {
	t.Helper()
	t.Parallel()
	body := func(url string, opts ...func(*Options)) func(t *testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			clock := newFakeClock()
			opts = append(opts, func(o *Options) { o.Now = clock.now })
			b := &slotBundle{T: t, s: attached(t, url, append(opts, change...)...), clock: clock}
			b.enable("uni-a", event.Webhook)
			run(b)
			b.audit()
		}
	}
	t.Run("redis", func(t *testing.T) { body(redistest.Start(t).URL())(t) })
	t.Run("embedded", func(t *testing.T) { body(redistest.Embedded(t), func(o *Options) { o.Embedded = true })(t) })
}

func (b *slotBundle) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *slotBundle) enable(org string, chs ...event.Channel) {
	b.Helper()
	if !slices.Contains(b.orgs, org) {
		b.orgs = append(b.orgs, org)
	}
	for _, ch := range chs {
		b.must(b.s.SetChannel(context.Background(), org, ch, true))
	}
}

func (b *slotBundle) ids(users ...uint64) []orcid.ID {
	b.Helper()
	out := make([]orcid.ID, len(users))
	for i, u := range users {
		out[i] = testID(b.T, u)
	}
	return out
}

// entry makes the id of a new intake log entry.
func (b *slotBundle) entry() string {
	b.entries++
	return strconv.FormatInt(b.clock.now().UnixMilli(), 10) + "-" + strconv.Itoa(b.entries)
}

func (b *slotBundle) target(org string, ch event.Channel, user uint64, typ event.Type) Target {
	return Target{Org: org, Channel: ch, ORCID: testID(b.T, user), Type: typ, At: b.clock.now()}
}

// enqueue applies targets as one new entry.
func (b *slotBundle) enqueue(targets ...Target) map[event.ChannelKey]time.Time {
	b.Helper()
	id := b.entry()
	for i := range targets {
		targets[i].Entry = id
	}
	next, err := b.s.Enqueue(context.Background(), 0, targets, quiet)
	b.must(err)
	return next
}

// ping is news for uni-a's webhook now.
func (b *slotBundle) ping(user uint64, types ...event.Type) {
	b.Helper()
	if len(types) == 0 {
		types = []event.Type{event.Updated}
	}
	for _, typ := range types {
		b.enqueue(b.target("uni-a", event.Webhook, user, typ))
	}
}

func (b *slotBundle) claim(n int) event.Claims {
	b.Helper()
	c, err := b.s.Claim(context.Background(), "uni-a", event.Webhook, n, lease)
	b.must(err)
	return c
}

// claimOne waits until the quiet period is over and claims the one due slot.
func (b *slotBundle) claimOne() event.Delivery {
	b.Helper()
	c := b.claim(10)
	if len(c.Deliveries) != 1 {
		b.Fatalf("claimed %d deliveries, want 1: %+v", len(c.Deliveries), c)
	}
	return c.Deliveries[0]
}

// none asserts that nothing can be claimed now and returns when it can.
func (b *slotBundle) none() time.Time {
	b.Helper()
	c := b.claim(10)
	if len(c.Deliveries) != 0 {
		b.Fatalf("claimed %+v, want nothing", c.Deliveries)
	}
	return c.Next
}

func (b *slotBundle) finish(d event.Delivery, o event.Outcome) event.Finished {
	b.Helper()
	f, err := b.s.Finish(context.Background(), d, o)
	b.must(err)
	return f
}

// failed is the outcome of an attempt that got this status.
func (b *slotBundle) failed(r event.Result, status int) event.Outcome {
	return event.Outcome{
		Result: r, RetryAt: b.clock.now().Add(30 * time.Second),
		Attempt: event.Attempt{Start: b.clock.now(), Status: status, Error: fmt.Sprintf("status %d", status)},
	}
}

func (b *slotBundle) state(org string, ch event.Channel) ChannelState {
	b.Helper()
	st, err := b.s.Channels(context.Background(), []event.ChannelKey{{Org: org, Channel: ch}})
	b.must(err)
	return st[0]
}

// sizes asserts waiting, in flight, dead of uni-a's webhook.
func (b *slotBundle) sizes(waiting, flying, dead int) {
	b.Helper()
	if st := b.state("uni-a", event.Webhook); st.Waiting != waiting || st.InFlight != flying || st.Dead != dead {
		b.Fatalf("waiting %d, in flight %d, dead %d; want %d, %d, %d", st.Waiting, st.InFlight, st.Dead, waiting, flying, dead)
	}
}

func (b *slotBundle) audit() Ledger {
	b.Helper()
	l, err := b.s.Ledger(context.Background(), b.orgs)
	b.must(err)
	if d := l.Differences(); len(d) > 0 {
		b.Fatalf("the books do not balance: %q\n%+v", d, l)
	}
	return l
}

func (b *slotBundle) at(what string, got time.Time, want time.Duration) {
	b.Helper()
	w := begin.Add(want)
	if !got.Equal(w) {
		b.Fatalf("%s is %s after the beginning, want %s", what, got.Sub(begin), want)
	}
}

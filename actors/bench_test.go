package actors

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
)

// endless is a store whose organisations always have more to deliver.
type endless struct {
	left   atomic.Int64
	done   chan struct{}
	claims atomic.Int64
}

func (e *endless) Claim(_ context.Context, o string, ch event.Channel, n int, lease time.Duration) (event.Claims, error) {
	e.claims.Add(1)
	now := time.Now()
	c := event.Claims{Next: now}
	for range n {
		c.Deliveries = append(c.Deliveries, event.Delivery{Org: o, Channel: ch, ORCID: benchUser.ORCID, LeaseEnd: now.Add(lease)})
	}
	return c, nil
}

func (e *endless) Finish(context.Context, event.Delivery, event.Outcome) (event.Finished, error) {
	if e.left.Add(-1) == 0 {
		close(e.done)
	}
	return event.Finished{Next: time.Now()}, nil
}

func (e *endless) SetHold(context.Context, string, event.Channel, event.Hold, time.Time, string) (next time.Time, err error) {
	return next, nil
}

func (e *endless) SetBreaker(context.Context, string, event.Channel, event.Breaker, time.Time) (next time.Time, err error) {
	return next, nil
}

func (e *endless) Breaker(context.Context, string, event.Channel) (b event.Breaker, err error) {
	return b, nil
}

func (e *endless) Ready(context.Context, time.Time, int) (keys []event.ChannelKey, next time.Time, err error) {
	return nil, next, nil
}

var benchUser = event.User{Affiliations: func() (list []event.Affiliation) {
	for i := range 50 {
		list = append(list, event.Affiliation{Org: fmt.Sprint("org-", i)})
	}
	return list
}()}

type oneUser struct{ *fakeUsers }

func (oneUser) RecentUsers(_ context.Context, ids []orcid.ID) ([]*event.User, error) {
	out := make([]*event.User, len(ids))
	for i := range out {
		out[i] = &benchUser
	}
	return out, nil
}

// BenchmarkDeliveries is what the actors cost per delivery when receivers and
// Redis cost nothing.
func BenchmarkDeliveries(b *testing.B) {
	e := &endless{done: make(chan struct{})}
	e.left.Store(int64(b.N))
	dir := &fakeDirectory{orgs: map[string]*org.Organisation{}}
	for i := range 50 {
		dir.set(org.Organisation{ID: fmt.Sprint("org-", i), Webhook: org.Webhook{Enabled: true}})
	}
	sys, err := Start(Options{
		Slots: e, Mail: newSlots(), Users: oneUser{newUsers()}, Directory: dir, Deliverer: deliverFunc(delivered), Guard: &fakeGuard{},
		Notices: &fakeNotices{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for i := range 50 {
		sys.HintChannel(event.ChannelKey{Org: fmt.Sprint("org-", i), Channel: event.Webhook}, time.Time{})
	}
	<-e.done
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
	b.ReportMetric(float64(e.claims.Load())/float64(b.N), "claims/delivery")
	if err := sys.Stop(context.Background()); err != nil {
		b.Error(err)
	}
}

// BenchmarkHints is what a hint to a busy actor costs.
func BenchmarkHints(b *testing.B) {
	dir := &fakeDirectory{orgs: map[string]*org.Organisation{}}
	sys, err := Start(Options{
		Slots: &endless{}, Mail: newSlots(), Users: newUsers(), Directory: dir, Deliverer: deliverFunc(delivered), Guard: &fakeGuard{},
		Notices: &fakeNotices{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	key := event.ChannelKey{Org: "org-1", Channel: event.Webhook}
	b.ResetTimer()
	for range b.N {
		sys.HintChannel(key, time.Time{})
	}
	if err := sys.Alive(context.Background()); err != nil { // all were handled
		b.Error(err)
	}
	b.StopTimer()
	if err := sys.Stop(context.Background()); err != nil {
		b.Error(err)
	}
}

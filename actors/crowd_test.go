package actors

import (
	"testing"
	"time"

	"dispatchd/internal/event"
)

// Whoever hints tens of thousands of users at once does not make as many actors:
// what Redis has as work waits there, and nobody is forgotten.
func TestACrowdOfHintsDoesNotWaitInMemory(t *testing.T) {
	bubble(t, func(b *bundle) {
		const n, bound = 8_000, userShards * userCrowd
		slow := make(chan struct{})
		b.users.onSave = func(event.User) { <-slow }
		b.start(deliverFunc(delivered), func(o *Options) { o.Limits.ORCIDRate = 24 })
		for i := range n {
			b.users.affiliate(id(uint64(i+1)), false, "uni-a")
		}
		for i := range n {
			b.sys.HintUser(id(uint64(i+1)), false)
		}
		most := 0
		for range 100 {
			most = max(most, int(b.sys.busyUsers.Load()))
			sleep(10 * time.Millisecond)
		}
		if most == 0 || most > bound {
			b.Errorf("%d users were worked on at once, at most %d may", most, bound)
		}
		close(slow)
		single := id(999_999)
		b.users.affiliate(single, true, "uni-a")
		b.sys.HintUser(single, true)
		sleep(2 * time.Second)
		if got := b.users.rows(single); len(got) != 1 || got[0] != "main/1 alive" {
			b.Errorf("a single change waits behind the crowd: %v", got)
		}
		sleep(n / 24 * time.Second * 105 / 100)
		if got := b.users.countState(event.RegAlive); got != n+1 {
			b.Errorf("%d of %d users are registered", got, n+1)
		}
	})
}

// Many who have nothing to do pass fast although they fill the shards: the idle
// make room at once.
func TestTheIdleMakeRoom(t *testing.T) {
	bubble(t, func(b *bundle) {
		const n = 8_000
		b.start(deliverFunc(delivered))
		for i := range n {
			u := id(uint64(i + 1))
			b.users.affiliate(u, false, "uni-a")
			b.users.change(u, func(r *event.User) {
				r.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 1, Base: 1}}
			})
		}
		began := time.Now()
		for left := n; left > 0 && time.Since(began) < time.Hour; {
			sleep(time.Second)
			_, left = b.users.sizes()
		}
		if took := time.Since(began); took > 10*time.Second {
			b.Errorf("%d users with nothing to do took %s", n, took)
		}
	})
}

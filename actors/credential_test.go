package actors

import (
	"context"
	"slices"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

func TestASweepUsesTheRateAndNoMore(t *testing.T) {
	bubble(t, func(b *bundle) {
		const n, rate = 800, 20
		b.orcid.took = 200 * time.Millisecond
		b.start(deliverFunc(delivered))
		for i := range n {
			b.users.affiliate(id(uint64(i+1)), false, "uni-a")
		}
		// Many more have nothing to do; they must not slow the others down.
		for i := range 3 * n {
			u := id(uint64(100_000 + i))
			b.users.affiliate(u, false, "uni-a")
			b.users.change(u, func(r *event.User) {
				r.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 1, Base: 1}}
			})
		}
		began := time.Now()
		sleep(15 * time.Second)
		single := id(999_999)
		b.users.affiliate(single, true, "uni-a")
		b.sys.HintUser(single, true)
		sleep(500 * time.Millisecond)
		if got := b.users.rows(single); !slices.Equal(got, []string{"main/1 alive"}) {
			b.Errorf("a single change waits behind a sweep: %v", got)
		}
		for b.users.countState(event.RegAlive) < 4*n+1 && time.Since(began) < time.Hour {
			sleep(250 * time.Millisecond)
		}
		took := time.Since(began)
		if limit := n * time.Second / rate * 100 / 95; took > limit {
			b.Errorf("%d requests took %s, want at most %s", n, took, limit)
		}
		requests := b.orcid.list()
		if len(requests) != n+1 {
			b.Errorf("%d requests for %d users", len(requests), n+1)
		}
		for i := range requests {
			j := i
			for j+1 < len(requests) && requests[j+1].at.Sub(requests[i].at) < time.Second {
				j++
			}
			if j-i+1 > rate+rate/2 {
				b.Fatalf("%d requests within a second", j-i+1)
			}
		}
		b.orcid.mu.Lock()
		defer b.orcid.mu.Unlock()
		if b.orcid.most > maxOutstanding {
			b.Errorf("%d requests at once", b.orcid.most)
		}
		b.Logf("%d requests in %s", len(requests), took)
	})
}

func TestCredentialsShareTheRate(t *testing.T) {
	bubble(t, func(b *bundle) {
		other, slow := &fakeORCID{}, &fakeORCID{}
		b.enable("uni-b", "other")
		b.enable("uni-c", "slow")
		b.start(deliverFunc(delivered), func(o *Options) {
			o.Credentials = append(o.Credentials,
				Credential{Name: "other", BaseID: 2, Registrar: other}, Credential{Name: "slow", BaseID: 3, Rate: 1, Registrar: slow})
		})
		for i := range 3000 {
			b.users.affiliate(id(uint64(i+1)), false, []string{"uni-a", "uni-b", "uni-c"}[i%3])
		}
		sleep(60 * time.Second)
		main, second, third := len(b.orcid.list()), len(other.list()), len(slow.list())
		if total := main + second + third; total < 60*20*95/100 || total > 61*20 {
			b.Errorf("%d requests in a minute at 20 a second", total)
		}
		if third < 55 || third > 62 || main < 500 || second < 500 {
			b.Errorf("main %d, other %d, slow %d", main, second, third)
		}
	})
}

func TestStrainHalvesTheRateAndHonoursRetryAfter(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		for i := range 3000 {
			b.users.affiliate(id(uint64(i+1)), false, "uni-a")
		}
		sleep(5 * time.Second)
		b.orcid.answer(func(string, orcid.ID, int) (orcid.Answer, error) {
			return orcid.Answer{Kind: orcid.RateLimited, Status: 429, RetryAfter: 30 * time.Second}, nil
		})
		sleep(time.Second)
		b.orcid.answer(nil)
		if r := b.sys.Status().Rate; r != 10 {
			b.Errorf("rate %v after one round of 429", r)
		}
		n := len(b.orcid.list())
		sleep(25 * time.Second)
		if got := len(b.orcid.list()); got != n {
			b.Errorf("%d requests during Retry-After", got-n)
		}
		sleep(20 * time.Second)
		if got := len(b.orcid.list()) - n; got < 100 || got > 20*20 {
			b.Errorf("%d requests in the first 15 s after it", got)
		}
		sleep(2 * time.Minute)
		if r := b.sys.Status().Rate; r != 20 {
			b.Errorf("rate %v after two quiet minutes", r)
		}
	})
}

func TestARefusedCredentialIsProbedNotStormed(t *testing.T) {
	bubble(t, func(b *bundle) {
		other := &fakeORCID{}
		b.enable("uni-b", "other")
		b.start(deliverFunc(delivered), func(o *Options) {
			o.Credentials = append(o.Credentials, Credential{Name: "other", BaseID: 2, Registrar: other})
		})
		b.orcid.answer(func(string, orcid.ID, int) (orcid.Answer, error) {
			return orcid.Answer{}, &orcid.CredentialError{ClientID: "APP-1", Scope: "/webhook", Reason: orcid.InvalidScope, Hint: "ask"}
		})
		for i := range 300 {
			b.users.affiliate(id(uint64(i+1)), false, "uni-a", "uni-b")
		}
		sleep(61 * time.Minute)
		got := len(b.orcid.list())
		// One at first, then one in five minutes.
		if got < 10 || got > 1+13 {
			b.Errorf("%d requests with a refused credential in an hour", got)
		}
		if len(other.list()) != 300 {
			b.Errorf("the other credential did %d of 300", len(other.list()))
		}
		st := b.sys.Status().Credentials[0]
		if st.State != StateRefused || st.Detail != "credential APP-1 lacks /webhook; ask" || st.NextProbe.IsZero() {
			b.Errorf("status %+v", st)
		}
		if n := b.log.count("ORCID refuses a credential; its registrations wait"); n != 1 {
			b.Errorf("%d lines", n)
		}
		if _, work := b.users.sizes(); work != 300 {
			b.Errorf("%d of 300 kept their work", work)
		}
		// Mended: a reload tries at once.
		b.orcid.answer(nil)
		if err := b.sys.SetCredentials([]Credential{
			{Name: "main", BaseID: 1, Registrar: b.orcid}, {Name: "other", BaseID: 2, Registrar: other},
		}); err != nil {
			b.Fatal(err)
		}
		sleep(20 * time.Second)
		if n := b.users.countState(event.RegAlive); n != 600 {
			b.Errorf("%d of 600 registrations alive 20 s after it was mended", n)
		}
		if st := b.sys.Status().Credentials[0]; st.State != StateOK || st.Detail != "" {
			b.Errorf("status %+v", st)
		}
	})
}

// Nobody reloads: the probe finds out that ORCID takes the credential again.
func TestARefusedCredentialRecoversByItself(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		b.orcid.answer(func(string, orcid.ID, int) (orcid.Answer, error) {
			return orcid.Answer{}, &orcid.CredentialError{ClientID: "APP-1", Reason: orcid.UnauthorizedClient, Hint: "ask"}
		})
		for i := range 100 {
			b.users.affiliate(id(uint64(i+1)), false, "uni-a")
		}
		sleep(17 * time.Minute)
		if n := len(b.orcid.list()); n < 3 || n > 5 {
			b.Errorf("%d requests with a refused credential in 17 minutes", n)
		}
		b.orcid.answer(nil)
		sleep(6 * time.Minute)
		if n := b.users.countState(event.RegAlive); n != 100 {
			b.Errorf("%d of 100 registrations alive 6 min after it was mended", n)
		}
	})
}

func TestPausedRegistrationsWait(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered), func(o *Options) { o.Paused = true })
		for i := range 50 {
			b.users.affiliate(id(uint64(i+1)), true, "uni-a")
			b.sys.HintUser(id(uint64(i+1)), i < 10)
		}
		sleep(time.Hour)
		if len(b.orcid.list()) != 0 || !b.sys.Status().Paused || b.sys.Status().Credentials[0].State != StatePaused {
			b.Errorf("%d requests while paused, %+v", len(b.orcid.list()), b.sys.Status())
		}
		if n := len(b.users.told()); n != 50 {
			b.Errorf("%d of 50 announced", n)
		}
		b.sys.PauseRegistrations(false)
		sleep(10 * time.Second)
		if n := b.users.countState(event.RegAlive); n != 50 {
			b.Errorf("%d of 50 registered after the pause", n)
		}
	})
}

func TestPermitsForOthersShareTheRate(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		n := 0
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); n++ {
			done, err := b.sys.Permit(b.Context(), "main", n%2 == 0)
			if err != nil {
				b.Fatal(err)
			}
			done(orcid.Answer{Kind: orcid.OK, Status: 200})
		}
		if n < 200 || n > 225 {
			b.Errorf("%d permits in 10 s at 20 a second, burst 10", n)
		}
		if _, err := b.sys.Permit(b.Context(), "nobody", true); err == nil {
			b.Error("a permit for an unknown credential")
		}
		ctx, cancel := context.WithCancel(b.Context())
		b.sys.PauseRegistrations(true)
		sleep(time.Millisecond)
		if _, err := b.sys.Permit(ctx, "main", true); err == nil {
			b.Error("a permit while paused")
		}
		cancel()
	})
}

func TestCredentialsComeAndGo(t *testing.T) {
	bubble(t, func(b *bundle) {
		b.start(deliverFunc(delivered))
		if err := b.sys.SetCredentials([]Credential{{Name: "x"}}); err == nil {
			b.Error("a credential without Registrar was taken")
		}
		other := &fakeORCID{}
		list := []Credential{{Name: "main", BaseID: 1, Registrar: b.orcid}, {Name: `a "b"/c~9`, BaseID: 2, Registrar: other}}
		if err := b.sys.SetCredentials(list); err != nil {
			b.Fatal(err)
		}
		b.enable("uni-b", `a "b"/c~9`)
		b.users.affiliate(id(1), false, "uni-b")
		sleep(time.Second)
		if len(other.list()) != 1 || len(b.sys.Status().Credentials) != 2 {
			b.Errorf("requests %v, status %+v", other.list(), b.sys.Status().Credentials)
		}
		if err := b.sys.SetCredentials(list[:1]); err != nil {
			b.Fatal(err)
		}
		b.users.change(id(1), func(u *event.User) { u.Affiliations = nil })
		sleep(time.Minute)
		// Its row cannot be deleted, and must not be forgotten.
		if _, work := b.users.record(id(1)); len(b.sys.Status().Credentials) != 1 || len(b.users.rows(id(1))) != 1 || work.IsZero() {
			b.Errorf("status %+v, rows %v", b.sys.Status().Credentials, b.users.rows(id(1)))
		}
	})
}

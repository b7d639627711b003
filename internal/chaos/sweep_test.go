package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dispatchd/internal/orcidtest"
)

// onTheirWay is how many requests of a sweep go at once to an ORCID that answers
// fast: all that a kill can repeat.
const onTheirWay = 1

// sweepRate is orcid.rate of the tests' daemon, and its burst.
const sweepRate = 24

// TestSweep kills the daemon at random moments of the registering of many users,
// against an ORCID that was written apart from ours: in the end everybody is
// registered once, no kill cost more than one repeated PUT, and never did more come
// in a second than rate and burst allow.
func TestSweep(t *testing.T) {
	t.Parallel()
	users, kills := 120, 3
	if opts.sweep > 0 {
		users, kills = opts.sweep, 20
	}
	orcid := orcidtest.Start(t, map[string]string{clientID: clientSecret})
	began := time.Now()
	w := newWorld(t, setting{orgs: []string{"uni-a"}, users: users, orcidURL: orcid.URL})
	seed := opts.seed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	whole := time.Duration(users) * time.Second / sweepRate
	killed, came := 0, []int{} // how many requests had come at each kill
	for killed < kills {
		rest(time.Duration(rng.Int64N(int64(whole) / int64(kills))))
		before := orcid.State()
		if len(before.Rows) == users {
			t.Logf("the sweep was through after %d kills", killed)
			break
		}
		w.daemon.kill()
		at := len(orcid.State().Rows)
		w.must(w.daemon.start())
		// All that was sent has come by now, and the next daemon asks nothing yet.
		came = append(came, orcid.State().Requests)
		w.must(w.daemon.listening(patience))
		killed++
		w.must(within(patience, 10*time.Millisecond, func() error {
			if n := len(orcid.State().Rows); n == at && n < users {
				return fmt.Errorf("kill %d: the sweep does not go on after %d users", killed, n)
			}
			return nil
		}))
	}
	w.must(within(2*whole+time.Minute, 50*time.Millisecond, func() error {
		if n := len(orcid.State().Rows); n != users {
			return fmt.Errorf("%d of %d users are registered", n, users)
		}
		return nil
	}))
	took := time.Since(began)
	if killed < kills/2 {
		t.Errorf("only %d kills fell into the sweep", killed)
	}
	w.must(within(patience, 20*time.Millisecond, func() error {
		var r struct {
			States map[string]int64 `json:"states"`
			Sweep  struct{ Left int64 }
		}
		if err := w.api.get("/v1/registrations", &r); err != nil {
			return err
		}
		if r.States["alive"] != int64(users) || r.States["putting"] != 0 || r.Sweep.Left != 0 {
			return fmt.Errorf("the daemon thinks %+v", r)
		}
		return nil
	}))
	st := orcid.State()
	repeats := byKill(st.Repeats, came)
	for i, n := range repeats {
		if n > onTheirWay {
			t.Errorf("kill %d: %d PUTs were repeated", i+1, n)
		}
	}
	if err := exactly(st, users, killed); err != nil {
		t.Error(err)
	}
	if limit := 2 * sweepRate; st.Peak > limit {
		t.Errorf("%d requests came within a second, at most %d may", st.Peak, limit)
	}
	t.Logf("%d users, %d kills in %s: PUT %d answered 201 and %d answered 204, repeated %v, at most %d requests in a second",
		users, killed, took.Round(time.Second), st.Counts["put 201"], st.Counts["put 204"], repeats, st.Peak)
}

// byKill counts the repeated PUTs by the kill that cut the first one off; they may
// come much later, since what is new goes before what a lease holds.
func byKill(repeats, came []int) []int {
	out := make([]int, len(came))
	for _, first := range repeats {
		for i, n := range came {
			if first <= n {
				out[i]++
				break
			}
		}
	}
	return out
}

// exactly checks that there is one row for each user, that kills repeated at most
// one PUT each, and that nothing was unregistered.
func exactly(st orcidtest.State, users, kills int) error {
	var errs []error
	seen := map[string]int{}
	for _, row := range st.Rows {
		if seen[row.ORCID]++; seen[row.ORCID] > 1 {
			errs = append(errs, fmt.Errorf("%s has %d rows", row.ORCID, seen[row.ORCID]))
		}
	}
	if len(seen) != users {
		errs = append(errs, fmt.Errorf("%d users have a row, want %d", len(seen), users))
	}
	if st.Repeated > kills {
		errs = append(errs, fmt.Errorf("%d PUTs were repeated by %d kills", st.Repeated, kills))
	}
	for answer, n := range st.Counts {
		switch answer {
		case "put 201", "put 204", "token 200", "get 200":
		default:
			errs = append(errs, fmt.Errorf("%d requests were answered %s", n, answer))
		}
	}
	return errors.Join(errs...)
}

package cli

import (
	"context"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/orcid"
)

// TestRearmWantsToKnowWhose before anybody is asked.
func TestRearmWantsToKnowWhose(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"nobody":  {},
		"two":     {"--org", "uni-a", "--all"},
		"no iD":   {"0000-0002-1825-0098"},
		"a wish":  {"--everybody"},
		"all two": {"0000-0002-1825-0097", "--all"},
	} {
		r := alone(t, Env{}, append([]string{"registration", "rearm"}, args...)...)
		if r.code != exitUsage || strings.TrimSpace(r.err) == "" {
			t.Errorf("%s: exit %d, %q", name, r.code, r.err)
		}
	}
}

// TestRearmingEverybodyIsConfirmed: without a terminal it needs --yes.
func TestRearmingEverybodyIsConfirmed(t *testing.T) {
	t.Parallel()
	r := alone(t, Env{}, "registration", "rearm", "--all", "--admin", "http://127.0.0.1:1")
	if r.code == exitOK || strings.Contains(r.err, "cannot reach") {
		t.Errorf("exit %d, %q: the daemon was asked without a yes", r.code, r.err)
	}
}

// TestRegistrationStatusShowsHowFarASweepIs, once or until it is done.
func TestRegistrationStatusShowsHowFarASweepIs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	ids := make([]orcid.ID, 40)
	for i := range ids {
		var err error
		ids[i], err = orcid.FromBase(uint64(15_000_000 + i))
		b.must(err)
	}
	if out := b.fine("registration", "status"); strings.Contains(out, "[") || !strings.Contains(out, "alive 0") {
		t.Errorf("without a sweep: %s", out)
	}
	b.must(b.store.SetWork(ctx, ids, b.now()))
	b.actors.Rate, b.actors.Speed = 20, 10
	if out := b.fine("registration", "status"); !strings.Contains(out, "[....................]   0%  40 left, 10.0/s, about 4.0s") {
		t.Errorf("at its beginning: %s", out)
	}
	b.must(b.store.SetWork(ctx, ids[:10], b.now().Add(-time.Minute)))
	b.clock.Add(-30_000) // the other thirty are not due any more
	if out := b.fine("registration", "status"); !strings.Contains(out, "[###############.....]  75%  10 left, 10.0/s, about 1.0s") {
		t.Errorf("later: %s", out)
	}
	b.actors.Paused = true
	if out := b.fine("registration", "status"); !strings.Contains(out, "75%  10 left, 10.0/s, paused") {
		t.Errorf("paused: %s", out)
	}
	b.actors.Paused = false
	finished := make(chan result, 1)
	go func() { finished <- b.run("", "registration", "status", "--follow") }()
	b.clock.Add(-60_000)
	if r := <-finished; r.code != exitOK || !strings.HasSuffix(r.out, "Nothing is left to do.\n") && strings.Contains(r.out, "[") {
		t.Errorf("followed: %+v", r)
	}
	if out := b.fine("registration", "status", "--json"); !strings.Contains(out, `"sweep":{"left":0,"total":0,"rate_per_second":20,"speed_per_second":10}`) {
		t.Errorf("as JSON: %s", out)
	}
}

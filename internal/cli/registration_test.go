package cli

import (
	"strings"
	"testing"
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

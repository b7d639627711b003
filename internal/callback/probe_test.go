package callback

import (
	"strings"
	"testing"
)

func TestOnlyTheProbeIsAProbe(t *testing.T) {
	t.Parallel()
	k := mustKeys(t, keyA)
	u, err := k.ProbeURL("https://hub.example.edu/orcid")
	if err != nil {
		t.Fatal(err)
	}
	path, ok := strings.CutPrefix(u, "https://hub.example.edu/orcid")
	if target, valid := k.Verify([]byte(path)); !ok || !valid || !target.IsProbe() {
		t.Errorf("%s is %v, %v", u, target, valid)
	}
	if _, valid := mustKeys(t, keyB).Verify([]byte(path)); valid {
		t.Error("the probe of another key is accepted")
	}
	if target, _ := k.Verify([]byte(mustPath(t, k, "APP-1", 0, ""))); target.IsProbe() {
		t.Error("a user's callback is taken for a probe")
	}
	if target, _ := k.Verify([]byte(mustPath(t, k, probeClient, 0, ""))); target.IsProbe() {
		t.Error("a user of a client with the probe's name is taken for a probe")
	}
}

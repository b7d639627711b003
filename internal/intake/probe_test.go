package intake

import (
	"net/http"
	"strings"
	"testing"

	"dispatchd/internal/callback"
)

// TestAProbeIsAnsweredAndNothingElse: it is no ping, and nothing knows of it.
func TestAProbeIsAnsweredAndNothingElse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	u, err := b.keys.ProbeURL("https://hub.example.edu")
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimPrefix(u, "https://hub.example.edu")
	c := b.dial(t)
	c.send(t, rawPing(path))
	if res := c.answer(t, http.MethodPost); res.StatusCode != http.StatusNoContent || res.Header.Get(callback.ProbeHeader) == "" {
		t.Errorf("a probe is answered %s with %v", res.Status, res.Header)
	}
	c.send(t, rawPing(path[:len(path)-1]+"?"))
	if res := c.answer(t, http.MethodPost); res.StatusCode != http.StatusNotFound {
		t.Errorf("a probe with a bad token is answered %s", res.Status)
	}
	c.send(t, rawPing(b.path(1)))
	if res := c.answer(t, http.MethodPost); res.StatusCode != http.StatusNoContent || res.Header.Get(callback.ProbeHeader) != "" {
		t.Errorf("a ping is answered %s with %v", res.Status, res.Header)
	}
	if got := b.log.users(); len(got) != 1 {
		t.Errorf("the log has %v, want the ping alone", got)
	}
	b.wantResults(t, map[string]int{"accepted": 1, "not_found": 1})
}

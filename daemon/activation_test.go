package main

import (
	"slices"
	"strings"
	"testing"
)

// What the service manager hands over is checked before a descriptor is
// touched; internal/chaos takes real sockets over.
func TestInheritedSockets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env   map[string]string
		error string // empty: no sockets and no error
		taken bool   // the variables are removed
	}{
		"none":            {},
		"for another":     {env: map[string]string{"LISTEN_PID": "41", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "callback"}},
		"no number":       {env: map[string]string{"LISTEN_PID": "42", "LISTEN_FDS": "one"}, error: `LISTEN_FDS is "one"`, taken: true},
		"too many":        {env: map[string]string{"LISTEN_PID": "42", "LISTEN_FDS": "65"}, error: "LISTEN_FDS", taken: true},
		"without a name":  {env: map[string]string{"LISTEN_PID": "42", "LISTEN_FDS": "1"}, error: "FileDescriptorName=", taken: true},
		"unknown name":    {env: map[string]string{"LISTEN_PID": "42", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "dispatchd.socket"}, error: `"dispatchd.socket"`, taken: true},
		"number is zero":  {env: map[string]string{"LISTEN_PID": "42", "LISTEN_FDS": "0"}, taken: true},
		"negative number": {env: map[string]string{"LISTEN_PID": "42", "LISTEN_FDS": "-1"}, error: "LISTEN_FDS", taken: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var removed []string
			got, err := inherited(
				func(k string) string { return c.env[k] },
				func(k string) error { removed = append(removed, k); return nil }, 42)
			switch {
			case len(got) != 0:
				t.Errorf("sockets %v", got)
			case c.error == "" && err != nil, c.error != "" && (err == nil || !strings.Contains(err.Error(), c.error)):
				t.Errorf("error %v, want %q", err, c.error)
			case slices.Contains(removed, "LISTEN_FDS") != c.taken:
				t.Errorf("removed %q", removed)
			}
		})
	}
}

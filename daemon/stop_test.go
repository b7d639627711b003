package main

import (
	"testing"
	"time"

	"dispatchd/internal/sim/receiver"
)

// SIGTERM takes at most 10 s whatever hangs, pings are taken until the end, and
// what was under way is told after the next start.
func TestStopIsPromptAndLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 30, delivery: []string{`timeout = "60s"`}, behaviour: receiver.Hang()})
	for _, org := range []string{"uni-a", "uni-b", "uni-c"} {
		w.organisation(org, nil)
		w.affiliate(org, w.users...)
	}
	w.pingAll(len(w.users), w.users)
	equally(w, "deliveries under way", 3, func() int {
		return w.channel("uni-a").InFlight + w.channel("uni-b").InFlight + w.channel("uni-c").InFlight
	})
	if took := w.stop(); took > 10*time.Second {
		t.Errorf("stopping took %s", took)
	}
	w.recv.Behave(receiver.OK())
	w.start()
	for _, org := range []string{"uni-a", "uni-b", "uni-c"} {
		w.everyoneTaken(org, w.users...)
	}
}

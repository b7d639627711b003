package main

import "testing"

// A trial leaves nothing behind that a second one, or a real Redis later, would
// be measured by: neither has forgotten anything.
func TestATrialLeavesNoMarksBehind(t *testing.T) {
	t.Parallel()
	trial := true
	w := newWorld(t, setting{redisURL: func(w *world) string {
		if trial {
			return "embedded"
		}
		return w.redis.URL()
	}})
	w.simple("uni-a")
	w.stop()
	w.start()
	w.simple("uni-a")
	w.stop()
	trial = false
	w.writeConfig("")
	w.start()
	if w.problem("forgot") {
		t.Errorf("after a trial: %v", w.status().Problems)
	}
}

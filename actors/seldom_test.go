package actors

import (
	"testing"
	"time"
)

func TestSeldomSaysOnceAMinuteAndCountsTheRest(t *testing.T) {
	t.Parallel()
	var s seldom
	at := time.Unix(1_800_000_000, 0)
	for i, c := range []struct {
		after time.Duration
		kept  int
		write bool
	}{
		{0, 0, true}, {0, 0, false}, {59 * time.Second, 0, false}, {time.Second, 2, true}, {time.Second, 0, false}, {time.Hour, 1, true},
	} {
		at = at.Add(c.after)
		if kept, write := s.say(at); kept != c.kept || write != c.write {
			t.Errorf("line %d: %d, %v", i, kept, write)
		}
	}
	s.say(at)
	if kept := s.over(); kept != 1 {
		t.Errorf("%d were kept back", kept)
	}
	if kept, write := s.say(at); kept != 0 || !write {
		t.Errorf("new trouble: %d, %v", kept, write)
	}
}

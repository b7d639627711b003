package intake

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestTroubleIsSaidOnce: on a full disk now and then a ping finds room and the
// next one none. That is one trouble, said once a minute, and its end is said.
func TestTroubleIsSaidOnce(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	m := mode{logger: slog.New(slog.NewTextHandler(&said, nil))}
	now := time.Now()
	step := func(to Mode) {
		now = now.Add(time.Second)
		m.set(to, errors.New("no room"), now)
	}
	want := func(what string, n int) {
		t.Helper()
		if got := strings.Count(said.String(), what); got != n {
			t.Errorf("%q was said %d times, want %d:\n%s", what, got, n, said.String())
		}
	}
	step(ToLog)
	for range 10 {
		step(ToSpool)
		step(Refusing)
	}
	want("pings are refused", 1)
	want("pings go to the local spool", 1)
	step(ToSpool)
	step(ToLog)
	want("pings go to redis again", 1)

	now = now.Add(quietFor)
	step(Refusing)
	want("pings are refused", 2)
	step(ToLog)
	want("pings go to redis again", 2)
}

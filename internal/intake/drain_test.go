package intake

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/intake/spool"
)

// TestOutageFromEndToEnd wires the Server and the Drainer as the daemon does:
// Redis goes, pings are spooled; Redis comes back, the Drainer finds out, tells
// the Server, and the books balance.
func TestOutageFromEndToEnd(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *Options) { o.ProbeAfter = time.Hour }) // only the Drainer may find out
	var down atomic.Bool
	down.Store(true)
	b.log.do = func(context.Context, []event.Ping) error {
		if down.Load() {
			return errors.New("READONLY")
		}
		return nil
	}
	d, err := spool.NewDrainer(b.spool, spool.DrainerOptions{
		Log: b.log, OnAppended: b.LogWorks, Rate: 1_000_000, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	for n := range 50 {
		b.wantPost(t, n%20, http.StatusNoContent)
	}
	if s := b.State(); s.Mode != ToSpool {
		t.Errorf("state %+v while Redis is away", s)
	}
	down.Store(false)
	eventually(t, "the spool is drained", func() bool { return b.spool.Len() == 0 })
	eventually(t, "the server is told", func() bool { return b.State().Mode == ToLog })
	for n := range 10 {
		b.wantPost(t, n, http.StatusNoContent)
	}
	b.wantResults(t, map[string]int{"spooled": 50, "accepted": 10})
	inLog := 0
	for _, n := range b.log.users() {
		inLog += n
	}
	st := b.spool.Stats()
	if st.Received != 50 || st.Drained != 20 || st.Coalesced != 30 || st.Unsure != 0 {
		t.Errorf("the spool's books: %+v", st)
	}
	if int64(60) != int64(inLog)+st.Waiting+st.Coalesced {
		t.Errorf("60 were acknowledged; %d in the log, %+v in the spool", inLog, st)
	}
}

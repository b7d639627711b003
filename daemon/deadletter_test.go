package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/sim/receiver"
	"dispatchd/internal/store"
)

// deadLetters lists an organisation's dead letters through the admin API, page
// by page.
func (w *world) deadLetters(org string) []store.DeadLetter {
	w.t.Helper()
	var all []store.DeadLetter
	cursor := ""
	for {
		var page struct {
			DeadLetters []struct {
				ORCID    orcid.ID  `json:"orcid"`
				Attempts int       `json:"attempts"`
				Status   int       `json:"status"`
				DiedAt   time.Time `json:"died_at"`
			} `json:"dead_letters"`
			Next string `json:"next"`
		}
		w.ask("GET", "/v1/organisations/"+org+"/dead-letters?limit=7&cursor="+cursor, nil, &page)
		for _, d := range page.DeadLetters {
			all = append(all, store.DeadLetter{ORCID: d.ORCID, Attempts: d.Attempts, Status: d.Status, DiedAt: d.DiedAt})
		}
		if cursor = page.Next; cursor == "" {
			return all
		}
	}
}

// job waits until a job of the kind is done.
func (w *world) job(id string) store.Job {
	w.t.Helper()
	var found store.Job
	w.eventually("job "+id+" ends", func() bool {
		jobs, err := w.d.app.service.Jobs(w.t.Context())
		if err != nil {
			return false
		}
		i := slices.IndexFunc(jobs, func(j store.Job) bool { return j.ID == id })
		if i >= 0 {
			found = jobs[i]
		}
		return i >= 0 && found.State != store.JobRunning
	})
	if found.State != store.JobDone {
		w.t.Fatalf("the job: %+v", found)
	}
	return found
}

// replay asks for dead letters to be tried again and waits for the job.
func (w *world) replay(org string, what object) store.Job {
	w.t.Helper()
	var j store.Job
	w.ask("POST", "/v1/organisations/"+org+"/dead-letters/replay", what, &j)
	return w.job(j.ID)
}

// What a receiver refuses is tried three times, kept, and can be seen, tried
// again and thrown away.
func TestDeadLettersAreKeptReplayedAndPurged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 12, behaviour: receiver.Status(http.StatusBadRequest, "no such field")})
	w.simple("uni-a")
	w.pingAll(len(w.users), w.users)
	dead := func() int { return w.channel("uni-a").Dead }
	equally(w, "dead letters", len(w.users), dead)
	for _, d := range w.deadLetters("uni-a") {
		if d.Attempts != 3 || d.Status != http.StatusBadRequest || d.DiedAt.IsZero() {
			t.Errorf("the dead letter: %+v", d)
		}
	}
	if n := len(w.deadLetters("uni-a")); n != len(w.users) {
		t.Errorf("%d dead letters are listed, want %d", n, len(w.users))
	}
	var log struct{ Attempts []event.Attempt }
	w.ask("GET", "/v1/organisations/uni-a/attempts?limit=1000", nil, &log)
	tries := map[orcid.ID][]int{}
	for _, a := range log.Attempts { // newest first
		tries[a.ORCID] = append(tries[a.ORCID], a.Number)
		if a.Excerpt == "" || a.Status != http.StatusBadRequest {
			t.Errorf("the attempt: %+v", a)
		}
	}
	for _, id := range w.users {
		if got := fmt.Sprint(tries[id]); got != "[3 2 1]" {
			t.Errorf("the attempts for %s: %s", id, got)
		}
	}
	if !w.problem("12 dead letters") {
		t.Errorf("status does not name them: %+v", w.status().Problems)
	}

	w.recv.Behave(receiver.OK())
	w.recv.Forget()
	one := w.users[3]
	if j := w.replay("uni-a", object{"orcid": one}); j.Done != 1 {
		t.Errorf("the job: %+v", j)
	}
	w.everyoneTaken("uni-a", one)
	equally(w, "dead letters", len(w.users)-1, dead)

	// A newer ping of its user makes a dead letter news again.
	w.pingAll(2, w.users[:2])
	w.everyoneTaken("uni-a", w.users[:2]...)
	equally(w, "dead letters", len(w.users)-3, dead)
	if n := w.balanced().Superseded; n < 2 {
		t.Errorf("%d superseded", n)
	}

	// Since: those that died later.
	w.skip(time.Hour)
	since := w.now()
	w.recv.Behave(receiver.Status(http.StatusUnprocessableEntity, "no"))
	w.pingAll(2, w.users[:2])
	equally(w, "dead letters", len(w.users)-1, dead)
	w.recv.Behave(receiver.OK())
	w.recv.Forget()
	if j := w.replay("uni-a", object{"since": since}); j.Done != 2 {
		t.Errorf("the job: %+v", j)
	}
	w.everyoneTaken("uni-a", w.users[:2]...)
	if n := len(w.told("uni-a")); n != 2 {
		t.Errorf("%d were told, want 2", n)
	}

	// A body is needed, so that nobody purges all by forgetting it.
	if status := w.api("POST", "/v1/organisations/uni-a/dead-letters/purge", nil, nil); status != http.StatusBadRequest {
		t.Errorf("a purge without a body was answered %d", status)
	}
	var purged struct{ Purged int }
	w.ask("POST", "/v1/organisations/uni-a/dead-letters/purge", object{"orcid": w.users[5]}, &purged)
	if purged.Purged != 1 {
		t.Errorf("purged %d, want 1", purged.Purged)
	}
	w.recv.Forget()
	if j := w.replay("uni-a", object{}); j.Done != int64(len(w.users)-4) {
		t.Errorf("the job: %+v", j)
	}
	equally(w, "notifications", len(w.users)-4, func() int { return len(w.told("uni-a")) })
	if n := dead(); n != 0 {
		t.Errorf("%d dead letters are left", n)
	}
}

// The oldest dead letters go when there are too many, and that is counted.
func TestDeadLettersAreCapped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 9, delivery: []string{"dead_letters = 5"}, behaviour: receiver.Status(http.StatusBadRequest, "no")})
	w.simple("uni-a")
	for i, id := range w.users {
		w.ping(id)
		equally(w, "dead letters ever", int64(i+1), func() int64 { return w.balanced().Died })
	}
	list := w.deadLetters("uni-a")
	for _, d := range list {
		if slices.Contains(w.users[:4], d.ORCID) {
			t.Errorf("%s is kept, and is not among the latest 5", d.ORCID)
		}
	}
	if n := w.balanced().Dropped; len(list) != 5 || n != 4 {
		t.Errorf("%d dead letters are kept and %d dropped, want 5 and 4", len(list), n)
	}
}

// cutter stands between the daemon and Redis, and cuts every connection when
// it sees a text go by, until it is mended.
type cutter struct {
	ln      net.Listener
	to      string
	mu      sync.Mutex
	trigger string
	cut     chan struct{} // closed when the text was seen; nil while nothing is cut
	conns   map[net.Conn]struct{}
	wg      sync.WaitGroup
}

func startCutter(t *testing.T) *cutter {
	t.Helper()
	ln, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{ln: ln, conns: map[net.Conn]struct{}{}}
	c.wg.Go(c.accept)
	t.Cleanup(func() {
		ln.Close()
		c.closeAll()
		c.wg.Wait()
	})
	return c
}

// lead says where it leads to; before that nobody connects.
func (c *cutter) lead(to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = to
}

func (c *cutter) accept() {
	for {
		from, err := c.ln.Accept()
		if err != nil {
			return
		}
		c.wg.Go(func() { c.serve(from) })
	}
}

func (c *cutter) serve(from net.Conn) {
	defer from.Close()
	c.mu.Lock()
	dead := c.cut != nil && c.trigger == ""
	if !dead {
		c.conns[from] = struct{}{}
	}
	target := c.to
	c.mu.Unlock()
	if dead {
		return
	}
	to, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer to.Close()
	c.wg.Go(func() {
		_, _ = io.Copy(from, to) // ends with either connection
		from.Close()
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			cut := c.look(buf[:n])
			if cut != nil { // Redis hears it, and nobody its answer
				c.closeAll()
			}
			_, werr := to.Write(buf[:n])
			if cut != nil {
				close(cut)
			}
			if werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// look returns what at returned if b has the text.
func (c *cutter) look(b []byte) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.trigger == "" || !bytes.Contains(b, []byte(c.trigger)) {
		return nil
	}
	c.trigger = ""
	return c.cut
}

// at makes it cut when it sees the text, and returns what is closed then.
func (c *cutter) at(text string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trigger, c.cut = text, make(chan struct{})
	return c.cut
}

func (c *cutter) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = nil
}

func (c *cutter) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		conn.Close()
		delete(c.conns, conn)
	}
}

// A replay is a job: cut off in its middle it goes on after a restart, and the
// organisation's concurrency holds.
func TestAReplayGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	const letters = 1300 // a job works in batches of 1000
	c := startCutter(t)
	w := newWorld(t, setting{
		users: letters, delivery: []string{"concurrency = 4", `retry = ["50ms"]`},
		redisURL: func(w *world) string {
			c.lead(w.redis.Addr)
			return "redis://" + c.ln.Addr().String() + "/0"
		},
	})
	w.simple("uni-a")
	w.bury1000(letters)
	equally(w, "dead letters", letters, func() int { return w.channel("uni-a").Dead })
	w.ask("POST", "/v1/organisations/uni-a/pause", object{}, nil)
	cut := c.at(`"done":1000,`)
	var j store.Job
	w.ask("POST", "/v1/organisations/uni-a/dead-letters/replay", object{}, &j)
	select {
	case <-cut:
	case <-time.After(patience):
		t.Fatal("the job never said that it was half done")
	}
	w.stop()
	c.mend()
	w.start()
	if done := w.job(j.ID); done.Done != letters {
		t.Errorf("the job: %+v", done)
	}
	ch := w.channel("uni-a")
	if ch.Dead != 0 || ch.Waiting != letters {
		t.Errorf("after the replay %d wait and %d are dead", ch.Waiting, ch.Dead)
	}
	w.ask("POST", "/v1/organisations/uni-a/resume", object{}, nil)
	equally(w, "notifications", letters, w.recv.Count)
	if n := w.recv.Peak(); n > 4 {
		t.Errorf("%d deliveries at once during a replay, at most 4 are allowed", n)
	}
	if strings.Contains(w.log.String(), "a job failed") {
		t.Error("a job failed")
	}
}

// bury1000 makes dead letters of all users' news, through the store alone:
// that many attempts would take long.
func (w *world) bury1000(n int) {
	w.t.Helper()
	ctx, st := w.t.Context(), w.d.app.store
	w.ask("POST", "/v1/organisations/uni-a/pause", object{}, nil)
	w.pingAll(n, w.users)
	w.eventually("the pings were fanned out", func() bool { return w.status().Pending == int64(n) })
	w.d.app.hints.system.Store(nil) // nobody but us claims now
	w.must(w.d.app.attached.system.Stop(ctx))
	_, err := st.SetHold(ctx, "uni-a", event.Webhook, event.HoldPause, time.Time{}, "")
	w.must(err)
	for left := n; left > 0; {
		claims, err := st.Claim(ctx, "uni-a", event.Webhook, 500, time.Minute)
		w.must(err)
		if len(claims.Deliveries) == 0 {
			w.t.Fatalf("%d slots cannot be claimed", left)
		}
		left -= len(claims.Deliveries)
		var wg sync.WaitGroup
		for _, d := range claims.Deliveries {
			wg.Go(func() {
				o := event.Outcome{Result: event.Dead, Attempt: event.Attempt{DeliveryID: d.ID(), ORCID: d.ORCID, Channel: d.Channel, Type: d.Type, Number: 1, Start: w.now(), Status: 400, Result: event.Dead}}
				if _, err := st.Finish(ctx, d, o); err != nil {
					w.t.Errorf("finish: %v", err)
				}
			})
		}
		wg.Wait()
	}
	w.stop()
	w.start()
}

package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/sim"
	"dispatchd/internal/sim/receiver"
	"dispatchd/internal/sim/smtpsink"
)

// mailServer starts an SMTP sink and returns the [smtp] table for it.
func mailServer(t *testing.T, o smtpsink.Options) (*smtpsink.Sink, string) {
	t.Helper()
	s, err := smtpsink.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	table := fmt.Sprintf("\n[smtp]\nhost = \"127.0.0.1\"\nport = %d\ntls = \"none\"\nfrom = \"Hub <no-reply@hub.example>\"\n", s.Port())
	if o.Username != "" {
		table += fmt.Sprintf("username = %q\npassword = %q\n", o.Username, o.Password.Reveal())
	}
	return s, table
}

// subjects are those of the mails to one address.
func subjects(t *testing.T, s *smtpsink.Sink, to string) []string {
	t.Helper()
	var out []string
	for _, m := range s.Mails() {
		if len(m.To) != 1 || m.To[0] != to {
			continue
		}
		msg, err := m.Message()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, msg.Header.Get("Subject"))
	}
	return out
}

// broken is the answer of a receiver that has a bad day.
func broken() receiver.Behaviour { return receiver.Status(http.StatusInternalServerError, "a bad day") }

// A receiver that fails everything is left in peace: one probe at the end of
// each hold, whatever waits; also after a restart, and a pause stays a pause.
func TestABrokenReceiverIsProbedNotHammered(t *testing.T) {
	t.Parallel()
	mail, smtp := mailServer(t, smtpsink.Options{})
	w := newWorld(t, setting{users: 31, more: smtp, delivery: []string{`retry = ["50ms","50ms","50ms","50ms","1h","1h","1h","1h","100h","200h"]`}})
	w.organisation("healthy", nil)
	w.organisation("broken", nil)
	marker, users := w.users[0], w.users[1:]
	w.affiliate("healthy", marker)
	w.affiliate("broken", users...)
	w.recv.BehaveFor("/broken", broken())
	asked := func() int { return len(w.told("broken")) }
	w.pingAll(len(users), users)
	// All four quick retries of everybody: what follows is an hour away.
	equally(w, "attempts until the waits are long", 5*len(users), asked)
	w.noted("broken")
	if w.held("broken", "breaker") {
		t.Fatal("held before the failures went on for a minute")
	}
	w.skip(2 * time.Hour) // every one of them is due
	w.eventually("the breaker holds the channel", func() bool { return w.held("broken", "breaker") })
	if !w.problem("broken: webhook is held (breaker)") {
		t.Errorf("status does not name the breaker: %+v", w.status().Problems)
	}
	w.noted("broken")
	probed := asked()
	if n := probed - 5*len(users); n > 2 {
		t.Errorf("%d attempts before the breaker held", n)
	}
	quiet := func(when string) {
		t.Helper()
		w.marker("healthy", marker)
		if n := asked(); n != probed {
			t.Fatalf("%s: asked %d times, want none", when, n-probed)
		}
	}
	probe := func(jump time.Duration) {
		t.Helper()
		w.skip(jump)
		probed++
		equally(w, "attempts with the probe", probed, asked)
		w.noted("broken")
		quiet("after the probe")
	}
	quiet("while held")
	// The clock goes on by itself, on a loaded machine for many seconds, and a
	// hold is 30 to 33 s long, the next one twice that.
	w.skip(10 * time.Second)
	quiet("before the end of the hold")
	probe(24 * time.Second)
	w.skip(36 * time.Second)
	quiet("before the end of the second hold, which is twice as long")
	probe(31 * time.Second)

	w.stop()
	w.start()
	quiet("after a restart")
	probe(133 * time.Second)

	// After an hour the contact is told, once.
	probe(2 * time.Hour)
	equally(w, "mails to the contact", 1, func() int { return len(subjects(t, mail, "it@broken.example")) })
	probe(20 * time.Minute)

	// The breaker lets go when the receiver works; the pause does not.
	w.ask("POST", "/v1/organisations/broken/pause", object{"channel": "webhook", "reason": "maintenance"}, nil)
	w.recv.BehaveFor("/broken", nil)
	w.skip(3 * time.Hour) // the hold ends, and every wait of the table so far
	quiet("while paused")
	if !w.held("broken", "pause") {
		t.Error("the pause is gone")
	}
	w.ask("POST", "/v1/organisations/broken/resume", object{"channel": "webhook"}, nil)
	w.everyoneTaken("broken", users...)
	equally(w, "mails to the contact", 2, func() int { return len(subjects(t, mail, "it@broken.example")) })
	if last := subjects(t, mail, "it@broken.example")[1]; !strings.Contains(last, "works again") {
		t.Errorf("the second mail says %q", last)
	}
	w.registered(clientMain, w.users...)
	if n := w.deletes(); n != 0 {
		t.Errorf("%d DELETEs at ORCID because a receiver was broken", n)
	}
}

// 410 means "do not tell me any more": nothing is lost, the contact hears of it
// once, and only a person ends it.
func TestGoneSuspendsOnce(t *testing.T) {
	t.Parallel()
	mail, smtp := mailServer(t, smtpsink.Options{})
	w := newWorld(t, setting{users: 21, more: smtp})
	w.organisation("healthy", nil)
	w.organisation("gone", nil)
	marker, users := w.users[0], w.users[1:]
	w.affiliate("healthy", marker)
	w.affiliate("gone", users...)
	w.registered(clientMain, w.users...)
	w.recv.BehaveFor("/gone", receiver.Gone())
	w.pingAll(len(users), users)
	w.eventually("the channel is suspended", func() bool { return w.held("gone", "suspend") })
	w.pingAll(len(users), users)
	w.skip(time.Hour)
	w.marker("healthy", marker)
	if n := len(w.told("gone")); n != 1 {
		t.Errorf("a receiver that is gone was asked %d times", n)
	}
	w.stop()
	w.start()
	w.skip(25 * time.Hour)
	w.marker("healthy", marker)
	if n := len(w.told("gone")); n != 1 {
		t.Errorf("after a restart a receiver that is gone was asked %d times", n)
	}
	equally(w, "mails to the contact", 1, mail.Count)
	if s := subjects(t, mail, "it@gone.example"); len(s) != 1 || !strings.Contains(s[0], "suspended") {
		t.Errorf("the contact was told %q", s)
	}
	if n := w.channel("gone").Waiting; n != len(users) {
		t.Errorf("%d deliveries wait for %d users", n, len(users))
	}
	if n := w.deletes(); n != 0 {
		t.Errorf("%d DELETEs at ORCID because of a suspension", n)
	}
	w.recv.BehaveFor("/gone", nil)
	w.ask("POST", "/v1/organisations/gone/resume", object{}, nil)
	w.everyoneTaken("gone", users...)
	if n := len(w.taken("gone")); n != len(users) {
		t.Errorf("%d users were told of, want %d", n, len(users))
	}
}

// Retry-After holds everything of that organisation, and of no other.
func TestRetryAfterHoldsTheChannel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 11})
	w.organisation("healthy", nil)
	w.organisation("busy", nil)
	marker, users := w.users[0], w.users[1:]
	w.affiliate("healthy", marker)
	w.affiliate("busy", users...)
	w.recv.BehaveFor("/busy", receiver.RetryAfter(http.StatusTooManyRequests, "600"))
	w.pingAll(1, users)
	w.eventually("the channel is held", func() bool { return w.held("busy", "retry_after") })
	w.pingAll(len(users), users)
	w.skip(590 * time.Second)
	w.marker("healthy", marker)
	if n := len(w.told("busy")); n != 1 {
		t.Errorf("asked %d times within Retry-After", n)
	}
	w.recv.BehaveFor("/busy", nil)
	w.skip(11 * time.Second)
	w.everyoneTaken("busy", users...)
}

// ORCID sends the same ping two or three times within a run; with a quiet
// period that is one notification.
func TestORCIDsDuplicatesMakeOneNotification(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 5, delivery: []string{`quiet_period = "60s"`}, sim: sim.Options{ReplicaLag: 3 * time.Minute}})
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	w.orcid.Advance(10 * time.Minute)
	w.edit(w.users...)
	if n := w.orcid.Counters().Posts[http.StatusNoContent]; n < 2*int64(len(w.users)) {
		t.Fatalf("ORCID sent %d pings for %d changes: no duplicates", n, len(w.users))
	}
	w.eventually("the news waits", func() bool { return w.status().Pending == int64(len(w.users)) })
	if n := len(w.told("uni-a")); n != 0 {
		t.Errorf("%d notifications within the quiet period", n)
	}
	w.skip(61 * time.Second)
	w.everyoneTaken("uni-a", w.users...)
	w.idle()
	if n := len(w.told("uni-a")); n != len(w.users) {
		t.Errorf("%d notifications of %d changes", n, len(w.users))
	}
}

// A change that comes while the organisation is being told is told once more,
// however many pings it made.
func TestAChangeDuringAPostIsToldOnceMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 3, delivery: []string{`timeout = "30s"`}})
	w.simple("uni-a")
	open := make(chan struct{})
	w.recv.Behave(receiver.Gate(open, receiver.OK()))
	w.ping(w.users[0])
	equally(w, "deliveries under way", 1, func() int { return w.channel("uni-a").InFlight })
	w.pingAll(20, w.users[:1])
	w.eventually("the pings were fanned out", func() bool { return w.balanced().Coalesced == 20 })
	close(open)
	equally(w, "notifications", 2, func() int { return len(w.told("uni-a")) })
	w.idle()
	list := w.told("uni-a")
	if len(list) != 2 || list[0].ID == list[1].ID {
		t.Errorf("the notifications: %+v", list)
	}
}

// Memory follows pairs, not traffic.
func TestPingsCoalesceWhileAReceiverIsDown(t *testing.T) {
	t.Parallel()
	const users, pings = 500, 10_000
	w := newWorld(t, setting{users: users})
	w.simple("uni-a")
	w.ask("POST", "/v1/organisations/uni-a/pause", object{}, nil)
	w.pingAll(pings, w.users)
	w.eventually("the pings were fanned out", func() bool {
		l := w.balanced()
		// On a busy machine some go by the spool, which makes one of two, or both
		// ways, when Redis took what it did not answer in time.
		return l.Opened+l.Coalesced+l.Spool.Coalesced >= pings
	})
	if st := w.status(); st.Pending != users {
		t.Errorf("%d slots for %d users", st.Pending, users)
	}
	w.ask("POST", "/v1/organisations/uni-a/resume", object{}, nil)
	w.everyoneTaken("uni-a", w.users...)
	w.idle()
	if n := len(w.told("uni-a")); n != users {
		t.Errorf("%d notifications for %d users", n, users)
	}
}

// One POST carries one type, and who is new comes before what is new.
func TestCreatedIsToldBeforeUpdated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 8})
	w.organisation("uni-a", nil)
	w.ask("POST", "/v1/organisations/uni-a/pause", object{}, nil)
	for _, id := range w.users {
		w.ask("PUT", "/v1/organisations/uni-a/users/"+id.String(), object{"name": "N " + id.String()}, nil)
	}
	w.registered(clientMain, w.users...)
	w.edit(w.users...)
	w.eventually("both were fanned out", func() bool { l := w.balanced(); return l.Opened+l.Coalesced == 2*int64(len(w.users)) })
	w.ask("POST", "/v1/organisations/uni-a/resume", object{}, nil)
	equally(w, "notifications", 2*len(w.users), func() int { return len(w.told("uni-a")) })
	types := map[orcid.ID][]string{}
	for _, n := range w.told("uni-a") {
		types[n.ORCID] = append(types[n.ORCID], n.Type)
	}
	for _, id := range w.users {
		if got := fmt.Sprint(types[id]); got != fmt.Sprintf("[%s %s]", event.Created, event.Updated) {
			t.Errorf("%s was told as %s", id, got)
		}
	}
}

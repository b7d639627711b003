package main

import (
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/sim/smtpsink"
)

// TestTheMonthlySummaryOutlivesTheDaemon: the summary of a month of the
// organisation's own calendar is mailed at its turn. The daemon ends while the
// mail server has it and has not answered: the same summary comes again, though
// days late, under the same Message-ID, with nobody lost. Then never again; and
// what happened after the turn stands in the next one.
func TestTheMonthlySummaryOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	var once sync.Once
	taken, release := make(chan struct{}), make(chan struct{})
	mail, smtp := mailServer(t, smtpsink.Options{OnMail: func(m smtpsink.Mail) {
		if strings.Contains(string(m.Data), "<month_") {
			once.Do(func() { // it is kept, and the daemon never hears that
				close(taken)
				<-release
			})
		}
	}})
	w := newWorld(t, setting{users: 13, more: smtp, later: true})
	zone, err := time.LoadLocation("Pacific/Auckland") // its month turns 11 to 13 hours before UTC's
	w.must(err)
	local := w.now().In(zone)
	turn := time.Date(local.Year(), local.Month()+1, 1, 0, 0, 0, 0, zone)
	at := func(when time.Time) { // the daemon's clock, which only goes forward
		if d := when.Sub(w.now()); d > 0 {
			w.skip(d)
		}
	}
	at(turn.Add(-6 * time.Hour))
	w.start()
	w.organisation("healthy", nil)
	w.organisation("uni-m", object{
		"webhook": object{"enabled": false}, "email": object{"enabled": true, "mode": "weekly", "monthly": true},
		"technical_contact": "it@uni-m.example", "timezone": "Pacific/Auckland",
	})
	marker, before, after := w.users[0], w.users[1:12], w.users[12]
	w.affiliate("healthy", marker)
	w.affiliate("uni-m", w.users[1:]...)
	w.registered(clientMain, w.users...)
	w.pingAll(2*len(before), before)
	w.marker("healthy", marker)
	at(turn.Add(time.Hour)) // the first of the month there, and not yet in UTC
	if now := w.now(); now.UTC().Month() == now.In(zone).Month() {
		t.Fatalf("%v is in the same month everywhere", now)
	}
	w.pingAll(1, w.users[12:])
	w.marker("healthy", marker)
	summaries := func() (list []smtpsink.Mail) {
		for _, m := range mail.Mails() {
			if strings.Contains(string(m.Data), "<month_") {
				list = append(list, m)
			}
		}
		return list
	}
	w.stop()
	w.start() // at 01:00 nothing is due
	w.marker("healthy", marker)
	if n := len(summaries()); n != 0 {
		t.Fatalf("%d summaries before 08:00", n)
	}
	w.stop()
	at(turn.Add(9 * time.Hour))
	w.start()
	select {
	case <-taken:
	case <-time.After(patience):
		t.Fatal("no summary at its turn")
	}
	w.stop()
	close(release)
	if n := len(summaries()); n != 1 {
		t.Fatalf("%d summaries when the daemon ended", n)
	}
	w.skip(10 * 24 * time.Hour)
	w.start()
	w.eventually("the summary comes again", func() bool { return len(summaries()) == 2 })
	w.eventually("that is noted", func() bool { return strings.Contains(w.log.String(), "the summary of a month was sent") })
	month := turn.AddDate(0, 0, -1).Format("2006-01")
	for i, m := range summaries() {
		msg, err := m.Message()
		w.must(err)
		if got, want := msg.Header.Get("Message-Id"), "<month_uni-m_"+month+"@hub.example>"; got != want {
			t.Errorf("summary %d: Message-ID %q, want %q", i, got, want)
		}
		text := strings.ReplaceAll(string(m.Data), "=\r\n", "")
		for _, id := range before {
			if !strings.Contains(text, id.String()) {
				t.Errorf("summary %d: %s is lost", i, id)
			}
		}
		if strings.Contains(text, after.String()) {
			t.Errorf("summary %d tells of what came after the turn", i)
		}
	}
	w.stop()
	w.start()
	w.marker("healthy", marker)
	if n := len(summaries()); n != 2 {
		t.Errorf("%d summaries after it was told", n)
	}
	w.stop()
	at(turn.AddDate(0, 1, 0).Add(9 * time.Hour))
	w.start()
	w.eventually("the summary of the next month", func() bool { return len(summaries()) == 3 })
	next := strings.ReplaceAll(string(summaries()[2].Data), "=\r\n", "")
	if !strings.Contains(next, after.String()) || !strings.Contains(next, "<month_uni-m_"+turn.Format("2006-01")+"@hub.example>") {
		t.Errorf("the next one:\n%s", next)
	}
	w.eventually("that is noted too", func() bool { return strings.Count(w.log.String(), "the summary of a month was sent") == 2 })
}

package main

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"dispatchd/config"
	"dispatchd/internal/sim/receiver"
)

// Disabling, removing a user and removing an organisation cancel what waits,
// also under a delivery that is on its way; the books say so.
func TestWhatNobodyWantsIsCancelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 12, delivery: []string{`timeout = "30s"`}})
	w.organisation("stays", nil)
	w.affiliate("stays", w.users...)
	w.simple("uni-a")
	w.simple("uni-b")
	open := make(chan struct{})
	for _, org := range []string{"/uni-a", "/uni-b"} {
		w.recv.BehaveFor(org, receiver.Gate(open, receiver.Status(http.StatusInternalServerError, "late")))
	}
	w.pingAll(len(w.users), w.users)
	w.everyoneTaken("stays", w.users...)
	for _, org := range []string{"uni-a", "uni-b"} {
		equally(w, "deliveries of "+org+" under way", 1, func() int { return w.channel(org).InFlight })
	}
	// A user leaves with news waiting or on its way.
	left := w.users[0]
	w.ask("DELETE", "/v1/organisations/uni-a/users/"+left.String(), nil, nil)
	w.ask("POST", "/v1/organisations/uni-a/disable", object{}, nil)
	w.ask("DELETE", "/v1/organisations/uni-b", nil, nil)
	w.eventually("the organisation is gone", func() bool { return w.api("GET", "/v1/organisations/uni-b", nil, nil) == http.StatusNotFound })
	equally(w, "slots cancelled", 2*int64(len(w.users)), func() int64 { return w.balanced().Cancelled })
	close(open)
	w.idle()
	before := w.recv.Count()
	w.ask("POST", "/v1/organisations/uni-a/enable", object{}, nil)
	w.recv.BehaveFor("/uni-a", nil)
	w.recv.BehaveFor("/uni-b", nil)
	w.skip(time.Hour)
	w.marker("stays", w.users[1])
	w.everyoneTaken("uni-a", w.users[1])
	w.idle()
	if n := w.recv.Count() - before; n != 2 {
		t.Errorf("%d notifications of one change after enabling again, want 2", n)
	}
	if n := len(w.taken("uni-b")); n != 0 {
		t.Errorf("%d users were told of to an organisation that is gone", n)
	}
	w.registered(clientMain, w.users...)
}

// Receivers that hang have their own places; everybody else is served.
func TestHangingReceiversStarveNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 40, delivery: []string{`timeout = "60s"`, "max_in_flight = 8", "concurrency = 8"}})
	const hanging = 30
	names := make([]string, hanging)
	for i := range names {
		names[i] = "hang-" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		w.organisation(names[i], nil)
		w.affiliate(names[i], w.users[i])
	}
	w.organisation("healthy", nil)
	w.affiliate("healthy", w.users[hanging:]...)
	w.recv.BehaveFor("/hang", receiver.Hang())
	w.pingAll(hanging, w.users[:hanging])
	// Nobody knows them yet: together they have three quarters of the places.
	equally(w, "deliveries under way", 6, func() int { return w.recv.Peak() })
	w.stop()
	w.set.delivery = []string{`timeout = "1s"`, "max_in_flight = 8", "concurrency = 8", `retry = ["50ms","50ms","50ms","50ms","50ms","50ms","50ms","50ms","50ms","50ms","50ms","50ms","50ms","50ms","50ms","50ms"]`}
	w.writeConfig("")
	w.start()
	w.recv.Forget()
	w.pingAll(10, w.users[hanging:])
	w.everyoneTaken("healthy", w.users[hanging:]...)
	for range 3 {
		w.marker("healthy", w.users[hanging])
	}
	w.recv.BehaveFor("/hang", nil)
	for i, name := range names {
		w.everyoneTaken(name, w.users[i])
	}
}

// A second daemon on the same data_dir is told so at once; one with another
// data_dir does not take the first one's Redis for its own.
func TestASecondDaemonDoesNoHarm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 5})
	w.simple("uni-a")
	w.registered(clientMain, w.users...)
	second := func(dir string) (*app, error) {
		c, err := config.Load(w.configPath())
		w.must(err)
		c.DataDir = dir
		_, err = config.EnsureKeys(c)
		w.must(err)
		callback, err := listen("127.0.0.1:0")
		w.must(err)
		admin, err := listen("127.0.0.1:0")
		w.must(err)
		web, err := listen("127.0.0.1:0")
		w.must(err)
		a, err := newApp(t.Context(), options{
			Config: c, Version: "second", Level: new(slog.LevelVar), Callback: callback, Admin: admin, Web: web,
			Logger: slog.New(slog.NewTextHandler(&w.log, nil)).With("daemon", "second"),
		})
		if err != nil {
			callback.Close()
			admin.Close()
			web.Close()
		}
		return a, err
	}
	began := time.Now()
	if _, err := second(w.dir); err == nil || !strings.Contains(err.Error(), "spool") || time.Since(began) > 5*time.Second {
		t.Fatalf("a second daemon on the same data_dir: %v after %s", err, time.Since(began))
	}
	a, err := second(t.TempDir())
	w.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	w.eventually("the second says that this Redis is another's", a.store.Guard().Forgot)
	if a.attached.isStarted() {
		t.Error("the second works with it")
	}
	w.pingAll(len(w.users), w.users)
	w.everyoneTaken("uni-a", w.users...)
	cancel()
	w.must(<-done)
	if n := w.deletes(); n != 0 {
		t.Errorf("%d DELETEs at ORCID", n)
	}
}

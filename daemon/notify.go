package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dispatchd/internal/intake"
	"dispatchd/internal/store"
)

// notifier returns a function that sends a state to the service manager
// (sd_notify(3)); without a socket it does nothing.
func notifier(socket string, log *slog.Logger) func(string) {
	if socket == "" {
		return func(string) {}
	}
	if strings.HasPrefix(socket, "@") {
		socket = "\x00" + socket[1:] // an abstract socket
	}
	return func(state string) {
		d := net.Dialer{Timeout: time.Second}
		c, err := d.DialContext(context.Background(), "unixgram", socket)
		if err != nil {
			log.Warn("the service manager cannot be told", "err", err)
			return
		}
		defer c.Close()
		if _, err := c.Write([]byte(state)); err != nil {
			log.Warn("the service manager cannot be told", "err", err)
		}
	}
}

// reloadingState is what systemd wants to hear when a reload begins.
func reloadingState() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return "RELOADING=1"
	}
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", ts.Nano()/1000)
}

// herald is what the service manager was told last.
type herald struct {
	mu    sync.Mutex
	ready bool
	said  string
}

// tellReady says that pings are taken and can be stored durably. Only the first
// call and the end of a reload say READY=1; afterwards it is the status only.
func (a *app) tellReady(ctx context.Context) {
	words := a.statusWords(ctx)
	a.told.mu.Lock()
	defer a.told.mu.Unlock()
	a.told.ready, a.told.said = true, words
	a.o.Notify("READY=1\nSTATUS=" + words)
}

// keepTold keeps the status line of the service manager true.
func (a *app) keepTold(ctx context.Context) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.tellStatus(ctx)
	}
}

// statusEvery is how often the status line is looked after.
const statusEvery = 5 * time.Second

// tellStatus says how we are if that has changed.
func (a *app) tellStatus(ctx context.Context) {
	words := a.statusWords(ctx)
	a.told.mu.Lock()
	defer a.told.mu.Unlock()
	if !a.told.ready || words == a.told.said || ctx.Err() != nil {
		return
	}
	a.told.said = words
	a.o.Notify("STATUS=" + words)
}

// statusWords is one line for `systemctl status`, the worst first.
func (a *app) statusWords(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	problem, _ := a.attached.state()
	if err := a.store.Ping(ctx); problem == "" && errors.Is(err, store.ErrAway) {
		problem = awayWords(err)
	}
	switch st := a.intake.State(); {
	case st.Mode == intake.Refusing:
		return intakeWords(st)
	case a.store.Guard().Forgot():
		return "Redis forgot: pings go to the spool; run: dispatchd recover --accept-loss"
	case a.fenced.Load():
		return problem + ": stop one of the two, then restart this one"
	case problem != "":
		return problem + ": pings go to the spool"
	case a.reloadFailed.Load():
		return "Working with the old configuration: the new one has errors"
	case a.embedded != nil:
		return "Working, as a trial: Redis is embedded, everything is lost at the end"
	}
	return "Working"
}

package main

import (
	"context"
	"log/slog"
	"strconv"
	"time"
)

// watchdogTime is how often the service manager wants to be fed
// (sd_watchdog_enabled(3)); 0 means not at all.
func watchdogTime(getenv func(string) string, pid int) time.Duration {
	if whose := getenv("WATCHDOG_PID"); whose != "" && whose != strconv.Itoa(pid) {
		return 0
	}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || usec > int64(time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// watchdog tells the service manager that we turn.
type watchdog struct {
	every time.Duration // between two feedings
	// alive must return soon after its context ends. It must not depend on
	// anything outside the process: a Redis that is away is no reason to kill a
	// daemon that takes pings into its spool.
	alive func(ctx context.Context) error
	feed  func()
	log   *slog.Logger
}

// run feeds until ctx ends, but only when alive says so in time.
func (w watchdog) run(ctx context.Context) {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	said := false
	for {
		asking, cancel := context.WithTimeout(ctx, w.every)
		err := w.alive(asking)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			w.feed()
			if said {
				w.log.Warn("the actors answer again")
			}
			said = false
		case !said:
			said = true
			w.log.Error("the actors do not answer; the service manager is not fed and will start us again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
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

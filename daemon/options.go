package main

import (
	"errors"
	"log/slog"
	"net"
	"time"

	"dispatchd/config"
)

// options is everything a daemon is made of that its surroundings decide.
type options struct {
	Config *config.Config
	// ConfigPath is read again on reload; empty means that there is nothing to
	// read (the demo).
	ConfigPath string
	Version    string
	Logger     *slog.Logger
	Level      *slog.LevelVar
	// Listeners are bound already, so that a caller knows the ports. All must be
	// set.
	Callback, Web, Admin net.Listener
	// Notify tells the service manager; nil tells nobody.
	Notify func(state string)
	// WatchdogTime is how long the service manager waits for a sign of life; 0
	// means that it does not.
	WatchdogTime time.Duration

	// now replaces Redis's time in tests; nil means Redis's time.
	now func() time.Time
	// lookEvery replaces the pause between looks at what catch-up has to do in
	// tests; 0 means the usual.
	lookEvery time.Duration
	// redisWait and diskWait replace how long a ping waits for Redis and for the
	// spool in tests; 0 means the usual.
	redisWait, diskWait time.Duration
}

func (o *options) validate() error {
	switch {
	case o.Config == nil:
		return errors.New("daemon: Config must be set")
	case o.Config.DataDir == "":
		return errors.New("daemon: Config.DataDir must be set")
	case o.Logger == nil || o.Level == nil:
		return errors.New("daemon: Logger and Level must be set")
	case o.Callback == nil || o.Web == nil || o.Admin == nil:
		return errors.New("daemon: Callback, Web and Admin must be bound")
	}
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"dispatchd/config"
	"dispatchd/internal/peer"
)

// Exit codes (README, man page).
const (
	exitOK    = 0
	exitFail  = 1 // a failure at run time
	exitUsage = 2 // bad usage or bad configuration

	exitWarned = 3 // only of `check --strict`: warnings and no mistakes
)

// listen binds host:port or unix:/path. A socket file that a killed process
// left behind is replaced.
func listen(address string) (net.Listener, error) {
	var lc net.ListenConfig
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if err := removeStaleSocket(path); err != nil {
			return nil, err
		}
		ln, err := lc.Listen(context.Background(), "unix", path)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("restrict %s: %w", path, err), ln.Close())
		}
		return ln, nil
	}
	ln, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return ln, nil
}

// removeStaleSocket removes a socket that nobody listens on.
func removeStaleSocket(path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && st.Mode().Type() != os.ModeSocket {
		return nil // bind itself says what is wrong
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	d := net.Dialer{Timeout: time.Second}
	if c, err := d.DialContext(context.Background(), "unix", path); err == nil {
		return errors.Join(fmt.Errorf("%s is in use", path), c.Close())
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the stale %s: %w", path, err)
	}
	return nil
}

// newLogger logs to w: text for people, JSON for programs; under journald with
// the level as its <N> prefix and without a time, since it has its own.
func newLogger(w io.Writer, format string, terminal, journald bool) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	o := &slog.HandlerOptions{Level: level}
	if journald {
		w = &levelPrefix{w: w}
		o.ReplaceAttr = func(groups []string, attr slog.Attr) slog.Attr {
			if len(groups) == 0 && attr.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return attr
		}
	}
	if format == "json" || format == "auto" && !terminal && !journald {
		return slog.New(slog.NewJSONHandler(w, o)), level
	}
	return slog.New(slog.NewTextHandler(w, o)), level
}

// underJournald reports whether what is written to f goes to journald itself:
// stream is $JOURNAL_STREAM, the device and inode that systemd connected. Who
// redirects the output inherits the variable, but gets a plain log.
func underJournald(f *os.File, stream string) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// levelPrefix puts syslog's level in front of every line, so that
// `journalctl -p` works.
type levelPrefix struct{ w io.Writer }

// Write implements io.Writer; slog writes one line a call.
func (l *levelPrefix) Write(line []byte) (int, error) {
	// Without a time the level comes first. What is said later may hold anything.
	prefix, text := "<6>", string(line[:min(len(line), 20)])
	text = strings.TrimPrefix(strings.TrimPrefix(text, `{"level":"`), "level=")
	switch {
	case strings.HasPrefix(text, "ERROR"):
		prefix = "<3>"
	case strings.HasPrefix(text, "WARN"):
		prefix = "<4>"
	case strings.HasPrefix(text, "DEBUG"):
		prefix = "<7>"
	}
	if _, err := l.w.Write(append([]byte(prefix), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// serve runs the daemon until a signal ends it and returns the exit code. TERM
// and INT drain and end it, a second one ends it at once, HUP reloads.
func serve(path string, stderr *os.File, terminal bool) int {
	// A panic that nobody recovers, or the watchdog's SIGABRT, would end a Go
	// program with 2, which says "bad configuration": then systemd would not
	// start it again. So it ends by the signal.
	debug.SetTraceback("crash")
	c, err := config.Load(path)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	if _, err := loadHub(c); err != nil { // a mistake in the configuration, too
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	log, level := newLogger(stderr, c.Log.Format, terminal, underJournald(stderr, os.Getenv("JOURNAL_STREAM")))
	level.Set(c.Log.Level)
	for _, w := range c.Warnings {
		log.Warn("configuration", "warning", w.Error())
	}
	if err := serveConfig(c, path, log, level); err != nil {
		log.Error("dispatchd ends", "err", err)
		return exitFail
	}
	return exitOK
}

func serveConfig(c *config.Config, path string, log *slog.Logger, level *slog.LevelVar) (err error) {
	if c.Embedded() {
		log.Warn("THIS IS A TRIAL: redis is embedded, everything is lost when dispatchd stops; set redis.url for real work")
		if c.DataDir == "" {
			dir, err := os.MkdirTemp("", "dispatchd-trial-")
			if err != nil {
				return fmt.Errorf("make a directory for the trial: %w", err)
			}
			c.DataDir = dir
			defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		}
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data_dir: %w", err)
	}
	made, err := config.EnsureKeys(c)
	if err != nil {
		return err
	}
	if limit := memoryLimit(os.DirFS("/")); limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
		log.Info("memory is limited by the control group", "soft_limit_mib", limit>>20)
	}
	for _, m := range made {
		log.Info("key made; keep a copy of it in a safe place", "path", m)
	}
	sockets, err := inherited(os.Getenv, os.Unsetenv, os.Getpid())
	if err != nil {
		return err
	}
	callback, err := listenOr(sockets, nameCallback, c.Listen.Callback)
	if err != nil {
		return err
	}
	web, err := listenOr(sockets, nameWeb, c.Listen.Web)
	if err != nil {
		return errors.Join(err, callback.Close())
	}
	admin, err := listenOr(sockets, nameAdmin, c.Listen.Admin)
	if err != nil {
		return errors.Join(err, callback.Close(), web.Close())
	}
	if admin, err = keepSpare(admin); err != nil {
		return errors.Join(err, callback.Close(), web.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	defer signal.Stop(signals)
	a, err := newApp(ctx, options{
		Config: c, ConfigPath: path, Version: version, Logger: log, Level: level,
		Callback: callback, Web: web, Admin: admin, Notify: notifier(os.Getenv("NOTIFY_SOCKET"), log),
		WatchdogTime: watchdogTime(os.Getenv, os.Getpid()),
	})
	if err != nil {
		return errors.Join(err, callback.Close(), web.Close(), admin.Close())
	}
	log.Info("dispatchd listens", "version", version, "callback", callback.Addr().String(), "web", web.Addr().String(), "admin", admin.Addr().String(), "data_dir", c.DataDir)
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	stopping := false
	var first os.Signal
	var at time.Time
	for {
		select {
		case err := <-done:
			return err
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP && !stopping:
				a.reloadOnSignal(ctx)
			case sig == syscall.SIGHUP:
			case stopping && sameAgain(first, sig, time.Since(at)):
			case stopping:
				return errors.New("second signal: ended at once; what was under way is due again at the next start")
			default:
				log.Info("stopping: deliveries under way get 5 s", "signal", sig.String())
				stopping, first, at = true, sig, time.Now()
				cancel()
			}
		}
	}
}

// sameAgain reports whether a second signal is the first one once more: timeout(1)
// and some shells send a signal to the process and to its group. A person who
// means it needs longer, and a different signal is always meant.
func sameAgain(first, second os.Signal, after time.Duration) bool {
	return first == second && after < time.Second
}

// reloadOnSignal reloads; reload itself logs what changed or what is wrong.
func (a *app) reloadOnSignal(ctx context.Context) {
	if _, err := a.reload(ctx); err == nil {
		peer.Audit(a.log, "configuration reloaded", "signal", "SIGHUP")
	}
}

package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// daemon is the real binary as a process that is killed and started again.
type daemon struct {
	bin, config, logPath string
	callback, admin      string   // host:port
	socket               *os.File // the callback listener, held over restarts as systemd holds it; nil: the daemon's own
	env                  []string // besides the test's

	cmd  *exec.Cmd
	done chan struct{} // closed when the process is gone
	err  error         // of Wait; read after done
}

// start starts the process; it does not wait for it to listen.
func (d *daemon) start() error {
	log, err := os.OpenFile(d.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(d.bin, "serve", "--config", d.config)
	cmd.Env = append(os.Environ(), d.env...)
	if d.socket != nil {
		// As sd_listen_fds(3) says; the process id is known only to the process.
		cmd = exec.Command("/bin/sh", "-c", `export LISTEN_PID=$$; exec "$0" "$@"`, d.bin, "serve", "--config", d.config)
		cmd.Env = append(append(os.Environ(), d.env...), "LISTEN_FDS=1", "LISTEN_FDNAMES=callback")
		cmd.ExtraFiles = []*os.File{d.socket}
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = dieWithTest()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	done := make(chan struct{})
	d.cmd, d.done = cmd, done
	go func() {
		d.err = cmd.Wait()
		close(done)
	}()
	return nil
}

// listening waits until the callback listener takes connections.
func (d *daemon) listening(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return poll(ctx, 2*time.Millisecond, func() error {
		select {
		case <-d.done:
			return final{fmt.Errorf("the daemon ended: %w", errors.Join(d.err, errEnded))}
		default:
		}
		c, err := net.DialTimeout("tcp", d.callback, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

var errEnded = errors.New("it does not run any more")

func (d *daemon) signal(sig syscall.Signal) error {
	if err := d.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s to the daemon: %w", sig, err)
	}
	return nil
}

// kill ends the process with SIGKILL and waits until it is gone. It may be
// called for one that has ended.
func (d *daemon) kill() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Kill() // gone already is fine
	<-d.done
}

const (
	// patience is for what has to happen some time. Beside every other test that
	// may be late; what is promised in seconds is for bench to measure.
	patience = time.Minute
	// stopLimit is TimeoutStopSec of the unit: then systemd kills it.
	stopLimit = 45 * time.Second
)

// term asks it to end and waits; it returns how long that took.
func (d *daemon) term(within time.Duration) (time.Duration, error) {
	began := time.Now()
	if err := d.signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	return d.ended(began, within)
}

// ended waits for the end of the process after SIGTERM.
func (d *daemon) ended(began time.Time, within time.Duration) (time.Duration, error) {
	select {
	case <-d.done:
	case <-time.After(within):
		return time.Since(began), fmt.Errorf("the daemon did not end within %s of SIGTERM", within)
	}
	if d.err != nil {
		return time.Since(began), fmt.Errorf("the daemon ended after SIGTERM with: %w", d.err)
	}
	return time.Since(began), nil
}

// tail returns the end of the daemon's log.
func (d *daemon) tail(lines int) string {
	raw, err := os.ReadFile(d.logPath)
	if err != nil {
		return err.Error()
	}
	// After a loss every user says that ORCID had the row already.
	all := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(raw)), "\n"), func(line string) bool {
		return strings.Contains(line, "operation=put drift=row_existed")
	})
	return strings.Join(all[max(len(all)-lines, 0):], "\n")
}

// final ends poll at once.
type final struct{ error }

// Unwrap gives the error itself.
func (f final) Unwrap() error { return f.error }

// poll calls f until it returns nil or a final error, or ctx ends: then it
// returns the last error.
func poll(ctx context.Context, every time.Duration, f func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || errors.As(err, new(final)) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// within is poll for at most d.
func within(d, every time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if err := poll(ctx, every, f); err != nil {
		return fmt.Errorf("not within %s: %w", d, err)
	}
	return nil
}

// rest lets d of the load go by: it is part of what a fault is, not a wait for
// something to happen.
func rest(d time.Duration) { <-time.After(d) }

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// server is a redis-server of the bench.
type server struct {
	addr string
	dir  string
	cmd  *exec.Cmd
	rdb  *redis.Client
}

// freeAddrs finds n free ports of loopback.
func freeAddrs(n int) ([]string, error) {
	out := make([]string, n)
	for i := range out {
		ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer ln.Close()
		out[i] = ln.Addr().String()
	}
	return out, nil
}

// startRedis starts a redis-server that is set up as the one of the package
// (daemon/dist/redis-dispatchd.conf); fsync is "everysec" or "always".
func startRedis(ctx context.Context, dir, fsync string) (*server, error) {
	addrs, err := freeAddrs(1)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make redis's directory: %w", err)
	}
	_, port, err := net.SplitHostPort(addrs[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", //nolint:gosec // our own arguments
		"--appendonly", "yes", "--appendfsync", fsync, "--auto-aof-rewrite-min-size", "256mb", "--maxmemory-policy", "noeviction",
		"--hash-max-listpack-entries", "128", "--hash-max-listpack-value", "1024",
		"--loglevel", "warning", "--logfile", filepath.Join(dir, "redis.log"))
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start redis-server (make deps installs it): %w", err)
	}
	s := &server{addr: addrs[0], dir: dir, cmd: cmd, rdb: redis.NewClient(&redis.Options{Addr: addrs[0], MaxRetries: -1, DisableIdentity: true})}
	if err := poll(ctx, 60*time.Second, 5*time.Millisecond, func() error { return s.rdb.Ping(ctx).Err() }); err != nil {
		s.stop()
		return nil, fmt.Errorf("redis-server does not answer: %w", err)
	}
	return s, nil
}

func (s *server) process() process { return process(s.cmd.Process.Pid) }

// memory returns what the data takes: the memory in use without clients'
// buffers and what waits for the append-only file.
func (s *server) memory(ctx context.Context) (float64, error) {
	text, err := s.rdb.Info(ctx, "memory").Result()
	if err != nil {
		return 0, fmt.Errorf("ask redis for its memory: %w", err)
	}
	i := infoNumbers(text)
	return i["used_memory"] - i["mem_clients_normal"] - i["mem_aof_buffer"], nil
}

// rewrite begins to rewrite the append-only file, if it is not being rewritten.
func (s *server) rewrite(ctx context.Context) error {
	if err := s.rewritten(ctx); err != nil {
		return err
	}
	if err := s.rdb.BgRewriteAOF(ctx).Err(); err != nil {
		return fmt.Errorf("let redis rewrite its file: %w", err)
	}
	return nil
}

var errRewriting = errors.New("redis still rewrites its append-only file")

// rewritten waits until Redis is not rewriting its append-only file.
func (s *server) rewritten(ctx context.Context) error {
	return poll(ctx, 30*time.Second, 100*time.Millisecond, func() error {
		text, err := s.rdb.Info(ctx, "persistence").Result()
		if err != nil {
			return fmt.Errorf("ask redis what it writes: %w", err)
		}
		i := infoNumbers(text)
		if i["aof_rewrite_in_progress"]+i["aof_rewrite_scheduled"]+i["rdb_bgsave_in_progress"] > 0 {
			return errRewriting
		}
		return nil
	})
}

func (s *server) stop() {
	_ = s.rdb.Close()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // killed
}

// rig is a daemon with its Redis and its organisations.
type rig struct {
	b      *bench
	name   string
	dir    string
	binary string
	people population
	// firstPath is where organisation 0 is at the receiver; the others follow.
	firstPath int
	redis     *server
	cmd       *exec.Cmd
	gone      chan struct{} // closed when the daemon has ended
	callback  string
	admin     string
	token     string
	http      *http.Client
	stopping  atomic.Bool
}

// rigOptions say what a rig is like.
type rigOptions struct {
	name   string
	people population
	fsync  string // "" is everysec
	// timeout of a delivery and first wait after a failure; "" is 15s and 30s.
	timeout, retry string
	concurrency    int    // per organisation; 0 is 8
	firstPath      int    // of organisation 0 at the receiver
	orcidURL       string // "" is nobody there
	orcidRate      string // "" keeps registrations out of the way
}

const unused = "http://127.0.0.1:9" // discard: nobody listens

// startRig starts Redis and the daemon and makes the organisations, with their
// users when load says so.
func (b *bench) startRig(ctx context.Context, o rigOptions) (*rig, error) {
	r := &rig{
		b: b, name: o.name, dir: filepath.Join(b.dir, o.name), binary: b.binary, people: o.people, firstPath: o.firstPath,
		http: &http.Client{Timeout: 10 * time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 8}},
	}
	if o.fsync == "" {
		o.fsync = "everysec"
	}
	var err error
	if r.redis, err = startRedis(ctx, filepath.Join(r.dir, "redis"), o.fsync); err != nil {
		return nil, err
	}
	b.later(r.stop)
	if err := r.configure(o); err != nil {
		return nil, err
	}
	if err := r.startDaemon(ctx); err != nil {
		return nil, err
	}
	return r, r.makeOrganisations(ctx, o.concurrency)
}

func (r *rig) configure(o rigOptions) error {
	addrs, err := freeAddrs(3)
	if err != nil {
		return err
	}
	r.callback, r.admin = addrs[0], addrs[2]
	if o.orcidURL == "" {
		o.orcidURL = unused
	}
	if o.orcidRate == "" {
		// The token's first request finds nobody; the credential is then asked
		// about every five minutes and nothing else happens.
		o.orcidRate = "0.01"
	}
	set := func(s *string, otherwise string) {
		if *s == "" {
			*s = otherwise
		}
	}
	set(&o.timeout, "15s")
	set(&o.retry, "30s")
	data := filepath.Join(r.dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("make data_dir: %w", err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "orcid.secret"), []byte(clientSecret+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the secret: %w", err)
	}
	text := fmt.Sprintf(`public_url = "http://%[1]s"
data_dir = %[2]q
[listen]
callback = %[1]q
web = %[3]q
admin = %[4]q
[redis]
url = "redis://%[5]s/0"
strict = %[6]t
[orcid]
environment = "sandbox"
api_url = %[7]q
token_url = "%[7]s/oauth/token"
catch_up = "0s"
rate = %[8]s
[orcid.credential.main]
client_id = %[9]q
client_secret_file = "orcid.secret"
[delivery]
timeout = %[10]q
retry = [%[11]q, "2m", "10m", "30m", "1h", "3h", "6h", "12h", "24h", "24h"]
quiet_period = "0s"
allow_private = ["127.0.0.0/8"]
[log]
level = "warn"
format = "text"
`, addrs[0], data, addrs[1], addrs[2], r.redis.addr, o.fsync == "always", o.orcidURL, o.orcidRate, clientID, o.timeout, o.retry)
	if err := os.WriteFile(filepath.Join(r.dir, "config.toml"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

// startDaemon starts the daemon and waits until all of it works.
func (r *rig) startDaemon(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(r.dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the daemon's log: %w", err)
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, r.binary, "serve", "--config", filepath.Join(r.dir, "config.toml")) //nolint:gosec // what was just built
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its log says how it ended
		close(gone)
	}()
	r.cmd, r.gone = cmd, gone
	if err := r.ready(ctx); err != nil {
		return err
	}
	return r.readToken()
}

func (r *rig) ready(ctx context.Context) error {
	return poll(ctx, 60*time.Second, 2*time.Millisecond, func() error {
		select {
		case <-r.gone:
			return final{fmt.Errorf("the daemon of %s ended:\n%s", r.name, r.logTail())}
		default:
		}
		var state struct {
			Checks []struct {
				Name   string `json:"name"`
				OK     bool   `json:"ok"`
				Detail string `json:"detail"`
			} `json:"checks"`
		}
		if err := r.get(ctx, "/readyz", &state); err != nil {
			return err
		}
		for _, c := range state.Checks {
			if !c.OK && !strings.Contains(strings.ToLower(c.Name), "orcid") {
				return fmt.Errorf("%s: %s", c.Name, c.Detail)
			}
		}
		return nil
	})
}

func (r *rig) logTail() string {
	f, err := os.Open(filepath.Join(r.dir, "daemon.log"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	var lines []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		lines = append(lines, sc.Text())
	}
	return strings.Join(lines[max(len(lines)-20, 0):], "\n")
}

func (r *rig) process() process { return process(r.cmd.Process.Pid) }

// kill ends the daemon as a crash does.
func (r *rig) kill() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill() // gone already is fine
	<-r.gone
}

// stop ends the daemon and Redis and removes what they wrote.
func (r *rig) stop() {
	if r.stopping.Swap(true) {
		return
	}
	r.kill()
	r.redis.stop()
	_ = os.RemoveAll(r.dir) // the whole directory goes at the end
}

// final ends poll at once.
type final struct{ error }

// poll calls f until it returns nil, a final error, or time is up: then it
// returns the last error.
func poll(ctx context.Context, within, every time.Duration, f func() error) error {
	limit := time.Now().Add(within)
	for {
		err := f()
		if err == nil || errors.As(err, new(final)) || time.Now().After(limit) {
			return err
		}
		if !sleep(ctx, every) {
			return context.Cause(ctx)
		}
	}
}

// sleep returns false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

package docs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dispatchd/internal/admin"
	"dispatchd/internal/postgrestest"
	"dispatchd/internal/redistest"
	"dispatchd/internal/sim"
	"dispatchd/internal/sim/receiver"
)

const (
	// patience is loose: nothing in a page takes so long, a loaded machine may.
	patience = time.Minute
	// patienceSlow is for what compiles the daemon.
	patienceSlow = 10 * time.Minute
	// speed lets the simulated ORCID ping within a second of a change.
	speed = 600
)

// built is the directory of the dispatchd that the pages run.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "dispatchd-docs-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "dispatchd"), "dispatchd/daemon").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build dispatchd: %w\n%s", err, out)
	}
	return dir, nil
})

// world is where the blocks of one page run.
type world struct {
	t         *testing.T
	dir       string
	env       []string // of every block, before what blocks export
	replace   []string // for strings.NewReplacer
	running   []*process
	printed   string // by the last block that ran to its end
	addresses map[string]string
	recv      *receiver.Receiver
}

type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

func newWorld(t *testing.T) *world {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: t.TempDir(), addresses: map[string]string{}}
	t.Cleanup(w.end)
	w.set("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	w.set("HOME", w.dir)
	w.set("PAGE_DIR", w.dir)
	caches, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output() // not below HOME
	w.must(err)
	if dirs := strings.Fields(string(caches)); len(dirs) == 2 {
		w.set("GOCACHE", dirs[0])
		w.set("GOMODCACHE", dirs[1])
	}
	if here, err := os.Getwd(); err == nil {
		w.set("DOCS", here)
	}
	free := redistest.FreeAddresses(t, 4)
	for i, name := range []string{"CALLBACK", "WEB", "ADMIN", "SPARE"} {
		w.addresses[name] = free[i]
		w.set(name+"_ADDR", w.addresses[name])
		w.set(name+"_URL", "http://"+w.addresses[name])
	}
	w.set("DISPATCHD_ADMIN", "http://"+w.addresses["ADMIN"])
	w.orcid()
	r, err := receiver.Start(receiver.Options{Behaviour: func(rw http.ResponseWriter, r *http.Request) int {
		if r.URL.Path == "/refuses" {
			return receiver.Status(http.StatusUnprocessableEntity, "not wanted")(rw, r)
		}
		return receiver.OK()(rw, r)
	}})
	w.must(err)
	t.Cleanup(r.Close)
	w.recv = r
	w.set("RECEIVER_URL", r.URL())
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) set(key, value string) { w.env = append(w.env, key+"="+value) }

// get returns what the page's environment has.
func (w *world) get(key string) string {
	value := ""
	for _, e := range w.env {
		if v, ok := strings.CutPrefix(e, key+"="); ok {
			value = v
		}
	}
	return value
}

func (w *world) orcid() {
	client := sim.DefaultClient()
	r, err := sim.New(sim.Options{Speed: speed, RateLimit: -1})
	w.must(err)
	var ids []string
	for _, id := range r.AddProfiles(3) {
		ids = append(ids, id.String())
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sim.Serve(ctx, ln, r) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("the simulated ORCID: %v", err)
		}
	})
	w.set("ORCID_URL", "http://"+ln.Addr().String())
	w.set("ORCID_CLIENT", client.ID)
	w.set("ORCID_SECRET", client.Secret.Reveal())
	w.set("ORCID_IDS", strings.Join(ids, " "))
}

// daemon writes config.toml and starts a daemon with it.
func (w *world) daemon() {
	w.t.Helper()
	data := filepath.Join(w.dir, "data")
	text := fmt.Sprintf(`public_url = %q
web_url = %q
data_dir = %q
[listen]
callback = %q
web = %q
admin = %q
[redis]
url = "embedded"
[orcid]
environment = "sandbox"
api_url = %q
token_url = %q
[orcid.credential.main]
client_id = %q
client_secret = %q
[delivery]
quiet_period = "0s"
allow_private = ["127.0.0.0/8"]
`, w.get("CALLBACK_URL"), w.get("WEB_URL"), data, w.addresses["CALLBACK"], w.addresses["WEB"], w.addresses["ADMIN"],
		w.get("ORCID_URL"), w.get("ORCID_URL")+"/oauth/token", w.get("ORCID_CLIENT"), w.get("ORCID_SECRET"))
	w.must(os.WriteFile(filepath.Join(w.dir, "config.toml"), []byte(text), 0o600))
	w.set("DISPATCHD_ADMIN_TOKEN_FILE", filepath.Join(data, "admin.token"))
	w.must(w.background("dispatchd serve --config config.toml"))
}

// postgres starts a PostgreSQL, which stands for the Hub's.
func (w *world) postgres() {
	w.t.Helper()
	server := postgrestest.Start(w.t)
	w.set("PATH", w.get("PATH")+string(os.PathListSeparator)+server.Bin)
	w.set("HUB_DATABASE", server.URL("postgres"))
}

// script wraps a block so that it begins where the one before ended.
func (w *world) script(text string) string {
	if len(w.replace) > 0 {
		text = strings.NewReplacer(w.replace...).Replace(text)
	}
	return "[ ! -f .exported ] || . ./.exported; rm -f .failed; trap 'echo $LINENO > .failed' ERR\n" +
		"trap 'code=$?; export -p > \"$PAGE_DIR/.exported\"; exit $code' EXIT\n" + text
}

func (w *world) command(ctx context.Context, text string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", text)
	cmd.Dir = w.dir
	cmd.Env = append(w.env, "LANG=C.UTF-8", "TZ=UTC")
	// A group of its own, so that it ends with everything it started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run runs a block to its end.
func (w *world) run(text string, exit int, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	out, err := w.command(ctx, w.script(text)).CombinedOutput()
	w.printed = string(out)
	if ctx.Err() != nil {
		return fmt.Errorf("did not end within %s; it printed:\n%s", patience, out)
	}
	code := 0
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		code = ended.ExitCode()
	} else if err != nil {
		return err
	}
	if code != exit {
		return fmt.Errorf("exit code %d, want %d; it printed:\n%s", code, exit, out)
	}
	if failed, err := os.ReadFile(filepath.Join(w.dir, ".failed")); exit != 0 && err == nil {
		return onlyLast(text, strings.TrimSpace(string(failed)), out)
	}
	return nil
}

// onlyLast finds that another command than a block's last one failed, whose exit
// code was taken for the expected one. The first of a script's lines is number 3.
func onlyLast(text, failed string, out []byte) error {
	number, err := strconv.Atoi(failed)
	if err != nil {
		return fmt.Errorf("read which line failed: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := max(number-3, 0); i < len(lines)-1; i++ {
		if !strings.HasSuffix(lines[i], "\\") {
			return fmt.Errorf("line %d of the block failed, not the last one; it printed:\n%s", number-2, out)
		}
	}
	return nil
}

// background starts a block and waits until a daemon is healthy or the block
// has ended.
func (w *world) background(text string) error {
	path := filepath.Join(w.dir, fmt.Sprintf(".background-%d.log", len(w.running)))
	log, err := os.Create(path)
	if err != nil {
		return err
	}
	defer log.Close()
	// Ended only when what it started has ended: that writes into the directory.
	cmd := w.command(context.Background(), "trap : TERM\n"+w.script(text)+"\nwait || wait\n")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd: cmd, log: path, done: make(chan struct{})}
	w.running = append(w.running, p)
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.done)
	}()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for {
		if w.healthy(ctx) {
			return nil
		}
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
			said, _ := os.ReadFile(path) // the error says enough without it
			return fmt.Errorf("no daemon was healthy within %s; it said:\n%s", patience, said)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// healthy reports whether a daemon takes pings and its Redis answers: before
// that it takes no commands.
func (w *world) healthy(ctx context.Context) bool {
	out, err := w.command(ctx, "dispatchd health --json").Output()
	if err != nil {
		return false
	}
	var ready admin.Readiness
	if err := json.Unmarshal(out, &ready); err != nil {
		return false
	}
	return slices.ContainsFunc(ready.Checks, func(c admin.Check) bool { return c.Name == "redis" && c.OK })
}

// end ends what runs in the background, the last first.
func (w *world) end() {
	for i := len(w.running) - 1; i >= 0; i-- {
		p := w.running[i]
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) // gone already is fine
		select {
		case <-p.done:
		case <-time.After(time.Minute):
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
			<-p.done
		}
		if w.t.Failed() {
			said, err := os.ReadFile(p.log)
			w.t.Logf("what ran in the background said: %v\n%s", err, said)
		}
	}
}

package docs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"dispatchd/internal/redistest"
	"dispatchd/internal/sim/receiver"
)

// examples are the programs under examples/, by the command that starts them
// with what it needs.
var examples = map[string][]string{
	"python": {"python3", "examples/receive.py"},
	"node":   {"node", "examples/receive.js"},
	"java":   {"java", "examples/Receive.java"},
	"go":     {"go", "run", "./examples/receive"},
	"php":    {"php", "-S", "127.0.0.1:PORT", "examples/receive.php"},
}

// TestExamplesVerifyARealDelivery: each example takes what the daemon really
// sent, once, and nothing that was changed, is old, or was signed by another.
func TestExamplesVerifyARealDelivery(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.daemon()
	delivery, pass := signedDelivery(w)
	for name, command := range examples {
		t.Run(name, func(t *testing.T) { // one after the other: compilers are heavy
			if _, err := exec.LookPath(command[0]); err != nil {
				if name == "java" || name == "node" { // make deps does not install them: they are large
					t.Skipf("%s is not installed", command[0])
				}
				t.Fatalf("%s is not installed; run: make deps", command[0])
			}
			tryExample(t, command, delivery, pass)
		})
	}
}

// signedDelivery makes the world's daemon tell its receiver of somebody, and
// returns what came and the secret that it was signed with.
func signedDelivery(w *world) (receiver.Request, string) {
	w.t.Helper()
	w.must(w.run(`dispatchd org add uni-a --name "University A" --url "$RECEIVER_URL/orcid" >&2
dispatchd user add "${ORCID_IDS%% *}" --org uni-a >&2`, 0, patience))
	w.must(w.run(`dispatchd org show uni-a --secrets --json`, 0, patience))
	var secrets map[string]string
	w.must(json.Unmarshal([]byte(w.printed), &secrets))
	if secrets["signing_secret"] == "" {
		w.t.Fatalf("there is no signing secret in %s", w.printed)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	w.must(w.recv.Wait(ctx, 1))
	return w.recv.Requests()[0], secrets["signing_secret"]
}

func tryExample(t *testing.T, command []string, delivery receiver.Request, pass string) {
	t.Helper()
	addr := redistest.FreeAddresses(t, 1)[0]
	port := addr[strings.LastIndex(addr, ":")+1:]
	args := make([]string, len(command))
	for i, a := range command {
		args[i] = strings.ReplaceAll(a, "PORT", port)
	}
	log := filepath.Join(t.TempDir(), "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "WEBHOOK_SECRET="+pass, "PORT="+port, "SEEN_DIR="+t.TempDir())
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go run has a child
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // gone already is fine
		_ = cmd.Wait()                                      // killed
	}()
	body, head := delivery.Body, delivery.Header
	with := func(key, value string) http.Header {
		h := head.Clone()
		h.Set(key, value)
		return h
	}
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	post := func(h http.Header, body []byte) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/orcid", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = h.Clone()
		res, err := client.Do(req)
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	until := time.Now().Add(patience)
	for post(http.Header{}, nil) == 0 {
		if time.Now().After(until) {
			said, err := os.ReadFile(log)
			t.Fatalf("it does not listen; it said %q %v", said, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	signature, id := head.Get("webhook-signature"), head.Get("webhook-id")
	wh, err := standardwebhooks.NewWebhook(pass)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-10 * time.Minute)
	oldSignature, err := wh.Sign(id, old, body)
	if err != nil {
		t.Fatal(err)
	}
	stale := with("webhook-timestamp", strconv.FormatInt(old.Unix(), 10))
	stale.Set("webhook-signature", oldSignature)
	for _, c := range []struct {
		what string
		head http.Header
		body []byte
		want int
	}{
		{"another body", head, bytes.Replace(body, []byte("CREATED"), []byte("UPDATED"), 1), 401},
		{"another id", with("webhook-id", "msg_other"), body, 401},
		{"another time", with("webhook-timestamp", strconv.FormatInt(time.Now().Unix()-1000, 10)), body, 401},
		{"no time", with("webhook-timestamp", "soon"), body, 401},
		{"an old one, well signed", stale, body, 401},
		{"no signature", with("webhook-signature", ""), body, 401},
		{"another's signature", with("webhook-signature", "v1,"+strings.Repeat("A", 43)+"="), body, 401},
		{"the delivery", head, body, 204},
		{"its retry", head, body, 204},
		{"while the secret is changed", with("webhook-signature", "v1,"+strings.Repeat("A", 43)+"= "+signature), body, 204},
	} {
		if got := post(c.head, c.body); got != c.want {
			said, _ := os.ReadFile(log) // the error says enough without it
			t.Errorf("%s is answered %d, want %d; it said:\n%s", c.what, got, c.want, said)
		}
	}
	said, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var event struct{ Type, ORCID string }
	if err := json.Unmarshal(body, &event); err != nil {
		t.Fatal(err)
	}
	n := 0
	for lines := bufio.NewScanner(bytes.NewReader(said)); lines.Scan(); {
		if strings.TrimSpace(lines.Text()) == event.Type+" "+event.ORCID {
			n++
		}
	}
	if n != 1 {
		t.Errorf("it took the delivery %d times, want once; it said:\n%s", n, said)
	}
}

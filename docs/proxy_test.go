package docs

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/redistest"
)

// proxies says how the snippets of install.md are run: what is of the real
// world in them is replaced, everything else stays.
var proxies = map[string]struct {
	config func(snippet, listen, dir string) string
	args   func(file, dir string) []string
}{
	"nginx": {
		config: func(snippet, listen, dir string) string {
			snippet = strings.Replace(snippet, "listen 443 ssl;", "listen "+listen+";", 1)
			snippet = regexp.MustCompile(`(?m)^\s*ssl_.*$`).ReplaceAllString(snippet, "")
			temp := ""
			for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
				temp += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind)
			}
			return fmt.Sprintf("daemon off;\nmaster_process off;\npid %s/pid;\nerror_log stderr warn;\nevents {}\nhttp {\naccess_log %s/access.log;\n%s%s}\n", dir, dir, temp, snippet)
		},
		args: func(file, dir string) []string { return []string{"-p", dir, "-e", "stderr", "-c", file} },
	},
	"caddy": {
		config: func(snippet, listen, _ string) string {
			return "{\n\tadmin off\n\tauto_https off\n}\n" + strings.Replace(snippet, "hub.example.edu", "http://"+listen, 1)
		},
		args: func(file, _ string) []string { return []string{"run", "--adapter", "caddyfile", "--config", file} },
	},
}

// TestProxies runs the proxies of install.md: ORCID's pings reach the callback
// listener as they came and are answered as it answers, never with a redirect.
func TestProxies(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("install.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range proxies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program, err := exec.LookPath(name)
			if err != nil {
				program = "/usr/sbin/" + name
			}
			if _, err := os.Stat(program); err != nil {
				if os.Getenv("CI") == "" {
					t.Skipf("%s is missing: make deps", name)
				}
				t.Fatalf("%s is missing: make deps", name)
			}
			found := regexp.MustCompile("(?s)```" + name + "(?:file)?\n(.*?)```").FindSubmatch(page)
			if found == nil {
				t.Fatalf("install.md shows no %s", name)
			}
			var mu sync.Mutex
			var callbacks, web []string
			backend := func(list *[]string, code int) *httptest.Server {
				return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					*list = append(*list, r.Method+" "+r.RequestURI+" "+r.Host)
					mu.Unlock()
					w.WriteHeader(code)
				}))
			}
			hooks, pages := backend(&callbacks, http.StatusNoContent), backend(&web, http.StatusOK)
			defer hooks.Close()
			defer pages.Close()
			dir, listen := t.TempDir(), redistest.FreeAddresses(t, 1)[0]
			text := p.config(string(found[1]), listen, dir)
			for old, server := range map[string]*httptest.Server{"127.0.0.1:8080": hooks, "127.0.0.1:8081": pages} {
				if !strings.Contains(text, old) {
					t.Errorf("%s is not in the snippet", old)
				}
				text = strings.ReplaceAll(text, old, strings.TrimPrefix(server.URL, "http://"))
			}
			file := filepath.Join(dir, "conf")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var log strings.Builder
			cmd := exec.Command(program, p.args(file, dir)...)
			cmd.Stdout, cmd.Stderr = &log, &log
			cmd.Env = append(os.Environ(), "HOME="+dir)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { _ = cmd.Wait(); close(ended) }()
			defer func() {
				_ = cmd.Process.Kill()
				<-ended
				if t.Failed() {
					t.Logf("%s says:\n%s", name, log.String())
				}
			}()
			client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			defer client.CloseIdleConnections()
			ask := func(method, path string) (int, error) {
				req, err := http.NewRequest(method, "http://"+listen+path, http.NoBody)
				if err != nil {
					return 0, err
				}
				req.Host = "hub.example.edu"
				if name == "caddy" {
					req.Host = listen // its site is known by the address here
				}
				res, err := client.Do(req)
				if err != nil {
					return 0, err
				}
				return res.StatusCode, res.Body.Close()
			}
			for end := time.Now().Add(30 * time.Second); ; {
				if _, err := ask("GET", "/up"); err == nil {
					break
				} else if time.Now().After(end) {
					t.Fatal(err)
				}
				select {
				case <-ended:
					t.Fatal("it ended")
				case <-time.After(20 * time.Millisecond):
				}
			}
			const path = "/hooks/APP-1234567890ABCDEF/0000-0002-1825-0097/1/Zm9vYmFyLV8xMjM0NTY3OA"
			for _, c := range []struct {
				method, path string
				want         int
			}{{"POST", path, 204}, {"GET", path, 204}, {"POST", path + "/", 204}, {"POST", "/hooks/", 204}, {"GET", "/settings", 200}, {"POST", "/oauth/token", 200}} {
				if got, err := ask(c.method, c.path); err != nil || got != c.want {
					t.Errorf("%s %s is answered %d, %v; want %d", c.method, c.path, got, err, c.want)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if len(callbacks) != 4 || !strings.HasPrefix(callbacks[0], "POST "+path+" ") {
				t.Errorf("the callback listener got %q", callbacks)
			}
			if len(web) < 2 {
				t.Errorf("the web listener got %q", web)
			}
			if access, err := os.ReadFile(filepath.Join(dir, "access.log")); err == nil && strings.Contains(string(access), "/hooks/") {
				t.Errorf("the proxy logs callback paths: %s", access)
			}
		})
	}
}

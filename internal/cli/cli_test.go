package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"dispatchd/internal/secret"
)

// alone runs a command without any daemon.
func alone(t *testing.T, env Env, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	env.Stdout, env.Stderr = &out, &errs
	if env.Stdin == nil {
		env.Stdin = strings.NewReader("")
	}
	code := Run(context.Background(), args, env)
	return result{code, out.String(), errs.String()}
}

// TestHelp: alone it prints help and that is no mistake; the help of every
// command fits the terminal.
func TestHelp(t *testing.T) {
	t.Parallel()
	r := alone(t, Env{})
	want, err := os.ReadFile(filepath.Join("testdata", "help.golden"))
	if *update {
		err = os.WriteFile(filepath.Join("testdata", "help.golden"), []byte(r.out), 0o644)
		want = []byte(r.out)
	}
	if err != nil || r.code != 0 || r.err != "" || r.out != string(want) {
		t.Errorf("exit %d, %v\n%s%s", r.code, err, r.out, r.err)
	}
	app, err := parser(&grammar{}, Env{Stdout: io.Discard, Stderr: io.Discard, Init: func(context.Context, InitFlags) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = kong.Visit(app.Model, func(n kong.Visitable, next kong.Next) error {
		if node, ok := n.(*kong.Node); ok && !node.Hidden {
			args := append(path(node), "--help")
			r := alone(t, Env{Init: func(context.Context, InitFlags) error { return nil }}, args...)
			if r.code != 0 || !strings.Contains(r.out, "Usage:") {
				t.Errorf("%v: exit %d: %s%s", args, r.code, r.out, r.err)
			}
			if node.Parent != nil && node.Help == "" {
				t.Errorf("%v has no help", args)
			}
			for line := range strings.Lines(r.out) {
				if textWidth(strings.TrimSuffix(line, "\n")) > width {
					t.Errorf("%v: too wide: %s", args, line)
				}
			}
			seen++
		}
		return next(nil)
	})
	if err != nil || seen < 40 {
		t.Errorf("%d commands, %v", seen, err)
	}
}

// path is a command as it is typed.
func path(n *kong.Node) []string {
	if n.Parent == nil {
		return nil
	}
	return append(path(n.Parent), n.Name)
}

func TestBadUsageIsExitTwo(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"nonsense"},
		{"--nonsense"},
		{"org"},
		{"org", "nonsense"},
		{"org", "show"},
		{"org", "show", "a", "b"},
		{"org", "set", "a"},
		{"org", "list", "--nonsense"},
		{"org", "add", "a"},
		{"org", "add", "a", "--name", "A", "--payload", "xml"},
		{"org", "add", "a", "--name", "A", "--concurrency", "many"},
		{"serve"},
		{"check"},
		{"config"},
		{"config", "show"},
		{"demo", "--users", "0"},
		{"demo", "--speed", "0"},
		{"demo", "--speed", "NaN"},
		{"demo", "--for", "soon"},
		{"demo", "--for=-1s"},
		{"simulate-orcid", "--speed", "-1"},
		{"simulate-orcid", "--profiles=-1"},
		{"completion"},
		{"completion", "tcsh"},
		{"init"},
		{"recover"},
		{"log-level", "loud"},
		{"user", "list"},
		{"user", "add", josiah},
		{"user", "show", "nonsense"},
		{"user", "import", "--org", "a"},
		{"user", "sync", "x.csv"},
		{"user", "erase", josiah},
		{"registration", "status", "--follow", "--json"},
		{"user", "erase", "nonsense", "--yes"},
		{"user", "export"},
		{"user", "unsuppress", "nonsense"},
		{"delivery", "log"},
		{"delivery", "log", "a", "--channel", "fax"},
		{"delivery", "purge", "a"},
		{"org", "disable", "a", "--channel", ""},
		{"delivery", "purge", "a", "", "--yes"}, // of a script whose variable is empty
		{"delivery", "purge", "a", "--since", "", "--yes"},
		{"delivery", "replay", "a", ""},
		{"delivery", "log", ""},
		{"org", "remove", "", "--yes"},
		{"user", "import", os.DevNull, "--org", ""},
		{"job", "show", "."},
		{"org", "remove", "a"},
		{"status", "--admin", "ftp://x"},
		{"status", "--admin", "http://user:password@x"},
		{"status", "--admin", "unix:"},
		{"status", "--admin", "http://x/path"},
	} {
		r := alone(t, Env{}, args...)
		if r.code != exitUsage || r.out != "" || !strings.HasPrefix(r.err, "dispatchd: ") || strings.Contains(r.err, "password") {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, r.code, r.out, r.err)
		}
	}
}

// TestHooks: what runs in the process gets its flags, and its result decides
// the exit code.
func TestHooks(t *testing.T) {
	t.Parallel()
	var got []any
	var result error
	note := func(v any) error {
		got = append(got, v)
		return result
	}
	env := Env{
		Serve: func(_ context.Context, f ServeFlags) error { return note(f) }, Check: func(_ context.Context, f CheckFlags) error { return note(f) },
		Demo: func(_ context.Context, f DemoFlags) error { return note(f) }, Simulate: func(_ context.Context, f SimulateFlags) error { return note(f) },
		ConfigExample: func(context.Context) error { return note("example") }, ConfigShow: func(_ context.Context, f ConfigShowFlags) error { return note(f.File) },
		Init: func(_ context.Context, f InitFlags) error { return note(f) },
	}
	for _, c := range []struct {
		args string
		want any
	}{
		{"serve --config c.toml", ServeFlags{"c.toml"}},
		{"-c c.toml serve", ServeFlags{"c.toml"}},
		{"check c.toml --online", CheckFlags{"c.toml", true, false, false}},
		{"check --config c.toml", CheckFlags{"c.toml", false, false, false}},
		{"demo", DemoFlags{0, 500, 60}},
		{"demo --for 30s --users 10 --speed 2.5", DemoFlags{30 * time.Second, 10, 2.5}},
		{"simulate-orcid", SimulateFlags{Listen: "127.0.0.1:0", Speed: 1, Profiles: 1000}},
		{"simulate-orcid --listen :1 --speed 60 --profiles 5 --client A:b,c --client D:e", SimulateFlags{":1", 60, 5, []string{"A:b,c", "D:e"}}},
		{"config example", "example"},
		{"config show c.toml", "c.toml"},
		{"config show --config d.toml", "d.toml"},
		{"check c.toml --json --strict", CheckFlags{"c.toml", false, true, true}},
		{"init", InitFlags{Dir: "."}},
		{"init dir", InitFlags{Dir: "dir"}},
		{"init --config c.toml", InitFlags{Dir: ".", Config: "c.toml"}},
	} {
		results := map[error]int{nil: 0}
		if c.args == "check --config c.toml" {
			results = map[error]int{errors.New("went wrong"): 1, ExitCode(2): 2, ExitCode(0): 0, context.Canceled: 1}
		}
		for err, code := range results {
			got, result = nil, err
			r := alone(t, env, strings.Fields(c.args)...)
			if r.code != code || len(got) != 1 || fmt.Sprintf("%#v", got[0]) != fmt.Sprintf("%#v", c.want) {
				t.Errorf("%s with %v: exit %d, got %#v, want %#v: %s", c.args, err, r.code, got, c.want, r.err)
			}
			if said := r.err != ""; said != (code == 1) {
				t.Errorf("%s with %v: %q", c.args, err, r.err)
			}
		}
	}
}

// TestVersion: a short first line for people and scripts, then the commit and how
// it was built; all of it as JSON.
func TestVersion(t *testing.T) {
	t.Parallel()
	made := Build{
		Version: "v9", Commit: strings.Repeat("0123abcd", 5), CommitTime: "2026-11-26T23:22:32Z", Modified: true,
		Go: "go1.26.8", OS: "linux", Arch: "amd64", Settings: []string{"-trimpath=true", "CGO_ENABLED=0", "GOAMD64=v1"},
	}
	want := "dispatchd v9 (go1.26.8, linux/amd64)\n" +
		"commit 0123abcd0123abcd0123abcd0123abcd0123abcd of 2026-11-26T23:22:32Z\nwith changes that are not in that commit\n" +
		"built with -trimpath=true CGO_ENABLED=0 GOAMD64=v1\n"
	if r := alone(t, Env{Build: made}, "version"); r.code != 0 || r.out != want {
		t.Errorf("%+v, want %q", r, want)
	}
	var v Build
	r := alone(t, Env{Build: made}, "version", "--json")
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || !reflect.DeepEqual(v, made) {
		t.Errorf("%+v %v", r, err)
	}
	want = "dispatchd devel (go1.26.8, linux/amd64)\ncommit unknown\n"
	if r := alone(t, Env{Build: Build{Version: "devel", Go: "go1.26.8", OS: "linux", Arch: "amd64"}}, "version"); r.out != want {
		t.Errorf("%q, want %q", r.out, want)
	}
}

// TestWhereTheDaemonIs: flag, file, environment, default; over TCP and a unix
// socket.
func TestWhereTheDaemonIs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tokenFile := b.file("admin.token", token+"\n")
	wrong := b.file("wrong.token", "wrong-token-0123456789")
	_, port, err := net.SplitHostPort(b.addr)
	b.must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	b.must(err)
	closed := ln.Addr().String()
	ln.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<html>hello</html>")
	}))
	defer other.Close()
	refuses := httptest.NewServer(http.NotFoundHandler())
	defer refuses.Close()
	hook := func(path string) (string, secret.Text, error) {
		if path == "c.toml" {
			return "0.0.0.0:" + port, token, nil
		}
		return "", "", fmt.Errorf("%s:1: public_url: must be set", path)
	}
	for name, c := range map[string]struct {
		env  map[string]string
		args []string
		code int
		says string
	}{
		"flag and token file":    {nil, []string{"--admin", "http://" + b.addr, "--token-file", tokenFile}, 0, ""},
		"host and port":          {nil, []string{"--admin", b.addr, "--token-file", tokenFile}, 0, ""},
		"port alone":             {nil, []string{"--admin", ":" + port, "--token-file", tokenFile}, 0, ""},
		"unix":                   {nil, []string{"--admin", "unix:" + b.sock, "--token-file", tokenFile}, 0, ""},
		"environment":            {map[string]string{"DISPATCHD_ADMIN": b.addr, "DISPATCHD_ADMIN_TOKEN_FILE": tokenFile}, nil, 0, ""},
		"file":                   {nil, []string{"--config", "c.toml"}, 0, ""},
		"file over environment":  {map[string]string{"DISPATCHD_ADMIN": closed, "DISPATCHD_ADMIN_TOKEN_FILE": wrong}, []string{"--config", "c.toml"}, 0, ""},
		"flag over file":         {nil, []string{"--config", "c.toml", "--admin", closed}, 1, "cannot reach dispatchd at http://" + closed},
		"bad file":               {nil, []string{"--config", "d.toml"}, 1, "d.toml:1: public_url: must be set"},
		"no token":               {nil, []string{"--admin", b.addr}, 1, "none was given"},
		"wrong token":            {nil, []string{"--admin", b.addr, "--token-file", wrong}, 1, "does not accept this admin token"},
		"no such token file":     {nil, []string{"--admin", b.addr, "--token-file", "/nonexistent"}, 1, "read the admin token"},
		"not one word":           {nil, []string{"--admin", b.addr, "--token-file", b.file("two", "two words")}, 1, "is not one word"},
		"nobody there":           {nil, []string{"--admin", closed}, 1, "--admin URL, --config FILE or DISPATCHD_ADMIN"},
		"no socket there":        {nil, []string{"--admin", "unix:" + b.sock + "x"}, 1, "cannot reach dispatchd at unix:"},
		"something else":         {nil, []string{"--admin", other.URL}, 1, "is not dispatchd's admin listener"},
		"something that says no": {nil, []string{"--admin", refuses.URL}, 1, "is not dispatchd's admin listener"},
	} {
		r := alone(t, Env{Getenv: func(k string) string { return c.env[k] }, AdminFromConfig: hook}, append(c.args, "org", "list")...)
		if r.code != c.code || !strings.Contains(strings.Join(strings.Fields(r.err), " "), c.says) || c.code == 0 && (r.err != "" || r.out == "") || strings.Contains(r.err, token) {
			t.Errorf("%s: exit %d, %q, %q", name, r.code, r.out, r.err)
		}
	}
	// health needs no token.
	if r := alone(t, Env{}, "health", "--admin", b.addr); r.code != 0 {
		t.Errorf("health: %+v", r)
	}
	if r := alone(t, Env{}, "health", "--admin", other.URL); r.code != 1 || !strings.Contains(r.err, "not dispatchd") {
		t.Errorf("health of something else: %+v", r)
	}
}

// TestJSONIsTheAPIs: with --json every verb prints what the API answered and
// nothing else.
func TestJSONIsTheAPIs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.addOrg("uni-a")
	b.fine("user", "add", josiah, "--org", "uni-a")
	api := func(path string) string {
		req, err := http.NewRequest(http.MethodGet, "http://"+b.addr+path, nil)
		b.must(err)
		req.Header.Set("Authorization", "Bearer "+token)
		tr := &http.Transport{DisableKeepAlives: true}
		res, err := tr.RoundTrip(req)
		b.must(err)
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		b.must(err)
		return string(raw)
	}
	for args, path := range map[string]string{
		"status": "/v1/status", "ledger": "/v1/ledger", "health": "/readyz", "org list": "/v1/organisations", "org show uni-a": "/v1/organisations/uni-a",
		"org show uni-a --secrets": "/v1/organisations/uni-a/secrets", "user list --org uni-a": "/v1/organisations/uni-a/users", "user show " + josiah: "/v1/users/" + josiah,
		"credential list": "/v1/credentials", "log-level": "/v1/log-level", "job list": "/v1/jobs", "delivery log uni-a": "/v1/organisations/uni-a/attempts", "delivery list uni-a": "/v1/organisations/uni-a/dead-letters",
		"delivery log uni-a --all": "/v1/organisations/uni-a/attempts", "org resume uni-a": "/v1/organisations/uni-a",
	} {
		r := b.run("", append(strings.Fields(args), "--json")...)
		if want := api(path); r.code != 0 || r.out != want || r.err != "" {
			t.Errorf("%s: exit %d, %s%s\nwant %s", args, r.code, r.out, r.err, want)
		}
	}
	for args, code := range map[string]int{
		"org enable uni-a --channel email": 0, "user add nobody --org x": 2, "user add " + maria + " --org x": 1, "delivery replay uni-a": 0, "delivery purge uni-a --yes": 0,
		"reload": 0, "log-level warn": 0, "recover --accept-loss": 1, "user import - --org uni-a": 1, "user remove " + maria + " --org uni-a": 1, "org show nobody --secrets": 1,
		"user list --org nobody": 1, "org test uni-a": 0, "credential show main": 0, "credential show nobody": 1, "user sync - --org uni-a": 1, "user unsuppress " + maria: 1, "user erase 0000-0002-1694-233X --yes --wait 0s": 0, "user export " + josiah: 0,
	} {
		r := b.run("", append(strings.Fields(args), "--json")...)
		if r.code != code || code < 2 && !json.Valid([]byte(r.out)) || code < 2 && r.err != "" {
			t.Errorf("%s: exit %d, %q %q", args, r.code, r.out, r.err)
		}
	}
	for _, step := range []string{"org add uni-b --name B", "org set uni-b name=C", "org rotate-secret uni-b", "org remove uni-b --yes"} {
		if r := b.run("", append(strings.Fields(step), "--json")...); r.code != 0 || !json.Valid([]byte(r.out)) || !strings.HasSuffix(r.out, "\n") {
			t.Errorf("%s: %+v", step, r)
		}
	}
	r := b.run("orcid\n"+maria+"\nx\n", "user", "import", "-", "--org", "uni-a", "--json")
	if r.code != 1 || r.out != `{"lines":2,"added":1,"known":0,"updated":0,"suppressed":0,"bad":1,"bad_lines":[{"line":3,"why":"\"x\": not an ORCID iD"}]}`+"\n" {
		t.Errorf("import: %+v", r)
	}
}

// TestOnATerminal: questions are asked, progress is drawn.
func TestOnATerminal(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.addOrg("uni-a")
	on := func(stdin string, args ...string) result {
		var out, errs bytes.Buffer
		env := b.env(stdin, &out, &errs)
		env.IsTerminal = func(any) bool { return true }
		code := Run(context.Background(), append([]string{"--config", "c.toml"}, args...), env)
		return result{code, out.String(), errs.String()}
	}
	list := b.file("list.csv", "orcid\n"+strings.Repeat(josiah+"\n", 2500)+"nonsense\n")
	r := on("", "user", "import", list, "--org", "uni-a")
	if r.code != 1 || !strings.Contains(r.err, "\r\x1b[K[") || !strings.Contains(r.err, "#") || !strings.Contains(r.err, "%  1,000 lines, 1 new") || !strings.HasSuffix(r.err, "\r\x1b[K") {
		t.Errorf("%d %q", r.code, r.err)
	}
	if want := "line 2502: \"nonsense\": not an ORCID iD\n2,501 lines: 1 new, 2,499 known, 1 bad\n"; r.out != want {
		t.Errorf("%q, want %q", r.out, want)
	}
	if r := on("", "user", "import", b.file("list.ndjson", `{"orcid":"`+maria+`"}`), "--org", "uni-a"); r.code != 0 || r.out != "1 line: 1 new, 0 known, 0 bad\n" {
		t.Errorf("%+v", r)
	}
	for _, answer := range []string{"", "\n", "yes\n", "uni-b\n"} {
		if r := on(answer, "org", "remove", "uni-a"); r.code != 1 || !strings.Contains(r.err, "Type uni-a to go on") || !strings.Contains(r.err, "Nothing was changed.") {
			t.Errorf("%q: %+v", answer, r)
		}
	}
	b.fine("org", "show", "uni-a")
	if r := on("uni-a\n", "delivery", "purge", "uni-a"); r.code != 0 {
		t.Errorf("%+v", r)
	}
	if r := on("uni-a\n", "org", "remove", "uni-a"); r.code != 0 {
		t.Errorf("%+v", r)
	}
}

// TestASignalEndsAQuestion: it ends a command that waits for somebody to type, and
// says what goes on without it.
func TestASignalEndsAQuestion(t *testing.T) {
	t.Parallel()
	run := func(waits func(cancel func()) io.Reader, args ...string) result {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var out, errs bytes.Buffer
		code := Run(ctx, args, Env{Stdin: waits(cancel), Stdout: &out, Stderr: &errs, IsTerminal: func(any) bool { return true }})
		return result{code, out.String(), errs.String()}
	}
	asked := func(cancel func()) io.Reader {
		in, out := io.Pipe()
		t.Cleanup(func() { out.Close() })
		return readerFunc(func(p []byte) (int, error) {
			cancel()
			return in.Read(p)
		})
	}
	if r := run(asked, "org", "remove", "uni-a"); r.code != 1 || !strings.HasSuffix(r.err, "Nothing was changed.\n") {
		t.Errorf("a question: %+v", r)
	}
	if r := run(asked, "org", "set", "uni-a", "webhook.apikey_file=-"); r.code != 1 || r.err != "dispatchd: interrupted\n" {
		t.Errorf("a secret: %+v", r)
	}
	var stop func()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"job":{"id":"erase-1","state":"running"},"waiting":"its turn"}`)
		stop()
	}))
	defer srv.Close()
	erase := []string{"user", "erase", josiah, "--yes", "--admin", srv.URL}
	r := run(func(cancel func()) io.Reader {
		stop = cancel
		return strings.NewReader("")
	}, erase...)
	if r.code != 1 || !strings.Contains(r.err, "the erasure goes on") {
		t.Errorf("an erasure: %+v", r)
	}
}

// readerFunc is a reader of one function.
type readerFunc func(p []byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestAFailedErasureIsAFailure, for programs too.
func TestAFailedErasureIsAFailure(t *testing.T) {
	t.Parallel()
	const answer = `{"job":{"id":"erase-1","state":"failed","error":"no"},"removed":{},"ages_out":[]}`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer)
	}))
	defer srv.Close()
	erase := []string{"user", "erase", josiah, "--yes", "--admin", srv.URL}
	if r := alone(t, Env{}, erase...); r.code != 1 || !strings.Contains(r.out, "could not be erased: no") {
		t.Errorf("%+v", r)
	}
	if r := alone(t, Env{}, append(erase, "--json")...); r.code != 1 || r.out != answer {
		t.Errorf("%+v", r)
	}
}

// TestImportBreaksOff: the daemon goes away in the middle.
func TestImportBreaksOff(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_, _ = bufio.NewReader(r.Body).ReadString('\n')
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, _ = io.WriteString(w, `{"progress":{"lines":12000}}`+"\n")
		_ = rc.Flush()
		panic(http.ErrAbortHandler)
	}))
	defer srv.Close()
	r := alone(t, Env{Stdin: strings.NewReader("orcid\n" + josiah + "\n")}, "--admin", srv.URL, "user", "import", "-", "--org", "uni-a")
	if r.code != 1 || !strings.Contains(strings.Join(strings.Fields(r.err), " "), "broke after 12,000 lines; run the same import again") {
		t.Errorf("%+v", r)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, errs bytes.Buffer
	if code := Run(ctx, []string{"--config", "c.toml", "status"}, b.env("", &out, &errs)); code != 1 || errs.String() != "dispatchd: interrupted\n" {
		t.Errorf("exit %d, %q", code, errs.String())
	}
}

func TestCandidates(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                           "check completion config credential delivery demo health hub job ledger log-level org recover registration reload serve simulate-orcid status user version",
		"o":                          "org",
		"org ":                       "add disable enable link list move pause remove resume rotate-secret set show test",
		"org r":                      "remove resume rotate-secret",
		"org show uni-a --s":         "--secrets",
		"org pause uni-a --channel ": "email webhook",
		"org pause --reason x --ch":  "--channel",
		"--json org sh":              "show",
		"--admin http://x org sh":    "show",
		"--admin=http://x org sh":    "show",
		"-c c.toml job ":             "cancel list show",
		"completion ":                "bash fish zsh",
		"completion z":               "zsh",
		"log-level ":                 "debug error info warn",
		"user import ":               "",
		"config show ":               "",
		"org enable uni-a --j":       "--json",
		"__":                         "",
	} {
		r := alone(t, Env{}, append([]string{"__complete", "--"}, strings.Split(line, " ")...)...)
		if got := strings.Join(strings.Fields(r.out), " "); got != want || r.code != 0 || r.err != "" {
			t.Errorf("%q: %q, want %q (exit %d, %s)", line, got, want, r.code, r.err)
		}
	}
}

// TestCompletionInBash: a real bash completes with the script.
func TestCompletionInBash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nDISPATCHD_TEST_IS_CLI=1 exec '" + self + "' \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "dispatchd"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", `eval "$(dispatchd completion bash)" && complete -p dispatchd && COMP_WORDS=(dispatchd org pause uni-a --) COMP_CWORD=4 && _dispatchd && echo "${COMPREPLY[@]}"`)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "-F _dispatchd dispatchd\n--admin --channel --config --help --json --reason --token-file\n") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, shell := range []string{"zsh", "fish"} {
		if r := alone(t, Env{}, "completion", shell); r.code != 0 || !strings.Contains(r.out, "dispatchd __complete --") {
			t.Errorf("%s: %+v", shell, r)
		}
	}
}

func TestTableFitsAndAligns(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	table(&out, "", []column{{title: "NAME", least: 8}, {title: "N", right: true}, {title: "WHAT", least: 4}}, [][]string{
		{"大学大学大学", "1", "a"}, {strings.Repeat("x", 100), "1,234", strings.Repeat("y", 60)}, {"e\u0301", "12", "tab\there\u202e"},
	})
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	starts := map[int]bool{} // where the last column begins
	for i, line := range lines {
		if textWidth(line) > width {
			t.Errorf("%d columns: %s", textWidth(line), line)
		}
		last := strings.LastIndex(line, []string{"WHAT", "a", "yyy", "tab?"}[i])
		if i == 2 {
			last = strings.Index(line, "yyy")
		}
		starts[textWidth(line[:last])] = true
	}
	if len(starts) != 1 {
		t.Errorf("not aligned:\n%s", out.String())
	}
	if !strings.Contains(out.String(), "x…") || !strings.Contains(out.String(), "y…") || !strings.Contains(out.String(), "tab?here?") {
		t.Errorf("%s", out.String())
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 2, 5, 32, 0, time.UTC)
	for got, want := range map[string]string{
		number(0): "0", number(999): "999", number(1000): "1,000", number(int64(-1234567)): "-1,234,567",
		span(-time.Second): "0ms", span(999 * time.Millisecond): "999ms", span(1500 * time.Millisecond): "1.5s", span(59 * time.Second): "59s",
		span(61 * time.Second): "1m01s", span(time.Hour + 5*time.Minute): "1h05m", span(50 * time.Hour): "2d02h",
		clock(time.Time{}) + " ": "- ", clock(at): "2026-11-23 02:05:32Z", day(at): "11-23 02:05:32Z", day(time.Time{}) + "  ": "-  ", age(at, time.Time{}) + "   ": "-   ",
		clip("abcdef", 6): "abcdef", clip("abcdefg", 6): "abcde…", clip("大学大", 4): "大…",
		safe("a\x1b[2J\nb\u200b\u2028"): "a?[2J?b??", count(1, "line", "lines"): "1 line", count(1000, "line", "lines"): "1,000 lines",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	var out bytes.Buffer
	wrap(&out, "a: ", "   ", strings.Repeat("word ", 20)+"`a command of several words that stays whole whatever it may cost here now` "+strings.Repeat("z", 100))
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 5 || lines[2] != "   `a command of several words that stays whole whatever it may cost here now`" || !slices.ContainsFunc(lines, func(l string) bool { return l == "   "+strings.Repeat("z", 77) }) {
		t.Errorf("%q", lines)
	}
}

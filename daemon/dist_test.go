package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// tool finds a program that a test needs. `make deps` installs it.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("%s is missing: make deps", name)
		}
		t.Fatalf("%s is missing: make deps", name)
	}
	return path
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// The units are what systemd understands, wholly, and expose no more than 1.5.
func TestUnits(t *testing.T) {
	t.Parallel()
	analyze := tool(t, "systemd-analyze")
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, name := range []string{"dispatchd.service", "dispatchd.socket"} {
		// Only what exists can be started.
		unit := strings.ReplaceAll(readFile(t, filepath.Join("dist", name)), "/usr/bin/dispatchd", "/bin/true")
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	// It exits 0 for what it ignores, and only says so.
	if out, err := exec.Command(analyze, args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err := exec.Command(analyze, "security", "--offline=yes", "--threshold=15", "--no-pager", "dist/dispatchd.service").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Overall exposure level") {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
	t.Log(string(out[strings.LastIndexByte(strings.TrimSpace(string(out)), '\n')+1:]))
}

// Every line of the units has a reason: a comment stands above it or above its
// neighbours.
func TestEveryLineOfTheUnitsHasItsReason(t *testing.T) {
	t.Parallel()
	plain := regexp.MustCompile(`^(Description|Documentation|WantedBy|ExecStart)=`) // say it themselves
	for _, name := range []string{"dispatchd.service", "dispatchd.socket"} {
		commented := false
		for i, line := range strings.Split(readFile(t, filepath.Join("dist", name)), "\n") {
			switch {
			case strings.HasPrefix(line, "#"):
				commented = true
			case line == "", strings.HasPrefix(line, "["):
				commented = false
			case !commented && !plain.MatchString(line):
				t.Errorf("%s:%d: %s has no comment above it", name, i+1, line)
			}
		}
	}
}

// The alert rules do what their own tests say.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	promtool := tool(t, "promtool")
	if out, err := exec.Command(promtool, "check", "rules", "dist/alerts.yml").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := exec.Command(promtool, "test", "rules", "dist/alerts_test.yml").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Every alert has a severity, a summary and a heading in the runbook, and every
// heading there an alert.
func TestEveryAlertHasItsRunbook(t *testing.T) {
	t.Parallel()
	rules := readFile(t, "dist/alerts.yml")
	headings := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^## (Dispatchd\w+)$`).FindAllStringSubmatch(readFile(t, "../docs/runbook.md"), -1) {
		headings[m[1]] = true
	}
	blocks := strings.Split(rules, "- alert: ")[1:]
	for _, block := range blocks {
		name, _, _ := strings.Cut(block, "\n")
		for _, want := range []string{"severity: ", "summary: ", "runbook_url: file:///usr/share/doc/dispatchd/runbook.md#" + strings.ToLower(name) + "\n"} {
			if !strings.Contains(block, want) {
				t.Errorf("%s has no %s", name, strings.TrimSpace(want))
			}
		}
		if !headings[name] {
			t.Errorf("docs/runbook.md has no heading %s", name)
		}
		delete(headings, name)
	}
	for name := range headings {
		t.Errorf("docs/runbook.md has a heading %s without an alert", name)
	}
	if len(blocks) < 20 {
		t.Errorf("only %d alerts seen", len(blocks))
	}
}

// Every metric that the alerts and the dashboard name is exported by a running
// daemon.
func TestEveryMetricOfAlertsAndDashboardIsExported(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 3})
	w.simple("uni-a")
	w.pingAll(len(w.users), w.users)
	w.everyoneTaken("uni-a", w.users...)
	var raw []byte
	w.eventually("Redis answers in the second that a scrape gives it", func() bool {
		_, raw = w.raw("GET", "/metrics", nil)
		return bytes.Contains(raw, []byte("\ndispatchd_ledger_difference "))
	})
	exported := map[string]bool{"up": true} // Prometheus's own
	for line := range strings.Lines(string(raw)) {
		if name := regexp.MustCompile(`^[a-z_]+`).FindString(line); name != "" {
			exported[name] = true
		}
	}
	var dashboard struct {
		Templating struct {
			List []struct{ Type string }
		}
		Panels []struct {
			Type, Title string
			Datasource  struct{ UID string }
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, "dist/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	exprs := map[string]string{}
	rows := 0
	for _, p := range dashboard.Panels {
		if p.Type == "row" {
			rows++
			continue
		}
		if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %s has the data source %q and %d queries", p.Title, p.Datasource.UID, len(p.Targets))
		}
		for _, target := range p.Targets {
			exprs["panel "+p.Title+": "+target.Expr] = target.Expr
		}
	}
	if rows < 5 || len(exprs) < 30 || len(dashboard.Templating.List) == 0 || dashboard.Templating.List[0].Type != "datasource" {
		t.Errorf("the dashboard has %d rows and %d queries", rows, len(exprs))
	}
	exprs["alerts.yml"] = readFile(t, "dist/alerts.yml")
	named := regexp.MustCompile(`\b(dispatchd|process|go)_[a-z_]+`)
	for where, expr := range exprs {
		for _, name := range named.FindAllString(expr, -1) {
			if !exported[name] {
				t.Errorf("%s names %s, which the daemon does not export", where, name)
			}
		}
	}
}

package main

import (
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

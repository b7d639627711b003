package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"dispatchd/config"
	"dispatchd/internal/cli"
)

// It makes what is missing with modes that keep others out, and touches nothing
// that is there.
func TestInit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	run := func(f cli.InitFlags) string {
		t.Helper()
		var out strings.Builder
		if err := initialise(t.Context(), f, &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if said := run(cli.InitFlags{Dir: dir}); strings.Count(said, "made  ") != 4 {
		t.Errorf("the first time it says:\n%s", said)
	}
	before := map[string]string{}
	for name, mode := range map[string]os.FileMode{
		"config.toml": 0o640, "data": os.ModeDir | 0o700, "data/callback.key": 0o600, "data/master.key": 0o600, "data/admin.token": 0o600,
	} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode {
			t.Errorf("%s has mode %s, want %s", name, info.Mode(), mode)
		}
		if mode.IsRegular() {
			before[path] = readFile(t, path)
		}
	}
	file := filepath.Join(dir, "config.toml")
	if c, err := config.Load(file); err != nil || c.DataDir != filepath.Join(dir, "data") || !c.Embedded() {
		t.Errorf("the configuration it made: %v", err)
	}
	lost := filepath.Join(dir, "data", "admin.token")
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	if said := run(cli.InitFlags{Config: file}); said != "made  "+lost+"\nKeep a copy of callback.key and master.key in a safe place.\n" {
		t.Errorf("with one key missing it says:\n%s", said)
	}
	delete(before, lost)
	if said := run(cli.InitFlags{Dir: dir}); !strings.HasPrefix(said, "nothing to make") {
		t.Errorf("with everything there it says:\n%s", said)
	}
	for path, text := range before {
		if readFile(t, path) != text {
			t.Errorf("%s was changed", path)
		}
	}
	// A key that others can read is not blessed.
	if err := os.Chmod(filepath.Join(dir, "data", "master.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := initialise(t.Context(), cli.InitFlags{Config: file}, new(strings.Builder)); err == nil || !strings.Contains(err.Error(), "has mode 0644") {
		t.Errorf("a key that everyone can read: %v", err)
	}
}

// A root that makes keys gives them to the daemon's user, who owns data_dir.
func TestInitByRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "data"), 0o700), os.Chown(filepath.Join(dir, "data"), 1234, 4321),
		os.WriteFile(file, config.ExampleIn("data"), 0o600), initialise(t.Context(), cli.InitFlags{Config: file}, new(strings.Builder)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"callback.key", "master.key", "admin.token"} {
		if uid, gid := owner(t, filepath.Join(dir, "data", name)); uid != 1234 || gid != 4321 {
			t.Errorf("%s belongs to %d:%d", name, uid, gid)
		}
	}
}

// owner is whom a file belongs to.
func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid, st.Gid
}

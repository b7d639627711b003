package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestEnsureKeysMakesThemOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state", "deep")
	first := &Config{DataDir: dir}
	made, err := EnsureKeys(first)
	want := []string{filepath.Join(dir, "callback.key"), filepath.Join(dir, "master.key"), filepath.Join(dir, "admin.token")}
	if err != nil || !slices.Equal(made, want) {
		t.Fatalf("made %v, %v", made, err)
	}
	for _, path := range made {
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 3 {
		t.Errorf("something is left behind: %v", files)
	}
	again := &Config{DataDir: dir}
	if made, err := EnsureKeys(again); err != nil || len(made) > 0 {
		t.Fatalf("the second time it made %v, %v", made, err)
	}
	if again.MasterKey != first.MasterKey || again.Admin.Token != first.Admin.Token || !slices.Equal(again.CallbackKeys, first.CallbackKeys) {
		t.Error("the second time gives other keys")
	}
	if first.MasterKey == first.CallbackKeys[0] || checkKey(first.MasterKey.Reveal()) != nil {
		t.Error("the keys are not random keys")
	}
	if words := Diff(first, again); len(words) > 0 {
		t.Errorf("a reload would see %v", words)
	}
	if show := again.Show(); !strings.Contains(show, "# "+want[0]) || strings.Contains(show, first.MasterKey.Reveal()) {
		t.Errorf("Show does not say where keys are, or shows them:\n%s", show)
	}
}

func TestEnsureKeysLeavesGivenOnesAlone(t *testing.T) {
	t.Parallel()
	c := &Config{MasterKey: "m", CallbackKeys: splitOrFail(t, testKey), Admin: Admin{Token: "t"}}
	if made, err := EnsureKeys(c); err != nil || len(made) > 0 || c.MasterKey != "m" {
		t.Errorf("made %v, %v", made, err)
	}
	c.Admin.Token = ""
	if _, err := EnsureKeys(c); err == nil || !strings.Contains(err.Error(), "admin.token: there is no data_dir") {
		t.Errorf("without data_dir: %v", err)
	}
}

// Racing starts must agree on one key: a second one would make every callback
// URL of the first invalid.
func TestEnsureKeysAgreesWithRivals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	configs, total := make([]Config, 16), 0
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range configs {
		configs[i].DataDir = dir
		wg.Go(func() {
			made, err := EnsureKeys(&configs[i])
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += len(made)
		})
	}
	wg.Wait()
	for i := range configs {
		if configs[i].MasterKey != configs[0].MasterKey || configs[i].CallbackKeys[0] != configs[0].CallbackKeys[0] {
			t.Fatal("two starts have different keys")
		}
	}
	if total != 3 {
		t.Errorf("%d keys are said to be made, want 3", total)
	}
}

func TestEnsureKeysRefusesWhatIsNoKey(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"everyone may read": {testKey, 0o644, "has mode 0644"},
		"empty":             {"\n", 0o600, "has no key"},
		"short":             {"c2hvcnQ", 0o600, "has 5 bytes"},
		"no base64url":      {"hunter2 " + testKey, 0o600, "is not base64url"},
		"twice":             {testKey + "\n" + testKey, 0o600, "line 2 stands in the list twice"},
	} {
		dir := t.TempDir()
		path := write(t, dir, "callback.key", tc.text, tc.mode)
		c := &Config{DataDir: dir}
		_, err := EnsureKeys(c)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hunter2") || c.CallbackKeys != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadFile(path); string(left) != tc.text {
			t.Errorf("%s: the file was overwritten", name)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "none"), filepath.Join(dir, "master.key")); err != nil {
		t.Fatal(err)
	}
	c := &Config{DataDir: dir}
	if _, err := EnsureKeys(c); err == nil || !strings.Contains(err.Error(), "read master_key") {
		t.Errorf("a dangling link: %v", err)
	}
}

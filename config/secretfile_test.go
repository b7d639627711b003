package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write makes a file in dir and returns its path.
func write(t *testing.T, dir, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

const minimal = "public_url = \"https://hub.example.edu\"\ndata_dir = \"state\"\n"

func TestSecretFilesAreLookedUpTrimmedAndGuarded(t *testing.T) {
	t.Parallel()
	dir, creds := t.TempDir(), t.TempDir()
	write(t, dir, "both", "beside\n", 0o600)
	write(t, creds, "both", "credential\n", 0o444)
	if err := os.Mkdir(filepath.Join(dir, "secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "secrets"), "in-secrets", "kept apart\n", 0o640)
	write(t, dir, "in-secrets", "beside\n", 0o600)
	write(t, filepath.Join(dir, "secrets"), "open", "hunter2\n", 0o644)
	write(t, dir, "beside", "\n  beside \r\n", 0o640)
	write(t, dir, "world", "hunter2\n", 0o644)
	write(t, dir, "group-writes", "hunter2\n", 0o620)
	write(t, dir, "huge", strings.Repeat("x", maxSecret+1), 0o600)
	write(t, dir, "nul", "a\x00b", 0o600)
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "sub"), "deep", "deep", 0o600)
	for name, tc := range map[string]struct{ file, secret, err string }{
		"credentials first":     {"both", "credential", ""},
		"then in secrets":       {"in-secrets", "kept apart", ""},
		"also there guarded":    {"open", "", "has mode 0644"},
		"then beside":           {"beside", "beside", ""},
		"a path is beside":      {"./both", "beside", ""},
		"a path below":          {"sub/deep", "deep", ""},
		"absolute":              {filepath.Join(creds, "both"), "credential", ""},
		"everyone may read":     {"world", "", "has mode 0644"},
		"the group may write":   {"group-writes", "", "has mode 0620"},
		"too large":             {"huge", "", "is larger than 64 KiB"},
		"a directory":           {"sub", "", "is not a regular file"},
		"control characters":    {"nul", "", "control characters"},
		"nowhere":               {"none", "", "there is no file"},
		"the directory itself":  {"..", "", "is not a regular file"},
		"a device that blocks":  {"/dev/tty", "", "file"},
		"longer than any name":  {strings.Repeat("x", 300), "", "file name too long"},
		"a zero in the name":    {"a\\u0000b", "", "invalid argument"},
		"a name with a newline": {"a\\nb", "", `a\nb`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := minimal + "[redis]\nurl = \"redis://r\"\npassword_file = \"" + tc.file + "\"\n"
			c, err := Parse("c.toml", []byte(text), LoadOptions{Dir: dir, CredentialsDir: creds})
			if tc.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), "c.toml:5: redis.password_file: ") || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || c.Redis.Password.Reveal() != tc.secret {
				t.Errorf("got %v, %v, want %q", c, err, tc.secret)
			}
		})
	}
}

func TestLoadUsesTheEnvironment(t *testing.T) {
	dir, creds := t.TempDir(), t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", creds)
	t.Setenv("STATE_DIRECTORY", "/var/lib/dispatchd:/var/lib/other")
	write(t, creds, "redis.password", "from-creds", 0o400)
	path := write(t, dir, "config.toml", "public_url = \"https://hub.example.edu\"\n[redis]\npassword_file = \"redis.password\"\n", 0o644)
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Redis.Password.Reveal() != "from-creds" || c.DataDir != "/var/lib/dispatchd" || len(c.Warnings) > 0 {
		t.Errorf("%s\n%v", c.Show(), c.Warnings)
	}
	if show := c.Show(); !strings.Contains(show, "# $STATE_DIRECTORY") || !strings.Contains(show, ":3, from "+creds) {
		t.Errorf("the sources are not shown:\n%s", show)
	}
	if _, err := Load(filepath.Join(dir, "none.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a directory was loaded")
	}
}

func TestSecretsInAFileThatEveryoneCanReadAreWarnedOf(t *testing.T) {
	t.Parallel()
	text := minimal + "[redis]\nurl = \"redis://:hunter2@r\"\n[admin]\ntoken = \"hunter2-hunter2-hunter2\"\n"
	for mode, want := range map[os.FileMode]int{0o600: 0, 0o640: 0, 0o644: 2} {
		c, err := Load(write(t, t.TempDir(), "config.toml", text, mode))
		if err != nil || len(c.Warnings) != want {
			t.Errorf("mode %04o: %v, warnings %v, want %d", mode, err, c.Warnings, want)
		}
		for _, w := range c.Warnings {
			if strings.Contains(w.Error(), "hunter2") || w.Line != 4 && w.Line != 6 {
				t.Errorf("a bad warning: %v", w)
			}
		}
	}
}

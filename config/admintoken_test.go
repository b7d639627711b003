package config

import (
	"os"
	"path/filepath"
	"testing"
)

// A command that only asks makes no key.
func TestReadAdminTokenMakesNothing(t *testing.T) {
	t.Parallel()
	c := &Config{DataDir: t.TempDir()}
	if err := ReadAdminToken(c); err != nil || c.Admin.Token.IsSet() {
		t.Errorf("without a file: %v, token set %v", err, c.Admin.Token.IsSet())
	}
	if left, err := os.ReadDir(c.DataDir); err != nil || len(left) != 0 {
		t.Errorf("it left %v behind (%v)", left, err)
	}
	if err := ReadAdminToken(&Config{}); err != nil {
		t.Errorf("a trial: %v", err)
	}
	if err := os.WriteFile(filepath.Join(c.DataDir, "admin.token"), []byte("the-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ReadAdminToken(c); err != nil || c.Admin.Token.Reveal() != "the-token" {
		t.Errorf("the file: %v, %q", err, c.Admin.Token.Reveal())
	}
	if err := os.Chmod(filepath.Join(c.DataDir, "admin.token"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Admin.Token = ""
	if err := ReadAdminToken(c); err == nil {
		t.Error("a token that everybody can read is taken")
	}
}

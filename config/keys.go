package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"dispatchd/internal/secret"
)

// ReadAdminToken reads the admin token that the file leaves unset from
// data_dir. Unlike EnsureKeys it makes nothing: a command that only asks, maybe
// as another user, must not leave keys behind that the daemon cannot read. The
// token stays unset when there is none yet.
func ReadAdminToken(c *Config) error {
	if c.Admin.Token.IsSet() || c.DataDir == "" {
		return nil
	}
	path := filepath.Join(c.DataDir, "admin.token")
	text, err := readFile(path, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read admin.token: %w", fileError(path, err))
	}
	c.Admin.Token = secret.Text(strings.TrimSpace(string(text)))
	return nil
}

// EnsureKeys reads the keys that the file leaves unset from data_dir and makes
// those that are not there yet: callback.key, master.key and admin.token, mode
// 0600. It returns the paths of those it made. A key that exists is never
// overwritten, also when two processes start at once; what exists must be
// right. With the embedded Redis the caller sets DataDir first if it is empty.
func EnsureKeys(c *Config) (made []string, err error) {
	ensure := func(unset bool, name, key string, use func(string) error) error {
		if !unset {
			return nil
		}
		if c.DataDir == "" {
			return fmt.Errorf("%s: there is no data_dir to make it in", key)
		}
		path := filepath.Join(c.DataDir, name)
		created, err := createKey(path)
		if err != nil {
			return fmt.Errorf("make %s: %w", key, err)
		}
		if created {
			made = append(made, path)
		}
		text, err := readFile(path, true)
		if err != nil {
			return fmt.Errorf("read %s: %w", key, fileError(path, err))
		}
		if err := use(strings.TrimSpace(string(text))); err != nil {
			return fmt.Errorf("read %s: %w", key, fileError(path, err))
		}
		if c.sources == nil {
			c.sources = map[string]string{}
		}
		c.sources[key] = path
		return nil
	}
	err = errors.Join(
		ensure(len(c.CallbackKeys) == 0, "callback.key", "callback_key", func(text string) (err error) {
			c.CallbackKeys, err = splitKeys(text)
			return err
		}),
		ensure(c.MasterKey == "", "master.key", "master_key", func(text string) error {
			if err := checkKey(text); err != nil {
				return err
			}
			c.MasterKey = secret.Text(text)
			return nil
		}),
		ensure(c.Admin.Token == "", "admin.token", "admin.token", func(text string) error {
			if err := checkKey(text); err != nil {
				return err
			}
			c.Admin.Token = secret.Text(text)
			return nil
		}),
	)
	return made, err
}

// createKey writes a new key of 32 random bytes unless the file exists. The
// file appears whole or not at all: it is written and synced under another
// name and then linked, which, unlike a rename, fails if the name is taken.
func createKey(path string) (created bool, err error) {
	if _, err := os.Lstat(path); err == nil {
		return false, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return false, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(secret.NewKey(32).Reveal() + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return false, err
	}
	switch err := os.Link(tmp.Name(), path); {
	case errors.Is(err, fs.ErrExist):
		return false, nil
	case err != nil:
		return false, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	return true, errors.Join(d.Sync(), d.Close())
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"dispatchd/config"
	"dispatchd/internal/cli"
)

// initialise makes what a first start needs and is not there yet: a
// configuration file (unless one is named) and the keys in its data_dir. It
// changes nothing that exists, so it may be run again and again; the package
// runs it after every installation.
func initialise(_ context.Context, f cli.InitFlags, out io.Writer) error {
	path := f.Config
	if path == "" {
		path = filepath.Join(f.Dir, "config.toml")
		if err := writeExample(path, out); err != nil {
			return err
		}
	}
	c, err := load(path)
	if err != nil {
		return err
	}
	if c.DataDir == "" {
		return fmt.Errorf("%s sets no data_dir to make keys in", path)
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data_dir: %w", err)
	}
	made, err := config.EnsureKeys(c)
	err = errors.Join(err, giveAway(c.DataDir, made))
	if err != nil {
		return fmt.Errorf("make the keys: %w", err)
	}
	for _, m := range made {
		fmt.Fprintf(out, "made  %s\n", m)
	}
	if len(made) == 0 {
		fmt.Fprintf(out, "nothing to make: every key of %s is there\n", path)
		return nil
	}
	fmt.Fprintln(out, "Keep a copy of callback.key and master.key in a safe place.")
	return nil
}

// writeExample writes the annotated configuration, with its data beside it.
func writeExample(path string, out io.Writer) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("make the directory of the configuration: %w", err)
	}
	// O_EXCL: one that exists is the operator's.
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640) //nolint:gosec // the daemon's group reads it
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	_, err = file.Write(config.ExampleIn("data"))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(fmt.Errorf("write the configuration: %w", err), os.Remove(path))
	}
	fmt.Fprintf(out, "made  %s\n", path)
	return nil
}

// giveAway gives files that root made to the owner of their directory: the
// daemon, which must read them, is somebody else.
func giveAway(dir string, files []string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	for _, f := range files {
		if err := os.Lchown(f, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return nil
}

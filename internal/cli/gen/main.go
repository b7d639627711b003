// Command gen writes the man page dispatchd.8 and the completion scripts from
// the command table; `make generate` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"dispatchd/internal/cli"
)

func main() {
	dir := flag.String("o", ".", "the directory to write into")
	flag.Parse()
	if err := write(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "write what is made from the command table:", err)
		os.Exit(1) //nolint:forbidigo // a generator is a program of its own
	}
}

func write(dir string) error {
	files := map[string]func(io.Writer) error{"man/dispatchd.8": cli.WriteMan}
	for shell, name := range map[string]string{"bash": "completion/dispatchd.bash", "zsh": "completion/_dispatchd", "fish": "completion/dispatchd.fish"} {
		files[name] = func(out io.Writer) error {
			env := cli.Env{Stdin: strings.NewReader(""), Stdout: out, Stderr: os.Stderr}
			if code := cli.Run(context.Background(), []string{"completion", shell}, env); code != 0 {
				return fmt.Errorf("completion for %s ended with %d", shell, code)
			}
			return nil
		}
	}
	for name, make := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // for everyone to read
			return err
		}
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		if err := errors.Join(make(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

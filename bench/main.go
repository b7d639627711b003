// Command bench measures the built dispatchd from outside, over loopback, beside
// baselines in the same run, and says which goals are reached: the sender of
// pings, the receivers, the baselines, Redis and the daemon are processes of
// their own. `make bench` runs it; bench/REPORT.md is what it found.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:forbidigo // a program of its own
	}
}

// quiet drops what go-redis says about servers that the bench has stopped.
type quiet struct{}

// Printf implements go-redis's logger.
func (quiet) Printf(context.Context, string, ...any) {}

func run(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	role := fs.String("role", "", "be a child process of the bench")
	quick := fs.Bool("quick", false, "small sizes and one round: shows that it runs, measures nothing")
	only := fs.String("only", "", "measure only these, comma-separated (intake,deliveries,latency,curve,slow,isolation,sweep,memory,million,idle,growth)")
	write := fs.Bool("write", false, "write bench/REPORT.md and bench/report.json")
	limit := fs.Duration("limit", 8*time.Minute, "give up after that time, and report what was measured")
	keep := fs.String("dir", "", "keep what the processes write in this directory")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *role != "" {
		return play(*role)
	}
	if runtime.GOOS != "linux" {
		return errors.New("the bench reads /proc: it needs Linux")
	}
	redis.SetLogger(quiet{})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, fmt.Errorf("not done within %s", *limit))
	defer cancel()
	root, err := repository()
	if err != nil {
		return err
	}
	b := &bench{sizes: fullSizes(), out: out, root: root, dir: *keep, report: newReport(*quick)}
	if *quick {
		b.sizes = quickSizes()
	}
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "dispatchd-bench-"); err != nil {
			return fmt.Errorf("make a directory: %w", err)
		}
		b.later(func() { _ = os.RemoveAll(b.dir) }) // what is left is in /tmp
	} else if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	defer b.close()
	var names []string
	if *only != "" {
		names = strings.Split(*only, ",")
		for _, n := range names {
			if !b.knows(n) {
				return fmt.Errorf("there is no measurement %q", n)
			}
		}
	}
	if err := b.run(ctx, names); err != nil {
		return err
	}
	b.report.print(out)
	if !*write {
		return nil
	}
	return b.report.write(filepath.Join(root, "bench"), filepath.Join(root, "docs", "latency.svg"))
}

func (b *bench) knows(name string) bool {
	for _, m := range b.measurements() {
		if m.name == name {
			return true
		}
	}
	return false
}

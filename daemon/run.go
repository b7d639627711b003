package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/redis/go-redis/v9"
	"golang.org/x/term"

	"dispatchd/config"
	"dispatchd/internal/cli"
)

// quietRedis drops what go-redis says by itself: every call's error reaches us
// and is told once, with our words.
type quietRedis struct{}

// Printf implements go-redis's logger.
func (quietRedis) Printf(context.Context, string, ...any) {}

// run is the whole program but for os.Exit.
func run(args []string) int {
	redis.SetLogger(quietRedis{})
	// serve has its own signals; everything else simply ends.
	ctx, stop := context.Background(), func() {}
	if len(args) == 0 || args[0] != "serve" {
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	}
	defer stop()
	env := cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, IsTerminal: isTerminal, Columns: columns, Build: thisBuild(),
		AdminFromConfig: adminOf,
		Serve: func(_ context.Context, f cli.ServeFlags) error {
			return code(serve(f.Config, os.Stderr, isTerminal(os.Stderr)))
		},
		Check:    runCheck,
		Demo:     runDemo,
		Simulate: runSimulate,
		Init: func(ctx context.Context, f cli.InitFlags) error {
			return initialise(ctx, f, os.Stdout)
		},
		ConfigExample: func(context.Context) error {
			_, err := os.Stdout.Write(config.Example())
			return err
		},
		ConfigShow: func(_ context.Context, f cli.ConfigShowFlags) error {
			return showConfig(f.File, f.JSON, os.Stdout)
		},
	}
	return cli.Run(ctx, args, env)
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// columns is how wide the terminal of a stream is; 0 when it is none.
func columns(stream any) int {
	f, ok := stream.(*os.File)
	if !ok {
		return 0
	}
	wide, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return wide
}

// code is an exit code as the command line wants it.
func code(n int) error {
	if n == exitOK {
		return nil
	}
	return cli.ExitCode(n)
}

// load reads a configuration; its mistakes are bad usage.
func load(path string) (*config.Config, error) {
	c, err := config.Load(path)
	var bad *config.Errors
	if errors.As(err, &bad) {
		fmt.Fprintln(os.Stderr, err)
		return nil, code(exitUsage)
	}
	return c, err
}

func runDemo(ctx context.Context, f cli.DemoFlags) error {
	// The view is the demo's voice; the log is for what goes wrong.
	log, level := newLogger(os.Stderr, "text", true, false)
	level.Set(slog.LevelError)
	log = slog.New(unaudited{log.Handler()})
	return demo(ctx, demoOptions{For: f.For, Users: f.Users, Speed: f.Speed, Out: os.Stdout, Terminal: isTerminal(os.Stdout)}, log, level)
}

// unaudited is a log without audit lines, which go past its level.
type unaudited struct{ slog.Handler }

// Handle implements slog.Handler.
func (u unaudited) Handle(ctx context.Context, r slog.Record) error {
	if !u.Enabled(ctx, r.Level) {
		return nil
	}
	return u.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (u unaudited) WithAttrs(attrs []slog.Attr) slog.Handler {
	return unaudited{u.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (u unaudited) WithGroup(name string) slog.Handler {
	return unaudited{u.Handler.WithGroup(name)}
}

func runSimulate(ctx context.Context, f cli.SimulateFlags) error {
	log, _ := newLogger(os.Stderr, "auto", isTerminal(os.Stderr), false)
	return simulate(ctx, f, os.Stdout, log)
}

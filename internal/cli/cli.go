// Package cli is the command line: it reads arguments, asks a running daemon's
// admin listener, and shows the answer as a table for people or as the API's own
// JSON for programs. It promises exit code 0 for fine, 1 for a failure or a
// problem found, 2 for bad usage. Package daemon gives it what runs in the
// process itself.
package cli

//go:generate go run ./gen -o ../../daemon/dist

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"dispatchd/internal/event"
	"dispatchd/internal/secret"
)

// The exit codes.
const (
	exitOK    = 0
	exitFail  = 1
	exitUsage = 2
)

// ExitCode is an error that has been shown already: only the code is left.
type ExitCode int

// Error implements error.
func (c ExitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// Env is everything that a command takes from its surroundings. Stdin, Stdout
// and Stderr must be set. A hook returns nil, an error to be printed (exit code
// 1), or an ExitCode when it has said everything itself.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv reads the environment. Default: it is empty.
	Getenv func(string) string
	// IsTerminal reports whether one of the three streams is a terminal.
	// Default: none is.
	IsTerminal func(stream any) bool
	// Columns is how wide the terminal of a stream is; 0 when nobody knows. Default:
	// nobody does.
	Columns func(stream any) int
	// Now is for showing how long ago something was. Default: time.Now.
	Now func() time.Time
	// Build is what `version` prints.
	Build Build

	// Serve runs the daemon.
	Serve func(ctx context.Context, f ServeFlags) error
	// Check checks a configuration file and says what it found.
	Check func(ctx context.Context, f CheckFlags) error
	// Demo runs the daemon in a simulated world.
	Demo func(ctx context.Context, f DemoFlags) error
	// Simulate runs a simulated ORCID registry.
	Simulate func(ctx context.Context, f SimulateFlags) error
	// ConfigExample prints the annotated example.
	ConfigExample func(ctx context.Context) error
	// ConfigShow prints the effective configuration of a file, without secrets.
	ConfigShow func(ctx context.Context, f ConfigShowFlags) error
	// Init makes a first configuration; nil leaves the command out.
	Init func(ctx context.Context, f InitFlags) error
	// AdminFromConfig reads where the admin listener of a configuration file is
	// (as listen.admin or as a URL) and its token.
	AdminFromConfig func(path string) (address string, token secret.Text, err error)
}

func (e *Env) defaults() {
	if e.Getenv == nil {
		e.Getenv = func(string) string { return "" }
	}
	if e.IsTerminal == nil {
		e.IsTerminal = func(any) bool { return false }
	}
	if e.Columns == nil {
		e.Columns = func(any) int { return 0 }
	}
	if e.Now == nil {
		e.Now = time.Now
	}
}

// usageError is a mistake on the command line.
type usageError struct{ text string }

// Error implements error.
func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// left is how kong's --help comes out of the parser.
type left int

// session is one run of one command.
type session struct {
	env Env
	ctx context.Context //nolint:containedctx // a session is one call
	globals
	app *kong.Kong
	now func() time.Time
}

// Run runs one command and returns its exit code. It never ends the process.
func Run(ctx context.Context, args []string, env Env) (code int) {
	env.defaults()
	root := &grammar{}
	app, err := parser(root, env)
	if err != nil {
		fmt.Fprintln(env.Stderr, "dispatchd:", err)
		return exitFail
	}
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		c, ok := p.(left)
		if !ok {
			panic(p)
		}
		code = int(c)
	}()
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, err := app.Parse(args)
	if err != nil {
		return report(env, usageOf(err))
	}
	s := &session{env: env, ctx: ctx, globals: root.globals, app: app, now: env.Now}
	return report(env, kctx.Run(s))
}

// usageOf adds the command whose help is to be read.
func usageOf(err error) error {
	help := "dispatchd --help"
	var pe *kong.ParseError
	if errors.As(err, &pe) && pe.Context != nil {
		if node := pe.Context.Selected(); node != nil {
			help = node.FullPath() + " --help"
		}
	}
	// An empty value of an enum is how kong says that a flag may be left out.
	text := strings.ReplaceAll(err.Error(), `one of "",`, "one of ")
	return usage("%s\nRead `%s`.", text, help)
}

// report shows an error to a person and picks the exit code.
func report(env Env, err error) int {
	var code ExitCode
	var wrong *usageError
	var told *apiError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &told):
		told.show(env.Stderr)
		return exitFail
	case errors.As(err, &wrong):
		complain(env.Stderr, wrong.text)
		return exitUsage
	case errors.Is(err, context.Canceled):
		complain(env.Stderr, "interrupted")
		return exitFail
	}
	complain(env.Stderr, err.Error())
	return exitFail
}

// parser builds the command table.
func parser(root *grammar, env Env) (*kong.Kong, error) {
	var channels []string
	for _, ch := range event.Channels {
		channels = append(channels, string(ch))
	}
	options := []kong.Option{
		kong.Name("dispatchd"),
		kong.Vars{"channels": strings.Join(channels, ",")},
		kong.Description("Tells organisations when their researchers' ORCID records change."),
		kong.Writers(env.Stdout, env.Stderr),
		kong.Exit(func(code int) { panic(left(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: width}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "run", Title: "Run:"},
			{Key: "look", Title: "Look:"},
			{Key: "change", Title: "Look at and change:"},
			{Key: "self", Title: "About itself:"},
		}),
	}
	if env.Init != nil {
		options = append(options, kong.DynamicCommand("init", "Make a configuration file, or with --config only the keys, where they are missing.", "run", &initCmd{}))
	}
	app, err := kong.New(root, options...)
	if err != nil {
		return nil, fmt.Errorf("build the command table: %w", err)
	}
	return app, nil
}

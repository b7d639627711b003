package cli

import (
	"context"
	"fmt"
	"io"
)

// Parses returns nil when the arguments are a command line that the program
// knows; nothing is run. It lets the documentation be checked.
func Parses(args []string) (err error) {
	env := Env{Stdout: io.Discard, Stderr: io.Discard, Init: func(context.Context, InitFlags) error { return nil }}
	env.defaults()
	app, err := parser(&grammar{}, env)
	if err != nil {
		return err
	}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case left: // --help
			err = nil
		default:
			panic(p)
		}
	}()
	if _, err := app.Parse(args); err != nil {
		return fmt.Errorf("does not parse: %w", err)
	}
	return nil
}

// Command gen writes config.toml, the annotated example, from the tags of the
// structs in package config; `make generate` runs it.
package main

import (
	"flag"
	"fmt"
	"os"

	"dispatchd/config"
)

func main() {
	out := flag.String("o", "config.toml", "the file to write")
	flag.Parse()
	//nolint:gosec // an example without secrets, for everyone to read
	if err := os.WriteFile(*out, config.Example(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "write the example:", err)
		os.Exit(1) //nolint:forbidigo // a generator is a program of its own
	}
}

// Command gen writes config.toml, the annotated example, and its man page from
// the tags of the structs in package config; `make generate` runs it.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"

	"dispatchd/config"
)

func main() {
	out := flag.String("o", "config.toml", "the file to write")
	man := flag.String("man", "dispatchd.toml.5", "the man page to write")
	flag.Parse()
	var page bytes.Buffer
	err := config.WriteMan(&page)
	//nolint:gosec // without secrets, for everyone to read
	if err := errors.Join(err, os.WriteFile(*out, config.Example(), 0o644), os.WriteFile(*man, page.Bytes(), 0o644)); err != nil {
		fmt.Fprintln(os.Stderr, "write the example:", err)
		os.Exit(1) //nolint:forbidigo // a generator is a program of its own
	}
}

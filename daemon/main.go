// Command dispatchd tells organisations when their researchers' ORCID records
// change. This package only joins the parts: options in, signals in, exit code
// out.
package main

//go:generate go run ./dist/licences -o ../docs/dependencies.md

import (
	"os"
)

func main() {
	os.Exit(run(os.Args[1:]))
}

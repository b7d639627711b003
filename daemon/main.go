// Command dispatchd tells organisations when their researchers' ORCID records
// change. This package only joins the parts: options in, signals in, exit code
// out.
package main

import (
	"os"
)

// version is set by the build (-ldflags "-X main.version=…").
var version = "devel"

func main() {
	os.Exit(run(os.Args[1:]))
}

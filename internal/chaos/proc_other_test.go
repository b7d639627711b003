//go:build !linux

package chaos

import (
	"errors"
	"syscall"
)

// dieWithTest needs Linux; elsewhere the tests' own cleaning up has to do.
func dieWithTest() *syscall.SysProcAttr { return nil }

// mountSmall needs Linux.
func mountSmall(string, int) (func() error, error) {
	return nil, errors.New("mounting a small file system needs Linux")
}

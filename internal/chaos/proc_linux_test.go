package chaos

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// dieWithTest makes a child end when this process ends, however it ends; signals
// to the test's group, such as of a terminal, are not for it.
func dieWithTest() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// mountSmall puts a file system of so many bytes in memory on dir; undo takes it
// away. It fails without the privilege.
func mountSmall(dir string, size int) (undo func() error, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("mounting a small file system needs root")
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		return nil, fmt.Errorf("mount a small file system: %w", err)
	}
	return func() error { return syscall.Unmount(dir, syscall.MNT_DETACH) }, nil
}

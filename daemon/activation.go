package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The names that a socket unit may give (FileDescriptorName=).
const (
	nameCallback = "callback"
	nameWeb      = "web"
	nameAdmin    = "admin"
)

// firstInherited is the descriptor of the first socket (sd_listen_fds(3)).
const firstInherited = 3

// inherited takes over the listening sockets that the service manager holds for
// us, by name. It keeps them open while we restart: what connects meanwhile
// waits in the kernel and is not refused. Without sockets the map is empty. The
// variables are removed, so that no child takes them for its own.
func inherited(getenv func(string) string, unsetenv func(string) error, pid int) (_ map[string]net.Listener, err error) {
	number, names, whose := getenv("LISTEN_FDS"), getenv("LISTEN_FDNAMES"), getenv("LISTEN_PID")
	if number == "" || whose != strconv.Itoa(pid) {
		return nil, nil
	}
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := unsetenv(v); err != nil {
			return nil, fmt.Errorf("take over sockets: %w", err)
		}
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n > 64 {
		return nil, fmt.Errorf("take over sockets: LISTEN_FDS is %q", number)
	}
	list := strings.Split(names, ":")
	out := map[string]net.Listener{}
	defer func() {
		if err != nil {
			for _, ln := range out {
				err = errors.Join(err, ln.Close())
			}
		}
	}()
	for i := range n {
		name := ""
		if i < len(list) {
			name = list[i]
		}
		if !slices.Contains([]string{nameCallback, nameWeb, nameAdmin}, name) {
			return nil, fmt.Errorf("take over sockets: socket %d is named %q; set FileDescriptorName= to callback, web or admin", i+1, name)
		}
		if out[name] != nil {
			return nil, fmt.Errorf("take over sockets: two are named %s; one ListenStream= serves IPv4 and IPv6", name)
		}
		ln, err := takeOver(firstInherited+i, name)
		if err != nil {
			return nil, fmt.Errorf("take over the socket %s: %w", name, err)
		}
		out[name] = ln
	}
	return out, nil
}

// takeOver makes a listener of a descriptor. The descriptor is closed: the
// listener has a copy of its own.
func takeOver(fd int, name string) (net.Listener, error) {
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), name)
	ln, err := net.FileListener(f)
	return ln, errors.Join(err, f.Close())
}

// listenOr returns the socket that was taken over under this name, or listens.
func listenOr(sockets map[string]net.Listener, name, address string) (net.Listener, error) {
	if ln := sockets[name]; ln != nil {
		return ln, nil
	}
	return listen(address)
}

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// kept is how many descriptors the admin listener keeps: Prometheus and a few people.
const kept = 4

// reserve is a listener that still takes connections when the process has no
// descriptor left, so that metrics say so and people can look: it holds a few open
// and gives one away for each connection, until that is closed.
type reserve struct {
	net.Listener
	raw syscall.RawConn

	mu     sync.Mutex
	spare  []*os.File
	closed bool
}

// keepSpare wraps a TCP or unix listener, which is closed with it, and when it
// cannot be wrapped.
func keepSpare(ln net.Listener) (net.Listener, error) {
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("keep descriptors for %s: it has none itself", ln.Addr()), ln.Close())
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("keep descriptors for %s: %w", ln.Addr(), err), ln.Close())
	}
	r := &reserve{Listener: ln, raw: raw}
	r.refill()
	return r, nil
}

// Accept implements net.Listener.
func (r *reserve) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	if err == nil {
		r.refill()
	}
	if !errors.Is(err, syscall.EMFILE) {
		return c, err
	}
	// Linux says so although nobody waits, and what is given away before somebody
	// does is gone to the other listeners. The caller tries again within a second.
	if !r.waits() || !r.give() {
		return nil, err
	}
	c, err = r.Listener.Accept()
	if err != nil {
		r.refill()
		return nil, err
	}
	return &lent{Conn: c, back: sync.OnceFunc(r.refill)}, nil
}

// waits reports whether a connection waits to be taken.
func (r *reserve) waits() bool {
	n := 0
	err := r.raw.Control(func(fd uintptr) {
		n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) // none: asked again
	})
	return err == nil && n > 0
}

// give closes one of the descriptors.
func (r *reserve) give() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spare) == 0 {
		return false
	}
	last := len(r.spare) - 1
	err := r.spare[last].Close()
	r.spare = r.spare[:last]
	return err == nil
}

// refill takes as many as are missing, if there are any.
func (r *reserve) refill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.closed && len(r.spare) < kept {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return // the next connection tries again
		}
		r.spare = append(r.spare, f)
	}
}

// Close implements net.Listener.
func (r *reserve) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	err := r.Listener.Close()
	for _, f := range r.spare {
		err = errors.Join(err, f.Close())
	}
	r.spare = nil
	return err
}

// lent is a connection that has a descriptor of the reserve.
type lent struct {
	net.Conn
	back func()
}

// Close implements net.Conn.
func (l *lent) Close() error {
	err := l.Conn.Close()
	l.back()
	return err
}

package intake

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// connSet knows the open connections and limits them by accepting no more:
// what waits in the kernel's queue costs the sender time, an answer of "too
// many" would cost an attempt.
type connSet struct {
	max      int
	slots    chan struct{} // one taken for each open connection and each Accept
	draining atomic.Bool

	mu   sync.Mutex
	open map[*conn]struct{}
}

func newConnSet(limit int) *connSet {
	return &connSet{max: limit, slots: make(chan struct{}, limit), open: make(map[*conn]struct{})}
}

// drain makes every further answer close its connection.
func (s *connSet) drain() { s.draining.Store(true) }

// shouldClose reports whether the answer under way should close its
// connection: always while draining, and when connections become scarce, so
// that idle ones do not keep others out.
func (s *connSet) shouldClose() bool {
	return s.draining.Load() || len(s.slots) > s.max-s.max/4
}

// closeAll cuts every connection.
func (s *connSet) closeAll() {
	s.mu.Lock()
	all := make([]*conn, 0, len(s.open))
	for c := range s.open {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		_ = c.Close() // it is cut either way
	}
}

func (s *connSet) wrap(ln net.Listener) *listener {
	return &listener{Listener: ln, set: s, closed: make(chan struct{})}
}

// listener accepts while there is a free slot.
type listener struct {
	net.Listener
	set    *connSet
	closed chan struct{}
	once   sync.Once
	err    error
}

// Accept implements net.Listener. It returns io.EOF after Close, and sits out
// what passes: fasthttp would end for good when the process is out of files.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.set.slots <- struct{}{}:
	case <-l.closed:
		return nil, io.EOF
	}
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		c, err := l.Listener.Accept()
		if err == nil {
			mine := &conn{Conn: c, set: l.set}
			l.set.mu.Lock()
			l.set.open[mine] = struct{}{}
			l.set.mu.Unlock()
			return mine, nil
		}
		select {
		case <-l.closed:
			<-l.set.slots
			return nil, io.EOF
		default:
		}
		if !passing(err) {
			<-l.set.slots
			return nil, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-l.closed: // the next Accept says so
		case <-timer.C:
		}
		timer.Stop()
	}
}

// passing reports whether an error of Accept may go away by itself.
func passing(err error) bool {
	for _, e := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Close implements net.Listener; it may be called again.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.err = l.Listener.Close()
	})
	return l.err
}

// conn gives its slot back when it is closed.
type conn struct {
	net.Conn
	set  *connSet
	once sync.Once
}

// Close implements net.Conn; fasthttp may call it more than once.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		c.set.mu.Lock()
		delete(c.set.open, c)
		c.set.mu.Unlock()
		<-c.set.slots
	})
	return err
}

package webhook

import (
	"container/list"
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// errClosed says that the sender was closed.
var errClosed = errors.New("the sender is closed")

// pool keeps connections for the next POST. It is not fasthttp's HostClient:
// that one dials without a context, cannot say whether a connection that broke
// was a kept one (only then a second try is right), and leaves one sleeping
// goroutine behind for each host.
//
// A host here is an organisation's host: two organisations never share a
// connection nor the bound on them, so one that hangs is alone with it.
type pool struct {
	perHost int
	maxIdle int
	idleFor time.Duration

	mu     sync.Mutex
	hosts  map[hostKey]*host
	idle   list.List // of *conn, the last used in front
	sweep  *time.Timer
	armed  bool
	closed bool
}

// hostKey names an organisation's host.
type hostKey struct {
	org, addr string
	tls       bool
}

type host struct {
	key   hostKey
	room  chan struct{} // holds one token for each attempt that has or makes a connection
	users int           // attempts that have, make or wait for one
	idle  []*conn       // the last used at the end
}

type conn struct {
	net.Conn
	host   *host
	elem   *list.Element // in pool.idle while idle
	parked time.Time     // when it became idle
	reused bool
}

func newPool(perHost, maxIdle int, idleFor time.Duration) *pool {
	return &pool{perHost: perHost, maxIdle: maxIdle, idleFor: idleFor, hosts: map[hostKey]*host{}}
}

// get returns a kept connection or a new one, waiting for a place if need be,
// until the deadline or the end of ctx. fresh asks for a new one and gives up
// the kept ones: one of them was found closed, so most likely all are. Every
// connection got must be put.
func (p *pool) get(ctx context.Context, deadline time.Time, key hostKey, fresh bool, dial func(context.Context) (net.Conn, error)) (*conn, error) {
	h, err := p.enter(key)
	if err != nil {
		return nil, err
	}
	select {
	case h.room <- struct{}{}:
	default:
		if err := h.wait(ctx, deadline); err != nil {
			p.leave(h)
			return nil, err
		}
	}
	if c := p.kept(h, fresh); c != nil {
		return c, nil
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	nc, err := dial(ctx)
	if err != nil {
		<-h.room
		p.leave(h)
		return nil, err
	}
	return &conn{Conn: nc, host: h}, nil
}

// wait waits for a place.
func (h *host) wait(ctx context.Context, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	select {
	case h.room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &waitError{ctx.Err()}
	}
}

// waitError says that no place became free in time.
type waitError struct{ error }

func (e *waitError) Unwrap() error { return e.error }

func (p *pool) enter(key hostKey) (*host, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	h := p.hosts[key]
	if h == nil {
		h = &host{key: key, room: make(chan struct{}, p.perHost)}
		p.hosts[key] = h
	}
	h.users++
	return h, nil
}

func (p *pool) leave(h *host) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h.users--
	p.forget(h)
}

// forget drops a host without users and connections. p.mu is held.
func (p *pool) forget(h *host) {
	if h.users == 0 && len(h.idle) == 0 {
		delete(p.hosts, h.key)
	}
}

func (p *pool) kept(h *host, fresh bool) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(h.idle) > 0 {
		c := h.idle[len(h.idle)-1]
		p.unpark(c, len(h.idle)-1)
		if !fresh && time.Since(c.parked) < p.idleFor {
			c.reused = true
			return c
		}
		_ = c.Close()
	}
	return nil
}

// unpark takes the i-th idle connection of its host out of the lists. p.mu is held.
func (p *pool) unpark(c *conn, i int) {
	h := c.host
	p.idle.Remove(c.elem)
	c.elem = nil
	copy(h.idle[i:], h.idle[i+1:])
	h.idle[len(h.idle)-1] = nil
	h.idle = h.idle[:len(h.idle)-1]
}

// put ends the use of a connection; keep says that another POST may use it.
func (p *pool) put(c *conn, keep bool) {
	if !p.park(c, keep) {
		_ = c.Close() // not under the lock: closing TLS writes, and this one may hang
	}
}

func (p *pool) park(c *conn, keep bool) bool {
	h := c.host
	p.mu.Lock()
	defer p.mu.Unlock()
	<-h.room
	h.users--
	if !keep || p.closed {
		p.forget(h)
		return false
	}
	c.parked = time.Now()
	c.elem = p.idle.PushFront(c)
	h.idle = append(h.idle, c)
	for p.idle.Len() > p.maxIdle {
		p.closeOldest()
	}
	p.arm(p.idleFor)
	return true
}

// closeOldest closes the connection unused for longest. p.mu is held.
func (p *pool) closeOldest() {
	c := p.idle.Back().Value.(*conn) //nolint:forcetypeassert // only put fills it
	for i, other := range c.host.idle {
		if other == c {
			p.unpark(c, i)
			break
		}
	}
	_ = c.Close()
	p.forget(c.host)
}

// arm makes the sweep run after d unless it is to run already. p.mu is held.
func (p *pool) arm(d time.Duration) {
	if p.armed {
		return
	}
	p.armed = true
	if p.sweep == nil {
		p.sweep = time.AfterFunc(d, p.closeExpired)
	} else {
		p.sweep.Reset(d)
	}
}

func (p *pool) closeExpired() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	for !p.closed && p.idle.Len() > 0 {
		oldest := p.idle.Back().Value.(*conn) //nolint:forcetypeassert // only put fills it
		if left := p.idleFor - time.Since(oldest.parked); left > 0 {
			p.arm(left)
			return
		}
		p.closeOldest()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.sweep != nil {
		p.sweep.Stop()
	}
	for p.idle.Len() > 0 {
		p.closeOldest()
	}
}

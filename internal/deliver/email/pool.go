package email

import (
	"context"
	"net"
	"sync"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
)

const (
	// maxIdle is how many connections are kept, and idleFor how long: shorter
	// than mail servers keep theirs (Postfix under load: 10 s for a new one, 300
	// s else), and what has gone is found by the RSET before the next mail.
	maxIdle = 4
	idleFor = 30 * time.Second
	// mailsEach is how many mails go over one connection: servers count.
	mailsEach = 100
	// quitFor bounds the goodbye.
	quitFor = 2 * time.Second
)

// conn is one session with the mail server, signed in.
type conn struct {
	client  *gomail.Client
	session *smtp.Client
	bound   *boundConn
	mails   int
	rested  time.Time
}

// quit says goodbye and closes, whatever the server answers.
func (c *conn) quit() {
	c.bound.use(context.Background(), time.Now().Add(quitFor))
	_ = c.session.Quit() // the end of it either way
	_ = c.session.Close()
	_ = c.bound.Close()
}

// pool keeps a few connections for the next mail.
type pool struct {
	mu     sync.Mutex
	idle   []*conn // the longest unused first
	timer  *time.Timer
	closed bool
	ends   sync.WaitGroup
}

// take returns the connection that was used last; nil when there is none.
func (p *pool) take() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle) - 1
	if n < 0 {
		return nil
	}
	c := p.idle[n]
	p.idle[n], p.idle = nil, p.idle[:n]
	return c
}

// put keeps a connection for a while; one too many or one used up is ended.
func (p *pool) put(c *conn) {
	if !c.bound.rest() {
		_ = c.bound.Close() // cut off by the context of its last mail
		return
	}
	c.rested = time.Now()
	p.mu.Lock()
	if p.closed || c.mails >= mailsEach || len(p.idle) >= maxIdle {
		p.ends.Go(c.quit)
		p.mu.Unlock()
		return
	}
	p.idle = append(p.idle, c)
	if p.timer == nil {
		p.timer = time.AfterFunc(idleFor, p.sweep)
	}
	p.mu.Unlock()
}

// sweep ends what was not used for long enough.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = nil
	now := time.Now()
	for len(p.idle) > 0 && now.Sub(p.idle[0].rested) >= idleFor {
		p.ends.Go(p.idle[0].quit)
		p.idle = append([]*conn(nil), p.idle[1:]...)
	}
	if len(p.idle) > 0 && !p.closed {
		p.timer = time.AfterFunc(idleFor-now.Sub(p.idle[0].rested), p.sweep)
	}
}

// close ends every idle connection; those in use end with their mail.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	for _, c := range p.idle {
		p.ends.Go(c.quit)
	}
	p.idle = nil
	p.mu.Unlock()
	p.ends.Wait()
}

// boundConn never waits beyond its limit, whatever deadline is set, and is
// closed when the context of its user ends.
type boundConn struct {
	net.Conn
	mu    sync.Mutex
	limit time.Time // zero: none
	stop  func() bool
}

// use gives the connection to an attempt.
func (b *boundConn) use(ctx context.Context, limit time.Time) {
	b.mu.Lock()
	b.limit = limit
	b.stop = context.AfterFunc(ctx, func() { _ = b.Conn.Close() })
	b.mu.Unlock()
	_ = b.Conn.SetDeadline(limit) // a connection that is closed says so when used
}

// rest takes it back; false says that the attempt's context has closed it.
func (b *boundConn) rest() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	open := b.stop == nil || b.stop()
	b.stop, b.limit = nil, time.Time{}
	return open && b.Conn.SetDeadline(time.Time{}) == nil
}

func (b *boundConn) clamp(t time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.limit.IsZero() && (t.IsZero() || t.After(b.limit)) {
		return b.limit
	}
	return t
}

// SetDeadline implements net.Conn.
func (b *boundConn) SetDeadline(t time.Time) error { return b.Conn.SetDeadline(b.clamp(t)) }

// SetReadDeadline implements net.Conn.
func (b *boundConn) SetReadDeadline(t time.Time) error { return b.Conn.SetReadDeadline(b.clamp(t)) }

// SetWriteDeadline implements net.Conn.
func (b *boundConn) SetWriteDeadline(t time.Time) error { return b.Conn.SetWriteDeadline(b.clamp(t)) }

// Close implements net.Conn.
func (b *boundConn) Close() error {
	b.mu.Lock()
	if b.stop != nil {
		b.stop()
	}
	b.mu.Unlock()
	return b.Conn.Close()
}

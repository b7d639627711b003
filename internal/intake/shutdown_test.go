package intake

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dispatchd/internal/callback"
	"dispatchd/internal/event"
)

// TestShutdownUnderLoadLosesNothing: clients ping as fast as they can while
// the listener goes down. Every 204 is in the log, and every answer in that
// time closes its connection.
func TestShutdownUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *Options) { o.Linger = 30 * time.Millisecond })
	const clients = 16
	var stored sync.Map
	var answered, afterDrain, keptAfterDrain atomic.Int64
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := 0; ; {
				conn, err := net.Dial("tcp", b.addr)
				if err != nil {
					return // the listener is closed: over
				}
				one := &conn1{Conn: conn}
				one.r = newReader(conn)
				for {
					draining := b.conns.draining.Load()
					n := c*1_000_000 + i
					i++
					if _, err := conn.Write([]byte(rawPing(b.path(n)))); err != nil {
						break
					}
					res, err := http.ReadResponse(one.r, &http.Request{Method: http.MethodPost})
					if err != nil {
						break // cut before an answer: not acknowledged
					}
					if res.StatusCode != http.StatusNoContent {
						t.Errorf("%s", res.Status)
					}
					stored.Store(userID(n).Base(), true)
					answered.Add(1)
					if draining {
						afterDrain.Add(1)
						if !res.Close {
							keptAfterDrain.Add(1)
						}
					}
					if res.Close {
						break
					}
				}
				_ = conn.Close()
			}
		})
	}
	eventually(t, "load", func() bool { return answered.Load() > 300 })
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	if err := b.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	there := b.log.users()
	lost := 0
	stored.Range(func(k, _ any) bool {
		if there[k.(uint64)] == 0 {
			lost++
		}
		return true
	})
	if lost > 0 {
		t.Errorf("%d of %d acknowledged pings are lost", lost, answered.Load())
	}
	if afterDrain.Load() == 0 || keptAfterDrain.Load() > 0 {
		t.Errorf("%d answers while draining, %d of them kept the connection", afterDrain.Load(), keptAfterDrain.Load())
	}
}

// TestShutdownFinishesAPingThatWaits: the ping is in a lane when the order
// comes; it is written and answered.
func TestShutdownFinishesAPingThatWaits(t *testing.T) {
	t.Parallel()
	release, writing := make(chan struct{}), make(chan struct{})
	b := setup(t, func(o *Options) { o.RedisWait = patient })
	b.log.do = func(context.Context, []event.Ping) error {
		close(writing)
		<-release
		return nil
	}
	c := b.dial(t)
	c.send(t, rawPing(b.path(1)))
	<-writing
	down := make(chan error, 1)
	go func() { down <- b.Shutdown(t.Context()) }()
	eventually(t, "draining", b.conns.draining.Load)
	close(release)
	if res := c.answer(t, http.MethodPost); res.StatusCode != http.StatusNoContent || !res.Close {
		t.Errorf("%s, close %v", res.Status, res.Close)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
	if _, err := net.Dial("tcp", b.addr); err == nil {
		t.Error("still listening")
	}
}

// TestShutdownCutsWhatDoesNotEnd: a sender that stalls cannot hold it up
// longer than its context, and a ping in a lane is written all the same.
func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	release, writing := make(chan struct{}), make(chan struct{})
	b := setup(t, func(o *Options) { o.RedisWait = patient })
	b.log.do = func(context.Context, []event.Ping) error {
		close(writing)
		<-release
		return nil
	}
	stalled, waits := b.dial(t), b.dial(t)
	stalled.send(t, "POST /hooks/")
	waits.send(t, rawPing(b.path(1)))
	<-writing
	ctx, cancel := context.WithCancel(t.Context())
	down := make(chan error, 1)
	go func() { down <- b.Shutdown(ctx) }()
	eventually(t, "draining", b.conns.draining.Load)
	cancel()
	if _, err := stalled.r.ReadByte(); err == nil || errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("the stalled sender got an answer or nothing: %v", err)
	}
	close(release)
	if err := <-down; !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	if got := b.log.users(); len(got) != 1 {
		t.Errorf("the log has %v", got)
	}
}

func TestShutdownBeforeServe(t *testing.T) {
	t.Parallel()
	s, err := New(Options{
		Keys:       func() *callback.Keys { return nil },
		Credential: func(string) (string, bool) { return "", false },
		Log:        &fakeLog{}, Spool: badSpool{},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(ln); err == nil {
		t.Error("Serve after Shutdown works")
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
	if out := s.writer.write(event.Ping{}); out != nowhere {
		t.Errorf("a ping after Shutdown went to %v", out)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := Options{
		Keys:       func() *callback.Keys { return nil },
		Credential: func(string) (string, bool) { return "", false },
		Log:        &fakeLog{}, Spool: badSpool{},
	}
	for name, change := range map[string]func(*Options){
		"Keys":       func(o *Options) { o.Keys = nil },
		"Credential": func(o *Options) { o.Credential = nil },
		"Log":        func(o *Options) { o.Log = nil },
		"Spool":      func(o *Options) { o.Spool = nil },
		"MaxConns":   func(o *Options) { o.MaxConns = -1 },
		"times":      func(o *Options) { o.RedisWait = -1 },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// flaky is a listener that is out of file descriptors at first.
type flaky struct {
	net.Listener
	left atomic.Int64
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return f.Listener.Accept()
}

func TestAcceptSitsOutWhatPasses(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &flaky{Listener: ln}
	f.left.Store(3)
	set := newConnSet(2)
	l := set.wrap(f)
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatalf("Accept did not sit out EMFILE: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close of the listener: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, io.EOF) {
		t.Errorf("Accept after Close: %v", err)
	}
	if n := len(set.slots); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
	broken := &alwaysBroken{ln}
	if _, err := set.wrap(broken).Accept(); err == nil || errors.Is(err, io.EOF) || len(set.slots) != 0 {
		t.Errorf("a listener that is broken for good: %v, %d places taken", err, len(set.slots))
	}
}

type alwaysBroken struct{ net.Listener }

func (alwaysBroken) Accept() (net.Conn, error) { return nil, syscall.EINVAL }

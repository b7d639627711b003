package webhook

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/safedial"
)

// counting serves the answer and counts connections and requests.
func counting(t *testing.T, answer string, perConn int) (addr string, conns, requests *atomic.Int64) {
	t.Helper()
	conns, requests = new(atomic.Int64), new(atomic.Int64)
	addr = rawServer(t, func(c net.Conn, next func() (request, bool)) {
		conns.Add(1)
		for i := 0; perConn == 0 || i < perConn; i++ {
			if _, ok := next(); !ok {
				return
			}
			requests.Add(1)
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	})
	return addr, conns, requests
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer string
		keeps  bool
	}{
		"204":              {noContent, true},
		"length":           {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true},
		"chunked":          {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true},
		"chunked, trailer": {"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n", true},
		"failure":          {"HTTP/1.1 500 x\r\nContent-Length: 2\r\n\r\nno", true},
		"60 KiB":           {"HTTP/1.1 500 x\r\nContent-Length: 61440\r\n\r\n" + strings.Repeat("x", 61440), true},
		"70 KiB":           {"HTTP/1.1 500 x\r\nContent-Length: 71680\r\n\r\n" + strings.Repeat("x", 71680), false},
		"204 with length":  {"HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\nabcde", false},
		"304":              {"HTTP/1.1 304 x\r\n\r\n", true},
		"close":            {"HTTP/1.1 204 x\r\nConnection: close\r\n\r\n", false},
		"HTTP/1.0":         {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false},
		"more than said":   {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 smuggled\r\nContent-Length: 0\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, conns, requests := counting(t, c.answer, 0)
			s := newSender(t, Options{})
			want := -1
			for range 3 {
				a := s.Send(background(), newOrg("http://"+addr), newDelivery(t), event.Affiliation{})
				if want < 0 {
					want = a.Status
				}
				if a.Status != want || a.Status == 0 {
					t.Fatalf("%+v", a)
				}
			}
			if n := conns.Load(); c.keeps && n != 1 || !c.keeps && n != 3 {
				t.Errorf("%d connections for 3 POSTs", n)
			}
			if n := requests.Load(); n != 3 {
				t.Errorf("%d requests for 3 POSTs", n)
			}
		})
	}
}

// TestKeptConnectionClosed: a receiver that closes each connection after one
// answer costs no attempt, and sees each POST once.
func TestKeptConnectionClosed(t *testing.T) {
	t.Parallel()
	addr, conns, requests := counting(t, noContent, 1)
	s := newSender(t, Options{})
	for i := range 20 {
		if a := s.Send(background(), newOrg("http://"+addr), newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindOK {
			t.Fatalf("POST %d: %+v", i, a)
		}
	}
	if conns.Load() != 20 || requests.Load() != 20 {
		t.Errorf("%d connections, %d requests", conns.Load(), requests.Load())
	}
}

// TestFreshConnectionIsNotTriedAgain: a receiver that reads the POST and then
// closes without a word may have acted on it.
func TestFreshConnectionIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	addr := rawServer(t, func(_ net.Conn, next func() (request, bool)) {
		if _, ok := next(); ok {
			requests.Add(1)
		}
	})
	a := newSender(t, Options{}).Send(background(), newOrg("http://"+addr), newDelivery(t), event.Affiliation{})
	if a.Kind != deliver.KindNetwork || requests.Load() != 1 {
		t.Errorf("%s, %d requests", a.Kind, requests.Load())
	}
}

func TestConnectionsPerHostAreBounded(t *testing.T) {
	t.Parallel()
	var open, most atomic.Int64
	addr := rawServer(t, func(c net.Conn, next func() (request, bool)) {
		now := open.Add(1)
		defer open.Add(-1)
		for {
			if m := most.Load(); now <= m || most.CompareAndSwap(m, now) {
				break
			}
		}
		for {
			if _, ok := next(); !ok {
				return
			}
			if _, err := io.WriteString(c, noContent); err != nil {
				return
			}
		}
	})
	s := newSender(t, Options{MaxConnsPerHost: 3})
	d := newDelivery(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 20 {
				if a := s.Send(background(), newOrg("http://"+addr), d, event.Affiliation{}); a.Kind != deliver.KindOK {
					t.Errorf("%+v", a)
				}
			}
		})
	}
	wg.Wait()
	if most.Load() > 3 {
		t.Errorf("%d connections at once", most.Load())
	}
}

// TestOrganisationsDoNotShare: one that fills all places of a host leaves the
// places of another at the same host alone.
func TestOrganisationsDoNotShare(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{}, 1)
	addr := rawServer(t, func(c net.Conn, next func() (request, bool)) {
		for {
			r, ok := next()
			if !ok {
				return
			}
			if strings.Contains(r.line, "/hang") {
				stuck <- struct{}{}
				hang(c)
				return
			}
			_, _ = io.WriteString(c, noContent)
		}
	})
	s := newSender(t, Options{MaxConnsPerHost: 1, Timeout: 5 * time.Second})
	ctx, cancel := context.WithCancel(background())
	done := make(chan deliver.Answer, 1)
	d := newDelivery(t)
	go func() { done <- s.Send(ctx, newOrg("http://"+addr+"/hang"), d, event.Affiliation{}) }()
	<-stuck
	other := newOrg("http://" + addr + "/fine")
	other.ID = "uni-b"
	if a := s.Send(background(), other, d, event.Affiliation{}); a.Kind != deliver.KindOK {
		t.Errorf("%+v", a)
	}
	// The same organisation waits for its place, and not for ever.
	wait, stop := context.WithTimeout(background(), 100*time.Millisecond)
	defer stop()
	if a := s.Send(wait, newOrg("http://"+addr+"/fine"), d, event.Affiliation{}); a.Kind != deliver.KindTimeout {
		t.Errorf("%+v", a)
	}
	cancel()
	if a := <-done; a.Kind != deliver.KindCancelled {
		t.Errorf("%+v", a)
	}
}

func TestIdleLimits(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 10)
	serve := func() string {
		return rawServer(t, func(c net.Conn, next func() (request, bool)) {
			for {
				if _, ok := next(); !ok {
					closed <- struct{}{}
					return
				}
				_, _ = io.WriteString(c, noContent)
			}
		})
	}
	wait := func(what string) {
		t.Helper()
		select {
		case <-closed:
		case <-time.After(time.Minute):
			t.Fatalf("%s: no connection was closed", what)
		}
	}
	s := newSender(t, Options{MaxIdleConns: 1, IdleTimeout: 100 * time.Millisecond})
	d := newDelivery(t)
	for range 2 { // the second pushes the first out
		s.Send(background(), newOrg("http://"+serve()), d, event.Affiliation{})
	}
	wait("limit of idle connections")
	wait("idle timeout")
	s.conns.mu.Lock()
	if n, m := len(s.conns.hosts), s.conns.idle.Len(); n != 0 || m != 0 {
		t.Errorf("%d hosts, %d idle connections are remembered", n, m)
	}
	s.conns.mu.Unlock()

	long := newSender(t, Options{})
	long.Send(background(), newOrg("http://"+serve()), d, event.Affiliation{})
	long.Close()
	wait("Close")
	long.Close()
	if a := long.Send(background(), newOrg("http://"+serve()), d, event.Affiliation{}); a.Kind != deliver.KindCancelled {
		t.Errorf("after Close: %+v", a)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	addr := rawServer(t, func(c net.Conn, next func() (request, bool)) { next(); close(stuck); hang(c) })
	s := newSender(t, Options{Timeout: time.Minute})
	ctx, cancel := context.WithCancel(background())
	go func() { <-stuck; cancel() }()
	begun := time.Now()
	a := s.Send(ctx, newOrg("http://"+addr), newDelivery(t), event.Affiliation{})
	if a.Kind != deliver.KindCancelled || time.Since(begun) > slack {
		t.Errorf("%s after %s", a.Kind, time.Since(begun))
	}
	if a := s.Send(ctx, newOrg("http://"+addr), newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindCancelled {
		t.Errorf("with a dead context: %+v", a)
	}
}

func TestBlocked(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	served := make(chan struct{}, 10)
	serveOn(t, ln, func(net.Conn, func() (request, bool)) { served <- struct{}{} })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	s := newSender(t, Options{Dialer: safedial.New(safedial.Options{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}})})
	for _, host := range []string{
		"127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost", "LocalHost", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
		"10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "[fe80::1]", "[fe80::1%25lo]", "[fc00::1]", "[fd00:ec2::254]",
		"[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2001::1]", "[ff02::1]", "[fec0::1]", "[::127.0.0.1]",
		"[2001:db8::1]", "[100::1]", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "168.63.129.16",
	} {
		a := s.Send(background(), newOrg("http://"+host+":"+port+"/"), newDelivery(t), event.Affiliation{})
		if a.Kind != deliver.KindBlocked || !strings.HasPrefix(a.Words(), "blocked: address ") {
			t.Errorf("%s: %s %q", host, a.Kind, a.Words())
		}
	}
	// With the dot it is another name to some resolvers; it must not lead here.
	if a := s.Send(background(), newOrg("http://localhost.:"+port+"/"), newDelivery(t), event.Affiliation{}); a.Status != 0 {
		t.Errorf("localhost.: %+v", a)
	}
	if len(served) != 0 {
		t.Error("something was reached")
	}
}

func TestUnknownHost(t *testing.T) {
	t.Parallel()
	// A resolver whose server refuses: no network is needed.
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", "127.0.0.1:1")
	}}
	s := newSender(t, Options{Dialer: safedial.New(safedial.Options{Resolver: r})})
	a := s.Send(background(), newOrg("http://no-such-host.example/"), newDelivery(t), event.Affiliation{})
	if a.Kind != deliver.KindNetwork || !strings.Contains(a.Words(), `the host name "no-such-host.example" cannot be looked up`) {
		t.Errorf("%s: %s", a.Kind, a.Words())
	}
	if strings.Contains(a.Words(), "127.0.0.1") {
		t.Errorf("the words name the resolver: %s", a.Words())
	}
}

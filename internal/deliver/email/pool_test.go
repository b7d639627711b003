package email

import (
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/sim/smtpsink"
)

func sinkSender(t *testing.T, so smtpsink.Options, change func(*Options)) (*smtpsink.Sink, *Sender) {
	t.Helper()
	sink, err := smtpsink.Start(so)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sink.Close)
	o := Options{
		Host: "127.0.0.1", Port: sink.Port(), TLS: "none", From: "ORCID Hub <no-reply@hub.example>",
		UserAgent: "dispatchd/test", Helo: "hub.example", Now: func() time.Time { return t0 }, Timeout: 10 * time.Second,
	}
	if change != nil {
		change(&o)
	}
	return sink, newSender(t, o)
}

func send(t *testing.T, s *Sender) deliver.Answer {
	t.Helper()
	return s.Send(context.Background(), newOrg(), newDelivery(t), event.Affiliation{})
}

// TestConnectionIsKept: mails that follow each other share a session, also with
// TLS and a login, and also after one was refused.
func TestConnectionIsKept(t *testing.T) {
	t.Parallel()
	for _, mode := range []smtpsink.TLS{smtpsink.NoTLS, smtpsink.StartTLS, smtpsink.Implicit} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			var sink *smtpsink.Sink
			so := smtpsink.Options{TLS: mode, Username: "hub", Password: "hunter2"}
			started, err := smtpsink.Start(so)
			if err != nil {
				t.Fatal(err)
			}
			sink = started
			t.Cleanup(sink.Close)
			o := Options{
				Host: "127.0.0.1", Port: sink.Port(), TLS: "none", From: "no-reply@hub.example", UserAgent: "dispatchd/test",
				Helo: "hub.example", Username: "hub", Password: "hunter2",
			}
			if mode != smtpsink.NoTLS {
				o.TLS, o.RootCAs = string(mode), sink.Certificate().Pool
			}
			s := newSender(t, o)
			hellos := 0
			for i := range 6 {
				switch i {
				case 2:
					sink.Refuse(smtpsink.Refusal{Stage: smtpsink.AtTo, Code: 550, Recipient: "library@uni-a.example", Count: 2})
				case 3:
					sink.Refuse(smtpsink.Refusal{Stage: smtpsink.AtData, Code: 451, Count: 1})
				}
				a := send(t, s)
				want := map[int]deliver.Kind{2: deliver.KindRefused, 3: deliver.KindDeferred}[i]
				if want == "" {
					want = deliver.KindOK
				}
				if a.Kind != want {
					t.Errorf("mail %d: %+v, want %s", i, a, want)
				}
				if i == 0 {
					hellos = sink.Sessions() // STARTTLS says EHLO twice
				}
			}
			if sink.Count() != 4 || sink.Sessions() != hellos {
				t.Errorf("%d mails, %d greetings after %d with the first", sink.Count(), sink.Sessions(), hellos)
			}
		})
	}
}

// TestConnectionThatWentIsNoFailure: the server closed a kept connection; the
// next mail goes over a new one, once.
func TestConnectionThatWentIsNoFailure(t *testing.T) {
	t.Parallel()
	be, o := serve(t, behaviour{}, nil)
	var mu sync.Mutex
	var conns []net.Conn
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var pipes sync.WaitGroup
	t.Cleanup(func() { ln.Close(); pipes.Wait() })
	target := net.JoinHostPort(o.Host, strconv.Itoa(o.Port))
	pipes.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", target)
			if err != nil {
				c.Close()
				return
			}
			mu.Lock()
			conns = append(conns, c, up)
			mu.Unlock()
			pipes.Go(func() { copyUntilClosed(up, c) })
			pipes.Go(func() { copyUntilClosed(c, up) })
		}
	})
	o.Port = ln.Addr().(*net.TCPAddr).Port
	s := newSender(t, o)
	for i := range 3 {
		if a := send(t, s); a.Kind != deliver.KindOK {
			t.Fatalf("mail %d: %+v", i, a)
		}
		mu.Lock()
		if len(conns) != 2*(i+1) {
			t.Errorf("mail %d: %d connections so far", i, len(conns)/2)
		}
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
	}
	be.mu.Lock()
	defer be.mu.Unlock()
	if len(be.messages) != 3 {
		t.Errorf("%d messages", len(be.messages))
	}
}

// TestPoolIsBounded: many mails at once leave at most maxIdle connections, a
// connection carries mailsEach mails, and Close ends all.
func TestPoolIsBounded(t *testing.T) {
	t.Parallel()
	sink, s := sinkSender(t, smtpsink.Options{}, nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if a := send(t, s); a.Kind != deliver.KindOK {
				t.Errorf("%+v", a)
			}
		})
	}
	wg.Wait()
	s.pool.mu.Lock()
	n := len(s.pool.idle)
	s.pool.mu.Unlock()
	if n < 1 || n > maxIdle {
		t.Errorf("%d connections are kept", n)
	}
	s.Close()
	before := sink.Sessions()
	if a := send(t, s); a.Kind != deliver.KindOK {
		t.Errorf("a mail that was under way at Close: %+v", a)
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if len(s.pool.idle) != 0 || sink.Sessions() != before+1 {
		t.Errorf("%d kept after Close, %d new sessions", len(s.pool.idle), sink.Sessions()-before)
	}
}

func TestConnectionIsUsedUp(t *testing.T) {
	t.Parallel()
	sink, s := sinkSender(t, smtpsink.Options{}, nil)
	for range mailsEach + 1 {
		if a := send(t, s); a.Kind != deliver.KindOK {
			t.Fatalf("%+v", a)
		}
	}
	if sink.Sessions() != 2 {
		t.Errorf("%d sessions for %d mails", sink.Sessions(), mailsEach+1)
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	_, s := sinkSender(t, smtpsink.Options{}, nil)
	if a := send(t, s); a.Kind != deliver.KindOK {
		t.Fatalf("%+v", a)
	}
	s.pool.mu.Lock()
	s.pool.idle[0].rested = time.Now().Add(-idleFor)
	s.pool.mu.Unlock()
	s.pool.sweep()
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if len(s.pool.idle) != 0 || s.pool.timer != nil {
		t.Errorf("%d kept", len(s.pool.idle))
	}
}

// TestTimeoutsHaveNames: what was too slow is said.
func TestTimeoutsHaveNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		stage smtpsink.Stage
		want  string
	}{
		{smtpsink.AtHello, "timed out while the mail server greeted and signed us in (limit 300ms)"},
		{smtpsink.AtFrom, "timed out handing the mail to the mail server (limit 300ms)"},
		{smtpsink.AtData, "timed out handing the mail to the mail server (limit 300ms)"},
	} {
		sink, s := sinkSender(t, smtpsink.Options{}, func(o *Options) { o.Timeout = short })
		sink.Refuse(smtpsink.Refusal{Stage: c.stage, Code: 250, Delay: time.Minute})
		if a := send(t, s); a.Kind != deliver.KindTimeout || a.Words() != c.want {
			t.Errorf("%s: %+v %q, want %q", c.stage, a, a.Words(), c.want)
		}
	}
	// Nobody answers at all: the address is TEST-NET-1.
	s := newSender(t, Options{Host: "192.0.2.1", TLS: "none", From: "a@b.example", UserAgent: "x", ConnectTimeout: 50 * time.Millisecond})
	if a := send(t, s); a.Kind == deliver.KindTimeout && !strings.Contains(a.Words(), "timed out connecting to the mail server (limit 50ms)") {
		t.Errorf("%+v %q", a, a.Words())
	}
}

func copyUntilClosed(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	to.Close()
	from.Close()
}

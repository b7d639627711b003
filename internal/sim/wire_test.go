package sim

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/sim/receiver"
)

// rawServer answers each request on a connection with the next of answers and
// hands over the bytes it read. An answer "" ends the connection.
type rawServer struct {
	ln    net.Listener
	seen  chan string // what each request was, prefixed by the connection's number
	conns sync.WaitGroup
}

func newRawServer(t *testing.T, answers ...string) *rawServer {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	s := &rawServer{ln: ln, seen: make(chan string, 100)}
	s.conns.Go(func() {
		for n := 'a'; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.conns.Go(func() {
				defer c.Close()
				stop := context.AfterFunc(t.Context(), func() { c.Close() })
				defer stop()
				in := bufio.NewReader(c)
				for {
					var req strings.Builder
					for !strings.HasSuffix(req.String(), "\r\n\r\n") {
						b, err := in.ReadByte()
						if err != nil {
							return
						}
						req.WriteByte(b)
					}
					answer := ""
					if len(answers) > 0 {
						answer, answers = answers[0], answers[1:]
					}
					s.seen <- string(n) + " " + req.String()
					if answer == "" {
						return
					}
					if rest, ok := strings.CutSuffix(answer, "CLOSE"); ok {
						_, _ = io.WriteString(c, rest)
						return
					}
					_, _ = io.WriteString(c, answer)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); s.conns.Wait() })
	return s
}

func (s *rawServer) url() string { return "http://" + s.ln.Addr().String() }

func newTestPoster(t *testing.T, o Options) *poster {
	t.Helper()
	o.Manual = true
	o, err := o.withDefaults()
	must(t, err)
	p := newPoster(o)
	t.Cleanup(p.close)
	return p
}

func TestPostSendsExactlyTheBytesOfTheJDK(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 204 No Content\r\n\r\n"
	s := newRawServer(t, ok, ok, ok)
	p := newTestPoster(t, Options{})
	for i := range 3 {
		a := p.post(t.Context(), s.url()+"/services/1/updated?x=%2F")
		if a.status != 204 || a.err != nil || a.reused != (i > 0) {
			t.Fatalf("post %d = %+v", i, a)
		}
		// Always connection a: it is kept and used again.
		want := "a POST /services/1/updated?x=%2F HTTP/1.1\r\nContent-Length: 0\r\nHost: " + s.ln.Addr().String() +
			"\r\nUser-Agent: Java-http-client/21.0.5\r\n\r\n"
		if got := <-s.seen; got != want {
			t.Fatalf("post %d sent\n%q\nwant\n%q", i, got, want)
		}
	}
}

func TestPostReadsAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer string
		status int
		again  bool // the next POST is on the same connection
	}{
		"204":                       {"HTTP/1.1 204 No Content\r\n\r\n", 204, true},
		"200 with a body":           {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, true},
		"chunked":                   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, true},
		"103 before it":             {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", 202, true},
		"redirect is the answer":    {"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n", 302, true},
		"Connection: close":         {"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", 204, false},
		"HTTP/1.0":                  {"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, false},
		"body up to the end":        {"HTTP/1.1 200 OK\r\n\r\nabcCLOSE", 200, false},
		"more than was promised":    {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc", 200, false},
		"cut body is no answer":     {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabcCLOSE", 0, false},
		"no answer":                 {"", 0, false},
		"not HTTP":                  {"SSH-2.0-x\r\n\r\nCLOSE", 0, false},
		"cut headers are no answer": {"HTTP/1.1 204 No Content\r\nX-ACLOSE", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRawServer(t, c.answer, "HTTP/1.1 204 No Content\r\n\r\n")
			p := newTestPoster(t, Options{})
			a := p.post(t.Context(), s.url())
			if a.status != c.status || (a.err == nil) != (c.status > 0) || a.hung {
				t.Fatalf("post = %+v, want status %d", a, c.status)
			}
			if a = p.post(t.Context(), s.url()); a.status != 204 || a.reused != c.again {
				t.Fatalf("next post = %+v, want 204 with reused = %v", a, c.again)
			}
		})
	}
}

func TestPostSeesThatAKeptConnectionWasClosed(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 204 No Content\r\n\r\n"
	s := newRawServer(t, ok+"CLOSE", ok)
	p := newTestPoster(t, Options{})
	if a := p.post(t.Context(), s.url()); a.status != 204 {
		t.Fatalf("post = %+v", a)
	}
	// The server's end of the connection is closed when its goroutine is gone;
	// the FIN is then in our socket (loopback delivers in order).
	<-s.seen
	for {
		c := p.take(s.ln.Addr().String())
		gone := !alive(c.Conn)
		p.put(c)
		if gone {
			break
		}
	}
	if a := p.post(t.Context(), s.url()); a.status != 204 || a.reused {
		t.Fatalf("post after the server's close = %+v, want 204 on a new connection", a)
	}
}

func TestPostTimesOut(t *testing.T) {
	t.Parallel()
	recv, err := receiver.Start(receiver.Options{Behaviour: receiver.Hang()})
	must(t, err)
	t.Cleanup(recv.Close)
	recv.BehaveFor("/body", receiver.HangBody())
	recv.BehaveFor("/drip", receiver.Drip(10*time.Millisecond))
	p := newTestPoster(t, Options{PostTimeout: 200 * time.Millisecond, BodyTimeout: 200 * time.Millisecond})
	if a := p.post(t.Context(), recv.URL()+"/never"); a.status != 0 || a.hung || !strings.Contains(a.err.Error(), "HttpTimeoutException") {
		t.Errorf("no headers: %+v, want a timeout", a)
	}
	for _, path := range []string{"/body", "/drip"} {
		if a := p.post(t.Context(), recv.URL()+path); a.status != 200 || !a.hung {
			t.Errorf("%s: %+v, want 200 and hung", path, a)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a := p.post(ctx, recv.URL()+"/never"); a.err == nil {
		t.Errorf("cancelled: %+v, want an error", a)
	}
}

func TestPostChecksCertificates(t *testing.T) {
	t.Parallel()
	recv, err := receiver.Start(receiver.Options{TLS: true})
	must(t, err)
	t.Cleanup(recv.Close)
	strict := newTestPoster(t, Options{})
	if a := strict.post(t.Context(), recv.URL()); a.status != 0 || !strings.Contains(a.err.Error(), "SSLHandshakeException") {
		t.Errorf("unknown authority: %+v, want a handshake error", a)
	}
	trusting := newTestPoster(t, Options{RootCAs: recv.Certificate().Pool})
	for i := range 2 {
		if a := trusting.post(t.Context(), recv.URL()); a.status != 204 || a.reused != (i > 0) {
			t.Errorf("known authority, post %d: %+v, want 204", i, a)
		}
	}
	for _, req := range recv.Requests() {
		if req.Proto != "HTTP/1.1" {
			t.Errorf("sent as %s", req.Proto)
		}
	}
}

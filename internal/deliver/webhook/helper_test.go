package webhook

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/safedial"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// short is the timeout of tests in which it is to fire; slack is how much
// later an attempt may end on a busy machine.
const (
	short = time.Second
	slack = 20 * time.Second
)

var (
	t0       = time.Date(2026, 11, 23, 2, 5, 32, 987_654_321, time.UTC)
	loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
)

func sampleID(t testing.TB) orcid.ID {
	t.Helper()
	id, err := orcid.ParseStrict("0000-0002-1825-0097")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// newSender makes a sender that may reach this machine; it is closed at the end.
func newSender(t testing.TB, o Options) *Sender {
	t.Helper()
	o.UserAgent = "dispatchd/test"
	if o.Dialer == nil {
		o.Dialer = safedial.New(safedial.Options{AllowPrivate: loopback})
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func newOrg(url string) *org.Organisation {
	return &org.Organisation{ID: "uni-a", Name: "University A", Webhook: org.Webhook{
		Enabled: true, URL: url, SigningSecret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
	}}
}

func newDelivery(t testing.TB) event.Delivery {
	t.Helper()
	return event.Delivery{
		Org: "uni-a", Channel: event.Webhook, ORCID: sampleID(t), Type: event.Updated, Generation: 42, Token: "token",
		Attempt: 1, FirstAt: t0.Add(-time.Hour), LatestAt: t0, CreatedAt: t0.Add(-24 * time.Hour),
	}
}

// request is what a receiver saw.
type request struct {
	line   string
	header http.Header
	host   string
	body   string
}

// rawServer runs handle for each connection, after reading one request off it;
// handle may read more with next. It returns the address.
func rawServer(t testing.TB, handle func(c net.Conn, next func() (request, bool))) string {
	t.Helper()
	return serveOn(t, listen(t), handle)
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func serveOn(t testing.TB, ln net.Listener, handle func(c net.Conn, next func() (request, bool))) string {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				handle(c, func() (request, bool) { return readRequest(r) })
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

func readRequest(r *bufio.Reader) (request, bool) {
	var raw bytes.Buffer
	line, err := r.ReadString('\n')
	if err != nil {
		return request{}, false
	}
	raw.WriteString(line)
	req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(&raw, r)))
	if err != nil {
		return request{}, false
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return request{}, false
	}
	return request{strings.TrimRight(line, "\r\n"), req.Header, req.Host, string(body)}, true
}

// answering serves the same text to every request, as long as they come, and
// hands what it saw to the channel.
func answering(t testing.TB, answer string) (string, <-chan request) {
	t.Helper()
	seen := make(chan request, 100)
	addr := rawServer(t, func(c net.Conn, next func() (request, bool)) {
		for {
			req, ok := next()
			if !ok {
				return
			}
			seen <- req
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	})
	return addr, seen
}

func received(t testing.TB, seen <-chan request) request {
	t.Helper()
	select {
	case r := <-seen:
		return r
	case <-time.After(time.Minute):
		t.Fatal("the receiver saw nothing")
		return request{}
	}
}

func background() context.Context { return context.Background() }

package webhook

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/safedial"
)

// rebinding is a resolver whose first answer is the one address and whose
// later ones are the other.
func rebinding(t *testing.T, first, later string) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var asked atomic.Int64
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Additionals = true, nil
			if q.Type == dnsmessage.TypeA {
				addr := first
				if asked.Add(1) > 1 {
					addr = later
				}
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()},
				}}
			}
			if out, err := m.Pack(); err == nil {
				_, _ = pc.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

func TestRebinding(t *testing.T) {
	t.Parallel()
	good, err := net.Listen("tcp", "127.7.7.9:0")
	if err != nil {
		t.Skip(err)
	}
	_, port, _ := net.SplitHostPort(good.Addr().String())
	evil, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Skip(err)
	}
	var reached atomic.Int64
	serveOn(t, evil, func(net.Conn, func() (request, bool)) { reached.Add(1) })
	serveOn(t, good, func(c net.Conn, next func() (request, bool)) {
		next()
		say("HTTP/1.1 204 x\r\nConnection: close\r\n\r\n")(c)
	})
	s := newSender(t, Options{Dialer: safedial.New(safedial.Options{
		Resolver: rebinding(t, "127.7.7.9", "127.0.0.1"), AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.7.7.9/32")},
	})})
	o := newOrg("http://rebind.example.:" + port + "/")
	if a := s.Send(background(), o, newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindOK {
		t.Fatalf("first: %s", a.Words())
	}
	a := s.Send(background(), o, newDelivery(t), event.Affiliation{})
	if a.Kind != deliver.KindBlocked || a.Words() != "blocked: address 127.0.0.1 is not public (loopback)" {
		t.Errorf("second: %s", a.Words())
	}
	if reached.Load() != 0 {
		t.Error("the address inside was reached")
	}
}

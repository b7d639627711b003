package safedial

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestKind(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"0.0.0.0": "unspecified", "0.1.2.3": "unspecified", "::": "unspecified",
		"127.0.0.1": "loopback", "127.255.255.254": "loopback", "::1": "loopback", "::ffff:127.0.0.1": "loopback",
		"10.0.0.1": "private", "172.16.0.1": "private", "172.31.255.255": "private", "192.168.1.1": "private",
		"::ffff:10.1.2.3": "private", "fc00::1": "private", "fdff::1": "private", "fec0::1": "private",
		"169.254.1.1": "link-local", "fe80::1": "link-local", "fe80::1%lo": "link-local", "febf::1": "link-local",
		"169.254.169.254": "metadata", "::ffff:169.254.169.254": "metadata", "fd00:ec2::254": "metadata", "fd20:ce::254": "metadata",
		"100.100.100.200": "metadata", "168.63.129.16": "metadata", "192.0.0.192": "metadata", "169.254.170.2": "metadata",
		"100.64.0.1": "carrier-grade NAT", "100.127.255.255": "carrier-grade NAT",
		"224.0.0.1": "multicast", "239.255.255.255": "multicast", "ff02::1": "multicast", "255.255.255.255": "broadcast",
		"192.0.2.1": "documentation", "198.51.100.1": "documentation", "203.0.113.1": "documentation", "2001:db8::1": "documentation", "3fff::1": "documentation",
		"198.18.0.1": "benchmarking", "198.19.255.255": "benchmarking",
		"64:ff9b::7f00:1": "NAT64", "64:ff9b::808:808": "NAT64", "64:ff9b:1::1": "NAT64", "2002:7f00:1::": "6to4", "2002:0808:0808::1": "6to4",
		"2001::1": "Teredo", "2001:20::1": "reserved", "2001:2::1": "reserved", "100::1": "discard", "::7f00:1": "IPv4-compatible",
		"192.0.0.1": "reserved", "192.88.99.1": "reserved", "240.0.0.1": "reserved", "2620:4f:8000::1": "reserved",
		"5f00::1": "not global unicast", "4000::1": "not global unicast",
		"2a00:1450::5efe:10.0.0.1": "ISATAP", "2a00:1450::200:5efe:127.0.0.1": "ISATAP", "2a00:1450::200:5efe:8.8.8.8": "",
		"8.8.8.8": "", "1.1.1.1": "", "::ffff:8.8.8.8": "", "100.63.255.255": "", "100.128.0.1": "", "172.15.0.1": "", "172.32.0.1": "",
		"11.0.0.1": "", "168.63.129.17": "", "2606:4700::1111": "", "2a00:1450:4001::200e": "", "223.255.255.254": "",
	} {
		if got := Kind(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Kind(%s) = %q, want %q", addr, got, want)
		}
	}
	if Kind(netip.Addr{}) == "" {
		t.Error("the invalid address is taken for a public one")
	}
}

func TestAllowPrivate(t *testing.T) {
	t.Parallel()
	d := New(Options{AllowPrivate: []netip.Prefix{
		netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("::ffff:192.168.7.0/120"), netip.MustParsePrefix("fd12::/16"),
		netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("fe80::/10"),
	}})
	for addr, allowed := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "192.168.7.9": true, "192.168.8.9": false,
		"fd12::1": true, "fd13::1": false, "fe80::1%eth0": true, "127.0.0.1": false, "::1": false, "8.8.8.8": true,
		"64:ff9b::808:808": true, "64:ff9b::7f00:1": false, "64:ff9b::a01:203": true, "64:ff9b::a9fe:a9fe": false,
	} {
		err := d.Check(netip.MustParseAddr(addr))
		if (err == nil) != allowed {
			t.Errorf("Check(%s) = %v, want allowed %v", addr, err, allowed)
		}
		var b *BlockedError
		if err != nil && !errors.As(err, &b) {
			t.Errorf("Check(%s): %T is no BlockedError", addr, err)
		}
	}
}

func TestBlockedErrorSaysNoMore(t *testing.T) {
	t.Parallel()
	err := New(Options{}).Check(netip.MustParseAddr("169.254.169.254"))
	if got, want := err.Error(), "address 169.254.169.254 is not public (metadata)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// untouched returns a loopback listener that fails the test when anything connects.
func untouched(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Skipf("%s %s: %v", network, addr, err) // no IPv6 here
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := ln.Accept(); err == nil {
			c.Close()
			t.Error("something connected to a blocked address")
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln
}

func TestLoopbackSpellings(t *testing.T) {
	t.Parallel()
	_, port, _ := net.SplitHostPort(untouched(t, "tcp", "127.0.0.1:0").Addr().String())
	d := New(Options{Timeout: 2 * time.Second})
	ctx := context.Background()
	for _, host := range []string{
		"127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost", "LOCALHOST", "localhost.", "::1", "::", "::ffff:127.0.0.1",
		"::ffff:7f00:1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "",
	} {
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		if err == nil {
			c.Close()
			t.Errorf("%q was dialled", host)
			continue
		}
		var b *BlockedError
		var dns *net.DNSError
		if !errors.As(err, &b) && !errors.As(err, &dns) {
			t.Errorf("%q: unexpected error %v", host, err)
		}
		if isLiteral := host == "" || net.ParseIP(host) != nil || strings.EqualFold(host, "localhost"); isLiteral && b == nil {
			t.Errorf("%q: %v is no BlockedError", host, err)
		}
	}
}

func TestIPv6Loopback(t *testing.T) {
	t.Parallel()
	addr := untouched(t, "tcp6", "[::1]:0").Addr().String()
	c, err := New(Options{}).DialContext(context.Background(), "tcp6", addr)
	var b *BlockedError
	if err == nil || !errors.As(err, &b) {
		t.Errorf("got %v %v, want a BlockedError", c, err)
	}
}

func TestOtherNetworks(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"udp", "unix", "ip4:icmp", "", "tcp5"} {
		if c, err := New(Options{}).DialContext(context.Background(), network, "8.8.8.8:53"); err == nil {
			c.Close()
			t.Errorf("network %q was dialled", network)
		}
	}
}

// dnsServer answers A queries with the addresses in turn, one per query, and
// AAAA queries with none.
func dnsServer(t *testing.T, answers ...string) (*net.Resolver, func() int) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked := 0
	done := make(chan struct{})
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
			m.Response, m.Authoritative, m.RecursionAvailable = true, true, true
			m.Additionals = nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				mu.Lock()
				for _, a := range strings.Split(answers[min(asked, len(answers)-1)], ",") {
					m.Answers = append(m.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 0},
						Body:   &dnsmessage.AResource{A: netip.MustParseAddr(a).As4()},
					})
				}
				asked++
				mu.Unlock()
			}
			if out, err := m.Pack(); err == nil {
				_, _ = pc.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
	return r, func() int { mu.Lock(); defer mu.Unlock(); return asked }
}

// TestRebinding: the first look-up gives an allowed address, all later ones
// loopback. The connection must go to the first, or nowhere.
func TestRebinding(t *testing.T) {
	t.Parallel()
	good, err := net.Listen("tcp", "127.7.7.7:0")
	if err != nil {
		t.Skip(err)
	}
	defer good.Close()
	_, port, _ := net.SplitHostPort(good.Addr().String())
	untouched(t, "tcp", "127.0.0.1:"+port)
	resolver, asked := dnsServer(t, "127.7.7.7", "127.0.0.1")
	d := New(Options{Resolver: resolver, Timeout: 3 * time.Second, AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.7.7.7/32")}})

	c, err := d.DialContext(context.Background(), "tcp", "rebind.example.:"+port)
	if err != nil {
		t.Fatalf("first dial: %v", err)
	}
	if got := c.RemoteAddr().String(); got != "127.7.7.7:"+port {
		t.Errorf("connected to %s", got)
	}
	c.Close()
	if n := asked(); n != 1 {
		t.Errorf("%d look-ups for one dial: a second may differ from what was checked", n)
	}
	var b *BlockedError
	if _, err = d.DialContext(context.Background(), "tcp", "rebind.example.:"+port); !errors.As(err, &b) {
		t.Errorf("second dial: %v, want a BlockedError", err)
	}
}

// TestMixedAnswer: of a private and an allowed address only the second is used.
func TestMixedAnswer(t *testing.T) {
	t.Parallel()
	good, err := net.Listen("tcp", "127.7.7.8:0")
	if err != nil {
		t.Skip(err)
	}
	defer good.Close()
	_, port, _ := net.SplitHostPort(good.Addr().String())
	untouched(t, "tcp", "127.0.0.1:"+port)
	resolver, _ := dnsServer(t, "127.0.0.1,127.7.7.8")
	d := New(Options{Resolver: resolver, Timeout: 3 * time.Second, AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.7.7.8/32")}})
	c, err := d.DialContext(context.Background(), "tcp", "mixed.example.:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.RemoteAddr().String(); got != "127.7.7.8:"+port {
		t.Errorf("connected to %s", got)
	}
}

func FuzzCheck(f *testing.F) {
	for _, s := range []string{"\x7f\x00\x00\x01", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01"} {
		f.Add([]byte(s))
	}
	d := New(Options{})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		err := d.Check(a)
		u := a.Unmap()
		bad := u.IsPrivate() || u.IsLoopback() || u.IsLinkLocalUnicast() || u.IsMulticast() || u.IsUnspecified() || !u.IsGlobalUnicast()
		if bad && err == nil {
			t.Errorf("%s is allowed", a)
		}
		if u.Is4() {
			// The same address inside NAT64 is never more reachable.
			var n [16]byte
			copy(n[:], []byte{0, 0x64, 0xff, 0x9b})
			binary.BigEndian.PutUint32(n[12:], binary.BigEndian.Uint32(u.AsSlice()))
			if d.Check(netip.AddrFrom16(n)) == nil {
				t.Errorf("%s is allowed inside NAT64", a)
			}
		}
	})
}

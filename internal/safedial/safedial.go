// Package safedial owns where the daemon may connect to on behalf of an
// organisation: its Dialer checks the resolved address of every connection, at
// the moment of connecting, so that no name, redirect or rebinding leads inside.
package safedial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Options configures a Dialer.
type Options struct {
	// AllowPrivate lists prefixes that may be reached although they are not
	// public; none by default. An IPv4 prefix also covers its IPv4-mapped form.
	// Allowing 64:ff9b::/96 (NAT64) does not allow private IPv4 behind it.
	AllowPrivate []netip.Prefix
	// Timeout bounds resolving and connecting together; 0 means 10 s.
	Timeout time.Duration
	// KeepAlive is the TCP keep-alive interval; 0 means 15 s, below 0 none.
	KeepAlive time.Duration
	// Resolver finds addresses; nil means the system's.
	Resolver *net.Resolver
}

// Dialer connects to public addresses and to those explicitly allowed. It is
// safe for concurrent use and does not change after New.
type Dialer struct {
	allow []netip.Prefix
	net   net.Dialer
}

// New makes a Dialer.
func New(o Options) *Dialer {
	d := &Dialer{allow: make([]netip.Prefix, 0, len(o.AllowPrivate))}
	for _, p := range o.AllowPrivate {
		d.allow = append(d.allow, unmapPrefix(p))
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	// Control runs after resolving and before connecting, for each address
	// tried: what it sees is where the connection goes.
	d.net = net.Dialer{Timeout: o.Timeout, KeepAlive: o.KeepAlive, Resolver: o.Resolver, ControlContext: d.control}
	return d
}

// DialContext connects like net.Dialer's. The network is tcp, tcp4 or tcp6. A
// refused address gives an error that wraps a *BlockedError.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
		return d.net.DialContext(ctx, network, addr)
	}
	return nil, fmt.Errorf("dial: %w", net.UnknownNetworkError(network))
}

func (d *Dialer) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return net.UnknownNetworkError(network)
	}
	if strings.HasPrefix(address, ":") {
		return d.Check(netip.IPv6Unspecified()) // no host means this machine
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial: unreadable address: %w", err)
	}
	return d.Check(ap.Addr())
}

// Check reports whether the address may be reached: nil, or a *BlockedError.
func (d *Dialer) Check(addr netip.Addr) error {
	// A zone only says through which interface; prefixes never contain it.
	a := addr.WithZone("").Unmap()
	allowed := slices.ContainsFunc(d.allow, func(p netip.Prefix) bool { return p.Contains(a) })
	if allowed && !nat64.Contains(a) {
		return nil
	}
	if allowed {
		// The gateway goes on to the IPv4 address inside: judge that one.
		return d.Check(embedded(a, 12))
	}
	if kind := Kind(a); kind != "" {
		return &BlockedError{Addr: a, Kind: kind}
	}
	return nil
}

func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked()
	}
	return p.Masked()
}

// BlockedError says that an address may not be reached.
type BlockedError struct {
	Addr netip.Addr
	// Kind is what the address is, for example "loopback" or "private".
	Kind string
}

// Error implements error. It names the address and its kind, nothing else.
func (e *BlockedError) Error() string {
	return fmt.Sprintf("address %s is not public (%s)", e.Addr, e.Kind)
}

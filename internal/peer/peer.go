// Package peer says who asks: one rule for the limits and the audit lines of
// every face that organisations reach.
package peer

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Of names who asks, for limits and the audit log: the address, of an
// IPv6 one the network that one customer has. A proxy on this machine or in our
// own network says for whom it asks in the last part of X-Forwarded-For; from
// anywhere else that header may say anything.
func Of(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "unknown"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return "unknown"
	}
	if addr = addr.Unmap(); addr.IsLoopback() || addr.IsPrivate() {
		parts := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		if said, err := netip.ParseAddr(strings.TrimSpace(parts[len(parts)-1])); err == nil {
			addr = said.Unmap()
		}
	}
	if addr.Is6() {
		if net, err := addr.WithZone("").Prefix(64); err == nil {
			return net.String()
		}
	}
	return addr.String()
}

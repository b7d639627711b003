package safedial

import (
	"net/netip"

	"code.dny.dev/ssrf"
)

const (
	kindNAT64    = "NAT64"
	kindNonGUA   = "not global unicast"
	kindReserved = "reserved"
)

var (
	nat64 = netip.MustParsePrefix("64:ff9b::/96")

	// Most telling first. What is in none of these is left to the tables of
	// code.dny.dev/ssrf, which follow IANA's special-purpose registries.
	kinds = []struct {
		prefix netip.Prefix
		kind   string
	}{
		{netip.MustParsePrefix("169.254.169.254/32"), "metadata"},
		{netip.MustParsePrefix("169.254.170.2/32"), "metadata"},
		{netip.MustParsePrefix("100.100.100.200/32"), "metadata"},
		{netip.MustParsePrefix("168.63.129.16/32"), "metadata"}, // Azure's host, in a public range: no registry has it
		{netip.MustParsePrefix("192.0.0.192/32"), "metadata"},
		{netip.MustParsePrefix("fd00:ec2::/32"), "metadata"},
		{netip.MustParsePrefix("fd20:ce::254/128"), "metadata"},
		{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
		{netip.MustParsePrefix("::/128"), "unspecified"},
		{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
		{netip.MustParsePrefix("::1/128"), "loopback"},
		{netip.MustParsePrefix("10.0.0.0/8"), "private"},
		{netip.MustParsePrefix("172.16.0.0/12"), "private"},
		{netip.MustParsePrefix("192.168.0.0/16"), "private"},
		{netip.MustParsePrefix("fc00::/7"), "private"},
		{netip.MustParsePrefix("fec0::/10"), "private"}, // site-local, deprecated
		{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
		{netip.MustParsePrefix("fe80::/10"), "link-local"},
		{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT"},
		{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
		{netip.MustParsePrefix("ff00::/8"), "multicast"},
		{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
		{netip.MustParsePrefix("192.0.2.0/24"), "documentation"},
		{netip.MustParsePrefix("198.51.100.0/24"), "documentation"},
		{netip.MustParsePrefix("203.0.113.0/24"), "documentation"},
		{netip.MustParsePrefix("2001:db8::/32"), "documentation"},
		{netip.MustParsePrefix("3fff::/20"), "documentation"},
		{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking"},
		{nat64, kindNAT64},
		{netip.MustParsePrefix("64:ff9b:1::/48"), kindNAT64},
		{netip.MustParsePrefix("2002::/16"), "6to4"},
		{netip.MustParsePrefix("2001::/32"), "Teredo"},
		{netip.MustParsePrefix("100::/64"), "discard"},
		{netip.MustParsePrefix("::/96"), "IPv4-compatible"},
	}
)

// Kind says what makes an address not public, or nothing when it is public.
func Kind(addr netip.Addr) string {
	a := addr.WithZone("").Unmap()
	if !a.IsValid() {
		return "no address"
	}
	for _, k := range kinds {
		if k.prefix.Contains(a) {
			return k.kind
		}
	}
	denied := ssrf.IPv4DeniedPrefixes
	if a.Is6() {
		if !ssrf.IPv6GlobalUnicast.Contains(a) {
			return kindNonGUA
		}
		denied = ssrf.IPv6DeniedPrefixes
	}
	for _, p := range denied {
		if p.Contains(a) {
			return kindReserved
		}
	}
	if isISATAP(a) && Kind(embedded(a, 12)) != "" {
		return "ISATAP"
	}
	return ""
}

// isISATAP reports whether the interface identifier is 0000:5efe or 0200:5efe
// and an IPv4 address (RFC 5214): a host with that tunnel would send it there.
func isISATAP(a netip.Addr) bool {
	if !a.Is6() {
		return false
	}
	b := a.As16()
	return b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

// embedded returns the IPv4 address at the given byte of an IPv6 address.
func embedded(a netip.Addr, at int) netip.Addr {
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[at : at+4]))
}

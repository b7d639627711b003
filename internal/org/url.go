package org

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

var (
	errNumericHost = errors.New("has a host that looks like a number but is no IP address")
	errHost        = errors.New("has no valid host name")
)

// ValidURL checks where an organisation wants to be told: absolute, http or
// https, a host that can be one, no user info, no fragment, no control
// characters, at most 2048 bytes. Whether the address may be reached is decided
// when dialling.
func ValidURL(raw string) error {
	if hasControl(raw) || strings.ContainsAny(raw, " \t") {
		return errors.New("must not have spaces or control characters")
	}
	if len(raw) > 2048 {
		return fmt.Errorf("must have at most 2048 bytes (got %d)", len(raw))
	}
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("is not a URL")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("must start with https:// or http:// (got scheme %q)", u.Scheme)
	case u.Hostname() == "":
		return errors.New("must name a host")
	case u.User != nil:
		return errors.New("must not have a user name or password; use webhook.headers or webhook.apikey")
	case u.Fragment != "":
		return errors.New("must not have a #fragment")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("has no valid port (got %q)", p)
		}
	}
	_, err = ASCIIHost(u.Hostname())
	return err
}

// ASCIIHost makes the host of a URL what resolvers and certificates know it by:
// an address in its usual form, or an ASCII name in lower case.
func ASCIIHost(host string) (string, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String(), nil
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r > 0x7e }) {
		var err error
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return "", errHost
		}
	}
	host = strings.ToLower(host)
	// The underscore is in no host name by the book, and in many inside.
	if len(host) > 254 || strings.ContainsFunc(host, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-._", r)
	}) {
		return "", errHost
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return "", errHost
		}
	}
	// "127.1", "0x7f000001": some resolvers and proxies read an address.
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return "", errNumericHost
	}
	return host, nil
}

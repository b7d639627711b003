package webhook

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/safedial"
)

// authority signs certificates in tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	a := &authority{cert, key, x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

func (a *authority) config(t *testing.T, until time.Duration, names ...string) *tls.Config {
	t.Helper()
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(until),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tpl.IPAddresses = append(tpl.IPAddresses, ip)
		} else {
			tpl.DNSNames = append(tpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: a.key}}, NextProtos: []string{"h2", "http/1.1"}}
}

func tlsServer(t *testing.T, conf *tls.Config, handle func(net.Conn, func() (request, bool))) string {
	t.Helper()
	return serveOn(t, tls.NewListener(listen(t), conf), handle)
}

func polite(c net.Conn, next func() (request, bool)) {
	for {
		if _, ok := next(); !ok {
			return
		}
		if _, err := io.WriteString(c, noContent); err != nil {
			return
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	old := ca.config(t, time.Hour, "127.0.0.1")
	old.MaxVersion = tls.VersionTLS11
	old.MinVersion = tls.VersionTLS10
	for name, c := range map[string]struct {
		conf  *tls.Config
		kind  deliver.Kind
		words string
	}{
		"good":         {ca.config(t, time.Hour, "127.0.0.1"), deliver.KindOK, ""},
		"expired":      {ca.config(t, -time.Hour, "127.0.0.1"), deliver.KindNetwork, "TLS: the certificate has expired"},
		"wrong host":   {ca.config(t, time.Hour, "other.example"), deliver.KindNetwork, "TLS: the certificate is for another host"},
		"unknown root": {other.config(t, time.Hour, "127.0.0.1"), deliver.KindNetwork, "TLS: the certificate is signed by an unknown authority"},
		"TLS 1.1":      {old, deliver.KindNetwork, "TLS: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			addr := tlsServer(t, c.conf, func(conn net.Conn, next func() (request, bool)) {
				polite(conn, func() (request, bool) {
					r, ok := next()
					if ok {
						requests.Add(1)
					}
					return r, ok
				})
			})
			s := newSender(t, Options{RootCAs: ca.pool})
			for range 2 {
				a := s.Send(background(), newOrg("https://"+addr), newDelivery(t), event.Affiliation{})
				if a.Kind != c.kind || !strings.HasPrefix(a.Words(), c.words) {
					t.Errorf("%s: %s", a.Kind, a.Words())
				}
			}
			if n := requests.Load(); c.kind != deliver.KindOK && n != 0 {
				t.Errorf("%d requests", n)
			}
		})
	}
	t.Run("plain server", func(t *testing.T) {
		t.Parallel()
		addr := rawServer(t, func(c net.Conn, _ func() (request, bool)) {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		})
		a := newSender(t, Options{}).Send(background(), newOrg("https://"+addr), newDelivery(t), event.Affiliation{})
		if a.Kind != deliver.KindNetwork || !strings.HasPrefix(a.Words(), "TLS: the server does not speak TLS") {
			t.Errorf("%s: %s", a.Kind, a.Words())
		}
	})
	t.Run("hangs in the handshake", func(t *testing.T) {
		t.Parallel()
		addr := rawServer(t, func(c net.Conn, _ func() (request, bool)) { hang(c) })
		begun := time.Now()
		a := newSender(t, Options{Timeout: short}).Send(background(), newOrg("https://"+addr), newDelivery(t), event.Affiliation{})
		if a.Kind != deliver.KindTimeout || !strings.Contains(a.Words(), "making the TLS handshake") || time.Since(begun) > short+slack {
			t.Errorf("%s: %s after %s", a.Kind, a.Words(), time.Since(begun))
		}
	})
}

// proxy is a forward proxy that notes what it was asked and serves everything
// itself, by upstream.
func proxy(t *testing.T, upstream string) (*url.URL, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var asked []string
	addr := rawServerRaw(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		mu.Lock()
		asked = append(asked, fmt.Sprintf("%s %s %s", req.Method, req.RequestURI, req.Header.Get("Proxy-Authorization")))
		mu.Unlock()
		if req.Method != http.MethodConnect {
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(c, "HTTP/1.1 204 x\r\nConnection: close\r\n\r\n")
			return
		}
		if upstream == "" {
			_, _ = io.WriteString(c, "HTTP/1.1 403 no\r\n\r\n")
			return
		}
		up, err := net.Dial("tcp", upstream)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(up, r); up.Close() })
		_, _ = io.Copy(c, up)
		c.Close()
		wg.Wait()
	})
	return &url.URL{Scheme: "http", Host: addr, User: url.UserPassword("u", "p w")}, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
}

func rawServerRaw(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	return rawServer(t, func(c net.Conn, _ func() (request, bool)) { handle(c) })
}

func TestProxy(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	target := tlsServer(t, ca.config(t, time.Hour, "uni-a.example"), polite)
	p, asked := proxy(t, target)
	s := newSender(t, Options{Proxy: p, RootCAs: ca.pool, Dialer: safedial.New(safedial.Options{})})
	d := newDelivery(t)
	for _, raw := range []string{"https://uni-a.example/x", "http://uni-a.example/x?y"} {
		if a := s.Send(background(), newOrg(raw), d, event.Affiliation{}); a.Kind != deliver.KindOK {
			t.Errorf("%s: %s", raw, a.Words())
		}
	}
	for _, host := range []string{"localhost", "a.localhost", "127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1"} {
		if a := s.Send(background(), newOrg("http://"+host+"/"), d, event.Affiliation{}); a.Kind != deliver.KindBlocked {
			t.Errorf("%s behind a proxy: %s %s", host, a.Kind, a.Words())
		}
	}
	got := strings.Join(asked(), "\n")
	want := "CONNECT uni-a.example:443 Basic dTpwIHc=\nPOST http://uni-a.example/x?y Basic dTpwIHc="
	if got != want {
		t.Errorf("the proxy was asked\n%s, want\n%s", got, want)
	}

	refusing, _ := proxy(t, "")
	a := newSender(t, Options{Proxy: refusing}).Send(background(), newOrg("https://uni-a.example/"), d, event.Affiliation{})
	if a.Kind != deliver.KindNetwork || !strings.Contains(a.Words(), "the proxy answered 403") || strings.Contains(a.Words(), refusing.Host) {
		t.Errorf("%s: %s", a.Kind, a.Words())
	}
}

// TestEnvironmentProxyIsIgnored is not parallel: it changes the environment.
func TestEnvironmentProxyIsIgnored(t *testing.T) {
	addr, seen := answering(t, noContent)
	p, asked := proxy(t, "")
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"} {
		t.Setenv(name, p.String())
	}
	newSender(t, Options{}).Send(background(), newOrg("http://"+addr), newDelivery(t), event.Affiliation{})
	received(t, seen)
	if len(asked()) != 0 {
		t.Error("the proxy of the environment was used")
	}
}

package selfsigned

import (
	"crypto/x509"
	"encoding/pem"
	"testing"
)

func TestNewIsValidForItsHosts(t *testing.T) {
	t.Parallel()
	c, err := New("hub.example", "127.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(c.PEM)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hub.example", "127.0.0.2"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: c.Pool, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: c.Pool, DNSName: "localhost"}); err == nil {
		t.Error("it is valid for localhost too")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: "hub.example"}); err == nil {
		t.Error("the system trusts it")
	}
}

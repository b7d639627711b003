package email

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/sim/selfsigned"
)

// tlsServer starts a mail server that is not ours (Debian's python3-aiosmtpd),
// with a certificate of its own making and a login.
func tlsServer(t *testing.T) (starttls, implicit int, dir string, roots *x509.CertPool) {
	t.Helper()
	python := "/usr/bin/python3" // whose packages are Debian's
	if err := exec.Command(python, "-c", "import aiosmtpd").Run(); err != nil {
		const words = "the mail server aiosmtpd is missing: apt-get install python3-aiosmtpd (make deps does)"
		if os.Getenv("CI") == "" {
			t.Skip(words)
		}
		t.Fatal(words)
	}
	dir = t.TempDir()
	cert, err := selfsigned.New("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.TLS.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	files := []string{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	for i, raw := range [][]byte{cert.PEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(files[i], raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(python, "testdata/server.py", dir, files[0], files[1])
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, scanned := fmt.Fscan(out, &starttls, &implicit)
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("the mail server: %v\n%s", err, said.String())
		}
	})
	if scanned != nil {
		t.Fatalf("the mail server does not start: %v", scanned)
	}
	return starttls, implicit, dir, cert.Pool
}

// TestARealMailServerWithTLS: STARTTLS and implicit TLS with a login, at a
// server that we did not write; nothing is told to one that cannot be trusted.
func TestARealMailServerWithTLS(t *testing.T) {
	t.Parallel()
	starttls, implicit, dir, roots := tlsServer(t)
	arrived := func() int {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "*.mail"))
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	with := func(tls string, port int, change func(*Options)) *Sender {
		return realSender(t, port, func(o *Options) {
			o.TLS, o.RootCAs, o.Username, o.Password = tls, roots, "hub", "hunter2"
			if change != nil {
				change(o)
			}
		})
	}
	want := 0
	for tls, port := range map[string]int{"starttls": starttls, "tls": implicit} {
		good := with(tls, port, nil)
		for range 2 { // the second over the same connection
			if a := send(t, good); a.Kind != deliver.KindOK {
				t.Fatalf("%s: %+v %s", tls, a, a.Words())
			}
			want++
		}
		if got := arrived(); got != want {
			t.Errorf("%s: %d mails arrived, want %d", tls, got, want)
		}
		for name, c := range map[string]struct {
			change func(*Options)
			words  string
		}{
			"a certificate of nobody we know": {func(o *Options) { o.RootCAs = x509.NewCertPool() }, "its certificate is not valid"},
			"a certificate of another name":   {func(o *Options) { o.Host = "localhost" }, "its certificate is not valid"},
			"a wrong password":                {func(o *Options) { o.Password = "wrong-secret" }, "does not let the daemon in (535)"},
			"no login":                        {func(o *Options) { o.Username, o.Password = "", "" }, "does not let the daemon in (530)"},
		} {
			a := send(t, with(tls, port, c.change))
			said := a.Words() + a.Excerpt
			if a.Kind == deliver.KindOK || !strings.Contains(said, c.words) || strings.Contains(said, "wrong-secret") || strings.Contains(said, "hunter2") {
				t.Errorf("%s with %s: %+v %s", tls, name, a, a.Words())
			}
		}
	}
	// The wrong way of TLS fails, and does not hang.
	for tls, port := range map[string]int{"tls": starttls, "starttls": implicit, "none": starttls} {
		if a := send(t, with(tls, port, func(o *Options) { o.Timeout = 3 * time.Second })); a.Kind == deliver.KindOK {
			t.Errorf("%s at the other port: %+v", tls, a)
		}
	}
	if got := arrived(); got != want {
		t.Errorf("%d mails arrived, want %d", got, want)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "1.mail"))
	if err != nil {
		t.Fatal(err)
	}
	if envelope, _, _ := strings.Cut(string(raw), "\n"); !strings.HasPrefix(envelope, "TLSv1.3 no-reply@hub.example library@uni-a.example") {
		t.Errorf("envelope %q", envelope)
	}
}

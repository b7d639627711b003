package email

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
)

func TestAnswers(t *testing.T) {
	t.Parallel()
	const to, cc = "library@uni-a.example", "it@uni-a.example"
	for name, c := range map[string]struct {
		b       behaviour
		kind    deliver.Kind
		status  int
		words   string
		excerpt string
		taken   int
	}{
		"taken":           {behaviour{}, deliver.KindOK, 250, "", "", 1},
		"unknown address": {behaviour{rcpt: map[string]error{to: smtpErr(550, "no such user")}}, deliver.KindRefused, 550, "the mail server refused the message (550)", "no such user", 0},
		"full mailbox":    {behaviour{rcpt: map[string]error{to: smtpErr(452, "mailbox full")}}, deliver.KindDeferred, 452, "the mail server put the message off (452)", "mailbox full", 0},
		"greylisted":      {behaviour{data: smtpErr(451, "try again\x1b[31m later")}, deliver.KindDeferred, 451, "put the message off (451)", `try again\x1b[31m later`, 0},
		"spam":            {behaviour{data: smtpErr(554, "looks like spam")}, deliver.KindRefused, 554, "refused the message (554)", "looks like spam", 0},
		"sender refused":  {behaviour{mail: smtpErr(553, "sender not allowed")}, deliver.KindDeferred, 553, "refuses the sender's address (smtp.from) (553)", "sender not allowed", 0},
		"sender put off":  {behaviour{mail: smtpErr(421, "busy")}, deliver.KindDeferred, 421, "put the message off (421)", "busy", 0},
		"wants a login":   {behaviour{mail: smtpErr(530, "authenticate first")}, deliver.KindDeferred, 530, "does not let the daemon in (530)", "authenticate first", 0},
		"not for us":      {behaviour{session: smtpErr(554, "go away")}, deliver.KindDeferred, 554, "does not let the daemon in (554)", "go away", 0},
		"copy refused":    {behaviour{rcpt: map[string]error{cc: smtpErr(550, "left")}}, deliver.KindOK, 250, "", "", 1},
		"copy put off":    {behaviour{rcpt: map[string]error{cc: smtpErr(450, "later")}}, deliver.KindDeferred, 450, "put the message off (450)", "later", 0},
		"both refused":    {behaviour{rcpt: map[string]error{to: smtpErr(550, "x"), cc: smtpErr(550, "y")}}, deliver.KindRefused, 550, "refused", "x", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			be, o := serve(t, c.b, nil)
			a := newSender(t, o).Send(context.Background(), newOrg(), newDelivery(t), event.Affiliation{})
			if a.Kind != c.kind || a.Status != c.status || !strings.Contains(a.Words(), c.words) || (c.words == "") != (a.Words() == "") {
				t.Errorf("%s %d %q, want %s %d %q", a.Kind, a.Status, a.Words(), c.kind, c.status, c.words)
			}
			if !strings.Contains(a.Excerpt, c.excerpt) || strings.Contains(a.Excerpt, "affected") {
				t.Errorf("excerpt %q, want %q in it", a.Excerpt, c.excerpt)
			}
			be.mu.Lock()
			defer be.mu.Unlock()
			if len(be.messages) != c.taken {
				t.Errorf("%d messages taken", len(be.messages))
			}
		})
	}
}

func TestSignsIn(t *testing.T) {
	t.Parallel()
	be, o := serve(t, behaviour{auth: true}, nil)
	o.Username, o.Password = "hub", "hunter2"
	if a := newSender(t, o).Send(context.Background(), newOrg(), newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindOK {
		t.Errorf("%+v", a)
	}
	if len(be.users) != 1 || be.users[0] != "hub" {
		t.Errorf("signed in: %v", be.users)
	}
	o.Password = "wrong-secret"
	a := newSender(t, o).Send(context.Background(), newOrg(), newDelivery(t), event.Affiliation{})
	if a.Kind != deliver.KindDeferred || a.Status != 535 || strings.Contains(a.Words()+a.Excerpt, "wrong-secret") {
		t.Errorf("%s %d %q %q", a.Kind, a.Status, a.Words(), a.Excerpt)
	}
	_, plain := serve(t, behaviour{}, nil)
	plain.Username, plain.Password = "hub", "hunter2"
	if a := newSender(t, plain).Send(context.Background(), newOrg(), newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindNetwork || !strings.Contains(a.Words(), "sign in") {
		t.Errorf("%s %q", a.Kind, a.Words())
	}
}

// certificate makes a self-signed one for this machine.
func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

func TestTLS(t *testing.T) {
	t.Parallel()
	conf, pool := certificate(t)
	for _, mode := range []string{"starttls", "tls"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			be := &server{behaviour: behaviour{auth: true}}
			srv := smtp.NewServer(be)
			srv.Domain, srv.ErrorLog, srv.TLSConfig = "mail.example", discard{}, conf
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			port := ln.Addr().(*net.TCPAddr).Port
			if mode == "tls" {
				ln = tls.NewListener(ln, conf)
			}
			done := make(chan error, 1)
			go func() { done <- srv.Serve(ln) }()
			t.Cleanup(func() { srv.Close(); ln.Close(); <-done })
			o := Options{
				Host: "127.0.0.1", Port: port, TLS: mode, From: "a@hub.example", UserAgent: "x", Username: "hub", Password: "hunter2",
				RootCAs: pool, Timeout: 10 * time.Second, Helo: "hub.example",
			}
			if a := newSender(t, o).Send(context.Background(), newOrg(), newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindOK {
				t.Errorf("%s: %s", a.Kind, a.Words())
			}
			o.RootCAs = x509.NewCertPool()
			if a := newSender(t, o).Send(context.Background(), newOrg(), newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindNetwork || !strings.Contains(a.Words(), "certificate is not valid") {
				t.Errorf("unknown authority: %s %q", a.Kind, a.Words())
			}
			if len(be.users) != 1 {
				t.Errorf("signed in %v", be.users)
			}
		})
	}
	t.Run("STARTTLS is required", func(t *testing.T) {
		t.Parallel()
		be, o := serve(t, behaviour{auth: true}, nil)
		o.TLS, o.Username, o.Password = "starttls", "hub", "hunter2"
		if a := newSender(t, o).Send(context.Background(), newOrg(), newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindNetwork || !strings.Contains(a.Words(), "STARTTLS") {
			t.Errorf("%s %q", a.Kind, a.Words())
		}
		if len(be.users) != 0 || len(be.messages) != 0 {
			t.Error("something went out in the clear")
		}
	})
}

// raw runs a server that only does what talk says.
func raw(t *testing.T, talk func(net.Conn)) Options {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); talk(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return Options{
		Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port, TLS: "none", From: "a@hub.example", UserAgent: "x", Helo: "hub.example", Timeout: short,
	}
}

func TestMisbehaviour(t *testing.T) {
	t.Parallel()
	drip := func(c net.Conn) {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := io.WriteString(c, "220-x\r\n"); err != nil {
				return
			}
			<-tick.C
		}
	}
	for name, c := range map[string]struct {
		talk func(net.Conn)
		kind deliver.Kind
	}{
		"says nothing":    {func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, deliver.KindTimeout},
		"never ends":      {drip, deliver.KindTimeout},
		"hangs up":        {func(net.Conn) {}, deliver.KindNetwork},
		"no SMTP":         {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, deliver.KindNetwork},
		"turns away":      {func(c net.Conn) { _, _ = io.WriteString(c, "421 busy\r\n") }, deliver.KindDeferred},
		"greets and goes": {func(c net.Conn) { _, _ = io.WriteString(c, "220 hello\r\n") }, deliver.KindNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := raw(t, c.talk)
			if c.kind != deliver.KindTimeout {
				o.Timeout = time.Minute
			}
			begun := time.Now()
			a := newSender(t, o).Send(context.Background(), newOrg(), newDelivery(t), event.Affiliation{})
			if a.Kind != c.kind || a.Err == nil {
				t.Errorf("%s %q, want %s", a.Kind, a.Words(), c.kind)
			}
			if took := time.Since(begun); took > short+20*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
	t.Run("hangs in DATA", func(t *testing.T) {
		t.Parallel()
		_, o := serve(t, behaviour{hang: true}, nil)
		o.Timeout = short
		if a := newSender(t, o).Send(context.Background(), newOrg(), newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindTimeout {
			t.Errorf("%s %q", a.Kind, a.Words())
		}
	})
	t.Run("refuses", func(t *testing.T) {
		t.Parallel()
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		o := Options{Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port, TLS: "none", From: "a@hub.example", UserAgent: "x"}
		if a := newSender(t, o).Send(context.Background(), newOrg(), newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindNetwork || a.Words() != "mail server: connection refused" {
			t.Errorf("%s %q", a.Kind, a.Words())
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(context.Background())
		o := raw(t, func(c net.Conn) { cancel(); _, _ = io.Copy(io.Discard, c) })
		o.Timeout = time.Minute
		begun := time.Now()
		if a := newSender(t, o).Send(ctx, newOrg(), newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindCancelled || time.Since(begun) > 20*time.Second {
			t.Errorf("%s %q after %s", a.Kind, a.Words(), time.Since(begun))
		}
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := Options{Host: "h", From: "a@b.example", UserAgent: "x"}
	for name, change := range map[string]func(*Options){
		"no host":  func(o *Options) { o.Host = "" },
		"bad tls":  func(o *Options) { o.TLS = "ssl" },
		"bad from": func(o *Options) { o.From = "nobody" },
		"no from":  func(o *Options) { o.From = "" },
		"bad port": func(o *Options) { o.Port = 70000 },
		"no agent": func(o *Options) { o.UserAgent = "" },
		"lines":    func(o *Options) { o.UserAgent = "a\r\nb" },
		"below 0":  func(o *Options) { o.Timeout = -1 },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for mode, port := range map[string]int{"": 587, "starttls": 587, "tls": 465, "none": 25} {
		o := good
		o.TLS = mode
		if s := newSender(t, o); s.o.Port != port {
			t.Errorf("%q: port %d", mode, s.o.Port)
		}
	}
}

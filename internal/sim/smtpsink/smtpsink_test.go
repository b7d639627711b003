package smtpsink

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	gomail "github.com/wneessen/go-mail"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func setup(t *testing.T, o Options) *Sink {
	t.Helper()
	t.Parallel()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// dial opens a connection as the sink's TLS has it.
func dial(t *testing.T, s *Sink) *smtp.Client {
	t.Helper()
	var c *smtp.Client
	var err error
	switch s.opts.TLS {
	case StartTLS:
		c, err = smtp.DialStartTLS(s.Addr(), &tls.Config{RootCAs: s.Certificate().Pool, ServerName: "127.0.0.1"})
	case Implicit:
		c, err = smtp.DialTLS(s.Addr(), &tls.Config{RootCAs: s.Certificate().Pool, ServerName: "127.0.0.1"})
	default:
		c, err = smtp.Dial(s.Addr())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

const text = "Subject: news\r\n\r\nhello\r\n"

func send(c *smtp.Client, to ...string) error {
	return c.SendMail("from@x.example", to, strings.NewReader(text))
}

// code returns the SMTP status of an error; 0 when it has none.
func code(err error) int {
	var e *smtp.SMTPError
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestTakesMail(t *testing.T) {
	for _, how := range []TLS{NoTLS, StartTLS, Implicit} {
		t.Run("tls="+string(how), func(t *testing.T) {
			hook := make(chan Mail, 2)
			s := setup(t, Options{TLS: how, Keep: 1, OnMail: func(m Mail) { hook <- m }})
			c := dial(t, s)
			for range 2 {
				if err := send(c, "a@x.example", "b@x.example"); err != nil {
					t.Fatal(err)
				}
				<-hook
			}
			if err := s.Wait(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
			got := s.Mails()
			if len(got) != 1 || s.Count() != 2 || s.Sessions() > 2 {
				t.Fatalf("kept %d of %d in %d sessions", len(got), s.Count(), s.Sessions())
			}
			m := got[0]
			msg, err := m.Message()
			if err != nil || msg.Header.Get("Subject") != "news" || m.From != "from@x.example" || strings.Join(m.To, " ") != "a@x.example b@x.example" || m.TLS != (how != NoTLS) {
				t.Errorf("kept %+v, %v", m, err)
			}
			s.Forget()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.Wait(ctx, 1); !errors.Is(err, context.Canceled) {
				t.Errorf("Wait = %v", err)
			}
		})
	}
}

func TestRequiresEncryption(t *testing.T) {
	s := setup(t, Options{TLS: StartTLS})
	c, err := smtp.Dial(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := send(c, "a@x.example"); code(err) != 530 || s.Count() != 0 {
		t.Errorf("in the clear: %v", err)
	}
}

func TestOptionalEncryption(t *testing.T) {
	s := setup(t, Options{TLS: StartTLS, OptionalTLS: true})
	c, err := smtp.Dial(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := send(c, "a@x.example"); err != nil {
		t.Error(err)
	}
}

func TestRequiresLogin(t *testing.T) {
	s := setup(t, Options{TLS: StartTLS, Username: "u", Password: "p"})
	c := dial(t, s)
	if err := send(c, "a@x.example"); code(err) != 530 {
		t.Errorf("without login: %v", err)
	}
	if err := c.Auth(sasl.NewPlainClient("", "u", "wrong")); code(err) != 535 {
		t.Errorf("wrong password: %v", err)
	}
	if err := c.Auth(sasl.NewPlainClient("", "u", "p")); err != nil {
		t.Fatal(err)
	}
	if err := send(c, "a@x.example"); err != nil || s.Mails()[0].User != "u" {
		t.Errorf("after login: %v", err)
	}
	login := dial(t, s)
	if err := login.Auth(sasl.NewLoginClient("u", "wrong")); code(err) != 535 {
		t.Errorf("LOGIN with a wrong password: %v", err)
	}
	if err := login.Auth(sasl.NewLoginClient("u", "p")); err != nil {
		t.Errorf("LOGIN: %v", err)
	}
	open := dial(t, setup2(t))
	if err := open.Auth(sasl.NewPlainClient("", "u", "p")); err == nil {
		t.Error("a sink without user names offered AUTH")
	}
}

func setup2(t *testing.T) *Sink {
	t.Helper()
	s, err := Start(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// The daemon's own mail library gets along with it.
func TestGoMailSends(t *testing.T) {
	s := setup(t, Options{TLS: StartTLS, Username: "u", Password: "p"})
	c, err := gomail.NewClient("127.0.0.1", gomail.WithPort(s.Port()), gomail.WithTLSPolicy(gomail.TLSMandatory),
		gomail.WithTLSConfig(&tls.Config{RootCAs: s.Certificate().Pool, ServerName: "127.0.0.1"}),
		gomail.WithSMTPAuth(gomail.SMTPAuthPlain), gomail.WithUsername("u"), gomail.WithPassword("p"))
	if err != nil {
		t.Fatal(err)
	}
	m := gomail.NewMsg()
	if err := errors.Join(m.From("from@x.example"), m.To("to@x.example")); err != nil {
		t.Fatal(err)
	}
	m.Subject("ping")
	m.SetBodyString(gomail.TypeTextPlain, "body")
	if err := c.DialAndSendWithContext(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got := s.Mails(); len(got) != 1 || got[0].User != "u" || !got[0].TLS {
		t.Errorf("kept %+v", got)
	}
}

func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		r    Refusal
		code int
	}{
		"hello":         {Refusal{Stage: AtHello, Code: 421}, 421},
		"from":          {Refusal{Stage: AtFrom, Code: 452}, 452},
		"to":            {Refusal{Stage: AtTo, Code: 550, Text: "no such user"}, 550},
		"this one":      {Refusal{Stage: AtTo, Code: 550, Recipient: "a@x.example"}, 550},
		"another":       {Refusal{Stage: AtTo, Code: 550, Recipient: "z@x.example"}, 250},
		"data":          {Refusal{Stage: AtData, Code: 451}, 451},
		"only slow":     {Refusal{Stage: AtData, Code: 250, Delay: time.Millisecond}, 250},
		"cut":           {Refusal{Stage: AtData}, 0},
		"another stage": {Refusal{Stage: AtAuth, Code: 535}, 250},
	} {
		t.Run(name, func(t *testing.T) {
			s := setup(t, Options{})
			c.r.Count = 1
			s.Refuse(c.r)
			err := send(dial(t, s), "a@x.example")
			if got := code(err); c.code == 250 && err != nil || c.code != 250 && (err == nil || got != c.code) {
				t.Fatalf("answered %d (%v), want %d", got, err, c.code)
			}
			if c.r.Text != "" && !strings.Contains(err.Error(), c.r.Text) {
				t.Errorf("the text is %v", err)
			}
			s.Accept()
			if err := send(dial(t, s), "a@x.example"); err != nil {
				t.Errorf("the next mail: %v", err)
			}
		})
	}
}

func TestARefusalWithoutCountStays(t *testing.T) {
	s := setup(t, Options{})
	s.Refuse(Refusal{Stage: AtTo, Code: 450})
	for range 3 {
		if err := send(dial(t, s), "a@x.example"); code(err) != 450 {
			t.Fatalf("answered %v", err)
		}
	}
	s.Accept()
	if err := send(dial(t, s), "a@x.example"); err != nil {
		t.Error(err)
	}
}

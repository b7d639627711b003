package smtpsink

import (
	"crypto/subtle"
	"fmt"
	"io"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// session is one connection's dialogue.
type session struct {
	s    *Sink
	conn *smtp.Conn
	user string
	mail Mail
}

// AuthMechanisms implements smtp.AuthSession.
func (x *session) AuthMechanisms() []string {
	if x.s.opts.Username == "" {
		return nil
	}
	return []string{sasl.Plain, sasl.Login}
}

// Auth implements smtp.AuthSession.
func (x *session) Auth(mech string) (sasl.Server, error) {
	if x.s.opts.Username == "" {
		return nil, smtp.ErrAuthUnsupported
	}
	switch mech {
	case sasl.Plain:
		return sasl.NewPlainServer(func(_, user, password string) error { return x.login(user, password) }), nil
	case sasl.Login:
		return &loginServer{login: x.login}, nil
	}
	return nil, smtp.ErrAuthUnknownMechanism
}

func (x *session) login(user, password string) error {
	if err := x.s.check(AtAuth, "", x.conn); err != nil {
		return err
	}
	right := subtle.ConstantTimeCompare([]byte(password), []byte(x.s.opts.Password.Reveal())) == 1
	if user != x.s.opts.Username || !right {
		return smtp.ErrAuthFailed
	}
	x.user = user
	return nil
}

// Mail implements smtp.Session.
func (x *session) Mail(from string, _ *smtp.MailOptions) error {
	_, secure := x.conn.TLSConnectionState()
	switch {
	case x.s.opts.TLS != NoTLS && !x.s.opts.OptionalTLS && !secure:
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Must issue a STARTTLS command first"}
	case x.s.opts.Username != "" && x.user == "":
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
	}
	if err := x.s.check(AtFrom, "", x.conn); err != nil {
		return err
	}
	x.mail = Mail{From: from, TLS: secure, User: x.user}
	return nil
}

// Rcpt implements smtp.Session.
func (x *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := x.s.check(AtTo, to, x.conn); err != nil {
		return err
	}
	x.mail.To = append(x.mail.To, to)
	return nil
}

// Data implements smtp.Session.
func (x *session) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read the mail: %w", err)
	}
	if err := x.s.check(AtData, "", x.conn); err != nil {
		return err
	}
	m := x.mail
	m.At, m.Data = time.Now(), data
	x.s.take(m)
	return nil
}

// Reset implements smtp.Session.
func (x *session) Reset() { x.mail = Mail{} }

// Logout implements smtp.Session.
func (x *session) Logout() error { return nil }

// loginServer is the server's side of AUTH LOGIN, which go-sasl lacks: many
// mail clients still use it.
type loginServer struct {
	login func(user, password string) error
	step  int
	user  string
}

// Next implements sasl.Server.
func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	// Some clients send the user name with the command itself.
	if l.step == 0 && response == nil {
		l.step = 1
		return []byte("Username:"), false, nil
	}
	switch l.step {
	case 0, 1:
		l.user, l.step = string(response), 2
		return []byte("Password:"), false, nil
	case 2:
		l.step = 3
		return nil, true, l.login(l.user, string(response))
	}
	return nil, false, sasl.ErrUnexpectedClientResponse
}

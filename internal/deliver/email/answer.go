package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"strings"
	"syscall"
	"time"

	"dispatchd/internal/deliver"

	gomail "github.com/wneessen/go-mail"
)

// settingsError says that the message cannot even be tried.
type settingsError struct{ error }

func (e *settingsError) Unwrap() error { return e.error }

// sessionError says that the mail server was not ready for a message: it could
// not be reached, greeted, or signed in at.
type sessionError struct{ error }

func (e *sessionError) Unwrap() error { return e.error }

// dialError says that there was no connection.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// answered reports whether the server itself refused and may be talked to again
// after a RSET; 421 says that it closes the connection.
func answered(err error) bool {
	var send *gomail.SendError
	if !errors.As(err, &send) {
		return false
	}
	if send.Reason == gomail.ErrSMTPReset {
		return false // not every server knows RSET; some hang up
	}
	code := send.ErrorCode()
	return code >= 400 && code < 600 && code != 421
}

func isRecipientRefusal(err error) bool {
	var se *gomail.SendError
	return errors.As(err, &se) && se.Reason == gomail.ErrSMTPRcptTo && se.ErrorCode() >= 500
}

// answer makes of an error what the decision needs; ctx is the attempt's, with
// its deadline.
func (s *Sender) answer(ctx context.Context, err error) deliver.Answer {
	if err == nil {
		return deliver.Answer{Kind: deliver.KindOK, Status: 250}
	}
	var settings *settingsError
	var session *sessionError
	var send *gomail.SendError
	secrets := []string{}
	if s.o.Password.IsSet() {
		secrets = append(secrets, s.o.Password.Reveal())
	}
	code, text := 0, ""
	if errors.As(err, &send) {
		code, text = send.ErrorCode(), serverText(send.Error())
	}
	var reply *textproto.Error
	if errors.As(err, &reply) {
		code, text = reply.Code, fmt.Sprintf("%d %s", reply.Code, reply.Msg)
	}
	text = deliver.SanitiseText(text, secrets)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return deliver.Failure(deliver.KindCancelled, "cancelled: the daemon is stopping")
	case errors.As(err, &settings):
		return deliver.Failure(deliver.KindSettings, deliver.SanitiseText(settings.Error(), secrets))
	case code >= 500 && (errors.As(err, &session) || isSignIn(code)):
		// The server refuses us, not this message: an operator can mend that.
		return said(deliver.KindDeferred, code, "the mail server does not let the daemon in", text)
	case code >= 500 && send != nil && send.Reason == gomail.ErrSMTPMailFrom:
		// smtp.from is wrong, or the server thinks so: no fault of this message.
		return said(deliver.KindDeferred, code, "the mail server refuses the sender's address (smtp.from)", text)
	case code >= 500:
		return said(deliver.KindRefused, code, "the mail server refused the message", text)
	case code >= 400:
		return said(deliver.KindDeferred, code, "the mail server put the message off", text)
	case isTimeout(err) || ctx.Err() != nil:
		return deliver.Failure(deliver.KindTimeout, s.timeoutWords(err))
	}
	return deliver.Failure(deliver.KindNetwork, "mail server: "+networkWords(err))
}

func said(kind deliver.Kind, code int, words, text string) deliver.Answer {
	a := deliver.Failure(kind, fmt.Sprintf("%s (%d)", words, code))
	a.Status, a.Excerpt = code, text
	return a
}

// isSignIn tells the codes that ask for (another) authentication (RFC 4954).
func isSignIn(code int) bool {
	return code == 530 || code == 534 || code == 535 || code == 538
}

// serverText is what the server said, out of what go-mail makes of it.
func serverText(s string) string {
	s, _, _ = strings.Cut(s, ", affected ")
	if _, after, found := strings.Cut(s, ": "); found {
		return after
	}
	return s
}

func isTimeout(err error) bool {
	var t net.Error
	// go-mail flattens the errors of a send into text.
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &t) && t.Timeout() || strings.Contains(err.Error(), "i/o timeout")
}

// timeoutWords says which limit was reached, and in what.
func (s *Sender) timeoutWords(err error) string {
	var dial *dialError
	var session *sessionError
	switch {
	case errors.As(err, &dial):
		return fmt.Sprintf("timed out connecting to the mail server (limit %s)", min(s.o.ConnectTimeout, s.o.Timeout).Round(time.Millisecond))
	case errors.As(err, &session):
		return fmt.Sprintf("timed out while the mail server greeted and signed us in (limit %s)", s.o.Timeout.Round(time.Millisecond))
	}
	return fmt.Sprintf("timed out handing the mail to the mail server (limit %s)", s.o.Timeout.Round(time.Millisecond))
}

func networkWords(err error) string {
	var dns *net.DNSError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dns):
		return "its host name cannot be looked up"
	case errors.As(err, &verify):
		return "TLS: its certificate is not valid"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case strings.Contains(err.Error(), "STARTTLS"):
		return "it does not offer STARTTLS (smtp.tls)"
	case strings.Contains(err.Error(), "AUTH"):
		return "it offers no way to sign in that the daemon knows"
	}
	return "the connection broke"
}

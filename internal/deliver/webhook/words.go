package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/safedial"

	"github.com/valyala/fasthttp"
)

var (
	errInvalid    = errors.New("the answer is not valid HTTP/1.1")
	errHeaders    = fmt.Errorf("the headers of the answer are longer than %d KiB", headerBytes>>10)
	errInterim    = errors.New("too many 1xx answers before the final one")
	errIncomplete = errors.New("the connection was closed in the middle of the answer's headers")
)

// answerError replaces the parser's errors: they quote what the receiver sent.
func answerError(err error) error {
	var small *fasthttp.ErrSmallBuffer
	switch {
	case isTimeout(err):
		return &phaseError{"reading the answer", err}
	case errors.As(err, &small):
		return errHeaders
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return errIncomplete
	}
	return errInvalid
}

// failed makes the answer of an attempt without a status, in our own words:
// errors of the resolver or the kernel name machines that are nobody's business.
func (x *exchange) failed(ctx context.Context, err error) deliver.Answer {
	if errors.Is(ctx.Err(), context.Canceled) || errors.Is(err, errClosed) {
		return deliver.Failure(deliver.KindCancelled, "cancelled: the daemon is stopping")
	}
	phase := ""
	var pe *phaseError
	if errors.As(err, &pe) {
		phase = " while " + pe.phase
	}
	var wait *waitError
	if errors.As(err, &wait) {
		return deliver.Failure(deliver.KindTimeout, "timed out waiting for a free connection to the receiver")
	}
	var blocked *safedial.BlockedError
	if errors.As(err, &blocked) {
		return deliver.Failure(deliver.KindBlocked, "blocked: "+blocked.Error())
	}
	if isTimeout(err) {
		return deliver.Failure(deliver.KindTimeout, fmt.Sprintf("timed out%s (limit %s)", phase, x.s.timeout.Round(time.Millisecond)))
	}
	return deliver.Failure(deliver.KindNetwork, networkWords(err)+phase)
}

func networkWords(err error) string {
	var (
		dns      *net.DNSError
		hostname x509.HostnameError
		unknown  x509.UnknownAuthorityError
		invalid  x509.CertificateInvalidError
		noTLS    tls.RecordHeaderError
		pe       *phaseError
		verify   *tls.CertificateVerificationError
		proxy    *proxyError
		errno    syscall.Errno
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("the host name %q is not known", clip(dns.Name))
	case errors.As(err, &dns):
		return fmt.Sprintf("the host name %q cannot be looked up", clip(dns.Name))
	case errors.As(err, &hostname):
		return "TLS: the certificate is for another host"
	case errors.As(err, &unknown):
		return "TLS: the certificate is signed by an unknown authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "TLS: the certificate has expired or is not yet valid"
	case errors.As(err, &invalid), errors.As(err, &verify):
		return "TLS: the certificate is not valid"
	case errors.As(err, &noTLS):
		return "TLS: the server does not speak TLS on this port"
	case errors.As(err, &proxy):
		return proxy.Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset by the receiver"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed by the receiver"
	case errors.Is(err, errInvalid), errors.Is(err, errHeaders), errors.Is(err, errInterim), errors.Is(err, errIncomplete):
		return err.Error() // ours, never wrapped
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &pe) && pe.phase == handshaking:
		return "TLS: no agreement" // versions, ciphers: the details quote the other side
	}
	return "no connection"
}

func clip(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

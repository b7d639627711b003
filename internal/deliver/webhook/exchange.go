package webhook

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/org"

	"github.com/valyala/fasthttp"
)

const (
	headerBytes  = 16 << 10 // of an answer's headers, more is refused
	maxInterim   = 32       // headers read: 1xx answers and the final one
	bodyBytes    = 64 << 10 // of an answer's body that are read
	excerptBytes = 4 << 10  // of an answer's body that the excerpt is made of
)

// buffers are what an attempt needs, kept for the next.
type buffers struct {
	head    []byte
	body    []byte
	scratch []byte // first excerptBytes: the body's beginning; then: read and dropped
	reader  *bufio.Reader
}

func newBuffers() *buffers {
	return &buffers{
		head:    make([]byte, 0, 1024),
		body:    make([]byte, 0, 512),
		scratch: make([]byte, 2*excerptBytes),
		reader:  bufio.NewReaderSize(nil, headerBytes),
	}
}

// exchange is one attempt's use of the network.
type exchange struct {
	s        *Sender
	org      *org.Organisation
	target   target
	buf      *buffers
	deadline time.Time // also ends the reading of the body
	always   bool      // make an excerpt of a success too
}

func (x *exchange) run(ctx context.Context) deliver.Answer {
	dial := func(ctx context.Context) (net.Conn, error) { return x.s.dial.to(ctx, x.target) }
	key := hostKey{x.org.ID, x.target.addr, x.target.tls}
	for fresh := false; ; fresh = true {
		c, err := x.s.conns.get(ctx, x.deadline, key, fresh, dial)
		if err != nil {
			return x.failed(ctx, err)
		}
		// The deadline is set on the connection itself; what has to be watched
		// is a caller who gives up earlier.
		_ = c.SetDeadline(x.deadline)
		stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(longAgo) })
		a, keep, err := x.use(c)
		keep = stop() && keep
		x.s.conns.put(c, keep)
		if err == nil {
			return a
		}
		// A kept connection that was closed before a byte of the answer came:
		// most likely the receiver's idle limit. The same webhook-id tells a
		// receiver that did read the first POST.
		var silent *silentError
		if c.reused && !fresh && errors.As(err, &silent) && !isTimeout(err) {
			continue
		}
		return x.failed(ctx, err)
	}
}

// silentError says that the connection broke before the answer began.
type silentError struct{ error }

func (e *silentError) Unwrap() error { return e.error }

// use sends the request and reads the answer. keep says that the connection
// stands where the next answer will begin.
func (x *exchange) use(c *conn) (a deliver.Answer, keep bool, err error) {
	if _, err := c.Write(x.buf.head); err != nil {
		return a, false, &silentError{&phaseError{"sending the request", err}}
	}
	r := x.buf.reader
	r.Reset(c)
	defer r.Reset(nil)
	if _, err := r.Peek(1); err != nil {
		return a, false, &silentError{&phaseError{"waiting for the answer", err}}
	}
	resp := fasthttp.AcquireResponse()
	defer fasthttp.ReleaseResponse(resp)
	resp.StreamBody = true // or it would all be read into memory
	if a.Status, err = readHeaders(r, resp); err != nil {
		return a, false, err
	}
	framed := resp.Header.ContentLength() != -2 // else the body ends with the connection
	if resp.BodyStream() == nil {
		framed = resp.Header.ContentLength() <= 0 // what cannot have a body and announces one
	}
	seen, whole, slow := x.readBody(resp)
	a.SlowBody = slow
	a.Kind = deliver.KindHTTP
	if a.Status >= 200 && a.Status < 300 {
		a.Kind = deliver.KindOK
	}
	if a.Kind != deliver.KindOK || x.always {
		x.explain(&a, resp, seen, whole)
	}
	keep = whole && framed && !resp.ConnectionClose() &&
		a.Status != fasthttp.StatusSwitchingProtocols && r.Buffered() == 0
	return a, keep, nil
}

// readHeaders reads up to the body of the final answer, which is left as a
// stream. It looks at the status line itself: fasthttp reads a status of 000
// as 200.
func readHeaders(r *bufio.Reader, resp *fasthttp.Response) (status int, err error) {
	for range maxInterim {
		line, err := r.Peek(len("HTTP/1.1 200"))
		if err != nil && !isTimeout(err) && !strings.HasPrefix("HTTP/1.", string(line[:min(len(line), 7)])) {
			return 0, errInvalid
		}
		if err != nil {
			return 0, answerError(err)
		}
		if status = statusOf(line); status == 0 {
			return 0, errInvalid
		}
		if err := resp.Header.Read(r); err != nil {
			return 0, answerError(err)
		}
		switch {
		case status == fasthttp.StatusSwitchingProtocols, status == fasthttp.StatusNoContent, status == fasthttp.StatusNotModified:
			return status, nil // without a body, whatever the headers say
		case status >= 200:
			if err := resp.ReadBody(r, 0); err != nil {
				return 0, answerError(err)
			}
			return status, nil
		}
	}
	return 0, errInterim
}

// statusOf reads the beginning of a status line; 0 when it is none.
func statusOf(line []byte) int {
	if string(line[:7]) != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' {
		return 0
	}
	status := 0
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return 0
		}
		status = status*10 + int(c-'0')
	}
	if status < 100 || status > 599 {
		return 0
	}
	return status
}

// readBody reads at most bodyBytes of the body and keeps its beginning. whole
// says that it ended; slow, that the deadline came first. The status has been
// read by then and counts, however the body goes on.
func (x *exchange) readBody(resp *fasthttp.Response) (seen []byte, whole, slow bool) {
	stream := resp.BodyStream()
	if stream == nil {
		return nil, true, false
	}
	defer func() { _ = resp.CloseBodyStream() }() // drops its reader; the connection is ours
	kept, total := 0, 0
	for total < bodyBytes {
		into := x.buf.scratch[kept:excerptBytes]
		if kept == excerptBytes {
			into = x.buf.scratch[excerptBytes:]
		}
		n, err := stream.Read(into)
		total += n
		if kept < excerptBytes {
			kept += n
		}
		if err != nil {
			return x.buf.scratch[:kept], errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF), isTimeout(err)
		}
	}
	return x.buf.scratch[:kept], false, false
}

func (x *exchange) explain(a *deliver.Answer, resp *fasthttp.Response, seen []byte, whole bool) {
	secrets := deliver.Secrets(x.org)
	truncated := !whole || len(seen) == excerptBytes
	a.Excerpt = deliver.Sanitise(seen, truncated, secrets)
	a.RetryAfter, a.HasRetryAfter = deliver.ParseRetryAfter(string(resp.Header.Peek(fasthttp.HeaderRetryAfter)), x.s.now())
	if a.Status >= 300 && a.Status < 400 {
		a.Location = deliver.RedactURL(string(resp.Header.Peek(fasthttp.HeaderLocation)), secrets)
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

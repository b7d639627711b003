package webhook

import (
	"bufio"
	"context"
	"dispatchd/internal/deliver"
	"dispatchd/internal/org"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	headerBytes  = 16 << 10 // of an answer's headers, more is refused
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
	limited, cancel := context.WithDeadline(ctx, x.deadline)
	defer cancel()
	dial := func(ctx context.Context) (net.Conn, error) { return x.s.dial.to(ctx, x.target) }
	key := x.org.ID + " " + x.target.addr
	if x.target.tls {
		key += " tls"
	}
	for fresh := false; ; fresh = true {
		c, err := x.s.conns.get(limited, key, fresh, dial)
		if err != nil {
			return x.failed(ctx, err)
		}
		// The deadline of limited is set on the connection itself; what has
		// to be watched is a caller who gives up earlier.
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
	if err := resp.ReadLimitBody(r, 0); err != nil {
		return a, false, answerError(err)
	}
	a.Status = resp.StatusCode()
	if a.Status < 100 || a.Status > 599 {
		return a, false, errInvalid
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
	keep = whole && !resp.ConnectionClose() && resp.Header.ContentLength() != -2 &&
		a.Status != fasthttp.StatusSwitchingProtocols && r.Buffered() == 0
	return a, keep, nil
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

package intake

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"github.com/valyala/fasthttp"

	"dispatchd/internal/callback"
	"dispatchd/internal/event"
)

// handle answers one request. Nothing of ctx is kept: the ping is a value of
// our own types, and Verify copies the client id.
func (s *Server) handle(ctx *fasthttp.RequestCtx) {
	began := time.Now()
	defer func() {
		if r := recover(); r != nil {
			// Not 500: any answer but 2xx and 429 is worse for us at ORCID.
			s.panicked(r)
			s.refuse(ctx)
			s.metrics.refused.Inc()
		}
		if s.conns.shouldClose() {
			ctx.SetConnectionClose()
		}
		s.metrics.duration.Observe(time.Since(began).Seconds())
	}()
	path := s.path(ctx)
	if !ctx.IsPost() {
		if callback.Shaped(path) {
			s.metrics.method.Inc()
			ctx.Response.Header.Set(fasthttp.HeaderAllow, fasthttp.MethodPost)
			ctx.SetStatusCode(fasthttp.StatusMethodNotAllowed)
			return
		}
		s.metrics.notFound.Inc()
		ctx.SetStatusCode(fasthttp.StatusNotFound)
		return
	}
	target, ok := s.o.Keys().Verify(path)
	if !ok {
		if callback.Shaped(path) {
			s.metrics.forged.Inc()
		} else {
			s.metrics.notFound.Inc()
		}
		ctx.SetStatusCode(fasthttp.StatusNotFound)
		return
	}
	if target.IsProbe() {
		ctx.Response.Header.Set(callback.ProbeHeader, "ok")
		ctx.SetStatusCode(fasthttp.StatusNoContent)
		return
	}
	credential, ok := s.o.Credential(target.ClientID)
	if !ok {
		s.metrics.unknownCredential.Inc()
		if _, logged := s.unknown.LoadOrStore(target.ClientID, true); !logged {
			s.logger.Warn("ORCID pings a callback of a client id that no credential has; such pings are answered and dropped",
				"client_id", target.ClientID)
		}
		ctx.SetStatusCode(fasthttp.StatusNoContent)
		return
	}
	switch s.writer.write(event.Ping{
		Credential: credential,
		ORCID:      target.ORCID,
		AcceptedAt: s.o.Now().Truncate(time.Microsecond),
	}) {
	case inLog:
		s.metrics.accepted.Inc()
		ctx.SetStatusCode(fasthttp.StatusNoContent)
	case inSpool:
		s.metrics.spooled.Inc()
		ctx.SetStatusCode(fasthttp.StatusNoContent)
	default:
		s.metrics.refused.Inc()
		s.refuse(ctx)
	}
}

// refuse says that the ping was not taken.
func (s *Server) refuse(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, retryAfter)
	ctx.SetStatusCode(fasthttp.StatusTooManyRequests)
}

// path returns the request's path as it was sent, without prefix and query; it
// is valid until the handler returns.
func (s *Server) path(ctx *fasthttp.RequestCtx) []byte {
	path := ctx.URI().PathOriginal()
	if n := len(s.o.PathPrefix); n > 0 && len(path) > n && path[n] == '/' && bytes.HasPrefix(path, []byte(s.o.PathPrefix)) {
		return path[n:]
	}
	return path
}

// malformed answers what could not be read as a request: in time, within the
// limits, or at all. fasthttp closes the connection after it.
func (s *Server) malformed(ctx *fasthttp.RequestCtx, err error) {
	s.metrics.malformed.Inc()
	var small *fasthttp.ErrSmallBuffer
	var nerr net.Error
	switch {
	case errors.As(err, &small):
		ctx.SetStatusCode(fasthttp.StatusRequestHeaderFieldsTooLarge)
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		ctx.SetStatusCode(fasthttp.StatusRequestEntityTooLarge)
	case errors.As(err, &nerr) && nerr.Timeout():
		ctx.SetStatusCode(fasthttp.StatusRequestTimeout)
	default:
		ctx.SetStatusCode(fasthttp.StatusBadRequest)
	}
}

func (s *Server) panicked(r any) {
	s.metrics.panics.Inc()
	s.logger.Error("panic", "err", fmt.Sprint(r), "stack", string(debug.Stack()))
}

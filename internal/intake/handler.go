package intake

import (
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"dispatchd/internal/callback"
	"dispatchd/internal/event"
	"dispatchd/internal/hub"
	"dispatchd/internal/orcid"
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
			ctx.SetStatusCode(fasthttp.StatusNotFound)
			return
		}
		s.handleHub(ctx)
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
	s.take(ctx, credential, target.ORCID, s.metrics.accepted, s.metrics.spooled)
}

// take makes a ping durable and answers it.
func (s *Server) take(ctx *fasthttp.RequestCtx, credential string, id orcid.ID, accepted, spooled prometheus.Counter) {
	switch s.writer.write(event.Ping{Credential: credential, ORCID: id, AcceptedAt: s.o.Now().Truncate(time.Microsecond)}) {
	case inLog:
		accepted.Inc()
		ctx.SetStatusCode(fasthttp.StatusNoContent)
	case inSpool:
		spooled.Inc()
		ctx.SetStatusCode(fasthttp.StatusNoContent)
	default:
		s.metrics.refused.Inc()
		s.refuse(ctx)
	}
}

// handleHub answers what may be a callback that the Hub registered. One that is
// called too often is answered 429, not 204: what is answered 204 is never lost.
func (s *Server) handleHub(ctx *fasthttp.RequestCtx) {
	credential, id, verdict := s.o.Hub(ctx.URI().PathOriginal(), s.o.Now())
	switch verdict {
	case hub.Good:
		s.take(ctx, credential, id, s.metrics.unauthenticated, s.metrics.unauthenticated)
	case hub.Limited:
		s.metrics.limited.Inc()
		s.refuse(ctx)
	default:
		s.metrics.notFound.Inc()
		ctx.SetStatusCode(fasthttp.StatusNotFound)
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
	for _, prefix := range s.o.PathPrefixes() {
		if n := len(prefix); n > 0 && len(path) > n && path[n] == '/' && string(path[:n]) == prefix {
			return path[n:]
		}
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

package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"dispatchd/internal/secret"
	"dispatchd/internal/service"
)

// handler answers a request itself or returns why it could not.
type handler func(w http.ResponseWriter, r *http.Request) error

type idKey struct{}

// requestID names a request in its answer and in the log.
func requestID(r *http.Request) string {
	id, _ := r.Context().Value(idKey{}).(string)
	return id
}

// around does what every request needs: an id, the headers of every answer, a
// bound on its time, and that a panic ends the request only.
func (s *Server) around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := secret.NewKey(9).Reveal()
		r = r.WithContext(context.WithValue(r.Context(), idKey{}, id))
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Request-Id", id)
		rc := http.NewResponseController(w)
		setRead(rc, readTimeout)
		setWrite(rc, workTimeout+writeTimeout)
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && err == http.ErrAbortHandler { //nolint:errorlint // net/http compares it like this too
				panic(p)
			}
			s.o.Panics("admin")
			s.log.Error("a request panicked", "id", id, "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			s.answer(w, r, internal())
		}()
		next.ServeHTTP(w, r)
	})
}

// problems bounds the time of a handler and turns its error into a problem
// document.
func (s *Server) problems(h handler) http.HandlerFunc {
	long := s.lists(h)
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), workTimeout)
		defer cancel()
		long(w, r.WithContext(ctx))
	}
}

// lists is problems without the bound: a list of any length may be sent, as long
// as it goes on.
func (s *Server) lists(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			// The read deadline is the body's; after it, reaching it would only
			// look as if the client had gone.
			setRead(http.NewResponseController(w), 0)
		}
		if err := h(w, r); err != nil {
			s.answer(w, r, s.failureOf(r, err))
		}
	}
}

// unhurried takes the time limits off a handler that measures for as long as
// it was asked to.
func unhurried(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		setRead(rc, 0)
		setWrite(rc, 0)
		h(w, r)
	}
}

// setRead bounds reading from now on; 0 means no bound. A writer that cannot be
// bounded is one of a test.
func setRead(rc *http.ResponseController, d time.Duration) { _ = rc.SetReadDeadline(deadline(d)) }

// setWrite is setRead for writing.
func setWrite(rc *http.ResponseController, d time.Duration) { _ = rc.SetWriteDeadline(deadline(d)) }

func deadline(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// authorised compares the token in constant time, whatever its length.
func (s *Server) authorised(r *http.Request) bool {
	want := s.o.Token()
	scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	got = strings.TrimSpace(got)
	a, b := sha256.Sum256([]byte(want.Reveal())), sha256.Sum256([]byte(got))
	ok := subtle.ConstantTimeCompare(a[:], b[:]) == 1 && want.IsSet() && strings.EqualFold(scheme, "Bearer")
	if !ok && got != "" {
		s.refused.Do(func() { s.log.Warn("a wrong admin token was sent", "from", from(r), "path", r.URL.Path) })
	}
	return ok
}

// from is where a request came from.
func from(r *http.Request) string {
	if r.RemoteAddr == "" || r.RemoteAddr == "@" {
		return "unix socket"
	}
	return r.RemoteAddr
}

// by says who asks, for the audit log.
func by(r *http.Request) service.By { return service.By{Who: "admin", From: from(r)} }

// promLog gives promhttp's complaints to our log.
type promLog struct{ log *slog.Logger }

// Println implements promhttp.Logger. Who asks for metrics and hangs up is no
// trouble of ours, and promhttp says it for each family.
func (l promLog) Println(v ...any) {
	level := slog.LevelWarn
	for _, arg := range v {
		var op *net.OpError
		if err, ok := arg.(error); ok && errors.As(err, &op) {
			level = slog.LevelDebug
		}
	}
	l.log.Log(context.Background(), level, "metrics are incomplete", "err", strings.TrimSpace(fmt.Sprintln(v...)))
}

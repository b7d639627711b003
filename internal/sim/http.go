package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// maxRequest is how much Tomcat takes as request line and headers; a longer
// URL is answered by its own page.
const maxRequest = 8 << 10

// Handler returns the whole HTTP surface: ORCID's API and token endpoint on
// any host, and the control API below /_sim/.
func (r *Registry) Handler() http.Handler { return http.HandlerFunc(r.serveHTTP) }

// Serve answers HTTP on ln and turns the registry's loops until ctx ends, then
// returns nil. It closes ln.
func Serve(ctx context.Context, ln net.Listener, r *Registry) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{
		Handler: r.Handler(), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 75 * time.Second, MaxHeaderBytes: 64 << 10,
		// Requests that hang on purpose end with ctx.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Run(ctx) }) // never fails
	served := make(chan error, 1)
	wg.Go(func() { served <- srv.Serve(ln) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-served:
	}
	cancel()
	_ = srv.Close() // the listener may be closed already
	wg.Wait()
	r.Close()
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the ORCID simulator: %w", err)
	}
	return nil
}

// Close ends the connections that are kept to callback servers. The registry
// stays usable.
func (r *Registry) Close() { r.poster.close() }

// recorder counts a request once, before any byte of the answer is out: who
// has the answer finds it counted.
type recorder struct {
	http.ResponseWriter
	count   func(status int)
	counted bool
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	w.note(status)
	w.ResponseWriter.WriteHeader(status)
}

// note counts the request unless it was counted.
func (w *recorder) note(status int) {
	if !w.counted {
		w.counted = true
		w.count(status)
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// silent swallows the answer of a request that is carried out behind a fault.
type silent struct{ h http.Header }

// Header implements http.ResponseWriter.
func (s silent) Header() http.Header { return s.h }

// Write implements http.ResponseWriter.
func (s silent) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader implements http.ResponseWriter.
func (s silent) WriteHeader(int) {}

func (r *Registry) serveHTTP(w http.ResponseWriter, req *http.Request) {
	if strings.HasPrefix(req.URL.Path, "/_sim/") || req.URL.Path == "/_sim" {
		r.routes.ServeHTTP(w, req)
		return
	}
	op := operation(req)
	rec := &recorder{ResponseWriter: w, count: func(status int) { r.ledger.count(op, status) }}
	defer rec.note(-1)
	source, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		source = req.RemoteAddr
	}
	wait, ok := r.limit.take(source, time.Now())
	if !ok {
		writeBody(rec, http.StatusServiceUnavailable, "text/html", []byte(html503))
		return
	}
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-req.Context().Done():
			return
		}
	}
	if len(req.RequestURI) > maxRequest {
		writeBody(rec, http.StatusBadRequest, "text/html;charset=utf-8", []byte(html400))
		return
	}
	if f, gone := r.faults.strike(op); f != nil {
		if f.Applied && f.Kind != FaultSlow {
			r.serveAPI(silent{make(http.Header)}, req, op)
		}
		if f.Kind == FaultReset {
			rec.note(-1)
		}
		if f.serve(rec, req, gone) {
			return
		}
	}
	r.serveAPI(rec, req, op)
}

// operation names what a request is for.
func operation(req *http.Request) string {
	path := req.URL.Path
	switch {
	case path == "/oauth/token":
		return opToken
	case path == "/oauth/revoke":
		return opRevoke
	case path == "/v3.0/status", path == "/v3.0/apiStatus":
		return opStatus
	case path == "/v3.0/search", path == "/v3.0/search/":
		return opSearch
	case webhookRoute(path) && req.Method == http.MethodPut:
		return opPut
	case webhookRoute(path) && req.Method == http.MethodDelete:
		return opDelete
	case strings.HasPrefix(path, "/v3.0/") && len(path) > len("/v3.0/") && isDigit(path[len("/v3.0/")]):
		return opRecord
	}
	return opOther
}

// serveAPI answers one request of ORCID's API.
func (r *Registry) serveAPI(w http.ResponseWriter, req *http.Request, op string) {
	if want := methods[op]; want != "" && req.Method != want && (req.Method != http.MethodHead || want != http.MethodGet) {
		w.Header().Set("Allow", want)
		writeBody(w, http.StatusMethodNotAllowed, "", nil)
		return
	}
	switch op {
	case opToken:
		r.serveToken(w, req)
		return
	case opRevoke:
		r.serveRevoke(w, req)
		return
	case opStatus:
		writeBody(w, http.StatusOK, "text/plain", []byte("OK I am here"))
		return
	}
	t, ok := r.bearer(w, req)
	if !ok {
		return
	}
	switch op {
	case opPut, opDelete:
		r.serveWebhook(w, req, t)
	case opSearch:
		r.serveSearch(w, req, t)
	case opRecord:
		id, part, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v3.0/"), "/")
		if part == "" {
			part = "record"
		}
		r.serveRecord(w, req, t, id, part)
	default:
		r.serveOther(w, req)
	}
}

// methods is the one method of each operation; none means several.
var methods = map[string]string{
	opToken: http.MethodPost, opRevoke: http.MethodPost, opStatus: http.MethodGet, opSearch: http.MethodGet,
}

// serveOther answers what is no webhook and no read: DefaultApiVersionFilter
// sends every path without a version (a webhook's with a wrong iD too) to
// /v3.0, and there is nothing else there.
func (r *Registry) serveOther(w http.ResponseWriter, req *http.Request) {
	path := req.URL.EscapedPath()
	switch {
	case strings.HasPrefix(path, "/v"):
		errNotFound().write(w, req)
	case webhookRoute(req.URL.Path):
		w.Header().Set("Allow", "PUT, DELETE")
		writeBody(w, http.StatusMethodNotAllowed, "", nil)
	default:
		scheme := "http"
		if req.TLS != nil {
			scheme = "https"
		}
		w.Header().Set("Location", scheme+"://"+req.Host+"/v3.0"+path)
		writeBody(w, http.StatusFound, "", nil)
	}
}

// bearerText is the token that the request carries, if any.
func bearerText(req *http.Request) string {
	_, value, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	return value
}

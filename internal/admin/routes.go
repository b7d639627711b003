package admin

import (
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	operator "dispatchd/internal/admin/page"
	"dispatchd/internal/look"
)

// routes joins every path to its handler. What needs the token is decided by
// the path alone, before the route is looked up, so that a new route cannot be
// forgotten.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h handler) { mux.HandleFunc(pattern, s.problems(h)) }

	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.o.Gatherer, promhttp.HandlerOpts{ErrorLog: promLog{s.log}, ErrorHandling: promhttp.ContinueOnError}))

	handle("GET /v1/status", s.status)
	handle("GET /v1/ledger", s.ledger)
	handle("GET /v1/credentials", s.credentials)
	handle("POST /v1/credentials/{name}/test", s.testCredential)
	handle("GET /v1/jobs", s.jobs)
	handle("GET /v1/jobs/{id}", s.job)
	handle("POST /v1/jobs/{id}/cancel", s.cancelJob)
	handle("GET /v1/registrations", s.registrations)
	handle("POST /v1/registrations/rearm", s.rearm)
	handle("POST /v1/registrations/sync", s.syncRegistrations)
	handle("POST /v1/registrations/pause", s.pauseRegistrations(true))
	handle("POST /v1/registrations/resume", s.pauseRegistrations(false))
	handle("POST /v1/reload", s.reload)
	handle("POST /-/reload", s.reload) // as Prometheus and its kin call it
	handle("POST /v1/recover", s.recoverLoss)
	handle("GET /v1/log-level", s.logLevel)
	handle("PUT /v1/log-level", s.setLogLevel)

	handle("GET /v1/organisations", s.organisations)
	handle("GET /v1/organisations/{id}", s.organisation)
	handle("PUT /v1/organisations/{id}", s.putOrganisation)
	handle("PATCH /v1/organisations/{id}", s.patchOrganisation)
	handle("DELETE /v1/organisations/{id}", s.removeOrganisation)
	handle("POST /v1/organisations/{id}/enable", s.enable)
	handle("POST /v1/organisations/{id}/disable", s.disable)
	handle("POST /v1/organisations/{id}/pause", s.pause)
	handle("POST /v1/organisations/{id}/resume", s.resume)
	handle("POST /v1/organisations/{id}/test", s.test)
	handle("POST /v1/organisations/{id}/link", s.link)
	handle("POST /v1/organisations/{id}/rotate-secret", s.rotateSecret)
	handle("POST /v1/organisations/{id}/move", s.move)
	handle("GET /v1/organisations/{id}/secrets", s.secrets)

	handle("GET /v1/organisations/{id}/users", s.users)
	mux.HandleFunc("POST /v1/organisations/{id}/users", s.lists(s.importUsers))
	mux.HandleFunc("POST /v1/organisations/{id}/users/sync", s.lists(s.syncUsers))
	handle("PUT /v1/organisations/{id}/users/{iD}", s.addUser)
	handle("DELETE /v1/organisations/{id}/users/{iD}", s.removeUser)
	handle("GET /v1/users/{iD}", s.user)
	handle("GET /v1/users/{iD}/export", s.exportUser)
	handle("DELETE /v1/users/{iD}", s.eraseUser)
	handle("GET /v1/erasures/{job}", s.erasure)
	handle("DELETE /v1/suppressions/{iD}", s.unsuppress)
	handle("GET /v1/parked", s.parked)
	handle("DELETE /v1/parked", s.dropParked)

	handle("GET /v1/organisations/{id}/attempts", s.attempts)
	handle("GET /v1/organisations/{id}/dead-letters", s.deadLetters)
	handle("POST /v1/organisations/{id}/dead-letters/replay", s.replay)
	handle("POST /v1/organisations/{id}/dead-letters/purge", s.purge)

	mux.HandleFunc("GET /debug/pprof/", unhurried(pprof.Index))
	mux.HandleFunc("GET /debug/pprof/cmdline", unhurried(pprof.Cmdline))
	mux.HandleFunc("GET /debug/pprof/profile", unhurried(pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/symbol", unhurried(pprof.Symbol))
	mux.HandleFunc("POST /debug/pprof/symbol", unhurried(pprof.Symbol))
	mux.HandleFunc("GET /debug/pprof/trace", unhurried(pprof.Trace))

	origin := http.NewCrossOriginProtection()
	return s.around(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if operator.Serves(r.URL.Path) {
			s.page.ServeHTTP(w, r)
			return
		}
		if guarded(r.URL.Path) {
			if err := origin.Check(r); err != nil {
				s.answer(w, r, &failure{
					status: http.StatusForbidden, code: "cross_origin",
					detail: "The request comes from a page of another site.", do: "Use the command line, or a client that is no browser.",
				})
				return
			}
			if !s.authorised(r) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="dispatchd"`)
				s.answer(w, r, &failure{
					status: http.StatusUnauthorized, code: "unauthorised", detail: "The admin token is missing or wrong.",
					do: "Send it as `Authorization: Bearer …`; it stands in the file that admin.token_file names, by default admin.token in data_dir.",
				})
				return
			}
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			s.unmatched(w, r, mux)
			return
		}
		mux.ServeHTTP(w, r)
	}))
}

// guarded reports whether the path needs the token.
func guarded(path string) bool {
	return path == "/v1" || strings.HasPrefix(path, "/-/") || strings.HasPrefix(path, "/v1/") || path == "/debug" || strings.HasPrefix(path, "/debug/")
}

// unmatched says in our own words what the mux says in its own: no such path,
// or no such verb.
func (s *Server) unmatched(w http.ResponseWriter, r *http.Request, mux *http.ServeMux) {
	if allow := look.Allow(mux, r); allow != "" {
		w.Header().Set("Allow", allow)
		s.answer(w, r, &failure{
			status: http.StatusMethodNotAllowed, code: "method_not_allowed",
			detail: r.Method + " does not work on this path.", do: "Use " + allow + ".",
		})
		return
	}
	s.answer(w, r, &failure{status: http.StatusNotFound, code: "not_found", detail: "There is nothing at this path."})
}

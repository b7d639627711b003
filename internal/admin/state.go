package admin

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"dispatchd/internal/peer"
	"dispatchd/internal/service"
)

// healthz says that the process turns; it looks at nothing else.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	answer := struct {
		OK      bool   `json:"ok"`
		Version string `json:"version,omitempty"`
		Detail  string `json:"detail,omitempty"`
	}{OK: true, Version: s.o.Version}
	status := http.StatusOK
	if err := s.o.Health(); err != nil {
		answer.OK, answer.Detail, status = false, err.Error(), http.StatusServiceUnavailable
	}
	_ = s.send(w, r, status, answer)
}

// readyz says whether pings can be stored durably, and what is degraded.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	ready := s.o.Ready()
	if ready.Checks == nil {
		ready.Checks = []Check{}
	}
	status := http.StatusOK
	if !ready.OK {
		status = http.StatusServiceUnavailable
	}
	_ = s.send(w, r, status, ready)
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, s.o.Service.Status(r.Context()))
}

func (s *Server) ledger(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	report, err := s.o.Service.Ledger(r.Context())
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, report)
}

func (s *Server) credentials(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, map[string]any{"credentials": s.o.Service.Credentials()})
}

func (s *Server) testCredential(w http.ResponseWriter, r *http.Request) error {
	if _, err := decode(w, r, &struct{}{}); err != nil {
		return err
	}
	t, err := s.o.Service.TestCredential(r.Context(), by(r), r.PathValue("name"))
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, t)
}

func (s *Server) job(w http.ResponseWriter, r *http.Request) error {
	j, err := s.o.Service.Job(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, j)
}

func (s *Server) cancelJob(w http.ResponseWriter, r *http.Request) error {
	if _, err := decode(w, r, &struct{}{}); err != nil {
		return err
	}
	j, err := s.o.Service.CancelJob(r.Context(), by(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, j)
}

func (s *Server) jobs(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	jobs, err := s.o.Service.Jobs(r.Context())
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, map[string]any{"jobs": orEmpty(jobs)})
}

func (s *Server) registrations(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	report, err := s.o.Service.Registrations(r.Context())
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, report)
}

// reload shows the operator why the configuration was not taken: the errors
// name file, line and key and hold nothing secret.
func (s *Server) reload(w http.ResponseWriter, r *http.Request) error {
	if s.o.Reload == nil {
		return &failure{status: http.StatusConflict, code: string(service.CodeConflict), detail: "There is no configuration file to read."}
	}
	if _, err := decode(w, r, &struct{}{}); err != nil {
		return err
	}
	changes, err := s.o.Reload(r.Context())
	var own *service.Error
	switch {
	case errors.As(err, &own):
		return err
	case err != nil:
		f := &failure{
			status: http.StatusUnprocessableEntity, code: "not_reloaded", detail: "The configuration was not reloaded; the old one stays.",
			do: "Correct it (`dispatchd check FILE` shows the same) and reload again.",
		}
		for line := range strings.Lines(err.Error()) {
			f.problems = append(f.problems, fieldProblem{Why: strings.TrimSpace(line)})
		}
		return f
	}
	peer.Audit(s.log, "configuration reloaded", "admin", from(r))
	return s.send(w, r, http.StatusOK, map[string]any{"changes": orEmpty(changes)})
}

func (s *Server) recoverLoss(w http.ResponseWriter, r *http.Request) error {
	if s.o.Recover == nil {
		return &failure{status: http.StatusConflict, code: string(service.CodeConflict), detail: "There is nothing to recover."}
	}
	var in struct {
		AcceptLoss bool `json:"accept_loss"`
	}
	if _, err := decode(w, r, &in); err != nil {
		return err
	}
	if !in.AcceptLoss {
		return needed(`{"accept_loss":true}, which says that what Redis lost is lost`)
	}
	if err := s.o.Recover(r.Context()); err != nil {
		return err
	}
	peer.Audit(s.log, "loss accepted", "admin", from(r))
	return s.send(w, r, http.StatusOK, map[string]any{"recovered": true})
}

func (s *Server) logLevel(w http.ResponseWriter, r *http.Request) error {
	if s.o.LogLevel == nil {
		return &failure{status: http.StatusConflict, code: string(service.CodeConflict), detail: "The log level cannot be changed here."}
	}
	return s.send(w, r, http.StatusOK, map[string]any{"level": strings.ToLower(s.o.LogLevel.Level().String())})
}

// setLogLevel changes the level until the next reload or restart.
func (s *Server) setLogLevel(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Level string `json:"level"`
	}
	some, err := decode(w, r, &in)
	if err != nil {
		return err
	}
	if !some {
		return needed(`{"level":"debug"}`)
	}
	if s.o.LogLevel != nil {
		var level slog.Level
		if err := level.UnmarshalText([]byte(in.Level)); err != nil {
			return bad("level", `must be "debug", "info", "warn" or "error"`)
		}
		s.o.LogLevel.Set(level)
		peer.Audit(s.log, "log level set", "admin", from(r), "level", level)
	}
	return s.logLevel(w, r)
}

// orEmpty makes JSON say [] instead of null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

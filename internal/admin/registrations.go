package admin

import (
	"net/http"

	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
)

// rearm makes registrations anew: {"all":true}, {"org":…} or {"orcid":…}.
func (s *Server) rearm(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		All   bool   `json:"all"`
		Org   string `json:"org"`
		ORCID string `json:"orcid"`
	}
	some, err := decode(w, r, &in)
	if err != nil {
		return err
	}
	if !some {
		return needed(`{"orcid":"…"}, {"org":"…"} or {"all":true}`)
	}
	sel := service.RearmSelection{All: in.All, Org: in.Org}
	if in.ORCID != "" {
		if sel.ORCID, err = orcid.Parse(in.ORCID); err != nil {
			return bad("orcid", err.Error())
		}
	}
	job, err := s.o.Service.Rearm(r.Context(), by(r), sel)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusAccepted, job)
}

func (s *Server) syncRegistrations(w http.ResponseWriter, r *http.Request) error {
	if _, err := decode(w, r, &struct{}{}); err != nil {
		return err
	}
	job, err := s.o.Service.SyncRegistrations(r.Context(), by(r))
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusAccepted, job)
}

func (s *Server) pauseRegistrations(paused bool) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := decode(w, r, &struct{}{}); err != nil {
			return err
		}
		if err := s.o.Service.PauseRegistrations(r.Context(), by(r), paused); err != nil {
			return err
		}
		return s.send(w, r, http.StatusOK, map[string]bool{"paused": paused})
	}
}

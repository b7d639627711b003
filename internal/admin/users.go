package admin

import (
	"net/http"
	"regexp"

	"dispatchd/internal/service"
)

func (s *Server) users(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "cursor", "limit")
	if err != nil {
		return err
	}
	p, err := pageOf(q)
	if err != nil {
		return err
	}
	if !match(`^([0-9]{1,9}-(-1|[0-9]{1,18}))?$`, p.cursor) {
		return badCursor()
	}
	list, err := s.o.Service.Users(r.Context(), r.PathValue("id"), p.cursor, p.limit)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, list)
}

// match is for cursors: their form is the store's, and one of another form is
// the client's mistake, not ours.
func match(pattern, text string) bool { return regexp.MustCompile(pattern).MatchString(text) }

func (s *Server) addUser(w http.ResponseWriter, r *http.Request) error {
	id, err := researcher(r)
	if err != nil {
		return err
	}
	var p service.Person
	if _, err := decode(w, r, &p); err != nil {
		return err
	}
	added, err := s.o.Service.AddUser(r.Context(), by(r), r.PathValue("id"), id, p)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if added {
		status = http.StatusCreated
	}
	return s.send(w, r, status, map[string]any{"orcid": id, "new": added})
}

func (s *Server) removeUser(w http.ResponseWriter, r *http.Request) error {
	id, err := researcher(r)
	if err != nil {
		return err
	}
	if err := s.o.Service.RemoveUser(r.Context(), by(r), r.PathValue("id"), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) user(w http.ResponseWriter, r *http.Request) error {
	id, err := researcher(r)
	if err != nil {
		return err
	}
	story, err := s.o.Service.User(r.Context(), id)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, story)
}

func (s *Server) exportUser(w http.ResponseWriter, r *http.Request) error {
	id, err := researcher(r)
	if err != nil {
		return err
	}
	export, err := s.o.Service.ExportUser(r.Context(), by(r), id)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, export)
}

func (s *Server) eraseUser(w http.ResponseWriter, r *http.Request) error {
	id, err := researcher(r)
	if err != nil {
		return err
	}
	e, err := s.o.Service.EraseUser(r.Context(), by(r), id)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusAccepted, e)
}

func (s *Server) erasure(w http.ResponseWriter, r *http.Request) error {
	e, err := s.o.Service.Erasure(r.Context(), r.PathValue("job"))
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, e)
}

func (s *Server) unsuppress(w http.ResponseWriter, r *http.Request) error {
	id, err := researcher(r)
	if err != nil {
		return err
	}
	if err := s.o.Service.Unsuppress(r.Context(), by(r), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) parked(w http.ResponseWriter, r *http.Request) error {
	list, err := s.o.Service.Parked(r.Context())
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, map[string]any{"parked": list})
}

func (s *Server) dropParked(w http.ResponseWriter, r *http.Request) error {
	n, err := s.o.Service.DropParkedLines(r.Context(), by(r))
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, map[string]any{"dropped": n})
}

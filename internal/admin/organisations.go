package admin

import (
	"bytes"
	"net/http"

	"dispatchd/internal/event"
	"dispatchd/internal/service"
)

func (s *Server) organisations(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	list, err := s.o.Service.Organisations(r.Context())
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, map[string]any{"organisations": orEmpty(list)})
}

func (s *Server) organisation(w http.ResponseWriter, r *http.Request) error {
	v, err := s.o.Service.Organisation(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, v)
}

// settings reads the settings of a PUT or PATCH.
func settings(w http.ResponseWriter, r *http.Request) (service.Settings, error) {
	raw, err := readBody(w, r)
	if err != nil {
		return service.Settings{}, err
	}
	if raw == nil {
		return service.Settings{}, needed(`{"name":"University A"}`)
	}
	return service.ReadSettings(bytes.NewReader(raw))
}

func (s *Server) putOrganisation(w http.ResponseWriter, r *http.Request) error {
	in, err := settings(w, r)
	if err != nil {
		return err
	}
	v, made, err := s.o.Service.PutOrganisation(r.Context(), by(r), r.PathValue("id"), in)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if made {
		status = http.StatusCreated
	}
	return s.send(w, r, status, v)
}

func (s *Server) patchOrganisation(w http.ResponseWriter, r *http.Request) error {
	in, err := settings(w, r)
	if err != nil {
		return err
	}
	v, err := s.o.Service.PatchOrganisation(r.Context(), by(r), r.PathValue("id"), in)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, v)
}

// removeOrganisation answers 202: the users leave in a job.
func (s *Server) removeOrganisation(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if err := s.o.Service.RemoveOrganisation(r.Context(), by(r), id); err != nil {
		return err
	}
	return s.send(w, r, http.StatusAccepted, map[string]any{"id": id, "state": "being removed"})
}

// act is the optional body of an action on an organisation.
type act struct {
	// Channel is webhook or email; left out, what the action says.
	Channel given[string] `json:"channel"`
	// Reason is shown to whoever looks; only pausing keeps it.
	Reason string `json:"reason"`
}

// action reads the body of an action.
func action(w http.ResponseWriter, r *http.Request) (event.Channel, string, error) {
	var in act
	if _, err := decode(w, r, &in); err != nil {
		return "", "", err
	}
	var ch event.Channel
	if in.Channel.is {
		var err error
		if ch, err = channelOf("channel", in.Channel.of, ""); err != nil {
			return "", "", err
		}
		if ch == "" {
			return "", "", bad("channel", "is empty; leave the key out for the default")
		}
	}
	return ch, in.Reason, plain("reason", in.Reason)
}

func (s *Server) enable(w http.ResponseWriter, r *http.Request) error {
	ch, _, err := action(w, r)
	if err != nil {
		return err
	}
	v, err := s.o.Service.Enable(r.Context(), by(r), r.PathValue("id"), ch)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, v)
}

func (s *Server) disable(w http.ResponseWriter, r *http.Request) error {
	ch, _, err := action(w, r)
	if err != nil {
		return err
	}
	v, err := s.o.Service.Disable(r.Context(), by(r), r.PathValue("id"), ch)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, v)
}

func (s *Server) pause(w http.ResponseWriter, r *http.Request) error {
	ch, reason, err := action(w, r)
	if err != nil {
		return err
	}
	if err := s.o.Service.Pause(r.Context(), by(r), r.PathValue("id"), ch, reason); err != nil {
		return err
	}
	return s.organisation(w, r)
}

func (s *Server) resume(w http.ResponseWriter, r *http.Request) error {
	ch, _, err := action(w, r)
	if err != nil {
		return err
	}
	if err := s.o.Service.Resume(r.Context(), by(r), r.PathValue("id"), ch); err != nil {
		return err
	}
	return s.organisation(w, r)
}

func (s *Server) test(w http.ResponseWriter, r *http.Request) error {
	if _, _, err := action(w, r); err != nil {
		return err
	}
	answer, err := s.o.Service.Test(r.Context(), by(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, answer)
}

// link makes a sign-in link; whoever has it acts for the organisation.
func (s *Server) link(w http.ResponseWriter, r *http.Request) error {
	if _, _, err := action(w, r); err != nil {
		return err
	}
	link, until, err := s.o.Service.OrgLink(r.Context(), by(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, map[string]any{"link": link, "expires": until})
}

// move reads {"credential":"…"}.
func (s *Server) move(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Credential string `json:"credential"`
	}
	some, err := decode(w, r, &in)
	if err != nil {
		return err
	}
	if !some || in.Credential == "" {
		return needed(`{"credential":"other"}`)
	}
	v, err := s.o.Service.Move(r.Context(), by(r), r.PathValue("id"), in.Credential)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, v)
}

// rotateSecret is the one answer that shows a secret because it made it.
func (s *Server) rotateSecret(w http.ResponseWriter, r *http.Request) error {
	if _, _, err := action(w, r); err != nil {
		return err
	}
	made, err := s.o.Service.RotateSecret(r.Context(), by(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, map[string]string{"signing_secret": made.Reveal()})
}

// secrets shows an organisation's secrets; the service audits it.
func (s *Server) secrets(w http.ResponseWriter, r *http.Request) error {
	list, err := s.o.Service.Secrets(r.Context(), by(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	clear := map[string]string{}
	for name, text := range list {
		clear[name] = text.Reveal()
	}
	return s.send(w, r, http.StatusOK, clear)
}

package hubapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"dispatchd/internal/event"
	"dispatchd/internal/service"
)

// noSuchUser is the Hub's answer about an iD that the caller does not have.
func noSuchUser(c *call, err error) error {
	var e *service.Error
	if !errors.As(err, &e) || e.Code != service.CodeNotFound {
		return err
	}
	return &failure{
		status: http.StatusNotFound, error: "Invalid ORCID iD.",
		message: fmt.Sprintf("User with given ORCID ID '%s' doesn't exist.", clip(c.route.shown)),
	}
}

// pending is the answer when what was asked for will be done but is not yet.
type pending struct {
	Message string `json:"message"`
}

// refusedByORCID is the answer when ORCID does not register the user.
func refusedByORCID(status int, detail string) *failure {
	return &failure{status: status, error: "ORCID refused", message: "ORCID does not register a webhook for this iD.", reason: detail}
}

// tellOfUser ends stopTellingOfUser, and answers as ORCID would: 201 when the
// registration was made now, 204 when it was there.
func (a *API) tellOfUser(w http.ResponseWriter, c *call) error {
	before, err := a.o.Service.Registered(ended(c.Context()), c.org, c.route.orcid)
	if err != nil {
		return err
	}
	if err := a.o.Service.Tell(c.Context(), c.by(), c.org, c.route.orcid, true); err != nil {
		return noSuchUser(c, err)
	}
	ctx, cancel := context.WithTimeout(c.Context(), a.o.Wait)
	defer cancel()
	state, err := a.o.Service.Registered(ctx, c.org, c.route.orcid)
	if err != nil {
		return err
	}
	switch {
	case state == event.RegAlive && before == event.RegAlive:
		a.send(w, c, http.StatusNoContent, nil)
	case state == event.RegAlive:
		a.send(w, c, http.StatusCreated, nil)
	case state == event.RegRefused:
		return refusedByORCID(http.StatusNotFound, "")
	case state == event.RegNone:
		a.send(w, c, http.StatusAccepted, pending{"The user is registered as soon as the webhook or e-mail notifications of your organisation are enabled."})
	default:
		a.send(w, c, http.StatusAccepted, pending{"The user is being registered at ORCID."})
	}
	return nil
}

// ended is a context that has ended: whoever waits with it looks once.
func ended(parent context.Context) context.Context {
	ctx, cancel := context.WithCancel(parent)
	cancel()
	return ctx
}

// stopTellingOfUser mutes the user for the caller's organisation only. Others
// are told as before.
func (a *API) stopTellingOfUser(w http.ResponseWriter, c *call) error {
	if err := a.o.Service.Tell(c.Context(), c.by(), c.org, c.route.orcid, false); err != nil {
		return noSuchUser(c, err)
	}
	a.send(w, c, http.StatusNoContent, nil)
	return nil
}

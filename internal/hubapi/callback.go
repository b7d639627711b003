package hubapi

import (
	"context"
	"net/http"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
)

// putCallback registers a URL of the client's own at ORCID for one of its users,
// and answers with ORCID's status.
func (a *API) putCallback(w http.ResponseWriter, c *call) error {
	ctx, cancel := context.WithTimeout(c.Context(), a.o.Wait)
	defer cancel()
	st, err := a.o.Service.PutCallback(ctx, c.by(), c.org, c.route.orcid, c.route.callback)
	if err != nil {
		return callbackError(c, err)
	}
	switch {
	case st.State == event.RegAlive && st.Kind == orcid.Created:
		if f := a.o.Location; f != nil {
			w.Header().Set("Location", f(c.route.orcid, c.route.callback))
		}
		a.send(w, c, http.StatusCreated, nil)
	case st.State == event.RegAlive:
		a.send(w, c, http.StatusNoContent, nil)
	case st.State == event.RegRefused:
		return refusedByORCID(st.Status, st.Detail)
	default:
		a.send(w, c, http.StatusAccepted, pending{"The call-back URL is being registered at ORCID."})
	}
	return nil
}

// deleteCallback removes it again, and answers with ORCID's status.
func (a *API) deleteCallback(w http.ResponseWriter, c *call) error {
	ctx, cancel := context.WithTimeout(c.Context(), a.o.Wait)
	defer cancel()
	st, err := a.o.Service.DeleteCallback(ctx, c.by(), c.org, c.route.orcid, c.route.callback)
	if err != nil {
		return callbackError(c, err)
	}
	switch {
	case st.Kind == orcid.NoSuchWebhook:
		return &failure{status: http.StatusNotFound, error: "Not Found", message: "ORCID knows no such call-back URL for this iD."}
	case st.Kind == orcid.NotOurs:
		return &failure{status: http.StatusForbidden, error: "ORCID refused", message: "The call-back URL was registered by another ORCID client.", reason: st.Detail}
	case st.State == event.RegNone:
		a.send(w, c, http.StatusNoContent, nil)
	default:
		a.send(w, c, http.StatusAccepted, pending{"The call-back URL is being removed at ORCID."})
	}
	return nil
}

// callbackError puts what is wrong with the URL into the Hub's words.
func callbackError(c *call, err error) error {
	if why, ok := service.BadField(err, "callback_url"); ok {
		return badCallback(c.route.callback, why)
	}
	return noSuchUser(c, err)
}

package hubapi

import (
	_ "embed"
	"net/http"
)

//go:embed openapi.json
var document []byte

// openAPI serves the description of the API.
func (a *API) openAPI(w http.ResponseWriter, c *call) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=300")
	w.WriteHeader(http.StatusOK)
	if _, err := w.Write(document); err != nil {
		a.log.Debug("an answer was not taken", "id", c.id, "err", err)
	}
	return nil
}

package hubapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/service"
)

// failure is an error that knows its answer, in the form of the Hub's.
type failure struct {
	status  int
	error   string // the Hub's word for it
	message string // what happened and what to do
	reason  string // more about it than the Hub had
	retry   time.Duration
	oauth   bool // an answer of the token endpoint (RFC 6749)
}

// Error implements error.
func (f *failure) Error() string { return f.message }

// failureBody is how a failure is sent.
type failureBody struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
	Message     string `json:"message,omitempty"`
	Reason      string `json:"reason,omitempty"`
	// ID is in the log too; only when the fault is ours.
	ID string `json:"id,omitempty"`
}

func internal() *failure {
	return &failure{status: http.StatusInternalServerError, error: "Internal error", message: "Something went wrong on our side; the hub's operator finds it in the log by the id."}
}

func nothingHere() *failure {
	return &failure{status: http.StatusNotFound, error: "Not Found", message: "There is nothing at this path. /api/openapi.json describes all there is."}
}

// badRequest is a request that is wrong in itself.
func badRequest(format string, args ...any) *failure {
	return &failure{status: http.StatusBadRequest, error: "Invalid request", message: fmt.Sprintf(format, args...)}
}

func badCallback(callback string, why error) *failure {
	return &failure{
		status: http.StatusUnsupportedMediaType, error: "Invalid call-back URL",
		message: "Invalid call-back URL: " + clip(callback), reason: why.Error(),
	}
}

// failureOf is the one place where an error becomes an answer. What is ours to
// mend goes to the log under the request's id and says nothing outside.
func (a *API) failureOf(c *call, err error) *failure {
	var f *failure
	var e *service.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &e):
		if f := a.ofService(c, e); f != nil {
			return f
		}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &failure{status: http.StatusServiceUnavailable, error: "Service unavailable", message: "The request was cut off, so the change may not have been made. Try again; every change can be repeated safely."}
	}
	a.log.Error("a request failed", "id", c.id, "org", c.org, "method", c.Method, "route", c.route.name, "err", err)
	return internal()
}

// ofService puts an error of the service into words for an organisation's
// developer, who can use neither our commands nor our file.
func (a *API) ofService(c *call, e *service.Error) *failure {
	switch e.Code {
	case service.CodeInvalid:
		texts := make([]string, len(e.Problems))
		for i, p := range e.Problems {
			key, ok := hubKeys[p.Key]
			if !ok {
				key = p.Key
			}
			texts[i] = key + ": " + hubWords.Replace(p.Why)
		}
		if len(texts) == 0 {
			texts = []string{e.What}
		}
		return badRequest("%s", strings.Join(texts, "; "))
	case service.CodeNotFound:
		return &failure{status: http.StatusNotFound, error: "Not Found", message: e.What}
	case service.CodeReadOnly:
		return &failure{status: http.StatusForbidden, error: "Read only", message: "The settings of this organisation stand in the hub's configuration file. Ask the hub's operator to change them."}
	case service.CodeSuppressed:
		return &failure{status: http.StatusConflict, error: "Conflict", message: "This researcher asked the hub to be erased. If they want to be told about again, ask the hub's operator."}
	case service.CodeConflict, service.CodeGone:
		return &failure{status: http.StatusConflict, error: "Conflict", message: e.What}
	case service.CodeRateLimited:
		return &failure{status: http.StatusTooManyRequests, error: "Too Many Requests", message: strings.TrimSpace(e.What + " " + e.Do), retry: 10 * time.Second}
	case service.CodeUnavailable, service.CodeForgot:
		a.log.Warn("a request failed", "id", c.id, "org", c.org, "method", c.Method, "route", c.route.name, "err", e)
		return &failure{status: http.StatusServiceUnavailable, error: "Service unavailable", message: "The hub cannot reach its data at the moment, so the change may not have been made. Try again; every change can be repeated safely.", retry: 5 * time.Second}
	case service.CodeInternal:
	}
	return nil
}

// fail sends a failure.
func (a *API) fail(w http.ResponseWriter, c *call, f *failure) {
	body := failureBody{Error: f.error, Message: f.message, Reason: f.reason}
	if f.oauth {
		body.Description, body.Message = f.message, ""
	}
	if f.status == http.StatusInternalServerError {
		body.ID = c.id
	}
	if f.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((f.retry+time.Second-1)/time.Second)))
	}
	a.send(w, c, f.status, body)
}

// send answers with JSON; nil is an empty body.
func (a *API) send(w http.ResponseWriter, c *call, status int, v any) {
	if v == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		a.log.Debug("an answer was not taken", "id", c.id, "err", err) // the client went away
	}
}

// decode reads a JSON body into v; without one it reports false. Keys that are
// not known are ignored, as the Hub did, unless strict.
func decode(w http.ResponseWriter, c *call, v any, strict bool) (bool, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, c.Body, maxBody))
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return false, &failure{status: http.StatusRequestEntityTooLarge, error: "Request too large", message: fmt.Sprintf("Send at most %d bytes.", maxBody)}
	}
	if err != nil {
		return false, badRequest("The request body could not be read to its end.")
	}
	// What follows may take longer than a body may.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if len(bytes.TrimSpace(raw)) == 0 {
		return false, nil
	}
	if mt, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || mt != "application/json" && !strings.HasSuffix(mt, "+json") {
		return false, &failure{status: http.StatusUnsupportedMediaType, error: "Unsupported media type", message: "Send Content-Type: application/json."}
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if strict {
		dec.DisallowUnknownFields()
	}
	if err := dec.Decode(v); err != nil {
		return false, badRequest("The body is not what is expected here: %s.", clip(jsonWords(err)))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return false, badRequest("Something follows after the JSON value.")
	}
	return true, nil
}

// jsonWords says what is wrong with a body without our names for its parts.
func jsonWords(err error) string {
	var kind *json.UnmarshalTypeError
	var when *time.ParseError
	switch {
	case errors.As(err, &when):
		return "a time must be written like 2026-11-23T00:00:00Z"
	case errors.As(err, &kind):
		name, want := kind.Field, "text"
		if name == "" {
			name = "it"
		}
		switch kind.Type.Kind() { //nolint:exhaustive // bodies have no others
		case reflect.Bool:
			want = "true or false"
		case reflect.Struct:
			want = "an object"
		}
		return fmt.Sprintf("%s must be %s (got %s)", name, want, kind.Value)
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// clip keeps an answer readable whatever was sent.
func clip(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

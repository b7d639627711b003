package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/service"
)

// problem is an application/problem+json document (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	// Detail is what happened, Do what to do about it.
	Detail string `json:"detail"`
	Do     string `json:"do,omitempty"`
	// Problems are all bad fields at once.
	Problems []fieldProblem `json:"problems,omitempty"`
	// ID is in the log too when the fault is ours.
	ID string `json:"id"`
	// Report is how far an import or a sync came.
	Report any `json:"report,omitempty"`
}

type fieldProblem struct {
	Key string `json:"key,omitempty"`
	Why string `json:"why"`
}

// failure is an error that knows its answer.
type failure struct {
	status   int
	code     string
	detail   string
	do       string
	problems []fieldProblem
	report   any
	retry    time.Duration // Retry-After; 0 for none
}

// Error implements error.
func (f *failure) Error() string { return f.detail }

func internal() *failure {
	return &failure{
		status: http.StatusInternalServerError, code: string(service.CodeInternal), detail: "Something went wrong inside dispatchd.",
		do: "The log has the details, under the id of this answer.",
	}
}

// bad is a request that is wrong in one field.
func bad(key, why string) *failure {
	return &failure{
		status: http.StatusBadRequest, code: string(service.CodeInvalid), detail: "The request is not valid.",
		problems: []fieldProblem{{key, why}},
	}
}

// statusOf joins the codes of package service to HTTP; what is missing is 500.
func statusOf(c service.Code) int {
	switch c {
	case service.CodeNotFound:
		return http.StatusNotFound
	case service.CodeInvalid:
		return http.StatusBadRequest
	case service.CodeReadOnly, service.CodeConflict, service.CodeSuppressed:
		return http.StatusConflict
	case service.CodeRateLimited:
		return http.StatusTooManyRequests
	case service.CodeGone:
		return http.StatusGone
	case service.CodeUnavailable, service.CodeForgot:
		return http.StatusServiceUnavailable
	case service.CodeInternal:
	}
	return http.StatusInternalServerError
}

// failureOf is the one place where an error becomes an answer. What is ours to
// mend goes to the log under the request's id and says nothing outside.
func (s *Server) failureOf(r *http.Request, err error) *failure {
	var f *failure
	var e *service.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &e) && statusOf(e.Code) != http.StatusInternalServerError:
		f = &failure{status: statusOf(e.Code), code: string(e.Code), detail: e.What, do: e.Do}
		for _, p := range e.Problems {
			f.problems = append(f.problems, fieldProblem{p.Key, p.Why})
		}
		switch e.Code {
		case service.CodeRateLimited:
			f.retry = 10 * time.Second
		case service.CodeUnavailable:
			f.retry = 5 * time.Second
			s.log.Warn("a request failed", "id", requestID(r), "method", r.Method, "path", r.URL.Path, "err", err)
		}
		return f
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &failure{
			status: http.StatusServiceUnavailable, code: string(service.CodeUnavailable),
			detail: "The request was cut off, so the change may not have been made.", do: "Try again; every change can be repeated safely.",
		}
	}
	s.log.Error("a request failed", "id", requestID(r), "method", r.Method, "path", r.URL.Path, "err", err)
	return internal()
}

func (f *failure) document(id string) problem {
	return problem{
		Type: "urn:dispatchd:problem:" + strings.ReplaceAll(f.code, "_", "-"), Title: http.StatusText(f.status), Status: f.status, Code: f.code,
		Detail: f.detail, Do: f.do, Problems: f.problems, ID: id, Report: f.report,
	}
}

// answer sends a problem document.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, f *failure) {
	w.Header().Set("Content-Type", "application/problem+json")
	if f.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.retry.Seconds())))
	}
	setWrite(http.NewResponseController(w), writeTimeout)
	w.WriteHeader(f.status)
	s.encode(w, r, f.document(requestID(r)))
}

// send answers with JSON.
func (s *Server) send(w http.ResponseWriter, r *http.Request, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	setWrite(http.NewResponseController(w), writeTimeout)
	w.WriteHeader(status)
	s.encode(w, r, v)
	return nil
}

// encode writes v. Only a client that went away makes it fail, and then there
// is nobody to tell.
func (s *Server) encode(w http.ResponseWriter, r *http.Request, v any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		s.log.Debug("an answer was not taken", "id", requestID(r), "err", err)
	}
}

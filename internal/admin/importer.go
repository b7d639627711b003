package admin

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"dispatchd/internal/service"
)

// ndjson is the type of lists and of streamed progress.
const ndjson = "application/x-ndjson"

// importLine is one line of a streamed import: progress any number of times,
// then either the report or the problem.
type importLine struct {
	Progress *service.ImportReport `json:"progress,omitempty"`
	Report   *service.ImportReport `json:"report,omitempty"`
	Problem  *problem              `json:"problem,omitempty"`
}

// importUsers takes a list of any length; it is never held as a whole. Whoever
// accepts NDJSON hears how far it is.
func (s *Server) importUsers(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "announce")
	if err != nil {
		return err
	}
	announce, err := boolOf(q, "announce")
	if err != nil {
		return err
	}
	var format service.Format
	switch mediaType(r) {
	case "text/csv":
		format = service.CSV
	case ndjson:
		format = service.NDJSON
	default:
		return wrongType(r, "text/csv", ndjson)
	}
	rc := http.NewResponseController(w)
	body := &steady{r.Body, rc}
	var told bool // the answer has begun
	var progress func(service.ImportReport)
	streamed := strings.Contains(r.Header.Get("Accept"), ndjson)
	if streamed {
		// Without it the server would read the whole list before the first line
		// of progress goes out.
		if err := rc.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		progress = func(p service.ImportReport) {
			p.BadLines = []service.BadLine{} // only the report lists them
			s.line(w, r, &told, importLine{Progress: &p})
		}
	}
	report, err := s.o.Service.Import(r.Context(), by(r), r.PathValue("id"), body, format, announce, progress)
	setRead(rc, 0)
	var f *failure
	if err != nil {
		f = s.failureOf(r, err)
		if report.Lines > 0 {
			f.report = &report
		}
		if !told {
			return f
		}
	}
	switch {
	case !streamed:
		return s.send(w, r, http.StatusOK, report)
	case f != nil:
		doc := f.document(requestID(r))
		s.line(w, r, &told, importLine{Problem: &doc})
	default:
		s.line(w, r, &told, importLine{Report: &report})
	}
	return nil
}

// line sends one line at once.
func (s *Server) line(w http.ResponseWriter, r *http.Request, told *bool, v importLine) {
	rc := http.NewResponseController(w)
	setWrite(rc, writeTimeout)
	if !*told {
		*told = true
		w.Header().Set("Content-Type", ndjson)
		w.WriteHeader(http.StatusOK)
	}
	s.encode(w, r, v)
	if err := rc.Flush(); err != nil {
		s.log.Debug("progress was not taken", "id", requestID(r), "err", err)
	}
}

// steady is a body that may take any time as a whole but must not stop.
type steady struct {
	body io.Reader
	rc   *http.ResponseController
}

// Read implements io.Reader.
func (b *steady) Read(p []byte) (int, error) {
	setRead(b.rc, readTimeout)
	n, err := b.body.Read(p)
	setRead(b.rc, 0)
	return n, err
}

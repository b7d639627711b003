package admin

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

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
	body := &steady{body: r.Body, rc: rc}
	var told bool // the answer has begun
	var progress func(service.ImportReport)
	streamed := strings.Contains(r.Header.Get("Accept"), ndjson)
	if streamed {
		progress = func(p service.ImportReport) {
			p.BadLines = []service.BadLine{} // only the report lists them
			s.line(w, r, &told, importLine{Progress: &p})
		}
	}
	report, err := s.o.Service.Import(r.Context(), by(r), r.PathValue("id"), body, format, announce, progress)
	if !body.began {
		return err // not a word of the list was read
	}
	// The answer goes out before the rest of a list that failed is read away, so
	// that whoever still sends hears why.
	defer body.drain()
	var f *failure
	if err != nil {
		f = s.failureOf(r, err)
		if report.Lines > 0 {
			f.report = &report
		}
	}
	switch {
	case f != nil && !told:
		s.answer(w, r, f)
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

// maxDrain bounds what is read away of a list that failed, drainTime how long.
const (
	maxDrain  = 64 << 20
	drainTime = 10 * time.Second
)

// steady is a body that may take any time as a whole but must not stop. From
// its first byte on it may be read while the answer is written: otherwise the
// server would read the whole list before the first line of progress goes out.
type steady struct {
	body  io.Reader
	rc    *http.ResponseController
	began bool
	ended bool
}

// Read implements io.Reader.
func (b *steady) Read(p []byte) (int, error) {
	if !b.began {
		b.began = true
		_ = b.rc.EnableFullDuplex() // only a writer of a test cannot
	}
	setRead(b.rc, readTimeout)
	n, err := b.body.Read(p)
	setRead(b.rc, 0)
	b.ended = b.ended || err != nil
	return n, err
}

// drain reads the rest away. net/http must not find an unread rest of a body
// that was read in full duplex: it would watch the connection and read the next
// request from it at the same time, and panic. What is too long for that costs
// the connection.
func (b *steady) drain() {
	if b.ended {
		return
	}
	_ = b.rc.Flush() // who cannot be told is gone
	setRead(b.rc, drainTime)
	_, err := io.CopyN(io.Discard, b.body, maxDrain)
	if !errors.Is(err, io.EOF) {
		panic(http.ErrAbortHandler)
	}
	setRead(b.rc, 0)
}

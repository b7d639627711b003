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

// importLine is one line of a streamed import or sync: progress any number of
// times, then either the report or the problem.
type importLine struct {
	Progress any      `json:"progress,omitempty"`
	Report   any      `json:"report,omitempty"`
	Problem  *problem `json:"problem,omitempty"`
}

// importUsers affiliates everybody in a list.
func (s *Server) importUsers(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "announce")
	if err != nil {
		return err
	}
	announce, err := boolOf(q, "announce")
	if err != nil {
		return err
	}
	return s.takeList(w, r, func(body io.Reader, format service.Format, tell func(any)) (any, bool, error) {
		var progress func(service.ImportReport)
		if tell != nil {
			progress = func(p service.ImportReport) {
				p.BadLines = []service.BadLine{} // only the report lists them
				tell(p)
			}
		}
		report, err := s.o.Service.Import(r.Context(), by(r), r.PathValue("id"), body, format, announce, progress)
		return report, report.Lines > 0, err
	})
}

// syncUsers makes an organisation's users those of a list.
func (s *Server) syncUsers(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "announce", "dry_run", "force")
	if err != nil {
		return err
	}
	var o service.SyncOptions
	for key, to := range map[string]*bool{"announce": &o.Announce, "dry_run": &o.DryRun, "force": &o.Force} {
		if *to, err = boolOf(q, key); err != nil {
			return err
		}
	}
	return s.takeList(w, r, func(body io.Reader, format service.Format, tell func(any)) (any, bool, error) {
		var progress func(service.SyncReport)
		if tell != nil {
			progress = func(p service.SyncReport) {
				p.BadLines = []service.BadLine{}
				tell(p)
			}
		}
		report, err := s.o.Service.Sync(r.Context(), by(r), r.PathValue("id"), body, format, o, progress)
		return report, report.Lines > 0, err
	})
}

// takeList takes a list of any length; it is never held as a whole. Whoever
// accepts NDJSON hears how far it is. Do returns its report and whether there is
// anything in it.
func (s *Server) takeList(w http.ResponseWriter, r *http.Request, do func(body io.Reader, f service.Format, tell func(any)) (any, bool, error)) error {
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
	var tell func(any)
	streamed := strings.Contains(r.Header.Get("Accept"), ndjson)
	if streamed {
		tell = func(p any) { s.line(w, r, &told, importLine{Progress: p}) }
	}
	report, something, err := do(body, format, tell)
	if !body.began {
		return err // not a word of the list was read
	}
	// The answer goes out before the rest of a list that failed is read away, so
	// that whoever still sends hears why.
	defer body.drain()
	var f *failure
	if err != nil {
		f = s.failureOf(r, err)
		if something {
			f.report = report
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
		s.line(w, r, &told, importLine{Report: report})
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

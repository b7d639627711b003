package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"dispatchd/internal/service"
)

type userImportCmd struct {
	File     string `arg:"" help:"CSV with the header orcid,email,eppn,name (only orcid needed), or NDJSON; - reads standard input."`
	Org      string `help:"The organisation." required:"" placeholder:"ID"`
	Announce bool   `help:"Tell the organisation of everybody who is new (CREATED)."`
	Format   string `help:"csv or ndjson. Default: by the file's name, else csv." enum:",csv,ndjson" default:"" placeholder:"FORMAT"`
}

// importLine is one line of the streamed answer.
type importLine struct {
	Progress *service.ImportReport `json:"progress"`
	Report   json.RawMessage       `json:"report"`
	Problem  json.RawMessage       `json:"problem"`
}

// Run implements the command.
func (c *userImportCmd) Run(s *session) error {
	in, size, err := c.open(s)
	if err != nil {
		return err
	}
	defer in.Close()
	cl, err := s.client()
	if err != nil {
		return err
	}
	defer cl.close()
	path := at("organisations", c.Org, "users")
	if c.Announce {
		path += "?announce=1"
	}
	body := &counted{r: in}
	header := http.Header{
		"Content-Type": {c.mediaType()}, "Accept": {"application/x-ndjson"},
		// A refusal comes before the list is sent, not into the middle of it.
		"Expect": {"100-continue"},
	}
	res, err := cl.send(s.ctx, http.MethodPost, path, header, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		return s.importFailed(raw, cl.failed(res, raw))
	}
	if res.Header.Get("Content-Type") != "application/x-ndjson" {
		return cl.notOurs(res)
	}
	bar := &bar{s: s, size: size, sent: &body.n}
	raw, err := c.follow(res.Body, bar, cl)
	bar.end()
	var e *apiError
	if errors.As(err, &e) {
		return s.importFailed(e.raw, err)
	}
	if err != nil {
		return err
	}
	var report service.ImportReport
	if err := s.decode(raw, &report); err != nil {
		return err
	}
	if s.JSON {
		s.printf("%s\n", raw)
	} else {
		s.showReport(report)
	}
	if report.Bad > 0 {
		return ExitCode(exitFail)
	}
	return nil
}

func (c *userImportCmd) open(s *session) (io.ReadCloser, int64, error) {
	if c.File == "-" {
		return io.NopCloser(s.env.Stdin), 0, nil
	}
	f, err := os.Open(c.File)
	if err != nil {
		return nil, 0, fmt.Errorf("open the list: %w", err)
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = errors.New("is a directory")
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open the list %s: %w", c.File, err), f.Close())
	}
	return f, st.Size(), nil
}

func (c *userImportCmd) mediaType() string {
	format := c.Format
	if format == "" {
		switch strings.ToLower(filepath.Ext(c.File)) {
		case ".ndjson", ".jsonl", ".json":
			format = "ndjson"
		}
	}
	if format == "ndjson" {
		return "application/x-ndjson"
	}
	return "text/csv"
}

// follow reads the streamed answer to its report.
func (c *userImportCmd) follow(r io.Reader, b *bar, cl *client) ([]byte, error) {
	lines := bufio.NewReader(r)
	var last service.ImportReport
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			return nil, fmt.Errorf("the connection to dispatchd at %s broke after %s lines; run the same import again, it is safe to repeat: %w", cl.shown, number(last.Lines), err)
		}
		var line importLine
		if err := json.Unmarshal(text, &line); err != nil {
			return nil, fmt.Errorf("the daemon's answer is not understood; are both of the same version? %w", err)
		}
		switch {
		case line.Progress != nil:
			last = *line.Progress
			b.draw(last)
		case line.Report != nil:
			return line.Report, nil
		case line.Problem != nil:
			e := &apiError{raw: line.Problem}
			if err := json.Unmarshal(line.Problem, e); err != nil {
				return nil, fmt.Errorf("the daemon's answer is not understood: %w", err)
			}
			return nil, e
		}
	}
}

// importFailed shows a failed import, with how far it came.
func (s *session) importFailed(raw []byte, err error) error {
	if s.JSON {
		return s.raw(append(raw, '\n'), err)
	}
	var e *apiError
	var report service.ImportReport
	if errors.As(err, &e) && len(e.Report) > 0 && json.Unmarshal(e.Report, &report) == nil {
		s.showReport(report)
	}
	return err
}

func (s *session) showReport(r service.ImportReport) {
	for _, b := range r.BadLines {
		wrap(s.env.Stdout, fmt.Sprintf("line %d: ", b.Line), "  ", b.Why)
	}
	if more := r.Bad - len(r.BadLines); more > 0 {
		s.printf("… and %s more bad lines\n", number(more))
	}
	s.printf("%s: %s new, %s known, %s bad\n", count(r.Lines, "line", "lines"), number(r.Added), number(r.Known), number(r.Bad))
}

// counted counts what was read, for the progress bar.
type counted struct {
	r io.Reader
	n atomic.Int64
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// bar draws progress over itself on a terminal, and nothing elsewhere.
type bar struct {
	s     *session
	size  int64 // of the file; 0 when nobody knows
	sent  *atomic.Int64
	drawn bool
}

func (b *bar) draw(p service.ImportReport) {
	if !b.s.env.IsTerminal(b.s.env.Stderr) {
		return
	}
	text := fmt.Sprintf("%s lines, %s new, %s bad", number(p.Lines), number(p.Added), number(p.Bad))
	if b.size > 0 {
		const full = 24
		part := min(b.sent.Load(), b.size)
		done := int(part * full / b.size)
		text = fmt.Sprintf("[%s%s] %3d%%  %s", strings.Repeat("#", done), strings.Repeat(".", full-done), part*100/b.size, text)
	}
	fmt.Fprintf(b.s.env.Stderr, "\r\x1b[K%s", clip(text, width-1))
	b.drawn = true
}

func (b *bar) end() {
	if b.drawn {
		fmt.Fprint(b.s.env.Stderr, "\r\x1b[K")
	}
}

package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"dispatchd/internal/service"
)

// listFile is the list that a command sends.
type listFile struct {
	File     string `arg:"" help:"CSV with the header orcid,email,eppn,name (only orcid needed), or NDJSON; - reads standard input."`
	Org      string `help:"The organisation." required:"" placeholder:"ID"`
	Announce bool   `help:"Tell the organisation of everybody who is new (CREATED)."`
	Format   string `help:"csv or ndjson. Default: by the file's name, else csv." enum:",csv,ndjson" default:"" placeholder:"FORMAT"`
}

type userImportCmd struct{ listFile }

// Run implements the command.
func (c *userImportCmd) Run(s *session) error {
	var report, last service.ImportReport
	q := url.Values{}
	if c.Announce {
		q.Set("announce", "1")
	}
	return s.sendList(&c.listFile, sending{
		path: at("organisations", c.Org, "users"), query: q, report: &report, progress: &last,
		bar: func(b *bar) drawing {
			part, known := b.sentPart()
			words := []word{{number(last.Lines) + " lines", 5}, {number(last.Added) + " new", 1}}
			if last.Bad > 0 {
				words = append(words, word{number(last.Bad) + " bad", 3})
			}
			return drawing{part, known, last.Lines, words}
		},
		how: func() (int, string) { return last.Lines, "run the same import again, it goes on where this one ended" },
		show: func() error {
			s.showReport(report)
			return nil
		},
		bad: func() bool { return report.Bad > 0 },
	})
}

// sending is one list on its way.
type sending struct {
	path             string
	query            url.Values
	report, progress any                  // are decoded into
	bar              func(b *bar) drawing // shows progress
	how              func() (int, string) // how many lines are done, and what to do when it broke off
	show             func() error         // shows the report
	bad              func() bool          // whether the report is one of a failure
}

// importLine is one line of the streamed answer.
type importLine struct {
	Progress json.RawMessage `json:"progress"`
	Report   json.RawMessage `json:"report"`
	Problem  json.RawMessage `json:"problem"`
}

// sendList sends a list, draws how far the daemon is, and shows what it did.
func (s *session) sendList(c *listFile, to sending) error {
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
	path := to.path
	if len(to.query) > 0 {
		path += "?" + to.query.Encode()
	}
	body := &counted{r: in}
	header := http.Header{
		"Content-Type": {c.mediaType()}, "Accept": {"application/x-ndjson"},
		// A refusal comes before the list is sent, not into the middle of it.
		"Expect": {"100-continue"},
	}
	began := s.now()
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
		return s.listFailed(raw, cl.failed(res, raw), to)
	}
	if res.Header.Get("Content-Type") != "application/x-ndjson" {
		return cl.notOurs(res)
	}
	bar := &bar{s: s, size: size, sent: &body.n, began: began}
	raw, err := to.follow(res.Body, bar, cl)
	bar.end()
	var e *apiError
	if errors.As(err, &e) {
		return s.listFailed(e.raw, err, to)
	}
	if err != nil {
		return err
	}
	if err := s.decode(raw, to.report); err != nil {
		return err
	}
	if s.JSON {
		s.printf("%s\n", raw)
	} else if err := to.show(); err != nil {
		return err
	}
	if to.bad() {
		return ExitCode(exitFail)
	}
	return nil
}

func (c *listFile) open(s *session) (io.ReadCloser, int64, error) {
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

func (c *listFile) mediaType() string {
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
func (to sending) follow(r io.Reader, b *bar, cl *client) ([]byte, error) {
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			n, what := to.how()
			return nil, fmt.Errorf("the connection to dispatchd at %s broke after %s lines; %s: %w", cl.shown, number(n), what, err)
		}
		var line importLine
		if err := json.Unmarshal(text, &line); err != nil {
			return nil, fmt.Errorf("the daemon's answer is not understood; are both of the same version? %w", err)
		}
		switch {
		case line.Progress != nil:
			if err := json.Unmarshal(line.Progress, to.progress); err != nil {
				return nil, fmt.Errorf("the daemon's answer is not understood: %w", err)
			}
			b.draw(to.bar)
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

// listFailed shows a list that failed, with how far it came.
func (s *session) listFailed(raw []byte, err error, to sending) error {
	if s.JSON {
		return s.raw(append(raw, '\n'), err)
	}
	var e *apiError
	if errors.As(err, &e) && len(e.Report) > 0 && json.Unmarshal(e.Report, to.report) == nil {
		if err := to.show(); err != nil {
			return err
		}
	}
	return err
}

func (s *session) showReport(r service.ImportReport) {
	s.showBadLines(r)
	text := fmt.Sprintf("%s: %s new, %s known, %s bad", count(r.Lines, "line", "lines"), number(r.Added), number(r.Known), number(r.Bad))
	if r.Suppressed > 0 {
		text += fmt.Sprintf(", %s on the suppression list", number(r.Suppressed))
	}
	s.printf("%s\n", text)
}

func (s *session) showBadLines(r service.ImportReport) {
	for _, b := range r.BadLines {
		wrap(s.env.Stdout, fmt.Sprintf("line %d: ", b.Line), "  ", b.Why)
	}
	if more := r.Bad - len(r.BadLines); more > 0 {
		s.printf("… and %s more bad lines\n", number(more))
	}
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
	began time.Time
	drawn bool
}

// drawing is what a bar shows: how much is done (0 to 1), if anybody knows, how
// many lines that are, and the words.
type drawing struct {
	part  float64
	known bool
	done  int
	words []word
}

func (b *bar) draw(what func(*bar) drawing) {
	if !b.s.env.IsTerminal(b.s.env.Stderr) {
		return
	}
	d := what(b)
	line := progressLine(b.s.room(b.s.env.Stderr), d.part, d.known, append(d.words, b.pace(d)...)...)
	fmt.Fprint(b.s.env.Stderr, eraseLine+line)
	b.drawn = true
}

// sentPart says how much of the file was sent.
func (b *bar) sentPart() (part float64, known bool) {
	if b.size <= 0 {
		return 0, false
	}
	return float64(b.sent.Load()) / float64(b.size), true
}

// pace says how many a second and how long it will take; nothing in the first
// second.
func (b *bar) pace(d drawing) []word {
	took := b.s.now().Sub(b.began)
	if took < time.Second || d.done == 0 {
		return nil
	}
	words := []word{{fmt.Sprintf("%s/s", number(int(float64(d.done)/took.Seconds()))), 2}}
	if d.known && d.part > 0.01 && d.part < 1 {
		words = append(words, word{span(time.Duration(float64(took)*(1-d.part)/d.part)) + " left", 4})
	}
	return words
}

func (b *bar) end() {
	if b.drawn {
		fmt.Fprint(b.s.env.Stderr, eraseLine)
	}
}

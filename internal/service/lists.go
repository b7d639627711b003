package service

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// readCSV calls take for every record and bad for every line that is none.
func readCSV(r io.Reader, take func(int, string, Person) error, bad func(int, error)) error {
	br := bufio.NewReaderSize(r, maxImportLine)
	if bom, err := br.Peek(3); err == nil && bytes.Equal(bom, []byte("\xef\xbb\xbf")) {
		if _, err := br.Discard(3); err != nil {
			return err
		}
	}
	head, err := br.Peek(1)
	if errors.Is(err, io.EOF) || len(head) == 0 {
		return invalid("The list is empty.", errors.New("the first line must be a header such as orcid,email,eppn,name"))
	}
	if err := notText(br); err != nil {
		return err
	}
	comma := delimiter(br)
	lines := &lineReader{src: br}
	cr := csv.NewReader(lines)
	cr.Comma = comma
	cr.FieldsPerRecord = -1
	cr.ReuseRecord = true
	var columns map[string]int
	width := 0
	for {
		err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		var rec []string
		if err == nil {
			rec, err = cr.Read()
		}
		var pe *csv.ParseError
		switch {
		case errors.Is(err, io.EOF): // an empty line
			continue
		case errors.As(err, &pe), errors.Is(err, errLongLine):
			if columns == nil {
				return invalid("The list has no readable header.", fmt.Errorf("line %d: %w", lines.line, plainly(err)))
			}
			bad(lines.line, plainly(err))
			continue
		case err != nil:
			return err
		}
		if columns == nil {
			if columns, err = columnsOf(rec); err != nil {
				return invalid("The header of the list is not right.", err)
			}
			width = len(rec)
			continue
		}
		if len(rec) != width {
			bad(lines.line, fmt.Errorf("has %d fields, the header has %d", len(rec), width))
			continue
		}
		get := func(name string) string {
			if i, ok := columns[name]; ok {
				return strings.TrimSpace(rec[i])
			}
			return ""
		}
		p := Person{Email: strings.Clone(get("email")), EPPN: strings.Clone(get("eppn")), Name: strings.Clone(get("name"))}
		if err := take(lines.line, get("orcid"), p); err != nil {
			return err
		}
	}
	if columns == nil {
		return invalid("The list has no readable header.", errors.New("all its lines are empty"))
	}
	return nil
}

// notText recognises what people take for a list and a spreadsheet program makes.
func notText(br *bufio.Reader) error {
	begin, _ := br.Peek(4) // a shorter list is looked at by who reads it
	begins := func(with string) bool { return bytes.HasPrefix(begin, []byte(with)) }
	again := errors.New("save it as “CSV UTF-8” in the spreadsheet program and take that file")
	switch {
	case begins("PK\x03\x04"), begins("\xd0\xcf\x11\xe0"): // .xlsx and .ods, .xls
		return invalid("This is the file of a spreadsheet program, not a list as text.", again)
	case begins("\xff\xfe"), begins("\xfe\xff"): // UTF-16
		return invalid("The list is not written in UTF-8.", again)
	}
	return nil
}

var errLongLine = fmt.Errorf("has more than %d bytes", maxImportLine)

// plainly leaves out where in its input, which is one line, the parser was.
func plainly(err error) error {
	var pe *csv.ParseError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// lineReader gives a CSV parser one line at a time, each of which ends like a
// file: a quote that is never closed spoils its own line, not all that follow.
// No value of ours may hold a line break anyway.
type lineReader struct {
	src  *bufio.Reader
	rest []byte // of the current line
	line int    // its number
}

// next goes to the next line; io.EOF means that there is none.
func (l *lineReader) next() error {
	text, err := l.src.ReadSlice('\n')
	if len(text) == 0 && err != nil {
		return err
	}
	l.line++
	long := false
	for errors.Is(err, bufio.ErrBufferFull) {
		long = true
		_, err = l.src.ReadSlice('\n')
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if long {
		l.rest = nil
		return errLongLine
	}
	l.rest = text
	return nil
}

// Read implements io.Reader.
func (l *lineReader) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// delimiter guesses what the header is separated by: spreadsheets in many
// countries write semicolons.
func delimiter(br *bufio.Reader) rune {
	var line []byte
	// As far as the header goes, however small the pieces are that it comes in.
	for n, more := 1, true; more && n <= 4096; n = br.Buffered() + 1 {
		_, err := br.Peek(n)
		head, _ := br.Peek(min(br.Buffered(), 4096)) // it is there
		var whole bool
		line, _, whole = bytes.Cut(bytes.TrimLeft(head, "\r\n"), []byte{'\n'}) // empty lines may stand before it
		more = err == nil && !whole
	}
	best, most := ',', bytes.Count(line, []byte{','})
	for _, c := range []byte{';', '\t'} {
		if n := bytes.Count(line, []byte{c}); n > most {
			best, most = rune(c), n
		}
	}
	return best
}

var knownColumns = []string{"orcid", "email", "eppn", "name"}

func columnsOf(header []string) (map[string]int, error) {
	columns := map[string]int{}
	for i, h := range header {
		name := strings.ToLower(strings.TrimSpace(h))
		if !slices.Contains(knownColumns, name) {
			return nil, fmt.Errorf("unknown column %q; known are %s", clip(h), strings.Join(knownColumns, ", "))
		}
		if _, twice := columns[name]; twice {
			return nil, fmt.Errorf("column %q comes twice", name)
		}
		columns[name] = i
	}
	if _, ok := columns["orcid"]; !ok {
		return nil, errors.New("there is no column orcid")
	}
	return columns, nil
}

// readNDJSON is readCSV for one JSON object a line.
func readNDJSON(r io.Reader, take func(int, string, Person) error, bad func(int, error)) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxImportLine)
	line := 0
	for sc.Scan() {
		line++
		text := bytes.TrimSpace(sc.Bytes())
		if len(text) == 0 {
			continue
		}
		var in struct {
			ORCID string `json:"orcid"`
			Person
		}
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil {
			bad(line, fmt.Errorf("is not the expected JSON: %s", strings.TrimPrefix(err.Error(), "json: ")))
			continue
		}
		if dec.More() {
			bad(line, errors.New("has more than one JSON value"))
			continue
		}
		if err := take(line, in.ORCID, in.Person); err != nil {
			return err
		}
	}
	if errors.Is(sc.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d has more than %d bytes", line+1, maxImportLine)
	}
	return sc.Err()
}

// clean reports whether s is UTF-8 without control characters.
func clean(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 })
}

// clip keeps an error readable whatever was fed in.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"dispatchd/internal/org"
)

// maxSize is the size of a configuration file that cannot be one any more;
// ten thousand organisations need about 5 MB.
const maxSize = 32 << 20

// LoadOptions says where Parse finds what the file names.
type LoadOptions struct {
	// Dir is what relative paths are relative to; empty means the working
	// directory.
	Dir string
	// CredentialsDir is where bare names of secret files are looked up first
	// ($CREDENTIALS_DIRECTORY); empty means nowhere.
	CredentialsDir string
	// StateDir is the default of data_dir ($STATE_DIRECTORY); empty means none.
	StateDir string
	// ReadFile reads secret files and redis.ca_file. Nil reads regular files of
	// at most 64 KiB and refuses secrets that everyone can read or that others
	// than the owner can write, except in CredentialsDir, which its maker guards.
	ReadFile func(path string) ([]byte, error)
	// exposed says that everyone can read the file itself, which is worth a
	// warning at each secret written in it.
	exposed bool
}

// Load reads the file and the secrets that it names. A file that was read but
// is not right gives *Errors; everything else is an I/O error.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open configuration: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open configuration: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("find the directory of %s: %w", path, err)
	}
	// systemd separates several state directories by colons; the first is ours.
	state, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return Parse(path, data, LoadOptions{
		Dir: dir, CredentialsDir: os.Getenv("CREDENTIALS_DIRECTORY"), StateDir: state,
		exposed: info.Mode().Type() == 0 && exposed(info.Mode()),
	})
}

// Parse is Load for text that was read already; name is what errors call it.
// Its error is always *Errors.
func Parse(name string, data []byte, o LoadOptions) (*Config, error) {
	r := &reader{file: name, o: o, lines: map[string]int{}, bad: map[string]bool{}, sources: map[string]string{}}
	if len(data) > maxSize {
		r.list = append(r.list, Error{File: name, Line: 1, Key: "syntax", Why: "is larger than 32 MiB; is this the right file?"})
		return nil, &Errors{List: r.list}
	}
	root, tooDeep := scan(data)
	if tooDeep > 0 {
		r.list = append(r.list, Error{File: name, Line: tooDeep, Key: "syntax", Why: "is nested too deeply"})
		return nil, &Errors{List: r.list}
	}
	var raw map[string]any
	if _, err := toml.Decode(string(data), &raw); err != nil {
		return nil, &Errors{List: []Error{syntaxError(name, err)}}
	}
	c := Default()
	c.ORCID.APIURL, c.ORCID.TokenURL, c.ORCID.SiteURL = "", "", ""
	r.table("", raw, root, reflect.ValueOf(c).Elem())
	r.complete(c)
	r.check(c)
	sortErrors(r.list)
	sortErrors(r.warnings)
	if len(r.list) > 0 {
		return nil, &Errors{List: r.list, Warnings: r.warnings}
	}
	c.Warnings, c.sources = r.warnings, r.sources
	return c, nil
}

// found matches what the parser repeats of the file: quoted text and numbers.
var found = regexp.MustCompile(`"(?:[^"\\]|\\.){2,}"|'(?:[^'\\]|\\.){2,}'|[-+]?[0-9][0-9a-zA-Z_.:+-]{3,}`)

// syntaxError turns the parser's error into ours. The parser repeats what it
// found, which may be a secret whose quotes were forgotten, so only words that
// are keys of ours are kept.
func syntaxError(name string, err error) Error {
	e := Error{File: name, Line: 1, Key: "syntax", Why: "is not TOML"}
	var p toml.ParseError
	if !errors.As(err, &p) {
		return e
	}
	e.Line = max(1, p.Position.Line)
	known := func(words string) bool {
		return len(words) < 100 && !slices.ContainsFunc(strings.Split(words, "."), func(w string) bool { return len(tables(w)) == 0 })
	}
	if p.LastKey != "" && known(p.LastKey) {
		e.Key = p.LastKey
	}
	message := found.ReplaceAllStringFunc(p.Message, func(text string) string {
		if known(strings.Trim(text, `"'`)) {
			return text
		}
		return "…"
	})
	e.Why += ": " + strings.TrimSuffix(strings.Map(func(c rune) rune {
		if isControl(c) {
			return ' '
		}
		return c
	}, message), ".")
	if strings.HasPrefix(p.Message, "expected value but found") || strings.HasPrefix(p.Message, "expected a top-level item") {
		e.Why += " (text must be in quotes)"
	}
	return e
}

// reader is one run of Parse: what was found and what is wrong with it.
type reader struct {
	file     string
	o        LoadOptions
	list     []Error
	warnings []Error
	// lines holds the line of every key that stands in the file, by path:
	// "delivery.timeout", "organisation[0].webhook.url".
	lines map[string]int
	// bad marks keys that have an error already: what follows from it is not
	// reported as well.
	bad     map[string]bool
	sources map[string]string
	ids     []string // what errors call each organisation
}

// line returns the line of the key or, when it is not in the file, of the
// nearest table around it.
func (r *reader) line(path string) int {
	for path != "" {
		if l := max(r.lines[path], r.lines[path+"_file"]); l > 0 {
			return l
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 1
}

// at makes the error for a path.
func (r *reader) at(path, format string, args ...any) Error {
	e := Error{File: r.file, Line: r.line(path), Key: path, Why: fmt.Sprintf(format, args...)}
	if rest, ok := strings.CutPrefix(path, "organisation["); ok {
		number, key, _ := strings.Cut(rest, "]")
		if i, err := strconv.Atoi(number); err == nil {
			e.Org, e.Key = "#"+strconv.Itoa(i+1), strings.TrimPrefix(key, ".")
			if i < len(r.ids) && org.ValidID(r.ids[i]) {
				e.Org = r.ids[i]
			}
			if e.Key == "" {
				e.Key = "organisation"
			}
		}
	}
	return e
}

// wrong notes an error of a value, found while walking.
func (r *reader) wrong(path, format string, args ...any) {
	r.list = append(r.list, r.at(path, format, args...))
	r.bad[path] = true
}

// refuse notes an error of a check, unless the value was wrong before.
func (r *reader) refuse(path, format string, args ...any) {
	if !r.bad[path] && !r.bad[path+"_file"] {
		r.list = append(r.list, r.at(path, format, args...))
	}
}

// warn notes a likely mistake.
func (r *reader) warn(path, format string, args ...any) {
	r.warnings = append(r.warnings, r.at(path, format, args...))
}

// given reports whether the key stands in the file.
func (r *reader) given(path string) bool { return r.lines[path] > 0 }

// resolve makes a path of the file absolute, as far as Dir is.
func (r *reader) resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(r.o.Dir, path)
}

// exposed reports whether everyone can read, or others than the owner write.
func exposed(mode fs.FileMode) bool { return mode.Perm()&0o026 != 0 }

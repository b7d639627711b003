package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestScanKnowsTheLineOfEveryKey(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text string
		want map[string]int // path as in pathLine
	}{
		"plain keys":    {"a = 1\n# c\n\n  b=2 # x", map[string]int{"a": 1, "b": 4}},
		"windows lines": {"a = 1\r\nb = 2\r\n", map[string]int{"a": 1, "b": 2}},
		"byte order":    {"\xef\xbb\xbfa = 1\nb = 2", map[string]int{"a": 1, "b": 2}},
		"headers":       {"[a]\nx=1\n[b.c]\ny=2\n[b]\nz=3", map[string]int{"a": 1, "a.x": 2, "b.c": 3, "b.c.y": 4, "b": 5, "b.z": 6}},
		"dotted keys":   {"a.b.c = 1\na . \"d\" = 2", map[string]int{"a": 1, "a.b": 1, "a.b.c": 1, "a.d": 2}},
		"quoted keys":   {"\"a.b\" = 1\n'c d' = 2\n\"\\u0065\\\"\" = 3\n\"\" = 4", map[string]int{"a.b": 1, "c d": 2, "e\"": 3, "": 4}},
		"long strings": {
			"a = \"\"\"\n[x]\ny = 1\n\\\"\"\" q\n\"\"\"\"\"\nb = '''\nc = 1\n'''' \nd = 1",
			map[string]int{"a": 1, "b": 6, "d": 9},
		},
		"strings with signs": {"a = \"# ] } \\\" =\"\nb = '\\'\nc = 1", map[string]int{"a": 1, "b": 2, "c": 3}},
		"empty strings":      {"a = \"\"\nb = ''\nc = \"\"\"\"\"\"\nd = 1", map[string]int{"a": 1, "b": 2, "c": 3, "d": 4}},
		"arrays": {
			"a = [ # one\n 1,\n \"]\", # ]\n [2,\n3] ]\nb = 1",
			map[string]int{"a": 1, "a.0": 2, "a.1": 3, "a.2": 4, "a.2.0": 4, "a.2.1": 5, "b": 6},
		},
		"inline tables": {
			"a = { x = 1, y.z = [1], w = { v = \"}\" } }\nb = {\n c = 1,\n d = 2,\n}\ne = 1",
			map[string]int{"a": 1, "a.x": 1, "a.y.z": 1, "a.w.v": 1, "b": 2, "b.c": 3, "b.d": 4, "e": 6},
		},
		"arrays of tables": {
			"[[o]]\nid = 1\n[o.w]\nu = 1\n[[o]]\nid = 2\n[[o.p]]\nq = 1\n[[o.p]]\nq = 2",
			map[string]int{"o": 1, "o.0": 1, "o.0.id": 2, "o.0.w": 3, "o.0.w.u": 4, "o.1": 5, "o.1.id": 6, "o.1.p.0.q": 8, "o.1.p.1.q": 10},
		},
		"arrays of inline tables": {
			"o = [\n {id = 1},\n {id = 2,\n  n = 3}]",
			map[string]int{"o.0": 2, "o.0.id": 2, "o.1": 3, "o.1.id": 3, "o.1.n": 4},
		},
		"dates and numbers": {"a = 1979-05-27 07:32:00Z\nb = [1.5e3, -inf]\nc = 0x_f", map[string]int{"a": 1, "b": 2, "b.1": 2, "c": 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, _ := scan([]byte(tc.text))
			lines := map[string]int{}
			pathLines(root, "", lines)
			for path, want := range tc.want {
				if lines[path] != want {
					t.Errorf("%q is in line %d, want %d (all: %v)", path, lines[path], want, lines)
				}
			}
		})
	}
}

// pathLines lists a tree, array elements by number.
func pathLines(n *node, path string, into map[string]int) {
	add := func(name string, c *node) {
		here := name
		if path != "" {
			here = path + "." + name
		}
		into[here] = c.line
		pathLines(c, here, into)
	}
	for name, c := range n.keys {
		add(name, c)
	}
	for i, c := range n.items {
		add(fmt.Sprint(i), c)
	}
}

// missing returns a decoded key that the tree lacks, or puts on a line that the
// file does not have.
func missing(v any, n *node, path string, lines int) string {
	if n == nil || n.line < 1 || n.line > lines {
		return path
	}
	if table, ok := v.(map[string]any); ok {
		for key, value := range table {
			if m := missing(value, n.key(key), fmt.Sprintf("%s.%q", path, key), lines); m != "" {
				return m
			}
		}
	}
	list, _ := elements(v)
	for i, value := range list {
		if m := missing(value, n.item(i), fmt.Sprintf("%s[%d]", path, i), lines); m != "" {
			return m
		}
	}
	return ""
}

func seed(f *testing.F) {
	f.Helper()
	files, err := filepath.Glob("testdata/conf.*.toml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no testdata: %v", err)
	}
	for _, name := range append(files, committed) {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("a = \"\"\"\"\"\"\"\"\n'' = [{},{a.b=1}]\n[[x.y]]\n[x.y.z]\n"))
	f.Add([]byte("\xff\xfea = 1"))
	f.Add([]byte("a=\"\\\n\"\n[a\n]b=]}\x00"))
	f.Add(bytes.Repeat([]byte("a=["), 500))
}

// Whatever the parser takes, the scanner knows the lines of; whatever it does
// not take, the scanner survives.
func FuzzScan(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		root, tooDeep := scan(data)
		if tooDeep > 0 {
			return // Parse refuses it before the parser sees it
		}
		var raw map[string]any
		if _, err := toml.Decode(string(data), &raw); err != nil {
			return
		}
		if m := missing(raw, root, "", bytes.Count(data, []byte("\n"))+1); m != "" {
			t.Errorf("no line for %s in:\n%s", m, data)
		}
	})
}

// Parse never panics, and each error has a line of the file and words.
func FuzzParse(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f.toml", data, LoadOptions{ReadFile: func(path string) ([]byte, error) { return secretFor(path), nil }})
		if err == nil {
			if c.Show() == "" || len(Diff(c, c)) > 0 {
				t.Error("Show says nothing, or Diff finds a difference to itself")
			}
			return
		}
		var e *Errors
		if !errors.As(err, &e) || len(e.List) == 0 {
			t.Fatalf("not *Errors with a list: %v", err)
		}
		for _, one := range append(e.List, e.Warnings...) {
			if one.Line < 1 || one.Line > bytes.Count(data, []byte("\n"))+1 || one.Key == "" || one.Why == "" {
				t.Errorf("no place or words: %+v in:\n%s", one, data)
			}
			if strings.ContainsFunc(one.Error(), isControl) {
				t.Errorf("control characters: %q", one.Error())
			}
		}
	})
}

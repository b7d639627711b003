package config

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// node is a place in the file: a table, an array or a value. The tree has the
// shape of the decoded file, with lines instead of values.
type node struct {
	line  int // counted from 1
	keys  map[string]*node
	items []*node
}

// key returns the node below n, or nil; n may be nil.
func (n *node) key(name string) *node {
	if n == nil {
		return nil
	}
	return n.keys[name]
}

// item returns the i-th element of an array, or nil; n may be nil.
func (n *node) item(i int) *node {
	if n == nil || i >= len(n.items) {
		return nil
	}
	return n.items[i]
}

func (n *node) child(name string, line int) *node {
	if c := n.keys[name]; c != nil {
		return c
	}
	if n.keys == nil {
		n.keys = map[string]*node{}
	}
	c := &node{line: line}
	n.keys[name] = c
	return c
}

// descend follows all names but the last, as TOML does: through the latest
// element of an array of tables.
func (n *node) descend(names []string, line int) (*node, string) {
	last := len(names) - 1
	for _, name := range names[:last] {
		n = n.child(name, line)
		if len(n.items) > 0 {
			n = n.items[len(n.items)-1]
		}
	}
	return n, names[last]
}

// maxDepth is how deep values may be nested. The parser and the scanner recurse,
// and a stack overflow cannot be recovered.
const maxDepth = 64

// scanner reads TOML just closely enough to know where keys are. On what is not
// TOML it gives some tree and never fails: the parser reports the mistake.
type scanner struct {
	b       []byte
	i       int
	line    int
	tooDeep int // line of the first value nested deeper than maxDepth, or 0
}

// scan returns the tree of the file and the line that is nested too deeply, or 0.
func scan(data []byte) (root *node, tooDeep int) {
	for _, mark := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} { // as the parser does
		if rest, ok := bytes.CutPrefix(data, []byte(mark)); ok {
			data = rest
			break
		}
	}
	s := &scanner{b: data, line: 1}
	root = &node{line: 1}
	table := root
	for s.tooDeep == 0 {
		s.blank(true)
		if s.i >= len(s.b) {
			break
		}
		line := s.line
		if s.peek() == '[' {
			table = s.header(root, line)
		} else {
			s.pair(table, line, 0)
		}
		s.rest()
	}
	return root, s.tooDeep
}

// header reads [a.b] or [[a.b]] and returns the table that follows.
func (s *scanner) header(root *node, line int) *node {
	s.i++
	array := s.peek() == '['
	if array {
		s.i++
	}
	names := s.names()
	if len(names) == 0 {
		return root
	}
	parent, name := root.descend(names, line)
	n := parent.child(name, line)
	if array {
		item := &node{line: line}
		n.items = append(n.items, item)
		return item
	}
	n.line = line // an earlier [a.b] had made [a] with its own line
	return n
}

// pair reads key = value into table.
func (s *scanner) pair(table *node, line, depth int) {
	names := s.names()
	s.blank(false)
	if len(names) == 0 || s.peek() != '=' {
		return
	}
	s.i++
	parent, name := table.descend(names, line)
	s.value(parent.child(name, line), depth)
}

// names reads a dotted key; it stops at the first thing that is none.
func (s *scanner) names() []string {
	var names []string
	for {
		s.blank(false)
		var name string
		switch c := s.peek(); {
		case c == '"' || c == '\'':
			start := s.i
			s.text()
			name = unquote(s.b[start:s.i])
		case isBare(c):
			start := s.i
			for isBare(s.peek()) {
				s.i++
			}
			name = string(s.b[start:s.i])
		default:
			return names
		}
		names = append(names, name)
		s.blank(false)
		if s.peek() != '.' {
			return names
		}
		s.i++
	}
}

// value reads a value; elements of arrays and keys of inline tables get nodes
// of their own.
func (s *scanner) value(n *node, depth int) {
	if depth > maxDepth {
		if s.tooDeep == 0 {
			s.tooDeep = s.line
		}
		s.i = len(s.b)
		return
	}
	s.blank(false)
	switch c := s.peek(); c {
	case '"', '\'':
		s.text()
	case '[', '{':
		s.i++
		for {
			s.blank(true)
			switch s.peek() {
			case 0, ']', '}':
				s.i = min(s.i+1, len(s.b))
				return
			case ',':
				s.i++
				continue
			}
			before, line := s.i, s.line
			if c == '{' {
				s.pair(n, line, depth+1)
			} else {
				item := &node{line: line}
				n.items = append(n.items, item)
				s.value(item, depth+1)
			}
			if s.i == before {
				s.i++ // not TOML; go on behind it
			}
		}
	default:
		for s.i < len(s.b) && !strings.ContainsRune(",]}#\n", rune(s.b[s.i])) {
			s.i++
		}
	}
}

// text skips a string of any of the four kinds, the quotes included.
func (s *scanner) text() {
	quote := s.b[s.i]
	long := bytes.HasPrefix(s.b[s.i:], []byte{quote, quote, quote})
	if !long {
		for s.i++; s.i < len(s.b) && s.b[s.i] != '\n'; s.i++ {
			switch {
			case s.b[s.i] == '\\' && quote == '"' && s.i+1 < len(s.b) && s.b[s.i+1] != '\n':
				s.i++
			case s.b[s.i] == quote:
				s.i++
				return
			}
		}
		return
	}
	for s.i += 3; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '\n':
			s.line++
		case c == '\\' && quote == '"' && s.i+1 < len(s.b) && s.b[s.i+1] != '\n':
			s.i++
		case c == quote && bytes.HasPrefix(s.b[s.i:], []byte{quote, quote, quote}):
			// One or two quotes may stand right before the closing three.
			s.i += 3
			for extra := 0; extra < 2 && s.peek() == quote; extra++ {
				s.i++
			}
			return
		}
	}
}

// blank skips spaces and tabs, and with lines also line ends and comments.
func (s *scanner) blank(lines bool) {
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == ' ' || c == '\t' || c == '\r':
		case lines && c == '\n':
			s.line++
		case lines && c == '#':
			for s.i < len(s.b) && s.b[s.i] != '\n' {
				s.i++
			}
			continue
		default:
			return
		}
		s.i++
	}
}

// rest skips to the end of the line.
func (s *scanner) rest() {
	for s.i < len(s.b) && s.b[s.i] != '\n' {
		s.i++
	}
}

// peek returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.i >= len(s.b) {
		return 0
	}
	return s.b[s.i]
}

func isBare(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// unquote returns the text of a one-line TOML string with its quotes.
func unquote(q []byte) string {
	if len(q) < 2 {
		return ""
	}
	body := q[1 : len(q)-1]
	if q[0] == '\'' || !bytes.ContainsRune(body, '\\') {
		return string(body)
	}
	simple := map[byte]byte{'b': '\b', 't': '\t', 'n': '\n', 'f': '\f', 'r': '\r', 'e': 0x1b, '"': '"', '\\': '\\'}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}
	var out []byte
	for i := 0; i < len(body); i++ {
		if body[i] != '\\' || i+1 >= len(body) {
			out = append(out, body[i])
			continue
		}
		i++
		if c, ok := simple[body[i]]; ok {
			out = append(out, c)
		} else if n := digits[body[i]]; n > 0 && i+n < len(body) {
			code, err := strconv.ParseUint(string(body[i+1:i+1+n]), 16, 32)
			if err == nil {
				out = utf8.AppendRune(out, rune(code))
			}
			i += n
		}
	}
	return string(out)
}

package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// block is a fenced block, a comment that acts as one, or a directive.
type block struct {
	line  int    // of its first line of text, in the page
	lang  string // the first word behind the fence; "world", "postgres" and "replace" for directives
	words []string
	text  string
}

func (b block) has(word string) bool { return slices.Contains(b.words, word) }

// value returns what follows "key=" among the words.
func (b block) value(key string) (string, bool) {
	for _, w := range b.words {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			return v, true
		}
	}
	return "", false
}

// page is one Markdown file.
type page struct {
	path   string // from the repository's root
	blocks []block
	links  []link
	code   []link          // what stands between backquotes
	heads  map[string]bool // anchors of its headings
}

type link struct {
	line   int
	target string
}

var (
	fenceRE   = regexp.MustCompile("^( *)(```+|~~~+)(.*)$")
	commentRE = regexp.MustCompile(`^<!-- (sh|toml|text|csv|json|go|diff|world|postgres|replace)\b(.*)$`)
	linkRE    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headRE    = regexp.MustCompile(`^#{1,6} +(.*?)( +#+)?$`)
	codeRE    = regexp.MustCompile("`[^`]*`")
)

// parse reads a page. It knows as much of Markdown as our pages use.
func parse(path, text string) (page, error) {
	p := page{path: path, heads: map[string]bool{}}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		if m := commentRE.FindStringSubmatch(lines[i]); m != nil {
			b := block{line: i + 2, lang: m[1]}
			rest, closed := strings.CutSuffix(strings.TrimSpace(m[2]), "-->")
			b.words = strings.Fields(rest)
			if !closed {
				end := slices.Index(lines[i:], "-->")
				if end < 0 {
					return p, fmt.Errorf("%s:%d: the comment has no end", path, i+1)
				}
				b.text = strings.Join(lines[i+1:i+end], "\n") + "\n"
				i += end
			}
			p.blocks = append(p.blocks, b)
			continue
		}
		if m := fenceRE.FindStringSubmatch(lines[i]); m != nil {
			b := block{line: i + 2}
			if words := strings.Fields(m[3]); len(words) > 0 {
				b.lang, b.words = words[0], words[1:]
			}
			begin := i + 1
			for i++; i < len(lines) && strings.TrimSpace(lines[i]) != m[2]; i++ {
				b.text += strings.TrimPrefix(lines[i], m[1]) + "\n"
			}
			if i == len(lines) {
				return p, fmt.Errorf("%s:%d: the block has no end", path, begin)
			}
			p.blocks = append(p.blocks, b)
			continue
		}
		if m := headRE.FindStringSubmatch(lines[i]); m != nil {
			p.heads[anchor(m[1])] = true
		}
		for _, m := range codeRE.FindAllString(lines[i], -1) {
			p.code = append(p.code, link{i + 1, strings.Trim(m, "`")})
		}
		for _, m := range linkRE.FindAllStringSubmatch(codeRE.ReplaceAllString(lines[i], ""), -1) {
			p.links = append(p.links, link{i + 1, m[1]})
		}
	}
	return p, nil
}

// anchor is what a heading is called in links, as GitHub makes it.
func anchor(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.NewReplacer("`", "", "*", "").Replace(heading)) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r > 0x7f && r != '…' && r != '—' && r != '–':
			b.WriteRune(r)
		}
	}
	return b.String()
}

// pages reads every Markdown file of the repository.
func pages(t *testing.T) map[string]page {
	t.Helper()
	root := ".."
	all := map[string]page{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(filepath.ToSlash(path), "../")
		p, err := parse(name, string(raw))
		if err != nil {
			return err
		}
		all[name] = p
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

package docs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"dispatchd/config"
	"dispatchd/internal/cli"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(tidy{m}) }

// tidy removes the binary after the tests.
type tidy struct{ m *testing.M }

// Run implements goleak.TestingM.
func (t tidy) Run() int {
	code := t.m.Run()
	if dir, err := built(); err == nil {
		_ = os.RemoveAll(dir) // a temporary directory
	}
	return code
}

// TestPages runs every page.
func TestPages(t *testing.T) {
	t.Parallel()
	all := pages(t)
	if len(all) < 4 {
		t.Fatalf("only %d pages seen", len(all))
	}
	for name, p := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, l := range p.links {
				if err := check(all, p, l); err != nil {
					t.Errorf("%s:%d: %v", name, l.line, err)
				}
			}
			if err := runBlocks(t, p); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// runBlocks runs the blocks of a page in order, up to the first that is wrong.
// What does not run is read.
func runBlocks(t *testing.T, p page) error {
	var w *world
	here := func() *world { // most pages need none
		if w == nil {
			w = newWorld(t)
		}
		return w
	}
	for _, b := range p.blocks {
		var err error
		file, isFile := b.value("file")
		switch {
		case b.lang == "world":
			here().daemon()
		case b.lang == "postgres":
			here().postgres()
		case b.lang == "replace":
			from, to, ok := strings.Cut(strings.Join(b.words, " "), " => ")
			if !ok {
				err = errors.New("must be: replace FROM => TO")
				break
			}
			here().replace = append(w.replace, from, os.Expand(to, w.get))
		case isFile:
			err = here().write(file, b.text)
		case b.has("output"):
			if w == nil {
				err = errors.New("follows no block that ran")
				break
			}
			err = matches(w.printed, b.text)
		case b.lang == "sh" && b.has("background"):
			err = here().background(b.text)
		case b.lang == "sh" && b.has("test"):
			exit := 0
			if text, ok := b.value("exit"); ok {
				if exit, err = strconv.Atoi(text); err != nil {
					break
				}
			}
			wait := patience
			if b.has("slow") {
				wait = patienceSlow
			}
			err = here().run(b.text, exit, wait)
		case b.lang == "sh":
			err = readCommands(b.text)
		case b.lang == "toml":
			err = readKeys(b.text)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", p.path, b.line, err)
		}
	}
	return nil
}

// write writes a file of the page.
func (w *world) write(name, text string) error {
	if !filepath.IsLocal(name) {
		return fmt.Errorf("file %q is not inside the page's directory", name)
	}
	if len(w.replace) > 0 {
		text = strings.NewReplacer(w.replace...).Replace(text)
	}
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// readCommands parses every dispatchd command of a block that does not run.
func readCommands(text string) error {
	all, err := commands(text)
	if err != nil {
		return err
	}
	for _, args := range all {
		if err := cli.Parses(args); err != nil {
			return fmt.Errorf("dispatchd %s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}

// readKeys finds keys that do not exist in a piece of a configuration file.
func readKeys(text string) error {
	_, err := config.Parse("the block", []byte(text), config.LoadOptions{
		ReadFile: func(string) ([]byte, error) { return nil, errors.New("not read") },
	})
	var bad *config.Errors
	if !errors.As(err, &bad) {
		return err
	}
	for _, e := range bad.List {
		if e.Key == "syntax" || strings.HasPrefix(e.Why, "is not a key") {
			return e
		}
	}
	return nil
}

// matches compares what was printed with what the page shows: line by line, but
// for what a line of … leaves out.
func matches(printed, shown string) error {
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(printed, "\r\n", "\n")), "\n")
	skip := false
	for want := range strings.SplitSeq(strings.TrimSpace(shown), "\n") {
		if want = strings.TrimRight(want, " "); want == "…" {
			skip = true
			continue
		}
		for skip && len(lines) > 0 && !like(strings.TrimRight(lines[0], " "), want) {
			lines = lines[1:]
		}
		if len(lines) == 0 || !like(strings.TrimRight(lines[0], " "), want) {
			return fmt.Errorf("the page shows a line %q; printed was:\n%s", want, printed)
		}
		lines, skip = lines[1:], false
	}
	if len(lines) > 0 && !skip {
		return fmt.Errorf("the page does not show all lines; printed was:\n%s", printed)
	}
	return nil
}

// like reports whether a line is the pattern, in which … stands for anything.
func like(line, pattern string) bool {
	parts := strings.Split(pattern, "…")
	if len(parts) == 1 {
		return line == pattern
	}
	rest, ok := strings.CutPrefix(line, parts[0])
	for _, part := range parts[1 : len(parts)-1] {
		if !ok {
			return false
		}
		_, rest, ok = strings.Cut(rest, part)
	}
	return ok && strings.HasSuffix(rest, parts[len(parts)-1])
}

// check follows a link inside the repository.
func check(all map[string]page, from page, l link) error {
	target := l.target
	if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
		return nil
	}
	file, head, _ := strings.Cut(target, "#")
	to := from.path
	if file != "" {
		to = filepath.ToSlash(filepath.Join(filepath.Dir(from.path), file))
		if _, err := os.Stat(filepath.Join("..", to)); err != nil {
			return fmt.Errorf("the link %s leads nowhere", target)
		}
	}
	if head != "" && !all[to].heads[head] {
		return fmt.Errorf("the link %s leads to no heading", target)
	}
	return nil
}

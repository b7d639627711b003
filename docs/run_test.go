package docs

import (
	"slices"
	"strings"
	"testing"
)

// notRun has the lines of pages that TestPages does not run, with the reason. A
// dispatchd command is in no need of a place here when another block of its page
// runs it.
var notRun = map[string]map[string]string{
	"README.md": {
		"make demo":                "runs until it is ended; TestDemo of daemon runs it",
		"make test":                "the tests themselves",
		"dispatchd simulate-orcid": "runs until it is ended; test-deb.sh registers at it",
	},
	"docs/install.md": {
		"make deb": "test-deb.sh builds and installs it",
		"apt install redis-server ./dist/dispatchd_*_amd64.deb":                       "as root: test-deb.sh",
		"systemctl enable --now redis-server@dispatchd":                               "as root: test-deb.sh",
		"install -m 0640 -g dispatchd /dev/stdin /etc/dispatchd/secrets/orcid.secret": "as root: test-deb.sh",
		"editor /etc/dispatchd/config.toml":                                           "a person; test-deb.sh changes the lines that the page shows",
		"systemctl enable --now dispatchd.socket dispatchd":                           "as root: test-deb.sh",
		"make build":                     "the page runs it in a copy of the sources",
		"make install PREFIX=/usr/local": "writes into the system; the page runs it in a copy, with DESTDIR=",
		"dispatchd serve --config /etc/dispatchd/config.toml":                                                              "the daemon of every page is started like this; README.md runs it",
		"docker run -v ./config.toml:/etc/dispatchd/config.toml:ro -v dispatchd:/var/lib/dispatchd -p 8080:8080 dispatchd": "needs Docker, and its registry for the image to build in",
	},
	"docs/operate.md": {
		"dispatchd check --strict": "its exit code is for scripts; a test of the daemon has it",
	},
	"docs/developing.md": {
		"make test": "the tests themselves",
		"go test -race ./internal/store -run TestLedger": "the tests themselves",
		"go test ./docs -run TestPages/docs/install.md":  "the tests themselves",
		"make chaos restarts":                            "ten minutes: for CI",
		"make fuzz FUZZTIME=10s":                         "minutes: for CI",
		"make lint check-generated":                      "downloads the linter: for CI",
	},
}

// TestEveryCommandRuns: a command that a page shows is run by TestPages, or in a
// Debian that runs (test-install.sh), or is listed above with the reason why not.
func TestEveryCommandRuns(t *testing.T) {
	t.Parallel()
	all := pages(t)
	var everywhere [][]string
	run := map[string][][]string{}
	for name, p := range all {
		for _, b := range p.blocks {
			if b.runs() {
				args, err := commands(b.text)
				if err != nil {
					t.Errorf("%s:%d: %v", name, b.line, err)
				}
				run[name] = append(run[name], args...)
			}
		}
		everywhere = append(everywhere, run[name]...)
	}
	used := map[string]bool{}
	for name, p := range all {
		for _, b := range p.blocks {
			if b.lang != "sh" || b.runs() || b.has("booted") {
				continue
			}
			for _, line := range shellLines(b.text) {
				args, err := commands(line)
				if err == nil && len(args) > 0 && !slices.ContainsFunc(args, func(a []string) bool { return !covered(a, run[name]) }) {
					continue
				}
				if notRun[name][line] == "" {
					t.Errorf("%s:%d: %q is neither run nor listed as not run", name, b.line, line)
				}
				used[name+"\n"+line] = true
			}
		}
		if name == "CHANGELOG.md" {
			continue // it tells of what was
		}
		for _, c := range p.code {
			args, err := commands(c.target)
			if err != nil || len(args) != 1 {
				continue // not a command, but words about one
			}
			if !covered(args[0], everywhere) && notRun[name][c.target] == "" {
				t.Errorf("%s:%d: %q is run in no page", name, c.line, c.target)
			}
			used[name+"\n"+c.target] = true
		}
	}
	for name, lines := range notRun {
		for line := range lines {
			if !used[name+"\n"+line] {
				t.Errorf("%s: %q is listed as not run, but the page does not have it, or runs it", name, line)
			}
		}
	}
}

// TestACommandIsCovered: what counts as run.
func TestACommandIsCovered(t *testing.T) {
	t.Parallel()
	ran := [][]string{{"org", "show", "uni-a", "--secrets"}, {"status"}}
	for text, want := range map[string]bool{
		"org show ID": true, "org show uni-a": true, "status": true, "org show uni-b": false, "org show ID --yes": false,
		"status --json": false, "org": true, "": true,
	} {
		if got := covered(strings.Fields(text), ran); got != want {
			t.Errorf("%q is covered: %v", text, got)
		}
	}
	lines := shellLines("# a\nfirst --x \\\n  --y   # why\n\necho '#1'\n")
	if want := []string{"first --x --y", "echo '#1'"}; !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
}

// runs reports whether TestPages runs the block.
func (b block) runs() bool { return b.lang == "sh" && (b.has("test") || b.has("background")) }

// placeholders stand for what the reader has there.
var placeholders = []string{"ID", "iD", "FILE", "NEW", "webhook.apikey=NEW"}

// covered reports whether a command that ran begins with these words.
func covered(words []string, ran [][]string) bool {
	return slices.ContainsFunc(ran, func(r []string) bool {
		for i, w := range words {
			if i >= len(r) || w != r[i] && !slices.Contains(placeholders, w) {
				return false
			}
		}
		return true
	})
}

// shellLines returns the commands of a script, each in one line, without comments.
func shellLines(text string) []string {
	var lines []string
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		line, _, _ = strings.Cut(line, " # ")
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

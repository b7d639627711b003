package docs

import (
	"strings"
	"testing"
)

// TestTheHarnessSeesMistakes: a page that is wrong must not pass.
func TestTheHarnessSeesMistakes(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]string{
		"no command":       "```sh\ndispatchd organisation list\n```",
		"no flag":          "```sh\nsudo -u dispatchd dispatchd user import a.csv \\\n  --organisation uni-a # comment\n```",
		"behind a pipe":    "```sh\necho '# no comment' | dispatchd stats\n```",
		"no key":           "```toml\n[delivery]\ntimout = \"2s\"\n```",
		"not TOML":         "```toml\n[delivery\n```",
		"output of none":   "```text output\nfine\n```",
		"open quote":       "```sh\necho \"a\n```",
		"replace no arrow": "<!-- replace a -->",
		"exit too early":   "```sh test exit=1\ntrue\nfalse\nfalse\n```",
	} {
		p, err := parse(name, bad)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := runBlocks(t, p); err == nil {
			t.Errorf("%s passes", name)
		}
	}
	for name, open := range map[string]string{"block": "```sh\nls\n", "comment": "<!-- sh test\nls\n"} {
		if _, err := parse(name, open); err == nil {
			t.Errorf("a %s without an end is read", name)
		}
	}
}

func TestBlocksShareExportsAndAreCompared(t *testing.T) {
	t.Parallel()
	page := strings.ReplaceAll(`# A page
<!-- replace NAME => world -->
'''toml file=sub/a.toml
name = "NAME"
'''
'''sh test
export GREETING=hello
exec 3>&1 # exit codes survive the trap
'''
<!-- sh test exit=3
echo "$GREETING NAME"; cat sub/a.toml; echo; echo more; exit 3
-->
'''text output
hello w…d
…
more
'''
`, "'''", "```")
	p, err := parse("a page", page)
	if err != nil {
		t.Fatal(err)
	}
	if err := runBlocks(t, p); err != nil {
		t.Error(err)
	}
	for _, bad := range [][2]string{{"hello w…d", "hello x…d"}, {"…\nmore", "more"}, {"\n…\nmore\n", "\n"}, {"exit=3", "exit=0"}, {"NAME => world", "NAME => else"}} {
		p, err := parse("a page", strings.Replace(page, bad[0], bad[1], 1))
		if err != nil {
			t.Fatal(err)
		}
		if runBlocks(t, p) == nil {
			t.Errorf("%q instead of %q passes", bad[1], bad[0])
		}
	}
}

func TestLinksAreFollowed(t *testing.T) {
	t.Parallel()
	all := map[string]page{"docs/a.md": {path: "docs/a.md", heads: map[string]bool{anchor("Run `x`: it's…"): true}}}
	for target, ok := range map[string]bool{
		"#run-x-its": true, "#run-y": false, "doc.go": true, "gone.md": false, "../docs/a.md#run": false, "https://example.edu/": true,
	} {
		if err := check(all, all["docs/a.md"], link{1, target}); (err == nil) != ok {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// TestAWorldHasADaemonThatIsPinged: the whole way, from a page's commands to the
// receiver.
func TestAWorldHasADaemonThatIsPinged(t *testing.T) {
	t.Parallel()
	p, err := parse("a page", strings.ReplaceAll(`<!-- world -->
'''sh test
set -- $ORCID_IDS
dispatchd org add uni-a --name "University A" --contact it@uni-a.example --url "$RECEIVER_URL/orcid" >/dev/null
dispatchd user add "$1" --org uni-a >/dev/null
until dispatchd delivery log uni-a --json | grep -q CREATED; do sleep 0.1; done
dispatchd delivery log uni-a --json | grep -o '"result":"[a-z]*"'
'''
'''text output
"result":"delivered"
'''
<!-- sh test exit=1
dispatchd status
-->
`, "'''", "```"))
	if err != nil {
		t.Fatal(err)
	}
	if err := runBlocks(t, p); err != nil {
		t.Error(err)
	}
}

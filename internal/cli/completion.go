package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// The scripts ask the program itself, so they never go out of date.
const (
	bashScript = `# dispatchd completion for bash: eval "$(dispatchd completion bash)"
_dispatchd() {
  local IFS=$'\n'
  COMPREPLY=($(dispatchd __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _dispatchd dispatchd
`
	zshScript = `#compdef dispatchd
# dispatchd completion for zsh: write this to a file _dispatchd in $fpath
_dispatchd() {
  local -a candidates
  candidates=("${(@f)$(dispatchd __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "${candidates[1]}" ]]; then
    compadd -- "${candidates[@]}"
  else
    _files
  fi
}
if [[ "${funcstack[1]}" == _dispatchd ]]; then _dispatchd "$@"; else compdef _dispatchd dispatchd; fi
`
	fishScript = `# dispatchd completion for fish: dispatchd completion fish | source
function __dispatchd_complete
  set -l words (commandline -opc) (commandline -ct)
  dispatchd __complete -- $words[2..-1] 2>/dev/null
end
complete -c dispatchd -a '(__dispatchd_complete)'
`
)

// Run implements the command.
func (c *completionCmd) Run(s *session) error {
	switch c.Shell {
	case "bash":
		s.printf("%s", bashScript)
	case "zsh":
		s.printf("%s", zshScript)
	case "fish":
		s.printf("%s", fishScript)
	}
	return nil
}

// completeCmd is what the scripts call with the words so far; the last one is
// being written.
type completeCmd struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

// Run implements the command.
func (c *completeCmd) Run(s *session) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	for _, candidate := range candidates(s.app.Model.Node, words) {
		fmt.Fprintln(s.env.Stdout, candidate)
	}
	return nil
}

// candidates are the commands, flags and fixed values that may stand where the
// last word is being written. Nothing means that it is a file or free text.
func candidates(node *kong.Node, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	var waiting *kong.Flag // a flag whose value is the next word
	positional := 0
	for _, w := range words[:len(words)-1] {
		switch {
		case waiting != nil:
			waiting = nil
		case strings.HasPrefix(w, "-"):
			name, _, hasValue := strings.Cut(w, "=")
			if f := flagNamed(node, name); f != nil && !f.IsBool() && !hasValue {
				waiting = f
			}
		default:
			next := slices.IndexFunc(node.Children, func(n *kong.Node) bool { return n.Name == w })
			if next >= 0 {
				node, positional = node.Children[next], 0
			} else {
				positional++
			}
		}
	}
	var out []string
	add := func(word string) {
		if word != "" && strings.HasPrefix(word, last) {
			out = append(out, word)
		}
	}
	switch {
	case waiting != nil:
		for _, v := range waiting.EnumSlice() {
			add(v)
		}
	case strings.HasPrefix(last, "-"):
		for n := node; n != nil; n = n.Parent {
			for _, f := range n.Flags {
				if !f.Hidden {
					add("--" + f.Name)
				}
			}
		}
	default:
		for _, n := range node.Children {
			if !n.Hidden {
				add(n.Name)
			}
		}
		if positional < len(node.Positional) {
			for _, v := range node.Positional[positional].EnumSlice() {
				add(v)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// flagNamed finds a flag of a command or of those above it.
func flagNamed(node *kong.Node, word string) *kong.Flag {
	for n := node; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			if word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short) {
				return f
			}
		}
	}
	return nil
}

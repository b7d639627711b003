package docs

import (
	"errors"
	"path"
	"strings"
)

// commands returns the words of every dispatchd command of a shell script. It
// knows quotes, comments, continued lines and what ends a command; it expands
// nothing, and is no judge of the rest.
func commands(script string) ([][]string, error) {
	var all [][]string
	var words []string
	var word strings.Builder
	begun := false // a word, possibly an empty one
	end := func() {
		if begun {
			words = append(words, word.String())
		}
		word.Reset()
		begun = false
	}
	finish := func() {
		end()
		if args, ok := ofDispatchd(words); ok {
			all = append(all, args)
		}
		words = nil
	}
	for i := 0; i < len(script); i++ {
		switch c := script[i]; c {
		case '\\':
			if i+1 < len(script) && script[i+1] != '\n' {
				word.WriteByte(script[i+1])
				begun = true
			}
			i++
		case '\'', '"':
			begun = true
			for i++; i < len(script) && script[i] != c; i++ {
				if c == '"' && script[i] == '\\' && i+1 < len(script) {
					i++
				}
				word.WriteByte(script[i])
			}
			if i == len(script) {
				return nil, errors.New("a quote is not closed")
			}
		case '#':
			if begun {
				word.WriteByte(c)
				continue
			}
			for i+1 < len(script) && script[i+1] != '\n' {
				i++
			}
		case ' ', '\t':
			end()
		case '\n', ';', '|', '&', '(', ')', '`':
			finish()
		case '>', '<':
			// What follows is a file, not an argument.
			end()
			words = append(words, ">")
		default:
			word.WriteByte(c)
			begun = true
		}
	}
	finish()
	return all, nil
}

// ofDispatchd takes off what may stand in front of the program's name, and
// redirections.
func ofDispatchd(words []string) ([]string, bool) {
	for len(words) > 0 {
		w := words[0]
		switch {
		case path.Base(w) == "dispatchd":
			var args []string
			for i := 1; i < len(words); i++ {
				if words[i] == ">" {
					i++
					continue
				}
				args = append(args, words[i])
			}
			return args, true
		case w == "sudo" || w == "runuser" || w == "--" || w == "exec" || w == "if" || w == "until" || w == "while" || w == "!" || w == "then" || w == "do" || strings.Contains(w, "="):
			words = words[1:]
		case w == "-u" && len(words) > 1: // of sudo and runuser
			words = words[2:]
		default:
			return nil, false
		}
	}
	return nil, false
}

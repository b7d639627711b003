package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing wrong with the file.
type Error struct {
	File string
	// Line is counted from 1. For a missing key it is the line of the table
	// that lacks it, or 1.
	Line int
	// Org is the id of the [[organisation]] that the key is in, "#3" for the
	// third one when its id is unusable, empty outside organisations.
	Org string
	// Key is the dotted key, below its organisation if Org is set.
	Key string
	Why string
}

// Error returns `file:line: key: why`.
func (e Error) Error() string {
	where := ""
	if e.Org != "" {
		where = "organisation " + e.Org + ": "
	}
	return fmt.Sprintf("%s:%d: %s%s: %s", e.File, e.Line, where, e.Key, e.Why)
}

// Errors is everything wrong with the file.
type Errors struct {
	List     []Error // in file order, never empty
	Warnings []Error // in file order; not part of Error()
}

// Error lists every error, one a line.
func (e *Errors) Error() string { return join(e.List) }

// Unwrap gives errors.As each single Error.
func (e *Errors) Unwrap() []error {
	all := make([]error, len(e.List))
	for i, one := range e.List {
		all[i] = one
	}
	return all
}

func join(list []Error) string {
	lines := make([]string, len(list))
	for i, e := range list {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// sortErrors puts errors in file order; those of one line stay as found.
func sortErrors(list []Error) {
	slices.SortStableFunc(list, func(a, b Error) int { return cmp.Compare(a.Line, b.Line) })
}

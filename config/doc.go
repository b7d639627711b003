// Package config owns the configuration file and nothing else: it loads and
// checks config.toml, reads the secret files that it names, and reports every
// mistake at once with its line. Only daemon and cli call it.
//
// A file is read in four steps. BurntSushi/toml decodes it into plain maps,
// which never stops at a wrong type; the scanner (scan.go) finds the line of
// every key, which BurntSushi does not tell; the walker (walk.go) fills the
// structs and notes unknown keys, wrong types and unreadable secrets; the
// checks (check*.go) look at what the values mean together. The structs' tags
// are the one source of key names and of the annotated example.
package config

//go:generate go run ./gen -o ../config.toml -man ../daemon/dist/man/dispatchd.toml.5

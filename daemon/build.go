package main

import (
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"dispatchd/internal/cli"
)

// These are set by the build (-ldflags "-X main.version=…"), not stamped by Go from
// version control: a program built from an archive without its history must be the
// same, bit by bit.
var (
	version    = "devel"
	commit     string // the whole hash
	commitTime string // RFC 3339, UTC
	modified   string // "true" when the files were not those of the commit
)

// unsaid are the settings that are said otherwise, or are the same in every build.
var unsaid = []string{"-buildmode", "-compiler", "-ldflags", "GOARCH", "GOOS"}

// buildOf completes what the build said of the program with what Go noted. Where
// the build said nothing (somebody's own `go build`) the commit is Go's, too.
func buildOf(b cli.Build, info *debug.BuildInfo) cli.Build {
	b.Go, b.OS, b.Arch = runtime.Version(), runtime.GOOS, runtime.GOARCH
	if info == nil {
		return b
	}
	said := b.Commit != ""
	for _, s := range info.Settings {
		switch {
		case strings.HasPrefix(s.Key, "vcs") && said || slices.Contains(unsaid, s.Key):
		case s.Key == "vcs.revision":
			b.Commit = s.Value
		case s.Key == "vcs.time":
			b.CommitTime = s.Value
		case s.Key == "vcs.modified":
			b.Modified = s.Value == "true"
		case strings.HasPrefix(s.Key, "vcs"):
		default:
			b.Settings = append(b.Settings, s.Key+"="+s.Value)
		}
	}
	return b
}

// thisBuild is how this program was made.
func thisBuild() cli.Build {
	info, _ := debug.ReadBuildInfo() // nil where there is none
	return buildOf(cli.Build{Version: version, Commit: commit, CommitTime: commitTime, Modified: modified == "true"}, info)
}

package main

import (
	"reflect"
	"runtime"
	"runtime/debug"
	"testing"

	"dispatchd/internal/cli"
)

// TestWhereTheCommitComesFrom: from the build when it says so, else from what Go
// stamped; never half of each.
func TestWhereTheCommitComesFrom(t *testing.T) {
	t.Parallel()
	stamped := &debug.BuildInfo{Settings: []debug.BuildSetting{
		{Key: "-compiler", Value: "gc"},
		{Key: "-trimpath", Value: "true"},
		{Key: "CGO_ENABLED", Value: "0"},
		{Key: "GOOS", Value: "linux"},
		{Key: "vcs", Value: "git"},
		{Key: "vcs.revision", Value: "abc"},
		{Key: "vcs.time", Value: "2026-11-26T00:00:00Z"},
		{Key: "vcs.modified", Value: "true"},
	}}
	settings := []string{"-trimpath=true", "CGO_ENABLED=0"}
	for name, c := range map[string]struct {
		said cli.Build
		info *debug.BuildInfo
		want cli.Build
	}{
		"make":       {cli.Build{Version: "v1", Commit: "def", CommitTime: "then"}, stamped, cli.Build{Version: "v1", Commit: "def", CommitTime: "then", Settings: settings}},
		"go build":   {cli.Build{Version: "devel"}, stamped, cli.Build{Version: "devel", Commit: "abc", CommitTime: "2026-11-26T00:00:00Z", Modified: true, Settings: settings}},
		"no history": {cli.Build{Version: "devel"}, &debug.BuildInfo{Settings: stamped.Settings[:4]}, cli.Build{Version: "devel", Settings: settings}},
		"no modules": {cli.Build{Version: "devel"}, nil, cli.Build{Version: "devel"}},
	} {
		c.want.Go, c.want.OS, c.want.Arch = runtime.Version(), runtime.GOOS, runtime.GOARCH
		if got := buildOf(c.said, c.info); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

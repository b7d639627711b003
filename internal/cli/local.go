package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// ServeFlags are the arguments of `dispatchd serve`.
type ServeFlags struct {
	Config string // the configuration file; never empty
}

// CheckFlags are the arguments of `dispatchd check`.
type CheckFlags struct {
	File   string // the configuration file; never empty
	Online bool   // also try Redis, SMTP and ORCID
	JSON   bool   // say it as JSON
	Strict bool   // warnings fail, with exit code 3
}

// ConfigShowFlags are the arguments of `dispatchd config show`.
type ConfigShowFlags struct {
	File string // the configuration file; never empty
	JSON bool   // as JSON instead of TOML
}

// DemoFlags are the arguments of `dispatchd demo`.
type DemoFlags struct {
	For   time.Duration `help:"Stop by itself after this time; 0s runs until interrupted." default:"0s" placeholder:"30s"`
	Users int           `help:"How many researchers there are." default:"500"`
	Speed float64       `help:"Virtual seconds per second at the simulated ORCID." default:"60"`
}

// SimulateFlags are the arguments of `dispatchd simulate-orcid`.
type SimulateFlags struct {
	Listen   string   `help:"Where it listens; port 0 picks one." default:"127.0.0.1:0" placeholder:"HOST:PORT"`
	Speed    float64  `help:"Virtual seconds per second." default:"1"`
	Profiles int      `help:"How many researchers there are at first." default:"1000"`
	Client   []string `help:"An API client that is let in; may be repeated." placeholder:"ID:SECRET" sep:"none"`
}

// InitFlags are the arguments of `dispatchd init`.
type InitFlags struct {
	Dir string `arg:"" optional:"" help:"The directory for config.toml, with its data below." default:"."`
	// Config is a configuration file that is there; then Dir does not matter.
	Config string `kong:"-"`
}

type serveCmd struct{}

// Run implements the command.
func (*serveCmd) Run(s *session) error {
	if s.Config == "" {
		return usage("serve needs a configuration file: dispatchd serve --config FILE\n`dispatchd config example` prints one.")
	}
	return s.env.Serve(s.ctx, ServeFlags{Config: s.Config})
}

type checkCmd struct {
	File   string `arg:"" optional:"" help:"The configuration file. Default: --config."`
	Online bool   `help:"Also try Redis, the mail server and ORCID."`
	Strict bool   `help:"Exit with code 3 when there are warnings and no mistakes."`
}

// Run implements the command.
func (c *checkCmd) Run(s *session) error {
	f := CheckFlags{File: c.File, Online: c.Online, JSON: s.JSON, Strict: c.Strict}
	switch {
	case f.File == "" && s.Config == "":
		return usage("check needs a configuration file: dispatchd check FILE")
	case f.File == "":
		f.File = s.Config
	}
	return s.env.Check(s.ctx, f)
}

type demoCmd struct {
	Flags DemoFlags `embed:""`
}

// Run implements the command.
func (c *demoCmd) Run(s *session) error {
	switch {
	case c.Flags.Users < 1 || c.Flags.Users > 1_000_000:
		return usage("--users must be 1 to 1000000 (got %d)", c.Flags.Users)
	case !(c.Flags.Speed > 0) || c.Flags.Speed > 1_000_000:
		return usage("--speed must be above 0 and at most 1000000 (got %g)", c.Flags.Speed)
	case c.Flags.For < 0:
		return usage("--for must not be negative (got %s)", c.Flags.For)
	}
	return s.env.Demo(s.ctx, c.Flags)
}

type simulateCmd struct {
	Flags SimulateFlags `embed:""`
}

// Run implements the command.
func (c *simulateCmd) Run(s *session) error {
	switch {
	case c.Flags.Profiles < 0:
		return usage("--profiles must not be negative (got %d)", c.Flags.Profiles)
	case !(c.Flags.Speed > 0) || c.Flags.Speed > 1_000_000:
		return usage("--speed must be above 0 and at most 1000000 (got %g)", c.Flags.Speed)
	}
	return s.env.Simulate(s.ctx, c.Flags)
}

type configCmd struct {
	Example configExampleCmd `cmd:"" help:"Print the annotated example."`
	Show    configShowCmd    `cmd:"" help:"Print what a file amounts to, without secrets."`
}

type configExampleCmd struct{}

// Run implements the command.
func (*configExampleCmd) Run(s *session) error { return s.env.ConfigExample(s.ctx) }

type configShowCmd struct {
	File string `arg:"" optional:"" help:"The configuration file. Default: --config."`
}

// Run implements the command.
func (c *configShowCmd) Run(s *session) error {
	path := c.File
	if path == "" {
		path = s.Config
	}
	if path == "" {
		return usage("config show needs a configuration file: dispatchd config show FILE")
	}
	return s.env.ConfigShow(s.ctx, ConfigShowFlags{File: path, JSON: s.JSON})
}

type initCmd struct {
	Flags InitFlags `embed:""`
}

// Run implements the command.
func (c *initCmd) Run(s *session) error {
	c.Flags.Config = s.Config
	return s.env.Init(s.ctx, c.Flags)
}

type versionCmd struct{}

// Build is how the program was made.
type Build struct {
	Version    string   `json:"version"`
	Commit     string   `json:"commit,omitempty"`      // the whole hash; empty when nobody knows
	CommitTime string   `json:"commit_time,omitempty"` // RFC 3339
	Modified   bool     `json:"modified,omitempty"`    // whether files were not those of the commit
	Go         string   `json:"go"`                    // the version of Go
	OS         string   `json:"os"`
	Arch       string   `json:"arch"`
	Settings   []string `json:"settings,omitempty"` // KEY=VALUE, as `go version -m` calls them
}

// Run implements the command.
func (*versionCmd) Run(s *session) error {
	b := s.env.Build
	if s.JSON {
		raw, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("write the version as JSON: %w", err)
		}
		s.printf("%s\n", raw)
		return nil
	}
	s.printf("dispatchd %s (%s, %s/%s)\n", b.Version, b.Go, b.OS, b.Arch)
	switch {
	case b.Commit == "":
		s.printf("commit unknown\n")
	case b.CommitTime == "":
		s.printf("commit %s\n", b.Commit)
	default:
		s.printf("commit %s of %s\n", b.Commit, b.CommitTime)
	}
	if b.Modified {
		s.printf("with changes that are not in that commit\n")
	}
	if len(b.Settings) > 0 {
		wrap(s.env.Stdout, "built with ", "  ", strings.Join(b.Settings, " "))
	}
	return nil
}

// say prints a sentence, broken where a line is full.
func (s *session) say(format string, args ...any) {
	wrap(s.env.Stdout, "", "", fmt.Sprintf(format, args...))
}

// printf prints for people.
func (s *session) printf(format string, args ...any) { fmt.Fprintf(s.env.Stdout, format, args...) }

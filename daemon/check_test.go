package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dispatchd/config"
	"dispatchd/internal/cli"
)

func TestCheckAsJSON(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "config.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("public_url = \"https://hub.example\"\ndata_dir = \"" + dir + "\"\n[redis]\nurl = \"embedded\"\n[orcid]\nenvironment = \"sandbox\"\n" +
		"[orcid.credential.main]\nclient_id = \"APP-1\"\nclient_secret = \"s3cret-of-main\"\n")
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	r := report{File: path, Valid: true, Problems: []mistake{}, Warnings: mistakes(c.Warnings)}
	r.describe(c, nil)
	r.Online = []asked{{What: "redis", OK: false, Detail: "away"}}
	for _, asJSON := range []bool{true, false} {
		var out bytes.Buffer
		if err := r.print(&out, asJSON); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "s3cret") {
			t.Errorf("a secret: %s", out.String())
		}
		if !asJSON {
			if !strings.Contains(out.String(), path+" is valid") || !strings.Contains(out.String(), "FAIL redis") {
				t.Errorf("for people: %s", out.String())
			}
			continue
		}
		var got report
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || !got.Valid || got.ORCID != "sandbox" || len(got.Credentials) != 1 || got.Online[0].Detail != "away" {
			t.Errorf("%v: %s", err, out.String())
		}
	}
	var out bytes.Buffer
	if err := showConfig(path, true, &out); err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := json.Unmarshal(out.Bytes(), &values); err != nil || values["public_url"] != "https://hub.example" || strings.Contains(out.String(), "s3cret") {
		t.Errorf("%v: %s", err, out.String())
	}
}

// Warnings fail only a strict check, with a code of their own: a reload is not
// held up by one.
func TestAStrictCheckFailsForWarnings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := "public_url = \"https://hub.example\"\ndata_dir = \"" + dir + "\"\n[redis]\nurl = \"embedded\"\n[orcid]\nenvironment = \"sandbox\"\n" +
		"[orcid.credential.main]\nclient_id = \"APP-1\"\nclient_secret = \"s3cret-of-main\"\n"
	warns := good + "[listen]\ncallback = \"127.0.0.1:0\"\n"
	for name, c := range map[string]struct {
		text          string
		plain, strict error
	}{
		"good":    {good, nil, nil},
		"warns":   {warns, nil, cli.ExitCode(exitWarned)},
		"mistake": {warns + "nonsense = 1\n", cli.ExitCode(exitUsage), cli.ExitCode(exitUsage)},
	} {
		path := filepath.Join(dir, name+".toml")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		for strict, want := range map[bool]error{false: c.plain, true: c.strict} {
			if got := runCheck(t.Context(), cli.CheckFlags{File: path, Strict: strict}); !errors.Is(got, want) {
				t.Errorf("%s, strict %v: %v, want %v", name, strict, got, want)
			}
		}
	}
}

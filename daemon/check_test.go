package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dispatchd/config"
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

package config

import (
	"bytes"
	"os"
	"regexp"
	"testing"
)

const committed = "../config.toml"

func TestCommittedExampleIsGeneratedAndStartsAsItIs(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile(committed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file, Example()) {
		t.Error("config.toml is not what the structs say; run: go run ./config/gen")
	}
	c, err := Parse("config.toml", file, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !c.Embedded() || c.ORCID.Environment != sandbox || len(c.Organisations) > 0 || c.DataDir != "" || len(c.Warnings) > 0 {
		t.Errorf("not a quiet trial: %s\n%v", c.Show(), c.Warnings)
	}
}

// Everything that is commented out must be right as well.
func TestExampleLoadsWithEveryLineOn(t *testing.T) {
	t.Parallel()
	text := regexp.MustCompile(`(?m)^#([a-z[])`).ReplaceAll(Example(), []byte("$1"))
	for _, change := range [][2]string{
		{`url = "embedded"`, ``},         // addresses stand instead
		{`cluster = false`, ``},          // master_name stands instead
		{`ca_file = "redis-ca.pem"`, ``}, // not a real certificate here
	} {
		if !bytes.Contains(text, []byte(change[0])) {
			t.Fatalf("the example has no %s", change[0])
		}
		text = bytes.Replace(text, []byte("\n"+change[0]), []byte("\n"+change[1]), 1)
	}
	c, err := Parse("config.toml", text, LoadOptions{ReadFile: func(path string) ([]byte, error) {
		return secretFor(path), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Organisations) != 1 || c.Organisations[0].API.ClientID != "uni-a" || c.ORCID.Credentials["main"].Rate != 5 {
		t.Errorf("the commented-out values did not arrive: %s", c.Show())
	}
}

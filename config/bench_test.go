package config

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkParse reads a file of ten thousand organisations, the most that one
// is thought to hold.
func BenchmarkParse(b *testing.B) {
	var text strings.Builder
	text.WriteString(minimal + "[orcid.credential.main]\nclient_id = \"APP-1\"\nclient_secret = \"s\"\n")
	for i := range 10_000 {
		fmt.Fprintf(&text, "[[organisation]]\nid = \"org-%d\"\nname = \"Organisation\"\ntechnical_contact = \"it@a.example\"\ntimezone = \"Pacific/Auckland\"\nwebhook = { url = \"https://a.example/%d\" }\n", i, i)
	}
	for b.Loop() {
		if _, err := Parse("c.toml", []byte(text.String()), LoadOptions{Dir: "/"}); err != nil {
			b.Fatal(err)
		}
	}
}

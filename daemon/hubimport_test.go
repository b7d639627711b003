package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An import of the Hub's export says what became of every organisation, by file
// and line where it went wrong, goes on with the others, and may be repeated.
func TestHubImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{later: true})
	w.writeConfig(strings.ReplaceAll(w.inFile("organisation-5", "/five"), "it@", "other@") +
		"\n[smtp]\nhost = \"127.0.0.1\"\nport = 9\ntls = \"none\"\nfrom = \"hub@hub.example\"\n") // nothing is sent
	w.start()
	dir := t.TempDir()
	w.must(os.CopyFS(dir, os.DirFS("../internal/hub/testdata/export")))
	run := func(more ...string) string {
		t.Helper()
		return w.run(append([]string{"hub", "import", dir, "--credential", "APP-AAAAAAAAAAAAAAAA=main", "--credential", "APP-BBBBBBBBBBBBBBBB=other"}, more...)...)
	}
	says := func(out string, words ...string) {
		t.Helper()
		flat := strings.Join(strings.Fields(out), " ")
		for _, want := range words {
			if !strings.Contains(flat, want) {
				t.Errorf("no %q in:\n%s", want, out)
			}
		}
	}
	says(run("--dry-run"), "4 organisations: 3 to be made, 0 updated, 0 unchanged, 0 failed, 1 owned by the file;", "Nothing was done.", "(exit 1)")
	if n := w.status().Organisations; n != 1 {
		t.Fatalf("a dry run made %d organisations", n-1)
	}
	out := run()
	says(out, "the-university-of-akoranga-un… made 2 2 0 0", "institute-b made 1 1 0 0", "4 organisations: 3 made", "users.csv:4: user 3: ")
	says(run(), "4 organisations: 0 made, 0 updated, 3 unchanged, 0 failed, 1 owned by the file;", "the-university-of-akoranga-un… unchanged 2 0 2 0")
	v, err := w.d.app.service.Organisation(t.Context(), "the-university-of-akoranga-uni-a")
	w.must(err)
	if v.Credential != "main" || !v.Webhook.Enabled || !v.Webhook.AppendORCID || !v.Webhook.APIKeySet || v.Webhook.Payload != "hub" ||
		!v.Email.CC || !v.Email.Monthly || v.Email.Address != "research@uni-a.example" || v.API.ClientID != "hub-client" || !v.API.SecretSet || v.Users != 2 {
		t.Errorf("imported: %+v", v)
	}

	// The Hub's settings change: one well, one not.
	path := filepath.Join(dir, "organisations.csv")
	raw, err := os.ReadFile(path)
	w.must(err)
	text := strings.Replace(string(raw), "https://uni-a.example/orcid", "https://uni-a.example/new", 1)
	text = strings.Replace(text, "2,Institute B,APP-BBBBBBBBBBBBBBBB,secret-b,,t,,", "2,Institute B,APP-BBBBBBBBBBBBBBBB,secret-b,,t,ftp://b.example,", 1)
	w.must(os.WriteFile(path, []byte(text), 0o600))
	says(run(), "the-university-of-akoranga-un… updated", "webhook.url", "institute-b failed",
		"organisations.csv:3: institute-b: webhook.url: must start with https:// or http://", "1 updated, 1 unchanged, 1 failed")
	if v, err = w.d.app.service.Organisation(t.Context(), "institute-b"); err != nil || v.Webhook.URL != "" || v.Users != 1 {
		t.Errorf("what failed is half done: %+v %v", v, err)
	}
	if v, err = w.d.app.service.Organisation(t.Context(), "organisation-5"); err != nil || v.TechnicalContact != "other@organisation-5.example" {
		t.Errorf("an organisation of the file was changed: %+v %v", v, err)
	}
	for _, secret := range []string{"secret-a", "secret-b", "hub-client-secret", "with,comma"} {
		if strings.Contains(out+w.log.String(), secret) {
			t.Errorf("the secret %q is shown", secret)
		}
	}
}

// A map that is not right is refused with every line, and the old one stays.
func TestABadMapOfTheHubIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{})
	table := w.asHub([]hubRow{{7, w.users[0], "main"}})
	w.writeConfig(table)
	if status, _, problems := w.reload(); status != http.StatusOK {
		t.Fatalf("the reload was answered %d %q", status, problems)
	}
	path := filepath.Join(filepath.Dir(w.dir), "legacy.csv")
	w.must(os.WriteFile(path, []byte("user_id,orcid,credential\nx,0000-0002-1825-0097,main\n8,0000-0002-1825-0097,mian\n"), 0o600))
	if status, _, problems := w.reload(); status != http.StatusUnprocessableEntity || !mentions(problems, "legacy.csv:2:") || !mentions(problems, "legacy.csv:3:", "mian") {
		t.Errorf("a bad map is answered %d %q", status, problems)
	}
	if got, err := w.post(w.hubURL(7)); err != nil || got.status != http.StatusNoContent {
		t.Errorf("after it a ping is answered %+v %v", got, err)
	}
}

package email_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dispatchd/internal/browsertest"
)

// TestMailsInABrowser looks at every preview as a mail program shows it: wide
// and on a phone, light and dark. A mail must have its style inline, and needs
// no main part; a short one has no heading either.
func TestMailsInABrowser(t *testing.T) {
	t.Parallel()
	list, err := filepath.Glob(filepath.Join(previewDir, "*.html"))
	if err != nil || len(list) == 0 {
		t.Fatalf("no previews, %v", err)
	}
	browser := browsertest.For(t)
	srv := httptest.NewServer(http.FileServer(http.Dir(previewDir)))
	t.Cleanup(srv.Close)
	looks := map[string]browsertest.Look{"": {}, "-dark": {Dark: true}, "-phone": {Phone: true}, "-phone-dark": {Phone: true, Dark: true}}
	p := browser.Page(t, browsertest.Look{})
	for _, file := range list {
		name := strings.TrimSuffix(filepath.Base(file), ".html")
		for suffix, look := range looks {
			p.Look(look)
			if status := p.Open(srv.URL + "/" + name + ".html"); status != http.StatusOK {
				t.Fatalf("%s: %d", name, status)
			}
			problems := slices.DeleteFunc(p.Problems(), func(s string) bool {
				return strings.HasPrefix(s, "inline style") || s == "there must be one main" || s == "there must be one h1, there are 0"
			})
			for _, problem := range problems {
				t.Errorf("%s%s: %s", name, suffix, problem)
			}
			p.Shot("mail-" + name + suffix)
		}
		if p.Count("script, iframe, form, img") != 0 {
			t.Errorf("%s: has what mail programs refuse", name)
		}
	}
}

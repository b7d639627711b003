package web

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFirstPageAndUnknownPaths(t *testing.T) {
	t.Parallel()
	p, err := New(Options{Logger: slog.New(slog.DiscardHandler), Panics: func(string) {}, Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		status int
		text   string
	}{
		"/":               {http.StatusOK, "ORCID records"},
		"/nothing":        {http.StatusNotFound, "There is no such page"},
		"/look/look.css":  {http.StatusOK, "--page"},
		"/look/nothing.x": {http.StatusNotFound, ""},
	} {
		w := httptest.NewRecorder()
		p.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want.status || !strings.Contains(w.Body.String(), want.text) || w.Header().Get("Content-Security-Policy") == "" {
			t.Errorf("%s: %d\n%s", path, w.Code, w.Body)
		}
	}
}

func TestNewChecksItsOptions(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); err == nil {
		t.Error("no options are taken")
	}
}

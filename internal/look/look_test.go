package look

import (
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func TestRender(t *testing.T) {
	t.Parallel()
	pages, err := Parse(fstest.MapFS{
		"_shared.html": {Data: []byte(`{{define "shared"}}<p>shared {{.}}</p>{{end}}`)},
		"one.html":     {Data: []byte(`{{define "main"}}<h1>{{.Title}}</h1>{{template "shared" .Data}}{{num 2310}} {{extra}}{{end}}`)},
	}, map[string]any{"extra": func() string { return "more" }})
	if err != nil {
		t.Fatal(err)
	}
	evil := `<script>alert("x")</script>`
	w := httptest.NewRecorder()
	err = pages.Render(w, http.StatusTeapot, "one", Page{
		Title: evil, Site: evil, Who: evil, SignOut: "/sign-out", Refresh: 5, Data: evil,
		Nav:     []Item{{Text: evil, Href: "javascript:alert(1)"}, {Text: "Menu", Here: true, Sub: []Item{{Text: "Sub", Href: "/sub", Here: true}}}},
		Notices: []Notice{{Kind: Bad, Text: evil, Do: evil, Link: &Link{Text: evil, Href: "/x"}}, {Kind: OK, Text: "fine"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	text := w.Body.String()
	if w.Code != http.StatusTeapot || strings.Contains(text, "<script>") || strings.Contains(text, "javascript:") {
		t.Errorf("%d\n%s", w.Code, text)
	}
	for _, want := range []string{
		`<noscript><meta http-equiv="refresh" content="5"></noscript>`, `<script src="/look/look.js?v=`, `<body data-refresh="5">`,
		`<summary aria-current="true">Menu</summary>`, `href="/sub" aria-current="page"`, "2,310 more", `role="alert"`, `action="/sign-out"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %s\n%s", want, text)
		}
	}
	w = httptest.NewRecorder()
	if err := pages.Render(w, 200, "none", Page{}); err == nil || w.Body.Len() > 0 {
		t.Errorf("a page that is not there: %v, %q", err, w.Body)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"no main": `x`, "broken": `{{define "main"}}{{`, "unknown function": `{{define "main"}}{{nope}}{{end}}`} {
		if _, err := Parse(fstest.MapFS{"a.html": {Data: []byte(text)}}, nil); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

func TestAssetsAndHeaders(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(Secure(Assets()))
	t.Cleanup(srv.Close)
	get := func(method, path string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(raw)
	}
	for name, kind := range map[string]string{"look.css": "text/css", "look.js": "text/javascript", "icon.svg": "image/svg+xml"} {
		href, err := asset(name)
		if err != nil {
			t.Fatal(err)
		}
		res, body := get(http.MethodGet, href)
		if res.StatusCode != http.StatusOK || !strings.HasPrefix(res.Header.Get("Content-Type"), kind) || len(body) < 100 ||
			!strings.Contains(res.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v, %d bytes", href, res.StatusCode, res.Header, len(body))
		}
		if res, _ := get(http.MethodGet, "/look/"+name+"?v=old"); strings.Contains(res.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s of an old version is kept for ever", name)
		}
	}
	for _, path := range []string{"/look/", "/look/layout.html", "/look/../look.go", "/look/look.css/x"} {
		if res, _ := get(http.MethodGet, path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	res, _ := get(http.MethodPost, "/look/look.css")
	if res.StatusCode != http.StatusNotFound {
		t.Errorf("POST: %d", res.StatusCode)
	}
	csp := res.Header.Get("Content-Security-Policy")
	for _, bad := range []string{"unsafe", "*", "data:", "http:", "https:"} {
		if strings.Contains(csp, bad) {
			t.Errorf("the policy has %s: %s", bad, csp)
		}
	}
	if !strings.HasPrefix(csp, "default-src 'none'; ") || !strings.Contains(csp, "frame-ancestors 'none'") || res.Header.Get("Cache-Control") != "no-store" ||
		res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers %v", res.Header)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 7: "7", 999: "999", 1000: "1,000", 2310: "2,310", 1234567: "1,234,567", -1000: "-1,000", -5: "-5"} {
		if got := Num(n); got != want {
			t.Errorf("Num(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "less than 1 s", 40 * time.Second: "40 s", 100 * time.Second: "2 min", time.Hour: "60 min", 5 * time.Hour: "5 h", 72 * time.Hour: "3 days",
	} {
		if got := Span(d); got != want {
			t.Errorf("Span(%v) = %s, want %s", d, got, want)
		}
	}
	now := time.Date(2026, 11, 26, 4, 4, 0, 0, time.UTC)
	for at, want := range map[time.Time]string{{}: "never", now: "just now", now.Add(-3 * time.Minute): "3 min ago", now.Add(2 * time.Hour): "in 2 h"} {
		if got := Ago(at, now); got != want {
			t.Errorf("Ago(%v) = %s, want %s", at, got, want)
		}
	}
	auckland, err := time.LoadLocation("Pacific/Auckland")
	if err != nil {
		t.Fatal(err)
	}
	if got := When(now, auckland); got != "26 Nov 2026, 17:04 NZDT" {
		t.Error(got)
	}
	if got := When(now, nil); got != "26 Nov 2026, 04:04 UTC" {
		t.Error(got)
	}
	for _, c := range []struct {
		n    int
		want string
	}{{0, "0 users"}, {1, "1 user"}, {2310, "2,310 users"}} {
		if got := Count(c.n, "user", "users"); got != c.want {
			t.Errorf("Count(%d) = %s", c.n, got)
		}
	}
	for _, p := range []struct {
		done, total, want int64
	}{{0, 0, 100}, {5, 10, 50}, {20, 10, 100}, {-1, 10, 0}} {
		if got := (Progress{Done: p.done, Total: p.total}).Percent(); got != p.want {
			t.Errorf("%d of %d is %d %%", p.done, p.total, got)
		}
	}
}

// TestContrast computes WCAG's contrast of every pair of colours that stand on
// each other, in both schemes: 4.5 for text, 3 for edges and bars.
func TestContrast(t *testing.T) {
	t.Parallel()
	raw, err := files.ReadFile("look.css")
	if err != nil {
		t.Fatal(err)
	}
	light, rest, _ := strings.Cut(string(raw), "@media (prefers-color-scheme: dark)")
	dark, _, _ := strings.Cut(rest, "\n}\n")
	re := regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6})`)
	pairs := []struct {
		text, back string
		least      float64
	}{
		{"text", "page", 4.5},
		{"text", "card", 4.5},
		{"muted", "page", 4.5},
		{"muted", "card", 4.5},
		{"link", "page", 4.5},
		{"link", "card", 4.5},
		{"button-text", "button", 4.5},
		{"ok-text", "ok-back", 4.5},
		{"warn-text", "warn-back", 4.5},
		{"bad-text", "bad-back", 4.5},
		{"plain-text", "plain-back", 4.5},
		{"text", "plain-back", 4.5},
		{"edge", "card", 3},
		{"edge", "page", 3},
		{"bar", "plain-back", 3},
		{"bar", "card", 3},
		{"bar-bad", "card", 3},
		{"bad-text", "card", 3},
		{"link", "plain-back", 3},
	}
	for scheme, css := range map[string]string{"light": light, "dark": dark} {
		colours := map[string]string{}
		for _, m := range re.FindAllStringSubmatch(css, -1) {
			colours[m[1]] = m[2]
		}
		if len(colours) < 15 {
			t.Fatalf("%s has only %d colours", scheme, len(colours))
		}
		for _, p := range pairs {
			if got := contrast(t, colours[p.text], colours[p.back]); got < p.least {
				t.Errorf("%s: %s on %s is %.2f, want %.1f", scheme, p.text, p.back, got, p.least)
			}
		}
	}
}

func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimPrefix(hex, "#"), 16, 32)
	if err != nil {
		t.Fatalf("colour %q: %v", hex, err)
	}
	part := func(shift uint) float64 {
		c := float64(n>>shift&0xff) / 255
		if c <= 0.03928 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*part(16) + 0.7152*part(8) + 0.0722*part(0)
}

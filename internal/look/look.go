// Package look owns how the pages look: the layout every page stands in, its
// style sheet, the few words and pictures that pages share, and the headers
// that keep a page from doing anything it was not written to do. It knows
// nothing of what the pages are about; packages web and admin bring that.
package look

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed layout.html look.css look.js icon.svg
var files embed.FS

// Page is one page: what the layout shows around it, and what it is about.
type Page struct {
	Title string // of this page
	Site  string // of all pages, in the corner and behind the title
	Home  string // where Site leads; default "/"
	Nav   []Item
	// Who is signed in, and the path that a POST to signs them out; empty shows
	// nothing.
	Who, SignOut string
	// Notices stand above the page, the first one first.
	Notices []Notice
	// Failed says that the form on this page has errors.
	Failed bool
	// Refresh is after how many seconds the page looks again: what is marked
	// data-live is replaced in place, and without JavaScript the whole page. 0
	// means never.
	Refresh int
	// Form says that somebody may be filling in a form: without JavaScript the
	// page stays as it is then, whatever Refresh says.
	Form   bool
	Footer string
	// Data is what the page's own template, "main", finds under .Data.
	Data any
}

// Item is one entry of the navigation; with Sub it is a menu.
type Item struct {
	Text, Href string
	Here       bool // the page that is shown is this one, or below it
	Sub        []Item
}

// Kind is how good news is: what colours a badge or a notice has.
type Kind string

// The kinds.
const (
	Plain Kind = ""
	OK    Kind = "ok"
	Warn  Kind = "warn"
	Bad   Kind = "bad"
)

// Notice is what just happened or what is wrong: words, what to do, where.
type Notice struct {
	Kind Kind
	Text string
	Do   string
	Link *Link
}

// Link is words that lead somewhere.
type Link struct{ Text, Href string }

// Badge is a state in a word or two; use it as {{template "badge" …}}.
type Badge struct {
	Kind Kind
	Text string
}

// Progress is a bar; use it as {{template "progress" …}}. ID must be unique on
// its page.
type Progress struct {
	ID          string
	Label, Text string
	Done, Total int64
}

// Percent is how much is done, for those who do not see the bar.
func (p Progress) Percent() int64 {
	if p.Total <= 0 {
		return 100
	}
	return max(0, min(100, p.Done*100/p.Total))
}

// Pages are the parsed pages of one face. They are safe for concurrent use.
type Pages struct{ byName map[string]*template.Template }

// Parse parses every *.html of a folder, each together with the layout and with
// those whose name begins with "_", which hold what several pages share. A page
// defines "main". The functions num, count, span, ago, when and asset are there
// already; more adds others.
func Parse(pages fs.FS, more template.FuncMap) (*Pages, error) {
	base := template.New("").Funcs(words).Funcs(more)
	base, err := base.ParseFS(files, "layout.html")
	if err != nil {
		return nil, fmt.Errorf("parse the layout: %w", err)
	}
	names, err := fs.Glob(pages, "*.html")
	if err != nil {
		return nil, fmt.Errorf("list the pages: %w", err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "_") {
			if base, err = base.ParseFS(pages, name); err != nil {
				return nil, fmt.Errorf("parse %s: %w", name, err)
			}
		}
	}
	out := &Pages{map[string]*template.Template{}}
	for _, name := range names {
		if strings.HasPrefix(name, "_") {
			continue
		}
		t, err := base.Clone()
		if err != nil {
			return nil, fmt.Errorf("copy the layout: %w", err)
		}
		if t, err = t.ParseFS(pages, name); err != nil {
			return nil, fmt.Errorf("parse %s: %w", name, err)
		}
		if t.Lookup("main") == nil {
			return nil, fmt.Errorf("parse %s: it defines no main", name)
		}
		out.byName[strings.TrimSuffix(name, ".html")] = t
	}
	return out, nil
}

// Render sends a page. Nothing is sent when it fails, so that the caller can
// still answer otherwise.
func (p *Pages) Render(w http.ResponseWriter, status int, name string, page Page) error {
	t, ok := p.byName[name]
	if !ok {
		return fmt.Errorf("render %s: there is no such page", name)
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, "layout", page); err != nil {
		return fmt.Errorf("render %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = b.WriteTo(w) // a reader that went away is nobody to tell
	return nil
}

// AssetPath is where Assets must be mounted.
const AssetPath = "/look/"

// versions are short hashes of the assets: a new one is a new address.
var versions = func() map[string]string {
	v := map[string]string{}
	for _, name := range []string{"look.css", "look.js", "icon.svg"} {
		raw, _ := files.ReadFile(name) // embedded
		sum := sha256.Sum256(raw)
		v[name] = base64.RawURLEncoding.EncodeToString(sum[:6])
	}
	return v
}()

// asset is the address of an asset.
func asset(name string) (string, error) {
	v, ok := versions[name]
	if !ok {
		return "", fmt.Errorf("there is no asset %q", name)
	}
	return AssetPath + name + "?v=" + v, nil
}

// Assets serves the style sheet, the script and the icon under AssetPath.
func Assets() http.Handler {
	types := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, AssetPath)
		v, ok := versions[name]
		if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", types[path.Ext(name)])
		h.Set("Cache-Control", "no-cache")
		if r.URL.Query().Get("v") == v {
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		http.ServeFileFS(w, r, files, name) //nolint:gosec // name is one of the versions
	})
}

// policy lets a page load our own style sheet, script, icon and data, send its
// forms to us, and nothing else: what slips into a page cannot run, fetch, frame
// or send anything.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Secure puts the headers of every page around a handler.
func Secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		// same-origin, not no-referrer: that would make browsers send "Origin:
		// null" with our own forms, and they would be refused as another site's.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=()")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

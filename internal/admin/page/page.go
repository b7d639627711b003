// Package page is the operator's page on the admin listener: everything at a
// glance, one organisation, one researcher, and the buttons an operator needs.
// It is a face of package service, rendered on the server, and works without
// JavaScript. It promises that nothing but the sign-in form is shown or done
// without the admin token, and nothing at all under a foreign host name.
package page

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"dispatchd/internal/look"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
)

//go:embed pages/*.html
var files embed.FS

// Options wires a Page.
type Options struct {
	// Service does everything; must be set.
	Service *service.Service
	// Token returns the admin token, which signs in; must be set. While it
	// returns nothing, nobody can sign in.
	Token func() secret.Text
	// Hosts are names and addresses under which the page answers, besides those
	// of this machine itself.
	Hosts []string
	// Logger must be set.
	Logger *slog.Logger
	// Now is the time of sessions. Default: time.Now.
	Now func() time.Time
	// Version is shown at the bottom.
	Version string
}

// Page serves the operator's page. It is safe for concurrent use.
type Page struct {
	o        Options
	log      *slog.Logger
	pages    *look.Pages
	sessions sessions
	tries    *rate.Limiter // of sign-ins
	origin   *http.CrossOriginProtection
	mux      *http.ServeMux
}

// New parses the pages.
func New(o Options) (*Page, error) {
	if o.Service == nil || o.Token == nil || o.Logger == nil {
		return nil, errors.New("page: Service, Token and Logger must be set")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	pages, err := parse()
	if err != nil {
		return nil, err
	}
	p := &Page{
		o: o, log: o.Logger.With("component", "page"), pages: pages, origin: http.NewCrossOriginProtection(),
		tries: rate.NewLimiter(1, 10), mux: http.NewServeMux(),
	}
	p.sessions.now = o.Now
	p.routes()
	return p, nil
}

func parse() (*look.Pages, error) {
	sub, err := fs.Sub(files, "pages")
	if err != nil {
		return nil, fmt.Errorf("open the pages: %w", err)
	}
	pages, err := look.Parse(sub, words())
	if err != nil {
		return nil, fmt.Errorf("parse the pages: %w", err)
	}
	return pages, nil
}

// view answers a request of somebody who is signed in, or returns why it could
// not.
type view func(w http.ResponseWriter, r *http.Request) error

func (p *Page) routes() {
	p.mux.Handle("GET "+look.AssetPath, look.Assets())
	p.mux.HandleFunc("GET /sign-in", p.signInForm)
	p.mux.HandleFunc("POST /sign-in", p.signIn)
	for pattern, v := range map[string]view{
		"GET /{$}":                          p.overview,
		"POST /sign-out":                    p.signOut,
		"GET /researcher":                   p.researcher,
		"GET /organisations/{id}":           p.organisation,
		"POST /organisations/{id}/{action}": p.act,
		"POST /registrations/{action}":      p.actRegistrations,
	} {
		p.mux.HandleFunc(pattern, p.signedIn(v))
	}
}

// unmatched says that there is no such page, or that it takes other methods.
func (p *Page) unmatched(w http.ResponseWriter, r *http.Request) {
	if allow := look.Allow(p.mux, r); allow != "" {
		w.Header().Set("Allow", allow)
		p.sorry(w, r, http.StatusMethodNotAllowed, "This address does not work like that.", "Begin at the overview and use the links and buttons there.")
		return
	}
	p.sorry(w, r, http.StatusNotFound, "There is no such page.", "")
}

// Serves reports whether a path of the admin listener is one of the page's.
func Serves(path string) bool {
	return path == "/" || path == "/sign-in" || path == "/sign-out" || path == "/researcher" || strings.HasPrefix(path, "/organisations/") ||
		strings.HasPrefix(path, "/registrations/") || strings.HasPrefix(path, look.AssetPath)
}

// Handler returns the page with everything around it.
func (p *Page) Handler() http.Handler {
	return look.Secure(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.ours(r) {
			p.sorry(w, r, http.StatusMisdirectedRequest, "This page does not answer under this name.",
				"Open it as http://127.0.0.1 with its port, or set listen.admin to the name.")
			return
		}
		if err := p.origin.Check(r); err != nil {
			p.sorry(w, r, http.StatusForbidden, "The request comes from a page of another site, so nothing was done.", "")
			return
		}
		if r.Method == http.MethodPost {
			r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		}
		if _, pattern := p.mux.Handler(r); pattern == "" {
			p.unmatched(w, r)
			return
		}
		p.mux.ServeHTTP(w, r)
	}))
}

// ours guards against a foreign name that was made to lead here (DNS
// rebinding): a browser would give that name's pages what this one shows.
func (p *Page) ours(r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if host == "localhost" || slices.Contains(p.o.Hosts, host) {
		return true
	}
	ip := net.ParseIP(host)
	if ip == nil {
		return false
	}
	if ip.IsLoopback() {
		return true
	}
	// An address is no name; it must be the one the connection came to.
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.IP.Equal(ip)
}

// signedIn lets only those in who have a session.
func (p *Page) signedIn(v view) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !p.sessions.valid(r, p.o.Token()) {
			if r.Method != http.MethodGet {
				p.sorry(w, r, http.StatusUnauthorized, "You are not signed in any more, so nothing was done.", "Sign in and try again.")
				return
			}
			to := "/sign-in"
			if r.URL.Path != "/" {
				to += "?to=" + url.QueryEscape(r.URL.RequestURI())
			}
			http.Redirect(w, r, to, http.StatusSeeOther)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
		defer cancel()
		if err := v(w, r.WithContext(ctx)); err != nil {
			p.failed(w, r, err)
		}
	}
}

// failed shows an error in the words of package service.
func (p *Page) failed(w http.ResponseWriter, r *http.Request, err error) {
	status, what, do := http.StatusInternalServerError, "Something went wrong inside dispatchd.", "The log has the details."
	var e *service.Error
	if errors.As(err, &e) && e.Code != service.CodeInternal {
		what, do = e.What, e.Do
		switch e.Code {
		case service.CodeNotFound:
			status = http.StatusNotFound
		case service.CodeInvalid:
			status = http.StatusBadRequest
		case service.CodeUnavailable, service.CodeForgot:
			status = http.StatusServiceUnavailable
		case service.CodeRateLimited:
			status = http.StatusTooManyRequests
		default:
			status = http.StatusConflict
		}
		for _, problem := range e.Problems {
			what += " " + strings.TrimPrefix(problem.Key+": "+problem.Why, "body: ")
		}
	} else {
		p.log.Error("a page failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	p.sorry(w, r, status, what, do)
}

// sorry shows what is wrong.
func (p *Page) sorry(w http.ResponseWriter, r *http.Request, status int, what, do string) {
	p.render(w, r, status, "sorry", look.Page{Title: http.StatusText(status), Data: struct{ What, Do string }{what, do}})
}

// render sends a page with what stands around every one.
func (p *Page) render(w http.ResponseWriter, r *http.Request, status int, name string, page look.Page) {
	page.Site = "dispatchd"
	page.Footer = "dispatchd " + p.o.Version + " · operator's page · times are in UTC"
	if p.sessions.valid(r, p.o.Token()) {
		page.Who, page.SignOut = "Operator", "/sign-out"
		page.Nav = []look.Item{
			{Text: "Overview", Href: "/", Here: r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, "/organisations/")},
			{Text: "Researcher", Href: "/researcher", Here: r.URL.Path == "/researcher"},
		}
	}
	if err := p.pages.Render(w, status, name, page); err != nil {
		p.log.Error("a page cannot be shown", "page", name, "err", err)
		http.Error(w, "Something went wrong inside dispatchd; the log has the details.", http.StatusInternalServerError)
	}
}

// by says who asks, for the audit log.
func by(r *http.Request) service.By {
	from := r.RemoteAddr
	if from == "" || from == "@" {
		from = "unix socket"
	}
	return service.By{Who: "operator's page", From: from}
}

// Package unsubscribe owns the pages behind the unsubscribe link of every mail.
// Opening the link shows a button, since mail scanners open links; a POST, by
// that button or by a mail program (RFC 8058), ends the mail at once.
package unsubscribe

import (
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"

	"dispatchd/internal/look"
	"dispatchd/internal/peer"
	"dispatchd/internal/service"
)

//go:embed pages/*.html
var pageFiles embed.FS

// Options wires a Handler; Service and Logger must be set.
type Options struct {
	Service *service.Service
	// Site is what the hub calls itself on every page. Default: "ORCID
	// notifications".
	Site    string
	Version string
	Logger  *slog.Logger
}

// Pages is the handler of the links.
type Pages struct {
	o     Options
	log   *slog.Logger
	pages *look.Pages
}

// New checks the options and parses the pages.
func New(o Options) (*Pages, error) {
	if o.Service == nil || o.Logger == nil {
		return nil, errors.New("unsubscribe: Service and Logger must be set")
	}
	if o.Site == "" {
		o.Site = "ORCID notifications"
	}
	sub, err := fs.Sub(pageFiles, "pages")
	if err != nil {
		return nil, fmt.Errorf("open the pages: %w", err)
	}
	parsed, err := look.Parse(sub, template.FuncMap{})
	if err != nil {
		return nil, fmt.Errorf("unsubscribe: %w", err)
	}
	return &Pages{o: o, log: o.Logger.With("component", "unsubscribe"), pages: parsed}, nil
}

// maxBody is far above what a mail program posts.
const maxBody = 4 << 10

// Handler returns what answers below /u/.
func (p *Pages) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /u/unsubscribe/{token}", func(w http.ResponseWriter, r *http.Request) {
		sub, err := p.o.Service.Subscription(r.Context(), r.PathValue("token"))
		p.answer(w, sub, err, false)
	})
	mux.HandleFunc("POST /u/unsubscribe/{token}", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if err := r.ParseForm(); err != nil {
			p.sorry(w, http.StatusBadRequest, "The form could not be read", "Open the link in the mail once more.")
			return
		}
		sub, err := p.o.Service.Unsubscribe(r.Context(), peer.Of(r), r.PathValue("token"))
		p.answer(w, sub, err, true)
	})
	// A mail program sends no Origin and passes; another site's page does not.
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.sorry(w, http.StatusForbidden, "This did not come from our own page", "Nothing was changed. Open the link in the mail once more.")
	}))
	return look.Secure(origin.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern == "" {
			p.unmatched(w, look.Allow(mux, r))
			return
		}
		mux.ServeHTTP(w, r)
	})))
}

// unmatched says that there is no such page, or that it takes other methods.
func (p *Pages) unmatched(w http.ResponseWriter, allow string) {
	if allow != "" {
		w.Header().Set("Allow", allow)
		p.sorry(w, http.StatusMethodNotAllowed, "This address does not work like that", "Open the link in the mail once more.")
		return
	}
	p.sorry(w, http.StatusNotFound, "There is no such page", "The address may be mistyped or out of date.")
}

func (p *Pages) answer(w http.ResponseWriter, sub service.Subscription, err error, post bool) {
	var e *service.Error
	switch {
	case err == nil && (sub.Off || post):
		p.show(w, http.StatusOK, "done", "No more e-mail", sub)
	case err == nil:
		p.show(w, http.StatusOK, "ask", "Stop these e-mails?", sub)
	case errors.As(err, &e) && e.Code == service.CodeNotFound:
		p.sorry(w, http.StatusNotFound, e.What, e.Do)
	case errors.As(err, &e) && e.Code == service.CodeGone:
		p.sorry(w, http.StatusGone, e.What, e.Do)
	default:
		p.log.Warn("an unsubscribe link could not be answered", "org", sub.Org, "err", err)
		p.sorry(w, http.StatusServiceUnavailable, "This does not work right now", "Try again in a minute; everything can be repeated safely.")
	}
}

func (p *Pages) sorry(w http.ResponseWriter, status int, what, do string) {
	p.show(w, status, "sorry", what, do)
}

func (p *Pages) show(w http.ResponseWriter, status int, name, title string, data any) {
	page := look.Page{Title: title, Site: p.o.Site, Footer: "dispatchd " + p.o.Version, Data: data}
	if err := p.pages.Render(w, status, name, page); err != nil {
		p.log.Error("a page could not be made", "page", name, "err", err)
		http.Error(w, "Something went wrong inside dispatchd. The log has the details.", http.StatusInternalServerError)
	}
}

// Package web is the pages for organisations on the web listener: sign in, the
// settings form, the state of their deliveries, their users. It is a face of
// package service and nothing else. It promises that a page shows and changes
// only the organisation its session is for, that no page but the one that makes
// a secret shows it, and that everything works without JavaScript.
package web

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"

	"dispatchd/internal/look"
	"dispatchd/internal/secret"
)

//go:embed pages/*.html
var pageFiles embed.FS

// Options wires a Pages.
type Options struct {
	// Site is what the hub calls itself on every page. Default: "ORCID
	// notifications".
	Site string
	// Logger must be set.
	Logger *slog.Logger
	// Panics counts a recovered panic; must be set.
	Panics func(component string)
	// Version stands at the foot of every page.
	Version string
}

// Pages is the handler of every page. It is safe for concurrent use.
type Pages struct {
	o     Options
	log   *slog.Logger
	pages *look.Pages
}

// New checks the options and parses the pages.
func New(o Options) (*Pages, error) {
	if o.Logger == nil || o.Panics == nil {
		return nil, errors.New("web: Logger and Panics must be set")
	}
	if o.Site == "" {
		o.Site = "ORCID notifications"
	}
	sub, err := fs.Sub(pageFiles, "pages")
	if err != nil {
		return nil, fmt.Errorf("open the pages: %w", err)
	}
	parsed, err := look.Parse(sub, nil)
	if err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	return &Pages{o: o, log: o.Logger.With("component", "web"), pages: parsed}, nil
}

// Handler returns all paths of the pages, the assets among them.
func (p *Pages) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(look.AssetPath, look.Assets())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		p.show(w, r, http.StatusOK, "home", look.Page{Title: "Be told when ORCID records change"})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		p.sorry(w, r, http.StatusNotFound, "There is no such page", "The address may be mistyped or out of date.")
	})
	return look.Secure(mux)
}

// show sends a page.
func (p *Pages) show(w http.ResponseWriter, r *http.Request, status int, name string, page look.Page) {
	page.Site, page.Footer = p.o.Site, "dispatchd "+p.o.Version
	if err := p.pages.Render(w, status, name, page); err != nil {
		id := secret.NewKey(9).Reveal()
		p.log.Error("a page could not be made", "id", id, "page", name, "err", err)
		http.Error(w, "Something went wrong inside dispatchd. The operator finds the details in the log under "+id+".", http.StatusInternalServerError)
	}
}

// sorry sends the page that says what went wrong and what to do.
func (p *Pages) sorry(w http.ResponseWriter, r *http.Request, status int, what, do string) {
	p.show(w, r, status, "sorry", look.Page{Title: what, Data: do})
}

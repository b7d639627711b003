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
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"

	"dispatchd/internal/look"
	"dispatchd/internal/service"
)

//go:embed pages/*.html
var pageFiles embed.FS

// Options wires a Pages.
type Options struct {
	// Service does everything; must be set.
	Service *service.Service
	// Secure says that people reach the pages over TLS: cookies go over nothing
	// else then.
	Secure bool
	// Mail reports whether there is a mail server, and so whether links can be
	// mailed. Default: there is.
	Mail func() bool
	// Site is what the hub calls itself on every page. Default: "ORCID
	// notifications".
	Site string
	// Logger must be set.
	Logger *slog.Logger
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
	if o.Service == nil || o.Logger == nil {
		return nil, errors.New("web: Service and Logger must be set")
	}
	if o.Mail == nil {
		o.Mail = func() bool { return true }
	}
	if o.Site == "" {
		o.Site = "ORCID notifications"
	}
	sub, err := fs.Sub(pageFiles, "pages")
	if err != nil {
		return nil, fmt.Errorf("open the pages: %w", err)
	}
	parsed, err := look.Parse(sub, template.FuncMap{"ms": milliseconds, "sentence": sentence, "plainly": plainly, "answered": answered})
	if err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	return &Pages{o: o, log: o.Logger.With("component", "web"), pages: parsed}, nil
}

// Handler returns all paths of the pages, the assets among them.
func (p *Pages) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+look.AssetPath, look.Assets())
	open := func(pattern string, h handler) { mux.HandleFunc(pattern, p.answer(h)) }
	mine := func(pattern string, h visited) { mux.HandleFunc(pattern, p.answer(p.signedIn(h))) }

	open("GET /{$}", p.home)
	open("GET /sign-in", p.askPage)
	open("POST /sign-in", p.ask)
	open("GET /sign-in/{token}", p.linkPage)
	open("POST /sign-in/{token}", p.signIn)
	open("POST /sign-out", p.signOut)
	open("GET /choose", p.choosePage)
	open("POST /choose", p.choose)
	open("GET /confirm/{token}", p.confirmPage)
	open("POST /confirm/{token}", p.confirm)
	mine("GET /settings/webhook", p.settingsPage)
	mine("POST /settings/webhook", p.save)
	mine("POST /settings/webhook/test", p.test)
	mine("POST /settings/webhook/ask-again", p.askAgain)
	mine("GET /settings/secret", p.secretPage)
	mine("POST /settings/secret", p.rotate)
	mine("GET /state", p.statePage)
	mine("POST /state/pause", p.pause)
	mine("POST /state/resume", p.resume)
	mine("POST /state/replay", p.replay)
	mine("GET /users", p.usersPage)
	mine("POST /users", p.addUser)
	mine("POST /users/upload", p.upload)
	mine("GET /users/{orcid}/remove", p.removePage)
	mine("POST /users/{orcid}/remove", p.removeUser)

	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(p.answer(func(*http.Request) (reply, error) { return reply{}, errForeign }))
	return look.Secure(origin.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern == "" {
			p.sorry(w, r, unmatched(look.Allow(mux, r)))
			return
		}
		mux.ServeHTTP(w, r)
	})))
}

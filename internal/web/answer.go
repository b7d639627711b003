package web

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"dispatchd/internal/look"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
)

// reply is what a handler wants to be shown: a page, or another address.
type reply struct {
	status int    // default 200, with to 303
	name   string // of the page
	page   look.Page
	to     string // a path to go to instead of a page
	cookie *http.Cookie
}

// handler answers a request, or says why it cannot.
type handler func(r *http.Request) (reply, error)

// apology is an error that knows its page.
type apology struct {
	status   int
	what, do string
	allow    string // the methods that would do; empty: no matter of methods
}

// Error implements error.
func (a *apology) Error() string { return a.what }

var (
	errNoPage  = &apology{status: http.StatusNotFound, what: "There is no such page", do: "The address may be mistyped or out of date."}
	errForeign = &apology{
		status: http.StatusForbidden, what: "This did not come from our own page",
		do: "Another site, or a very old browser, sent this form. Nothing was changed. Open the page here and try again.",
	}
)

// unmatched is for a request that no page takes: there is none, or it is asked
// in another way than with the methods of allow.
func unmatched(allow string) *apology {
	if allow == "" {
		return errNoPage
	}
	return &apology{
		status: http.StatusMethodNotAllowed, what: "This address does not work like that",
		do: "Begin at the first page and use the links and buttons there.", allow: allow,
	}
}

// maxForm bounds every form but an upload.
const maxForm = 64 << 10

// answer sends what a handler replies.
func (p *Pages) answer(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if isUpload(r) {
			// A list may be long and its way slow. A writer that cannot be bounded
			// is one of a test.
			rc := http.NewResponseController(w)
			_ = rc.SetReadDeadline(time.Now().Add(uploadTime))
			_ = rc.SetWriteDeadline(time.Now().Add(uploadTime + time.Minute))
			r.Body = http.MaxBytesReader(w, r.Body, maxUpload)
		} else if r.Method == http.MethodPost {
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			if err := r.ParseForm(); err != nil {
				p.sorry(w, r, &apology{status: http.StatusBadRequest, what: "The form could not be read", do: "Go back and try again."})
				return
			}
		}
		re, err := h(r)
		if err != nil {
			p.sorry(w, r, p.apologise(r, err))
			return
		}
		if re.cookie != nil {
			http.SetCookie(w, re.cookie)
		}
		if re.to != "" {
			http.Redirect(w, r, re.to, http.StatusSeeOther)
			return
		}
		if re.status == 0 {
			re.status = http.StatusOK
		}
		p.show(w, r, re.status, re.name, re.page)
	}
}

func isUpload(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Path == "/users/upload"
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
func (p *Pages) sorry(w http.ResponseWriter, r *http.Request, a *apology) {
	if a.allow != "" {
		w.Header().Set("Allow", a.allow)
	}
	p.show(w, r, a.status, "sorry", look.Page{Title: a.what, Data: a.do})
}

// apologise is the one place where an error becomes words. What is ours to mend
// goes to the log under an id that the page shows.
func (p *Pages) apologise(r *http.Request, err error) *apology {
	var a *apology
	var e *service.Error
	switch {
	case errors.As(err, &a):
		return a
	case errors.Is(err, service.ErrNotSignedIn):
		return &apology{status: http.StatusUnauthorized, what: "You are signed out", do: "Nothing was changed. Sign in again, then repeat what you did."}
	case errors.As(err, &e):
		what := strings.TrimSuffix(e.What, ".")
		switch e.Code {
		case service.CodeNotFound:
			return &apology{status: http.StatusNotFound, what: what, do: e.Do}
		case service.CodeGone:
			return &apology{status: http.StatusGone, what: what, do: e.Do}
		case service.CodeRateLimited:
			return &apology{status: http.StatusTooManyRequests, what: what, do: e.Do}
		case service.CodeInvalid:
			for _, problem := range e.Problems {
				e.Do += " " + sentence(plainly(problem.Why))
			}
			return &apology{status: http.StatusBadRequest, what: what, do: strings.TrimSpace(e.Do)}
		case service.CodeReadOnly, service.CodeConflict:
			return &apology{status: http.StatusConflict, what: what, do: e.Do}
		case service.CodeUnavailable, service.CodeForgot:
			p.log.Warn("a page failed", "path", firstPart(r), "err", err)
			return &apology{
				status: http.StatusServiceUnavailable, what: "This does not work right now",
				do: "The service's memory does not answer, so the change may not have been made. Try again in a minute; everything can be repeated safely.",
			}
		case service.CodeInternal:
		}
	case errors.Is(err, context.Canceled):
		return &apology{status: http.StatusServiceUnavailable, what: "The request was cut off", do: "Try again; everything can be repeated safely."}
	}
	id := secret.NewKey(9).Reveal()
	p.log.Error("a page failed", "id", id, "path", firstPart(r), "err", err)
	return &apology{status: http.StatusInternalServerError, what: "Something went wrong on our side", do: "Tell the operator of this service this number: " + id + "."}
}

// firstPart is a path without what may be secret in it.
func firstPart(r *http.Request) string {
	first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if rest != "" {
		rest = "/…"
	}
	return "/" + first + rest
}

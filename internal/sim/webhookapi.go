package sim

import (
	"net/http"
	"net/url"
	"strings"

	"dispatchd/internal/orcid"
)

// isID is OrcidStringUtils' pattern (\d{4}-){3}\d{3}[\dX]: no check digit.
func isID(s string) bool {
	if len(s) != 19 {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch {
		case i%5 == 4:
			if s[i] != '-' {
				return false
			}
		case !isDigit(s[i]) && (i != 18 || s[i] != 'X'):
			return false
		}
	}
	return true
}

// webhookRoute is ^/(\d{4}-){3}\d{3}[\dX]/webhook/.+ over the decoded path.
func webhookRoute(path string) bool {
	const prefix = len("/0000-0000-0000-0000")
	return len(path) > prefix && path[0] == '/' && isID(path[1:prefix]) &&
		strings.HasPrefix(path[prefix:], "/webhook/") && len(path) > prefix+len("/webhook/")
}

// serveWebhook is PUT and DELETE /{iD}/webhook/{uri}. The order of the checks
// is ORCID's: bearer, route, scope, URI (PUT), iD, row. The states of the
// record are not among them.
func (r *Registry) serveWebhook(w http.ResponseWriter, req *http.Request, t *token) {
	kind := KindPut
	if req.Method == http.MethodDelete {
		kind = KindDelete
	}
	text, raw, _ := strings.Cut(strings.TrimPrefix(req.URL.EscapedPath(), "/"), "/webhook/")
	uri, err := url.PathUnescape(raw)
	if err != nil || strings.Contains(raw, "/") {
		errNotFound().write(w, req) // not one segment: no such resource
		return
	}
	e := Entry{Kind: kind, at: r.now(), Client: t.client.ID, URI: uri}
	id, idErr := orcid.ParseStrict(text)
	if idErr == nil {
		e.base = id.Base()
	}
	status, failure := r.webhook1(kind, t, text, uri, id, idErr == nil)
	if failure != nil {
		status = failure.Status
	}
	e.Status = status
	r.ledger.add(e)
	switch {
	case failure != nil:
		failure.write(w, req)
	case status == http.StatusCreated:
		w.Header().Set("Location", absolute(req))
		writeBody(w, status, "", nil)
	default:
		w.WriteHeader(status)
	}
}

// webhook1 does the work of a PUT or DELETE.
func (r *Registry) webhook1(kind Kind, t *token, text, uri string, id orcid.ID, checked bool) (int, *apiError) {
	if t.client.Public {
		return 0, errUnauthorized("The client application is forbidden to perform the action.")
	}
	if !t.has(scopeWebhook) {
		return 0, errScope()
	}
	if kind == KindPut {
		if _, err := parseJavaURI(uri); err != nil {
			return 0, errBadRequest("Webhook uri: " + uri + " is syntactically incorrect")
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.profiles[id.Base()]
	if p == nil || !checked {
		return 0, errNoProfile()
	}
	now := r.write()
	if kind == KindPut {
		if r.register(p, uri, t.client, now) {
			return http.StatusCreated, nil
		}
		return http.StatusNoContent, nil
	}
	h := p.lookup(uri)
	if h == nil {
		return 0, errNoWebhook(text, uri)
	}
	if h.client != t.client {
		return 0, errForbidden("Unable to unregister webhook: Only the client that register the webhook can unregister it.")
	}
	r.unregister(h, now)
	return http.StatusNoContent, nil
}

// absolute is the request's URL as the client sees it.
func absolute(req *http.Request) string {
	scheme := "http"
	if req.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + req.Host + req.URL.EscapedPath()
}

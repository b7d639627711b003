package hubapi

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"dispatchd/internal/orcid"
)

// The routes, by the words that the OpenAPI document has for them too.
const (
	routeToken        = "/oauth/token" //nolint:gosec // a path
	routeOpenAPI      = "/api/openapi.json"
	routeSettings     = "/api/v1/webhook"
	routeCallback     = "/api/v1/webhook/{callback_url}"
	routeUserWebhook  = "/api/v1/{orcid}/webhook"
	routeUserCallback = "/api/v1/{orcid}/webhook/{callback_url}"
	routeUser         = "/api/v1/users/{orcid}"
	routeAttempts     = "/api/v1/webhook/attempts"
	routeTest         = "/api/v1/webhook/test"
	routeReplay       = "/api/v1/webhook/replay"
)

// endpoint is what each verb does on a route.
type endpoint map[string]func(a *API, w http.ResponseWriter, c *call) error

func (e endpoint) allow() string {
	return strings.Join(append(slices.Sorted(maps.Keys(e)), http.MethodOptions), ", ")
}

// endpoints is the table of all there is. It is never changed.
var endpoints = map[string]endpoint{
	routeToken:        {http.MethodPost: (*API).token},
	routeOpenAPI:      {http.MethodGet: (*API).openAPI, http.MethodHead: (*API).openAPI},
	routeSettings:     {http.MethodGet: (*API).settings, http.MethodHead: (*API).settings, http.MethodPut: (*API).change, http.MethodPost: (*API).change, http.MethodPatch: (*API).change, http.MethodDelete: (*API).disable},
	routeCallback:     {http.MethodPut: (*API).change, http.MethodDelete: (*API).disable},
	routeUserWebhook:  {http.MethodPut: (*API).tellOfUser, http.MethodDelete: (*API).stopTellingOfUser},
	routeUserCallback: {http.MethodPut: (*API).putCallback, http.MethodDelete: (*API).deleteCallback},
	routeUser:         {http.MethodPut: (*API).putUser, http.MethodDelete: (*API).deleteUser},
	routeAttempts:     {http.MethodGet: (*API).attempts, http.MethodHead: (*API).attempts},
	routeTest:         {http.MethodPost: (*API).test},
	routeReplay:       {http.MethodPost: (*API).replay},
}

// route is what a path says.
type route struct {
	name     string
	orcid    orcid.ID
	orcidErr error  // the iD in the path is none
	shown    string // the iD as it was written
	callback string // as it is meant, when the path has one
	// callbackErr says what is wrong with the callback URL.
	callbackErr error
}

// prefixes of the API: the Hub's, and the one it had before.
var prefixes = [...]string{"/api/v1/", "/api/v1.0/"}

// parseRoute reads the path as the Hub did: a slash at the end does not count,
// and a callback URL stands at the end, encoded in one segment or as it is.
func parseRoute(u *url.URL) (route, error) {
	path := u.EscapedPath()
	switch strings.TrimSuffix(path, "/") {
	case routeToken:
		return route{name: routeToken}, nil
	case routeOpenAPI:
		return route{name: routeOpenAPI}, nil
	}
	rest, found := "", false
	for _, p := range prefixes {
		if rest, found = strings.CutPrefix(path, p); found {
			break
		}
	}
	if !found {
		return route{}, nothingHere()
	}
	first, rest, _ := strings.Cut(rest, "/")
	if first == "webhook" {
		return settingsRoute(u, rest)
	}
	if first == "users" {
		return userRoute(strings.TrimSuffix(rest, "/"))
	}
	word, callback, _ := strings.Cut(rest, "/")
	if word != "webhook" {
		return route{}, nothingHere()
	}
	r := route{name: routeUserWebhook}
	r.setORCID(first)
	r.setCallback(u, callback, routeUserCallback)
	return r, nil
}

func settingsRoute(u *url.URL, rest string) (route, error) {
	switch strings.TrimSuffix(rest, "/") {
	case "attempts":
		return route{name: routeAttempts}, nil
	case "test":
		return route{name: routeTest}, nil
	case "replay":
		return route{name: routeReplay}, nil
	}
	r := route{name: routeSettings}
	r.setCallback(u, rest, routeCallback)
	return r, nil
}

func userRoute(rest string) (route, error) {
	if rest == "" || strings.Contains(rest, "/") {
		return route{}, nothingHere()
	}
	r := route{name: routeUser}
	r.setORCID(rest)
	return r, nil
}

func (r *route) setORCID(escaped string) {
	text, err := url.PathUnescape(escaped)
	if err == nil {
		r.shown = text
		r.orcid, err = orcid.Parse(text)
	}
	if err == nil && r.orcid.IsZero() {
		err = orcid.ErrBadID // its check digit is right, but nobody has it
	}
	r.orcidErr = err
}

// setCallback reads a callback URL from the end of a path. The word "undefined"
// is none: the Hub's own page of its API sends it.
func (r *route) setCallback(u *url.URL, escaped, name string) {
	if escaped == "" || escaped == "undefined" {
		return
	}
	r.name = name
	r.callback, r.callbackErr = callbackOf(escaped)
	if r.callbackErr == nil && u.RawQuery != "" {
		r.callbackErr = errors.New("a ? inside it must be written %3F")
	}
}

// callbackOf undoes what happens to a URL inside a path: one encoding, or two
// when a client or a proxy encodes what is encoded, and slashes that a proxy
// merged.
func callbackOf(escaped string) (string, error) {
	text, err := url.PathUnescape(escaped)
	if err != nil {
		return clip(escaped), errors.New("it is not encoded properly")
	}
	if !strings.Contains(text, ":/") {
		if again, err := url.PathUnescape(text); err == nil && strings.Contains(again, "://") {
			text = again
		}
	}
	for _, scheme := range [...]string{"https:/", "http:/"} {
		if after, ok := strings.CutPrefix(text, scheme); ok && !strings.HasPrefix(after, "/") {
			text = scheme + "/" + after
		}
	}
	return text, nil
}

package hubapi

import (
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"dispatchd/internal/peer"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
)

// scopeWebhook is the one scope there is.
const scopeWebhook = "/webhook"

// maxChecks is how many secrets are checked at once: the hash of one that a
// person chose costs much on purpose.
const maxChecks = 2

// tokenBody is the answer that holds a token (RFC 6749).
type tokenBody struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"` // seconds
	Scope       string `json:"scope"`
}

func oauthError(status int, code, message string) *failure {
	return &failure{status: status, error: code, message: message, oauth: true}
}

// token makes an access token for a client that shows its secret.
func (a *API) token(w http.ResponseWriter, c *call) error {
	form, err := tokenForm(w, c)
	if err != nil {
		return err
	}
	clientID, given, basic, err := clientOf(c, form)
	if err != nil {
		return err
	}
	org, err := a.checkClient(w, c, clientID, given, basic)
	if err != nil {
		return err
	}
	c.org = org
	if err := a.clients.take(w.Header(), org); err != nil {
		return err
	}
	switch form.Get("grant_type") {
	case "client_credentials":
	case "":
		return oauthError(http.StatusBadRequest, "invalid_request", "grant_type is missing; send grant_type=client_credentials.")
	default:
		return oauthError(http.StatusBadRequest, "unsupported_grant_type", "Only grant_type=client_credentials works here.")
	}
	scope := form.Get("scope")
	if scope != "" && !slices.Contains(strings.Fields(scope), scopeWebhook) {
		return oauthError(http.StatusBadRequest, "invalid_scope", "scope must be empty or contain /webhook.")
	}
	token, err := a.o.Service.NewToken(c.Context(), c.by(), org)
	if err != nil {
		return err
	}
	a.send(w, c, http.StatusOK, tokenBody{
		AccessToken: token.Reveal(), TokenType: "Bearer", ExpiresIn: int(service.TokenLife / time.Second), Scope: scopeWebhook,
	})
	return nil
}

// tokenForm reads the form. What stands in the query of the URL is not looked
// at: it would end in the logs of proxies.
func tokenForm(w http.ResponseWriter, c *call) (url.Values, error) {
	c.Body = http.MaxBytesReader(w, c.Body, maxBody)
	mt, _, err := mime.ParseMediaType(c.Header.Get("Content-Type"))
	if err != nil || mt != "application/x-www-form-urlencoded" && mt != "multipart/form-data" {
		return nil, oauthError(http.StatusBadRequest, "invalid_request", "Send a form: Content-Type: application/x-www-form-urlencoded.")
	}
	if mt == "multipart/form-data" {
		err = c.ParseMultipartForm(maxBody)
		defer func() {
			if c.MultipartForm != nil {
				_ = c.MultipartForm.RemoveAll() // a token request has no files
			}
		}()
	} else {
		err = c.ParseForm()
	}
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		return nil, oauthError(http.StatusRequestEntityTooLarge, "invalid_request", "The form is too large.")
	case err != nil:
		return nil, oauthError(http.StatusBadRequest, "invalid_request", "The form could not be read.")
	}
	for key, values := range c.PostForm {
		if len(values) > 1 {
			return nil, oauthError(http.StatusBadRequest, "invalid_request", clip(key)+" is given more than once.")
		}
	}
	return c.PostForm, nil
}

// clientOf finds the client's id and secret: HTTP Basic, else in the form.
func clientOf(c *call, form url.Values) (clientID string, given secret.Text, basic bool, err error) {
	clientID, given = form.Get("client_id"), secret.Text(form.Get("client_secret"))
	name, password, basic := c.BasicAuth()
	if !basic {
		return clientID, given, false, nil
	}
	// RFC 6749 has both form-encoded inside; many clients send them as they are.
	if u, err := url.QueryUnescape(name); err == nil {
		name = u
	}
	if given.IsSet() && given.Reveal() != password || clientID != "" && clientID != name {
		return "", "", basic, oauthError(http.StatusBadRequest, "invalid_request", "The client is named twice, and differently.")
	}
	return name, secret.Text(password), basic, nil
}

// checkClient returns whose client it is.
func (a *API) checkClient(w http.ResponseWriter, c *call, clientID string, given secret.Text, basic bool) (string, error) {
	from := peer.Of(c.Request)
	if err := a.mayGuess(clientID, from); err != nil {
		return "", err
	}
	select {
	case a.slow <- struct{}{}:
	case <-c.Context().Done():
		return "", c.Context().Err()
	}
	defer func() { <-a.slow }()
	if err := a.mayGuess(clientID, from); err != nil {
		return "", err // those who were checked meanwhile count
	}
	org, ok := a.o.Service.APIClient(clientID, given)
	if !ok && basic {
		// A secret with % or + in it, which was sent encoded as the RFC has it.
		if u, err := url.QueryUnescape(given.Reveal()); err == nil && u != given.Reveal() {
			org, ok = a.o.Service.APIClient(clientID, secret.Text(u))
		}
	}
	if ok {
		return org, nil
	}
	a.guesses.wrong(clientID, from)
	a.log.Warn("a wrong API client or secret was sent", "from", from)
	if basic {
		w.Header().Set("WWW-Authenticate", `Basic realm="dispatchd"`)
	}
	return "", oauthError(http.StatusUnauthorized, "invalid_client", "")
}

// mayGuess refuses who has shown too many wrong secrets.
func (a *API) mayGuess(clientID, from string) error {
	wait := a.guesses.wait(clientID, from)
	if wait <= 0 {
		return nil
	}
	return &failure{
		status: http.StatusTooManyRequests, error: "slow_down", oauth: true, retry: wait,
		message: "Too many wrong secrets came from this address.",
	}
}

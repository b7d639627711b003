package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"dispatchd/internal/secret"
)

// defaultAdmin is where a daemon with the default configuration listens.
const defaultAdmin = "http://127.0.0.1:9480"

const (
	dialTimeout = 5 * time.Second
	callTimeout = 10 * time.Minute // the longest test event and purge end before
	maxAnswer   = 64 << 20
)

// client talks to one admin listener.
type client struct {
	shown string // the address as people write it
	base  string
	token secret.Text
	http  *http.Client
}

// client finds out where the daemon is and with which token. What is said on
// the command line wins over the file, the file over the environment.
func (s *session) client() (*client, error) {
	address, tokenFile := s.Admin, s.TokenFile
	var token secret.Text
	if s.Config != "" {
		a, t, err := s.env.AdminFromConfig(s.Config)
		if err != nil {
			return nil, err
		}
		if address == "" {
			address = a
		}
		token = t
	} else {
		if address == "" {
			address = s.env.Getenv("DISPATCHD_ADMIN")
		}
		if tokenFile == "" {
			tokenFile = s.env.Getenv("DISPATCHD_ADMIN_TOKEN_FILE")
		}
	}
	if tokenFile != "" {
		raw, err := os.ReadFile(tokenFile)
		if err != nil {
			return nil, fmt.Errorf("read the admin token: %w", err)
		}
		token = secret.Text(strings.TrimSpace(string(raw)))
		if strings.ContainsFunc(token.Reveal(), func(r rune) bool { return r < 0x21 || r > 0x7e }) {
			return nil, fmt.Errorf("read the admin token: %s is not one word of visible ASCII", tokenFile)
		}
	}
	if address == "" {
		address = defaultAdmin
	}
	return newClient(address, token)
}

// newClient accepts http://host:port, host:port, :port and unix:/path. An
// address that means "every interface" is this machine.
func newClient(address string, token secret.Text) (*client, error) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	transport := &http.Transport{
		DialContext: dialer.DialContext,
		// An operator's proxy has no business between the two.
		Proxy:                 nil,
		ExpectContinueTimeout: 2 * time.Second,
		TLSHandshakeTimeout:   dialTimeout,
		DisableCompression:    true,
	}
	c := &client{shown: address, token: token, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if path == "" {
			return nil, usage("the admin address %q names no socket", address)
		}
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		c.base = "http://dispatchd"
		return c, nil
	}
	text := address
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, usage("the admin address must look like http://127.0.0.1:9480 or unix:/path")
	}
	switch u.Hostname() {
	case "", "0.0.0.0", "::":
		u.Host = net.JoinHostPort("127.0.0.1", u.Port())
	}
	c.base = u.Scheme + "://" + u.Host
	c.shown = c.base
	return c, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// send sends a request. Its error says what to do when nobody answers.
func (c *client) send(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	// Of a script whose variable is empty; a server would take it for another path.
	where, _, _ := strings.Cut(path, "?")
	for name := range strings.SplitSeq(strings.TrimPrefix(where, "/"), "/") {
		if name == "" || name == "." || name == ".." {
			return nil, usage("%q names nothing: an argument is empty or made of dots", name)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	for key, values := range header {
		req.Header[key] = values
	}
	if c.token.IsSet() {
		req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	res, err := c.http.Do(req)
	if err == nil {
		return res, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("ask dispatchd at %s: %w", c.shown, context.Cause(ctx))
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	var oe *net.OpError
	if errors.As(err, &oe) && oe.Op == "dial" {
		return nil, fmt.Errorf("cannot reach dispatchd at %s: %w\nIs it running there? Say where with --admin URL, --config FILE or DISPATCHD_ADMIN", c.shown, oe.Err)
	}
	return nil, fmt.Errorf("dispatchd at %s did not answer: %w", c.shown, err)
}

// do sends JSON and returns the answer's body; anything but 2xx is an apiError.
func (c *client) do(ctx context.Context, method, path string, in any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var body io.Reader
	header := http.Header{"Accept": {"application/json"}}
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("write the request: %w", err)
		}
		body = bytes.NewReader(raw)
		header.Set("Content-Type", "application/json")
	}
	res, err := c.send(ctx, method, path, header, body)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer of dispatchd at %s: %w", c.shown, err)
	}
	if res.StatusCode >= 300 {
		return raw, c.failed(res, raw)
	}
	if res.StatusCode != http.StatusNoContent && res.Header.Get("Content-Type") != "application/json" {
		return nil, c.notOurs(res)
	}
	return raw, nil
}

// notOurs is the error about a server that is not a daemon's.
func (c *client) notOurs(res *http.Response) error {
	return fmt.Errorf("what answers at %s is not dispatchd's admin listener (HTTP %d, %s)", c.shown, res.StatusCode, orDash(safe(res.Header.Get("Content-Type"))))
}

// apiError is a problem document, or what came instead of one.
type apiError struct {
	Status   int    `json:"status"`
	Code     string `json:"code"`
	Title    string `json:"title"`
	Detail   string `json:"detail"`
	Do       string `json:"do"`
	ID       string `json:"id"`
	Problems []struct {
		Key string `json:"key"`
		Why string `json:"why"`
	} `json:"problems"`
	Report json.RawMessage `json:"report"`
	raw    []byte
}

// failed reads the answer to a request that went wrong.
func (c *client) failed(res *http.Response, raw []byte) error {
	e := &apiError{raw: raw}
	if err := json.Unmarshal(raw, e); err != nil || e.Code == "" {
		return c.notOurs(res)
	}
	if e.Status == http.StatusUnauthorized {
		e.Do = "Say where the token is with --config FILE, --token-file FILE or DISPATCHD_ADMIN_TOKEN_FILE."
		if !c.token.IsSet() {
			e.Detail = "dispatchd at " + c.shown + " wants its admin token, and none was given."
		} else {
			e.Detail = "dispatchd at " + c.shown + " does not accept this admin token."
		}
	}
	return e
}

// Error implements error.
func (e *apiError) Error() string { return e.Detail }

// show is for a person: what happened, every problem, what to do.
func (e *apiError) show(w io.Writer) {
	complain(w, safe(e.Detail))
	for _, p := range e.Problems {
		text := safe(p.Why)
		if p.Key != "" && p.Key != "body" {
			text = safe(p.Key) + ": " + text
		}
		flow(w, "  ", "    ", text, false)
	}
	if e.Do != "" {
		flow(w, "", "  ", e.Do, false)
	}
	if e.Status == http.StatusInternalServerError && e.ID != "" {
		flow(w, "", "  ", "Look for id "+e.ID+" in the log.", false)
	}
}

// ask sends a request and decodes the answer into out. With --json it prints
// the answer as it came, also that of a failure, and reports false: there is
// nothing left to show.
func (s *session) ask(method, path string, in, out any) (bool, error) {
	c, err := s.client()
	if err != nil {
		return false, err
	}
	defer c.close()
	raw, err := c.do(s.ctx, method, path, in)
	if s.JSON {
		return false, s.raw(raw, err)
	}
	if err != nil {
		return false, err
	}
	if err := s.decode(raw, out); err != nil {
		return false, err
	}
	return true, nil
}

// check is ask for what may say that not all is well: then the command ends
// with 1, with --json too.
func (s *session) check(method, path string, out any, show func(), well func() bool) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	defer c.close()
	raw, err := c.do(s.ctx, method, path, nil)
	if err == nil {
		err = s.decode(raw, out)
	}
	if s.JSON {
		if err := s.raw(raw, err); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if !s.JSON {
		show()
	}
	if !well() {
		return ExitCode(exitFail)
	}
	return nil
}

// raw prints the API's JSON untouched.
func (s *session) raw(raw []byte, err error) error {
	var e *apiError
	if err != nil && !errors.As(err, &e) {
		return err
	}
	if _, werr := s.env.Stdout.Write(raw); werr != nil {
		return fmt.Errorf("print the answer: %w", werr)
	}
	if err != nil {
		return ExitCode(exitFail)
	}
	return nil
}

func (s *session) decode(raw []byte, out any) error {
	if out == nil || len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("the daemon's answer is not understood; are both of the same version? %w", err)
	}
	return nil
}

// at joins path elements that may hold anything.
func at(elements ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, e := range elements {
		b.WriteString("/")
		b.WriteString(url.PathEscape(e))
	}
	return b.String()
}

package orcid

import (
	"bytes"
	"io"
	"net/http"
)

// tokenTrip carries the one request of the oauth2 library. It adds our headers,
// reads the answer's body itself (bounded, and so that a broken one is a
// transport error), and remembers what came.
type tokenTrip struct {
	base   http.RoundTripper
	agent  string
	status int // 0 until a complete answer came
	header http.Header
	body   []byte
}

// RoundTrip implements http.RoundTripper.
func (t *tokenTrip) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context()) // a RoundTripper must not change its request
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", t.agent)
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil && (resp.StatusCode < 300 || !statusDecides(resp.StatusCode)) {
		return nil, err
	}
	t.status, t.header, t.body = resp.StatusCode, resp.Header, body
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

package orcid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// maxBody is how much is read of an answer that only says yes or no.
const maxBody = 64 << 10

// call is one request to the API.
type call struct {
	op       Op
	method   string
	url      string
	callback string       // the callback in url, to keep it out of errors; "" when none
	source   *tokenSource // whose token to send
	// read takes the body of a 200; nil when the body says nothing.
	read func(io.Reader) error
}

// do sends the call, once more with a fresh token when it was answered 401, and
// classifies the answer.
func (c *Client) do(ctx context.Context, q call) (Answer, error) {
	token, err := q.source.current(ctx)
	if err != nil {
		return Answer{}, err
	}
	answer, err := c.once(ctx, q, token)
	if err != nil || answer.Kind != Unauthorized {
		return answer, err
	}
	// Revoked, or ORCID's auth server stumbled (it says 401 then too). One fresh
	// token settles which; a second 401 is the credential's.
	if token, err = q.source.renew(ctx, token); err != nil {
		return Answer{}, err
	}
	return c.once(ctx, q, token)
}

// once makes one exchange within the timeout.
func (c *Client) once(ctx context.Context, q call, token Token) (Answer, error) {
	limited, cancel := c.limit(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, q.method, q.url, http.NoBody)
	if err != nil {
		return Answer{}, fmt.Errorf("make request: %w", withoutURL(err))
	}
	req.Header.Set("Authorization", "Bearer "+token.Access.Reveal())
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.agent)
	resp, err := c.http.Do(req)
	if err != nil {
		return Answer{}, c.transportError(ctx, limited, q.op, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && q.read != nil {
		if err := q.read(resp.Body); err != nil {
			if limited.Err() != nil || !errors.Is(err, errMalformed) {
				return Answer{}, c.transportError(ctx, limited, q.op, err)
			}
			c.metrics.answered(q.op, resp.StatusCode)
			return Answer{Kind: Unexpected, Status: resp.StatusCode, Detail: detail(resp.StatusCode, 0, err.Error())}, nil
		}
		c.metrics.answered(q.op, resp.StatusCode)
		return classify(q.op, resp.StatusCode, resp.Header, nil, time.Now()), nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil && !statusDecides(resp.StatusCode) {
		return Answer{}, c.transportError(ctx, limited, q.op, err)
	}
	c.metrics.answered(q.op, resp.StatusCode)
	body = newRedactor(q.callback, token.Access.Reveal(), c.secret.Reveal()).bytes(body)
	return classify(q.op, resp.StatusCode, resp.Header, body, time.Now()), nil
}

// statusDecides reports whether the status alone says what happened, so that a
// body that was cut or never ended does not hide it.
func statusDecides(status int) bool {
	return status < 400 || status >= 500 || status == http.StatusUnauthorized || status == http.StatusTooManyRequests
}

// errTimeout is the cause of a request that ran into the Client's own timeout.
type errTimeout struct{ after time.Duration }

func (e errTimeout) Error() string {
	return fmt.Sprintf("no complete answer within the orcid timeout of %s", e.after)
}

// Is makes errors.Is(err, context.DeadlineExceeded) true.
func (errTimeout) Is(target error) bool { return target == context.DeadlineExceeded }

// limit puts the timeout on a request.
func (c *Client) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.timeout, errTimeout{c.timeout})
}

// transportError says why a request got no complete answer: the caller gave up,
// time ran out, or the network failed.
func (c *Client) transportError(caller, limited context.Context, op Op, err error) error {
	if errors.Is(caller.Err(), context.Canceled) {
		c.metrics.failed(op, false)
		return fmt.Errorf("ORCID %s: %w", op, context.Canceled)
	}
	e := &TransportError{Op: op, Err: withoutURL(err)}
	var timeout interface{ Timeout() bool }
	switch {
	case limited.Err() != nil:
		e.Timeout, e.Err = true, context.Cause(limited)
	case errors.As(err, &timeout) && timeout.Timeout():
		e.Timeout = true
	}
	c.metrics.failed(op, e.Timeout)
	return e
}

// withoutURL takes the URL, which holds the callback, out of an error.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// hostOf returns scheme and host of a URL that was checked before.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "an unreadable URL"
	}
	return u.Scheme + "://" + u.Host
}

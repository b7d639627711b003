package orcid

import (
	"context"
	"errors"
	"fmt"
)

// Reason is why the token endpoint refuses a credential; most are the error
// codes of RFC 6749.
type Reason string

// The reasons. Others are passed on as ORCID wrote them.
const (
	InvalidClient        Reason = "invalid_client"         // wrong client id or secret, or the wrong environment
	InvalidScope         Reason = "invalid_scope"          // the client may not have this scope
	UnauthorizedClient   Reason = "unauthorized_client"    // the client was deactivated
	UnsupportedGrantType Reason = "unsupported_grant_type" // the endpoint does not do client credentials
	InvalidRequest       Reason = "invalid_request"        // the endpoint did not understand the request
	AccessDenied         Reason = "access_denied"          // the endpoint refuses without saying why
)

// CredentialError says that ORCID's token endpoint refuses the credential. It
// does not pass by itself: somebody has to change something.
type CredentialError struct {
	ClientID string
	Scope    string // the scope that was asked for
	Reason   Reason
	Status   int    // HTTP status of the answer
	Detail   string // ORCID's words, redacted, at most 300 bytes
	Hint     string // what an operator can do about it
}

// Error implements error: what is wrong, what ORCID said and what to do.
func (e *CredentialError) Error() string {
	what := fmt.Sprintf("credential %s is refused (%s)", e.ClientID, e.Reason)
	if e.Reason == InvalidScope {
		what = fmt.Sprintf("credential %s lacks %s", e.ClientID, e.Scope)
	}
	if e.Detail != "" {
		what += ": ORCID says: " + e.Detail
	}
	if e.Hint != "" {
		what += "; " + e.Hint
	}
	return what
}

// TransportError says that a request got no complete answer. Whether ORCID
// acted on it is unknown.
type TransportError struct {
	Op Op
	// Timeout says that time ran out; otherwise the network failed.
	Timeout bool
	// Err is the cause, without URLs.
	Err error
}

// Error implements error.
func (e *TransportError) Error() string { return "ORCID " + e.Op.String() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *TransportError) Unwrap() error { return e.Err }

// AnswerError says that ORCID answered, but not with what was asked for. Reads
// and the token endpoint report so; PutWebhook and DeleteWebhook return the
// Answer itself.
type AnswerError struct {
	Op     Op
	Answer Answer
}

// Error implements error.
func (e *AnswerError) Error() string {
	return fmt.Sprintf("ORCID %s: %s: %s", e.Op, e.Answer.Kind, e.Answer.Detail)
}

// AnswerOf turns any error of a Client into an Answer, for those who decide by
// Kind only: Unreachable, BadCredential, Cancelled, the Answer of an
// AnswerError, or Unexpected.
func AnswerOf(err error) Answer {
	var answer *AnswerError
	var credential *CredentialError
	var transport *TransportError
	switch {
	case err == nil:
		return Answer{Kind: OK}
	case errors.As(err, &answer):
		return answer.Answer
	case errors.As(err, &credential):
		return Answer{Kind: BadCredential, Status: credential.Status, Detail: clipTo(credential.Error(), maxDetail)}
	case errors.Is(err, context.Canceled):
		return Answer{Kind: Cancelled, Detail: "cancelled"}
	case errors.As(err, &transport), errors.Is(err, context.DeadlineExceeded):
		return Answer{Kind: Unreachable, Detail: clipTo(oneLine(scrub(err.Error())), maxDetail)}
	}
	return Answer{Kind: Unexpected, Detail: clipTo(oneLine(scrub(err.Error())), maxDetail)}
}

// hint tells an operator what to do about a refused credential.
func hint(reason Reason, scope, tokenURL string) string {
	switch reason {
	case InvalidClient:
		return "check client_id and client_secret; a sandbox credential works only in the sandbox (asked " + hostOf(tokenURL) + ")"
	case InvalidScope:
		if scope == ScopeWebhook {
			return "webhooks need a premium member API credential: use one, or ask ORCID (support@orcid.org) to enable webhooks for this client"
		}
		return "ask ORCID (support@orcid.org) why this client may not read public records through the member API"
	case UnauthorizedClient:
		return "ORCID deactivated this client or does not let it use client credentials: ask support@orcid.org"
	case UnsupportedGrantType, InvalidRequest:
		return "check orcid.token_url (asked " + hostOf(tokenURL) + "): it does not speak OAuth client credentials as ORCID does"
	}
	return "check the credential in ORCID's developer tools, or ask support@orcid.org"
}

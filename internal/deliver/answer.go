// Package deliver decides what an attempt to tell an organisation means: its
// Router sends a claimed delivery over its channel and turns the answer into an
// outcome by one pure function, Decide. It keeps nothing; actors call it.
package deliver

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// Kind says how an attempt ended, as far as the channel can tell.
type Kind string

// The kinds of answers.
const (
	KindOK        Kind = "ok"        // taken: HTTP 2xx, SMTP 250 after the data
	KindHTTP      Kind = "http"      // an HTTP answer other than 2xx; see Status
	KindNetwork   Kind = "network"   // no usable answer: name, connection, TLS, invalid HTTP
	KindTimeout   Kind = "timeout"   // the channel's timeout fired first
	KindBlocked   Kind = "blocked"   // the address is not one that may be reached
	KindDeferred  Kind = "deferred"  // SMTP 4xx, or a mail server that refuses us rather than the message
	KindRefused   Kind = "refused"   // SMTP 5xx: the message or its recipient is refused for good
	KindSettings  Kind = "settings"  // the settings do not allow sending: bad URL, unreadable signing secret, no mail server
	KindCancelled Kind = "cancelled" // the daemon is stopping; the receiver may or may not have it
	KindPanic     Kind = "panic"     // a fault of ours, recovered
	KindShadow    Kind = "shadow"    // nothing was sent, only what would have been is recorded: see Shadow
)

// Answer is what a channel saw when it tried.
type Answer struct {
	Kind Kind
	// Status is the HTTP or SMTP status; 0 when there was no answer.
	Status int
	// RetryAfter is what the receiver asked for, not capped; it counts only
	// with HasRetryAfter, since 0 is a valid wish.
	RetryAfter    time.Duration
	HasRetryAfter bool
	// Err says what went wrong in words for people, without secrets; nil on success.
	Err error
	// Location is where a 3xx points, without query and user info.
	Location string
	// Excerpt is the beginning of the answer, see Sanitise; of KindShadow, what
	// would have been sent.
	Excerpt string
	// SlowBody says that the status came in time but the body did not end
	// before the timeout: the status counts, but the place was held that long.
	SlowBody bool
	Start    time.Time
	Duration time.Duration
}

// Sender tries to tell an organisation once over one channel. It must return
// within its timeout, soon after ctx is done, and never send twice except where
// a kept connection turned out to be closed. The organisation is not changed
// while it runs.
type Sender interface {
	Send(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) Answer
}

// ok reports whether the receiver took it.
func (a Answer) ok() bool {
	return a.Kind == KindOK || a.Kind == KindShadow || a.Kind == KindHTTP && a.Status >= 200 && a.Status < 300
}

// Words says in one line for people what went wrong; empty on success.
func (a Answer) Words() string {
	switch {
	case a.ok():
		return ""
	case a.Kind == KindHTTP && a.Status >= 300 && a.Status < 400 && a.Location != "":
		return "redirect to " + a.Location + " (" + statusWords(a.Status) + "; redirects are not followed)"
	case a.Kind == KindHTTP && a.Status >= 300 && a.Status < 400:
		return "redirect to nowhere (" + statusWords(a.Status) + " without Location)"
	case a.Kind == KindHTTP:
		return "answered " + statusWords(a.Status)
	case a.Err != nil:
		return a.Err.Error()
	}
	return string(a.Kind)
}

func statusWords(status int) string {
	s := strconv.Itoa(status)
	if text := http.StatusText(status); text != "" {
		return s + " " + text
	}
	return s
}

// Failure makes the answer of an attempt that got no status.
func Failure(kind Kind, words string) Answer {
	return Answer{Kind: kind, Err: errors.New(words)}
}

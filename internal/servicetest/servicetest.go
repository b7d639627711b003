// Package servicetest is what the tests of the faces over the service share: a
// log that may be read while it is written, and hints that nobody takes.
package servicetest

import (
	"strings"
	"sync"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// Log is where a logger writes to; the zero value is empty.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns all that was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// NoHints is service.Hints without any actors.
type NoHints struct{}

// HintChannel does nothing.
func (NoHints) HintChannel(event.ChannelKey, time.Time) {}

// HintUser does nothing.
func (NoHints) HintUser(orcid.ID, bool) {}

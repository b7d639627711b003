package event

import (
	"slices"
	"time"

	"dispatchd/internal/orcid"
)

// Digest is one mail about many researchers of one organisation. Whom it is
// about was frozen when it was made: every try tells the same, under the same
// id, until it is told or dead.
type Digest struct {
	Org string
	// ID is the left part of the Message-ID.
	ID    string
	Items []DigestItem // the earliest change first
	// Ended is what became of it when only the books are still to be closed:
	// Delivered or Dead; empty while it is to be sent.
	Ended Result
	// Attempt is the number of this attempt, counted from 1; Crashes counts
	// those before it of which nothing was heard.
	Attempt, Crashes int
	MadeAt           time.Time
	FirstAttemptAt   time.Time // zero when this is the first
	LeaseEnd         time.Time // as for a Delivery
}

// DigestItem is what a digest tells of one researcher.
type DigestItem struct {
	ORCID     orcid.ID
	Types     []Type // the most urgent first
	CreatedAt time.Time
	LatestAt  time.Time
}

// Has reports whether the item tells of this type.
func (i DigestItem) Has(t Type) bool { return slices.Contains(i.Types, t) }

// Opened is what opening a digest found.
type Opened struct {
	Digest *Digest // nil when there is none to send
	Next   time.Time
	// More says that a digest may be open all the same (the channel is held).
	More bool
}

// Summary is one mail about a month of one organisation: whose records changed,
// and when last.
type Summary struct {
	// ID is the left part of the Message-ID: the same for every try.
	ID    string
	Year  int
	Month time.Month
	Users []SummaryUser // the earliest change first
}

// SummaryUser is one researcher in a Summary.
type SummaryUser struct {
	ORCID orcid.ID
	Who   Affiliation
	At    time.Time
}

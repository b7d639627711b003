package event

import (
	"time"

	"dispatchd/internal/orcid"
)

// CheckKind says why a user is to be looked at again.
type CheckKind byte

// The kinds of checks.
const (
	// CheckBaseline asks ORCID whether the record changed around the moment when
	// its registration was made: ORCID replays nothing.
	CheckBaseline CheckKind = 'b'
	// CheckAtRisk asks whether a ping came since the user was found to have
	// changed without one, in a time in which ORCID may have given up on us.
	CheckAtRisk CheckKind = 'r'
)

// Check is one look at one registration, to be made at a time. It is durable,
// may be made twice, and is dropped when it was made.
type Check struct {
	Kind       CheckKind
	ORCID      orcid.ID
	Credential string
	At         time.Time // when it is due (milliseconds)
}

// Silence is what is known of a registration whose changes were found by a
// search and not told by ORCID. The zero Silence says that there is nothing.
type Silence struct {
	// At is when a change without ping was found last (milliseconds); changes
	// before it are known.
	At time.Time
	// Count is how often in a row that happened, no ping between.
	Count int
}

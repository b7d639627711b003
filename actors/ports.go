package actors

import (
	"context"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
)

// Slots is where deliveries wait; the store implements it. Every call may be
// made concurrently, may fail while Redis is away, and ends soon either way.
type Slots interface {
	// Claim takes at most max due slots of a channel under a lease. It returns
	// nothing while the channel is held or disabled.
	Claim(ctx context.Context, org string, ch event.Channel, max int, lease time.Duration) (event.Claims, error)
	// Finish writes what became of a claimed delivery; it may be called twice.
	Finish(ctx context.Context, d event.Delivery, o event.Outcome) (event.Finished, error)
	// SetHold sets one hold of a channel; a zero until clears it. It returns
	// when the channel is to be asked again.
	SetHold(ctx context.Context, org string, ch event.Channel, h event.Hold, until time.Time, reason string) (next time.Time, err error)
	// SetBreaker writes the breaker and its hold; a zero holdUntil clears the hold.
	SetBreaker(ctx context.Context, org string, ch event.Channel, b event.Breaker, holdUntil time.Time) (next time.Time, err error)
	// Breaker reads the breaker; zero is closed.
	Breaker(ctx context.Context, org string, ch event.Channel) (event.Breaker, error)
	// Ready lists at most limit channels that have something due, and when the
	// next of the others will (zero: none). With an error that is
	// event.ErrIncomplete that holds for those that can be read.
	Ready(ctx context.Context, now time.Time, limit int) ([]event.ChannelKey, time.Time, error)
}

// Users is where researchers and the work on their registrations are kept; the
// store implements it.
type Users interface {
	// User reads one record; nil when there is none.
	User(ctx context.Context, id orcid.ID) (*event.User, error)
	// SaveUser writes the record if it is still at u.Version and sets (or, when
	// zero, clears) the time of its work. An error that is event.ErrConflict
	// says that the record changed.
	SaveUser(ctx context.Context, u event.User, work time.Time) (version string, err error)
	// RecentUsers reads several records for deliveries; a missing one is nil.
	// What it returns must not be changed. Any failure is an error for the
	// whole call.
	RecentUsers(ctx context.Context, ids []orcid.ID) ([]*event.User, error)
	// DueUsers lists at most limit users whose work is due, and when the next of
	// the others will be (zero: none); an error likewise.
	DueUsers(ctx context.Context, now time.Time, limit int) ([]orcid.ID, time.Time, error)
	// Announce writes CREATED of these users into the intake log.
	Announce(ctx context.Context, org string, ids []orcid.ID, at time.Time) error
}

// Directory knows the current settings of every organisation, in memory. What
// it returns must not be changed by anybody.
type Directory interface {
	Organisation(id string) (*org.Organisation, bool)
}

// Deliverer makes one attempt. It returns within the channel's timeout, sooner
// when ctx ends (then with event.Released), and does not panic.
type Deliverer interface {
	Deliver(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome
	// DeliverDigest is Deliver for a digest; who has one affiliation per item.
	DeliverDigest(ctx context.Context, o *org.Organisation, d event.Digest, who []event.Affiliation) event.Outcome
}

// Mail is what the e-mail channel keeps beside its slots; the store implements
// it.
type Mail interface {
	// OpenDigest takes what is due for one digest, or takes up one that was made
	// before, under a lease; with most = 0 it makes no new one.
	OpenDigest(ctx context.Context, org string, most int, lease time.Duration) (event.Opened, error)
	// FinishDigest writes what became of it; what came for its users meanwhile is
	// due at due. It returns when the channel is to be asked again.
	FinishDigest(ctx context.Context, d event.Digest, o event.Outcome, gone []orcid.ID, due time.Time) (next time.Time, err error)
	// Mailed returns how many mails were sent in each minute (Unix time divided
	// by 60) of the last hour at least; CountMail counts one.
	Mailed(ctx context.Context, org string) (map[int64]int, error)
	CountMail(ctx context.Context, org string, at time.Time) error
}

// Registrar registers and unregisters the callback URL of one user at ORCID
// for one credential; the URL follows from iD, epoch and base.
type Registrar interface {
	Put(ctx context.Context, id orcid.ID, epoch, base int) (orcid.Answer, error)
	Delete(ctx context.Context, id orcid.ID, epoch, base int) (orcid.Answer, error)
}

// Guard tells whether Redis is the one we know. While Err is not nil nothing is
// claimed and nothing is unregistered.
type Guard interface {
	Err() error
}

// Notices tells the contact of an organisation what the daemon did to one of
// its channels. Its methods must not block and are called once per occasion.
type Notices interface {
	// ChannelSuspended: deliveries wait until a person acts.
	ChannelSuspended(o *org.Organisation, ch event.Channel, reason string)
	// ChannelDown: the channel has been held for an hour. The answer is the
	// sanitised words of the last failure.
	ChannelDown(o *org.Organisation, ch event.Channel, since time.Time, lastStatus int, answer string)
	// ChannelRecovered: a channel of which ChannelDown was said works again.
	ChannelRecovered(o *org.Organisation, ch event.Channel, since time.Time)
}

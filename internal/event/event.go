// Package event holds the words that the stations of the flow share: Ping,
// Delivery, Attempt, Outcome and User. It has no behaviour beyond them.
package event

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/orcid"
)

// Type says what an organisation is told about a researcher.
type Type string

// The types of events. One POST carries one type.
const (
	Created     Type = "CREATED"     // the researcher was affiliated with the organisation
	Updated     Type = "UPDATED"     // the record changed
	Deactivated Type = "DEACTIVATED" // reserved: the record was deactivated
	Deprecated  Type = "DEPRECATED"  // reserved: the record was merged into another
	Locked      Type = "LOCKED"      // reserved: ORCID locked the record
	Test        Type = "PING"        // `org test`: never in a slot
)

// Channel is a way by which an organisation is told.
type Channel string

// The channels.
const (
	Webhook Channel = "webhook"
	Email   Channel = "email"
)

// Channels lists every channel in the order people see them. A further one is
// named here, and how it sends is one line of the daemon: docs/developing.md.
var Channels = [...]Channel{Webhook, Email}

// Ping is one accepted ping of ORCID: "this record changed".
type Ping struct {
	Credential string // our name of the credential whose callback URL was called
	ORCID      orcid.ID
	AcceptedAt time.Time // microseconds count
	CaughtUp   bool      // found by a catch-up search, not sent by ORCID
}

// Delivery is one claimed slot: the news of one type for one organisation,
// channel and researcher, held under a lease until its attempt is finished.
type Delivery struct {
	Org     string
	Channel Channel
	ORCID   orcid.ID
	Type    Type
	// Generation is the slot's generation when it was claimed. News that comes
	// during the attempt raises the slot's, and finish sees the difference.
	Generation int64
	// Token is the unique claim token; only its holder may finish.
	Token string
	// Attempt is the number of this attempt, counted from 1.
	Attempt int
	// FirstAttemptAt is when the first attempt of this delivery began; zero
	// when this is the first.
	FirstAttemptAt time.Time
	CreatedAt      time.Time // when the affiliation was made; zero unless Type is Created
	FirstAt        time.Time // when the first ping of the slot was accepted
	LatestAt       time.Time // when the latest ping of the slot was accepted
	LeaseEnd       time.Time // an attempt must not begin with less than its timeout left
}

// ID returns the webhook-id of the delivery: the same for every attempt of a
// claimed generation, also after a restart, and different for any other.
func (d Delivery) ID() string {
	var room [160]byte
	b := append(append(room[:0], d.Org...), 0)
	b = append(append(b, d.Channel...), 0)
	b = append(d.ORCID.Append(b), 0)
	b = append(append(b, d.Type...), 0)
	sum := sha256.Sum256(strconv.AppendInt(b, d.Generation, 10))
	return string(base64.RawURLEncoding.AppendEncode(append(b[:0], "msg_"...), sum[:18]))
}

// Result says what became of an attempt.
type Result string

// The results of an attempt.
const (
	Delivered Result = "delivered" // the receiver took it
	Retry     Result = "retry"     // to be tried again at Outcome.RetryAt
	Dead      Result = "dead"      // attempts used up, or refused for good
	Cancelled Result = "cancelled" // nobody is to be told any more (user left, channel disabled)
	// Released gives the slot back untouched and due at RetryAt; no attempt is
	// counted (shutdown, no time left in the lease, unknown secret).
	Released Result = "released"
	// Shadow is the result of an Attempt only, whose Outcome is Delivered:
	// nothing was sent, since the daemon runs in shadow mode.
	Shadow Result = "shadow"
)

// Attempt is one try as it is kept in the attempt log. It holds no secret.
type Attempt struct {
	DeliveryID string        `json:"delivery_id"`
	ORCID      orcid.ID      `json:"orcid"`
	Channel    Channel       `json:"channel"`
	Type       Type          `json:"type"`
	Number     int           `json:"attempt"`
	Start      time.Time     `json:"start"`
	Duration   time.Duration `json:"duration_ns"`
	Status     int           `json:"status,omitempty"`  // HTTP or SMTP status; 0 when there was no answer
	Error      string        `json:"error,omitempty"`   // words for people; empty on success
	Excerpt    string        `json:"excerpt,omitempty"` // failures: ≤ 512 bytes of the answer, secrets replaced; shadow: what would be sent
	Result     Result        `json:"result"`
	Users      int           `json:"users,omitempty"` // of a digest: how many researchers; ORCID is then zero
}

// AppendJSON appends the attempt as JSON with this result and without the
// excerpt; it is what json.Marshal makes of it, which takes ten times as long.
func (a *Attempt) AppendJSON(b []byte, result Result) []byte {
	b = appendText(append(b, `{"delivery_id":`...), a.DeliveryID)
	b = append(a.ORCID.Append(append(b, `,"orcid":"`...)), '"')
	b = appendText(append(b, `,"channel":`...), string(a.Channel))
	b = appendText(append(b, `,"type":`...), string(a.Type))
	b = strconv.AppendInt(append(b, `,"attempt":`...), int64(a.Number), 10)
	b = append(a.Start.AppendFormat(append(b, `,"start":"`...), time.RFC3339Nano), '"')
	b = strconv.AppendInt(append(b, `,"duration_ns":`...), int64(a.Duration), 10)
	if a.Status != 0 {
		b = strconv.AppendInt(append(b, `,"status":`...), int64(a.Status), 10)
	}
	if a.Error != "" {
		b = appendText(append(b, `,"error":`...), a.Error)
	}
	b = appendText(append(b, `,"result":`...), string(result))
	return append(b, '}')
}

// appendText appends a JSON string; plain ASCII takes the short way.
func appendText(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(s)
			if err != nil { // cannot be: a string always marshals
				quoted = []byte(`""`)
			}
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// Outcome is what an attempt means for its slot and its channel. It is made by
// one pure function (package deliver) and applied by the organisation's actor.
type Outcome struct {
	Result  Result
	RetryAt time.Time // when Result is Retry or Released
	Attempt Attempt
	// HoldUntil asks to hold the whole channel of the organisation (429 or 503
	// with Retry-After); zero asks nothing.
	HoldUntil time.Time
	// Suspend, when not empty, is the reason to suspend the channel (410).
	Suspend string
	// TimedOut says that the attempt ran into the channel's timeout; such
	// organisations get one place each until an attempt does not.
	TimedOut bool
	// Reached says that the receiver itself answered; a failure that did not
	// reach it and one that did both count for the breaker, a cancelled or
	// released attempt does not.
	Reached bool
}

// ErrConflict says that a record was changed by somebody else since it was
// read: read it again and decide again.
var ErrConflict = errors.New("the record was changed meanwhile")

// ErrIncomplete says that some of a list cannot be read: what was returned is the
// rest of it, and counts.
var ErrIncomplete = errors.New("not everything can be read")

// ErrDamaged says that what is stored cannot be read.
var ErrDamaged = errors.New("the stored record is damaged")

// User is one researcher: who is told about them, and what is registered at
// ORCID for them. It is the truth that registrations are computed from.
type User struct {
	ORCID orcid.ID
	// Version is opaque: what the store compares before it writes the record
	// back; empty when there is no record yet.
	Version       string
	LastPing      time.Time // seconds; zero when none came yet
	Affiliations  []Affiliation
	Registrations []Registration
	// Damaged says that the stored record cannot be read, so that nothing else is
	// known; only looking up for fan-out says it like this.
	Damaged bool
}

// Shared reports whether more than one credential has a row of the user at ORCID:
// then LastPing does not say which of the rows lives.
func (u *User) Shared() bool {
	first := ""
	for i := range u.Registrations {
		r := &u.Registrations[i]
		switch {
		case IsHub(r.Credential) || r.State != RegAlive && r.State != RegPutting:
		case first == "":
			first = r.Credential
		case first != r.Credential:
			return true
		}
	}
	return false
}

// Affiliation joins a user to one organisation. The personal data is what that
// organisation gave, and only it is told.
type Affiliation struct {
	Org   string
	Email string
	EPPN  string
	Name  string
	// AffiliatedAt is when the affiliation was made (seconds).
	AffiliatedAt time.Time
	// Announce asks for a CREATED event that is not in the intake log yet.
	Announce bool
	// Muted says that the organisation does not want to be told of this user for
	// now, though the user stays one of its own.
	Muted bool
}

// RegState is where a registration stands between us and ORCID.
type RegState uint8

// The states of a registration. An intent (Putting, Deleting) is durable
// before its request is sent, so that a crash between ORCID's answer and our
// note of it is repaired by sending it again.
const (
	RegNone     RegState = iota // no row at ORCID that we know of
	RegPutting                  // a PUT was or is about to be sent
	RegAlive                    // ORCID confirmed the row as ours
	RegDeleting                 // a DELETE was or is about to be sent
	RegRefused                  // ORCID refuses for good (unknown iD …); tried again only on request
)

// String returns the word that metrics and people see.
func (s RegState) String() string {
	switch s {
	case RegNone:
		return "none"
	case RegPutting:
		return "putting"
	case RegAlive:
		return "alive"
	case RegDeleting:
		return "deleting"
	case RegRefused:
		return "refused"
	}
	return "state-" + strconv.Itoa(int(s))
}

// hubPrefix cannot begin a credential's name.
const hubPrefix = "hub:"

// HubCredential names what a credential registered in the days of the Hub, whose
// rows all have one URL per user of the Hub: that user's id stands as the epoch.
// Pings through it tell every organisation of the user, as they did there.
func HubCredential(credential string) string { return hubPrefix + credential }

// IsHub reports whether a credential is one that HubCredential names.
func IsHub(credential string) bool { return strings.HasPrefix(credential, hubPrefix) }

// Registration is the webhook row that a credential holds, or is to hold, at
// ORCID for one user.
type Registration struct {
	Credential string
	State      RegState
	// Epoch counts re-registrations; it is part of the callback URL.
	Epoch int
	// Base names the entry of the base table (public_url, client id, callback
	// key id) that the URL was built from, so that any old URL can be rebuilt.
	Base int
	// Changed is when State was entered (seconds).
	Changed time.Time
	// Tries counts failed requests since Changed.
	Tries int
	// Status is ORCID's last answer that was not a success; 0 when none.
	Status int
	// RetryAt is when the request of State may be sent again after a failed one
	// (seconds): the back-off or ORCID's Retry-After, whichever is later. Zero
	// means at once.
	RetryAt time.Time
}

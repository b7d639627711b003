package actors

import (
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// Messages are values, never changed after they were sent. Facts are named as
// what happened, commands as what is to be done.

// news is what a hint says. News are merged, so that one wake carries many.
type news struct {
	some    bool                           // there are news at all
	due     [len(event.Channels)]time.Time // per channel: something is due then; zero: not said
	express bool                           // a single change that somebody waits for
}

func (n news) merge(o news) news {
	for i, at := range o.due {
		n.due[i] = earliest(n.due[i], at)
	}
	n.some, n.express = n.some || o.some, n.express || o.express
	return n
}

// everything is what a child is told whose past is unknown.
func everything() news {
	n := news{some: true}
	for i := range n.due {
		n.due[i] = time.Unix(1, 0)
	}
	return n
}

// earliest treats zero as "none".
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Between System, recovery, registries and their children.
type (
	// hint: System and recovery → registry. There may be work for key.
	hint struct {
		key  string
		news news
	}
	// wake: registry → child. The child answers awake at once, before it reads
	// Redis, and later idle.
	wake struct {
		epoch uint64
		news  news
	}
	// awake: child → registry. The wake of that epoch was taken.
	awake struct {
		key   string
		epoch uint64
	}
	// idle: child → registry. Since the wake of that epoch everything is done.
	idle struct {
		key   string
		epoch uint64
	}
	// crashed: child → registry. A panic made a new instance that knows nothing;
	// epoch is the last wake that the old one took.
	crashed struct {
		key   string
		epoch uint64
	}
	// sweep: registry → itself, by timer. Let go who has been idle.
	sweep struct{}
	// respawn: registry and guardian → themselves, by timer. Bring back what
	// stopped by panics.
	respawn struct {
		key   string
		epoch uint64
	}
	// pulse: System.Alive → everybody. Answered once on the channel, which has
	// room for the answer.
	pulse struct{ answer chan<- struct{} }
	// tick: an actor → itself, by timer. run is the instance that armed it.
	tick struct{ run uint64 }
)

// To orgActors. run is the instance that is meant; others ignore it.
type (
	// roomFree: room → orgActor. The channel's seat has got places, or may ask
	// again.
	roomFree struct {
		run     uint64
		channel int
	}
	// breakerLoaded: goroutine → orgActor; one for each load.
	breakerLoaded struct {
		run     uint64
		channel int
		breaker event.Breaker
		mailed  mailRate // of the e-mail channel
		err     error
	}
	// claimed: goroutine → orgActor; one for each claim. n deliveries are about
	// to begin, each ends with a deliveryDone.
	claimed struct {
		run     uint64
		channel int
		n       int
		resumed bool // it began after we had suspended the channel
		digest  bool // it was about a digest …
		more    bool // … and one is or may be open
		next    time.Time
		err     error
	}
	// deliveryDone: goroutine → orgActor; one for each delivery. The outcome is
	// already written (or cannot be, then next is the end of the lease). The actor
	// ends its flight: Stop waits for what it decides, too.
	deliveryDone struct {
		run     uint64
		channel int
		outcome event.Outcome
		next    time.Time
	}
	// effectDone: goroutine → orgActor; one for each effect, whose flight it ends.
	effectDone struct {
		run     uint64
		channel int
		next    time.Time
	}
)

// To userActors. run as above.
type (
	// loaded: goroutine → userActor. user is nil when there is no record.
	loaded struct {
		run  uint64
		user *event.User
		err  error
	}
	// announced: goroutine → userActor. These organisations' CREATED is in the
	// intake log.
	announced struct {
		run  uint64
		orgs []string
		err  error
	}
	// saved: goroutine → userActor.
	saved struct {
		run     uint64
		version string
		err     error
	}
	// permit: credentialActor → userActor. One request may be sent now; it is to
	// be answered by spent, whatever happens.
	permit struct {
		run        uint64
		credential string
	}
	// denied: credentialActor → userActor. There will be no permit before until.
	denied struct {
		run   uint64
		until time.Time
	}
	// answered: goroutine → userActor. What ORCID said.
	answered struct {
		run    uint64
		answer orcid.Answer
	}
)

// ticket says who asks for a permit and how the answer gets there; answer is
// called once and must not block.
type ticket struct {
	id      orcid.ID // zero for those outside (System.Permit), who have a serial
	serial  uint64
	express bool
	since   time.Time
	answer  func(granted bool, at time.Time)
}

func (t *ticket) key() ticketKey { return ticketKey{t.id, t.serial} }

type ticketKey struct {
	id     orcid.ID
	serial uint64
}

// To credentials and credentialActors.
type (
	// askPermit: userActor, System → credentials → credentialActor. Asking again
	// changes nothing but the lane. It is answered by permit or denied.
	askPermit struct {
		credential string
		ticket     ticket
	}
	// dropAsk: userActor → credentials → credentialActor. The asker is gone.
	dropAsk struct {
		credential string
		key        ticketKey
	}
	// spent: userActor, System → credentials → credentialActor. The permit was
	// used (or not), and this is what ORCID thinks of us. A userActor whose permit
	// was used sends landed, too.
	spent struct {
		credential string
		key        ticketKey
		used       bool
		kind       orcid.Kind
		status     int
		retryAfter time.Duration
		trouble    string // not empty: the credential itself is refused
	}
	// landed: userActor → credentials → credentialActor. What ORCID said is written
	// down (or never will be): a kill does not repeat the request any more.
	landed struct {
		credential string
		key        ticketKey
	}
	// remember: userActor → credentials → credentialActor. This user has work
	// that waits for the credential to recover.
	remember struct {
		credential string
		id         orcid.ID
	}
	// configure: System → credentials. These are the credentials now.
	configure struct{ list []Credential }
	// reconfigure: credentials → credentialActor.
	reconfigure struct{ credential Credential }
	// setRate: System → credentials.
	setRate struct{ rate, burst float64 }
	// setPause: System → credentials → credentialActor.
	setPause struct{ paused bool }
	// wantToken: credentialActor → credentials. Answered by token, once, when
	// it is its turn; asking again only moves it into the express lane.
	wantToken struct {
		from    *actor.PID
		express bool
	}
	// token: credentials → credentialActor. One request may be sent now.
	token struct{}
	// tokenBack: credentialActor → credentials. It was not needed.
	tokenBack struct{}
	// strain: credentialActor → credentials. ORCID asks for less.
	strain struct {
		granted    time.Time // when the permit of that request was given
		retryAfter time.Duration
	}
	// ease: credentialActor → credentials. ORCID took a request.
	ease struct{}
)

// To recovery.
type (
	// look: System → recovery. Something will be due then.
	look struct{ at time.Time }
	// readyFound: goroutine → recovery; one for each scan.
	readyFound struct {
		run  uint64
		keys []event.ChannelKey
		next time.Time
		err  error
	}
	// usersFound: goroutine → recovery; one for each scan.
	usersFound struct {
		run        uint64
		ids, early []orcid.ID
		next       time.Time
		err        error
	}
	// tickUsers: recovery → itself, by timer.
	tickUsers struct{ run uint64 }
)

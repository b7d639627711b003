package actors

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dispatchd/internal/event"
)

// Options is what the actors need. All ports and Logger must be set.
type Options struct {
	Slots     Slots
	Mail      Mail
	Users     Users
	Directory Directory
	Deliverer Deliverer
	Guard     Guard
	Notices   Notices

	// Credentials are the ORCID credentials at the start; SetCredentials
	// replaces them.
	Credentials []Credential
	// Limits are the limits at the start; SetLimits replaces them.
	Limits Limits
	// Paused starts with registrations paused; see System.PauseRegistrations.
	Paused bool

	// Now is the time that everything stored is measured by (Redis's); nil means
	// time.Now.
	Now func() time.Time
	// Panics is told of every recovered panic; nil tells nobody.
	Panics     func(component string)
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil registers nothing

	tuning tuning
}

// Credential is one ORCID API client as the actors see it.
type Credential struct {
	Name string
	// Rate is requests a second when this credential is to stay below
	// Limits.ORCIDRate; 0 means no limit of its own.
	Rate float64
	// BaseID is the base from which callback URLs are built now.
	BaseID    int
	Registrar Registrar
	// Locked says in words why nothing may be registered or unregistered with
	// the credential; requests with Permit go on. Empty: nothing is locked.
	Locked string
}

// Limits bound what runs at once. The zero value means the defaults.
type Limits struct {
	// Concurrency is how many deliveries an organisation may have in flight per
	// channel unless it has its own number. Default 8.
	Concurrency int
	// MaxInFlight is how many deliveries may be in flight for all. Default 512.
	MaxInFlight int
	// Timeout is the longest an attempt of a channel takes. Default 15 s each.
	Timeout map[event.Channel]time.Duration
	// RetryGrace is what a lease lasts beyond the timeout. Default 45 s.
	RetryGrace time.Duration
	// ORCIDRate is requests a second to ORCID, for all credentials. Default 20.
	ORCIDRate float64
	// ORCIDBurst is how many of them may come at once. Default: half
	// of ORCIDRate.
	ORCIDBurst float64
}

const defaultTimeout = 15 * time.Second

// withDefaults fills what is zero and refuses what makes no sense.
func (l Limits) withDefaults() (Limits, error) {
	for _, n := range []struct {
		name  string
		value float64
	}{
		{"Concurrency", float64(l.Concurrency)},
		{"MaxInFlight", float64(l.MaxInFlight)},
		{"RetryGrace", float64(l.RetryGrace)},
		{"ORCIDRate", l.ORCIDRate},
		{"ORCIDBurst", l.ORCIDBurst},
	} {
		if n.value < 0 {
			return l, fmt.Errorf("actors: Limits.%s must not be negative (got %v)", n.name, n.value)
		}
	}
	if l.Concurrency == 0 {
		l.Concurrency = 8
	}
	if l.MaxInFlight == 0 {
		l.MaxInFlight = 512
	}
	if l.RetryGrace == 0 {
		l.RetryGrace = 45 * time.Second
	}
	if l.ORCIDRate == 0 {
		l.ORCIDRate = 20
	}
	if l.ORCIDBurst == 0 {
		l.ORCIDBurst = burstOf(l.ORCIDRate)
	}
	timeouts := maps.Clone(l.Timeout)
	if timeouts == nil {
		timeouts = map[event.Channel]time.Duration{}
	}
	for _, ch := range event.Channels {
		if timeouts[ch] < 0 {
			return l, fmt.Errorf("actors: Limits.Timeout of %s must not be negative (got %s)", ch, timeouts[ch])
		}
		if timeouts[ch] == 0 {
			timeouts[ch] = defaultTimeout
		}
	}
	l.Timeout = timeouts
	return l, nil
}

// lease is how long a claimed slot of the channel is ours.
func (l *Limits) lease(ch event.Channel) time.Duration { return l.Timeout[ch] + l.RetryGrace }

func checkCredentials(list []Credential) error {
	seen := map[string]bool{}
	for i, c := range list {
		switch {
		case c.Name == "":
			return fmt.Errorf("actors: credential %d has no name", i+1)
		case seen[c.Name]:
			return fmt.Errorf("actors: credential %s is there twice", c.Name)
		case c.Registrar == nil:
			return fmt.Errorf("actors: credential %s has no Registrar", c.Name)
		case c.Rate < 0:
			return fmt.Errorf("actors: credential %s: Rate must not be negative (got %v)", c.Name, c.Rate)
		}
		seen[c.Name] = true
	}
	return nil
}

func (o *Options) validate() error {
	for _, p := range []struct {
		name string
		set  bool
	}{
		{"Slots", o.Slots != nil},
		{"Mail", o.Mail != nil},
		{"Users", o.Users != nil},
		{"Directory", o.Directory != nil},
		{"Deliverer", o.Deliverer != nil},
		{"Guard", o.Guard != nil},
		{"Notices", o.Notices != nil},
		{"Logger", o.Logger != nil},
	} {
		if !p.set {
			return errors.New("actors: Options." + p.name + " must be set")
		}
	}
	return checkCredentials(o.Credentials)
}

// tuning holds what is fixed in the daemon and turned in tests.
type tuning struct {
	sweepEvery   time.Duration // how often idle children are let go; default 10 s
	respawnAfter time.Duration // pause before what stopped by panics comes back; default 1 s
	pollEvery    time.Duration // longest pause between scans; default 250 ms
	horizon      time.Duration // an actor stays for work this near; default 30 s
	probeEvery   time.Duration // pause between probes of a credential in trouble; default 5 min
	askAgain     time.Duration // an unanswered askPermit is sent again; default 30 s
}

func (t tuning) withDefaults() tuning {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.sweepEvery, 10*time.Second)
	set(&t.respawnAfter, time.Second)
	set(&t.pollEvery, 250*time.Millisecond)
	set(&t.horizon, 30*time.Second)
	set(&t.probeEvery, 5*time.Minute)
	set(&t.askAgain, 30*time.Second)
	return t
}

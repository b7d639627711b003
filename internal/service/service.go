// Package service owns what an operator or an organisation may do, checked and
// audited once: the admin listener, the web pages, the Hub-compatible API and
// the command line all come through here. It promises that a change is durable
// when it returns, that it takes effect at once, and that long work goes on as
// a job after a restart.
package service

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"dispatchd/internal/directory"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/peer"
	"dispatchd/internal/signed"
	"dispatchd/internal/store"
)

// Hints wakes whoever has to do with a change; it must not block.
type Hints interface {
	HintChannel(key event.ChannelKey, at time.Time)
	HintUser(id orcid.ID, express bool)
}

// Tester posts a test event to an organisation's webhook at once.
type Tester interface {
	Test(ctx context.Context, o *org.Organisation) TestAnswer
}

// TestAnswer is what a receiver said to a test event; nothing in it is secret.
type TestAnswer struct {
	OK       bool          `json:"ok"`
	Status   int           `json:"status,omitempty"`
	Error    string        `json:"error,omitempty"`
	Excerpt  string        `json:"excerpt,omitempty"`
	Duration time.Duration `json:"duration_ns"`
}

// Probe tells what other parts know, for status and the ledger. Any function
// may be nil in tests.
type Probe struct {
	// Spool returns pings waiting in the spool, the age of the oldest, and the
	// spool's own books.
	Spool func() SpoolState
	// Actors returns what the actors say about credentials and deliveries.
	Actors func() ActorState
	// Degraded lists what does not work right now, worst first.
	Degraded func() []Problem
	// Wanted says how many registrations were wanted, and how many of those did
	// not live, when they were counted last (a zero time: never).
	Wanted func() (wanted, missing int, at time.Time)
}

// SpoolState is what the spool says.
type SpoolState struct {
	Waiting   int64     `json:"waiting"`
	Received  int64     `json:"received"`
	Coalesced int64     `json:"coalesced"`
	Drained   int64     `json:"drained"`
	Oldest    time.Time `json:"oldest,omitzero"`
}

// ActorState is what the actors say.
type ActorState struct {
	InFlight    map[event.Channel]int `json:"in_flight"`
	Credentials []CredentialState     `json:"credentials"`
	Paused      bool                  `json:"registrations_paused"`
	Rate        float64               `json:"orcid_rate"`  // requests a second to ORCID allowed now
	Speed       float64               `json:"orcid_speed"` // requests a second made in the last seconds
}

// CredentialState is one credential as an operator sees it.
type CredentialState struct {
	Name    string    `json:"name"`
	State   string    `json:"state"` // ok, waiting, refused, paused
	Detail  string    `json:"detail,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Rate    float64   `json:"rate_per_second"`
	Waiting int       `json:"waiting"`
}

// By says who asked for a change and from where; it goes into the audit log.
type By struct {
	Who  string // "admin", "file", an organisation's contact …
	From string // remote address or "signal"
}

// Options wires a Service.
type Options struct {
	Store     *store.Store
	Directory *directory.Directory
	Hints     Hints
	Tester    Tester
	// Mailer sends notices to technical contacts; nil when there is no mail
	// server, then they stand in the log only.
	Mailer Mailer
	// WebURL returns where organisations reach the web pages, for links in mails;
	// nil or an empty one means that there are none.
	WebURL func() string
	// Signer makes the links that sign in or confirm; nil in tests that make none.
	Signer *signed.Signer
	Probe  Probe
	// CheckCredential asks ORCID for a new token of a credential. Nil: there is
	// none to be tested.
	CheckCredential func(ctx context.Context, name string) error
	// CanMail reports whether there is a mail server. Default: there is.
	CanMail func() bool
	// Callbacks registers callbacks of organisations' own; nil in tests that
	// register none.
	Callbacks Callbacks
	// OwnURLs are where ORCID reaches us, and the Hub's callbacks: no organisation's
	// callback lies below them. Default: nowhere.
	OwnURLs func() []string
	// Registrar changes registrations on an operator's word; nil in tests that
	// change none.
	Registrar Registrar
	// Credentials returns the names of the configured ORCID credentials.
	Credentials func() []string
	Logger      *slog.Logger
	// ListPatience is how long an import or a sync waits for a Redis that does
	// not answer before it gives up. Default 30 s.
	ListPatience time.Duration
	// Panics counts a recovered panic.
	Panics func(component string)
}

// Service is safe for concurrent use.
type Service struct {
	o   Options
	log *slog.Logger
	// loaded says that the directory has what Redis has; before, an organisation
	// that it lacks may well be there.
	loaded atomic.Bool

	// changing serialises changes of organisations: each is read, changed and
	// written as a whole.
	changing sync.Mutex
	removing sync.Map // ids of organisations that have a job which removes them
	// again are organisations of the file that are made when their removal has
	// ended; changing guards it.
	again map[string]org.Organisation
	// named are the organisations whose signing secret the file names; changing
	// guards it.
	named map[string]bool
	// damage is what mendChannels said last; changing guards it.
	damage string
	// leaving keeps people from joining while somebody leaves: what waits for
	// who left is cancelled, and must not be what who came back is owed.
	leaving sync.RWMutex
	// began is when a sync begins to read its list; another in tests.
	began   func() time.Time
	tested  testedAt
	counted counted
	swept   sweepMeter
	jobs    runner
}

// New checks the options.
func New(o Options) (*Service, error) {
	if o.Store == nil || o.Directory == nil || o.Hints == nil || o.Tester == nil || o.Credentials == nil || o.Logger == nil || o.Panics == nil {
		return nil, errors.New("service: Store, Directory, Hints, Tester, Credentials, Logger and Panics must be set")
	}
	if o.ListPatience == 0 {
		o.ListPatience = 30 * time.Second
	}
	s := &Service{o: o, log: o.Logger.With("component", "service")}
	s.began = o.Store.Now
	s.tested.last = map[string]time.Time{}
	s.jobs.init()
	return s, nil
}

// Load reads every organisation into the directory. It must have succeeded
// once before fan-out and the actors may trust the directory.
func (s *Service) Load(ctx context.Context) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	all, err := s.o.Store.Organisations(ctx)
	if err != nil {
		return Explain("load the organisations", err)
	}
	known := map[string]bool{}
	for _, o := range all {
		known[o.ID] = true
		s.o.Directory.Put(o)
	}
	for _, o := range s.o.Directory.All() {
		if !known[o.ID] {
			s.o.Directory.Remove(o.ID)
		}
	}
	s.loaded.Store(true)
	if err := s.resumeChanges(ctx); err != nil {
		return err
	}
	return s.mendChannels(ctx)
}

// resumeChanges takes up removals that a crash cut off, as far as fan-out must
// not begin before. Their jobs do the rest. What was cut off of other changes
// mendChannels makes good: a partition that is switched off would ignore news for
// an organisation that the directory has enabled.
func (s *Service) resumeChanges(ctx context.Context) error {
	jobs, err := s.o.Store.Jobs(ctx)
	if err != nil {
		return Explain("read the jobs", err)
	}
	for _, j := range jobs {
		o, ok := s.o.Directory.Organisation(j.Org)
		switch {
		case j.State != jobRunning:
		case j.Kind == jobRemove && !ok:
			// Only its end was not noted; what is made by that name now is another.
			j.State = jobDone
			if err := s.o.Store.SaveJob(ctx, j); err != nil {
				return Explain("note the end of a removal", err)
			}
		case j.Kind == jobRemove:
			s.removing.Store(j.Org, true)
			s.o.Directory.Put(off(o))
		}
	}
	return nil
}

// audit writes one line for a change that a person made.
func (s *Service) audit(by By, what string, args ...any) {
	peer.Audit(s.log, what, by.Who, by.From, args...)
}

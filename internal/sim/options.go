package sim

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"dispatchd/internal/secret"
)

// Options configure a Registry. The zero value is a registry with ORCID's
// defaults, the clock of the real world and one client named DefaultClient.
type Options struct {
	// Logger receives what goes wrong inside the simulator; nil discards it.
	Logger *slog.Logger
	// Speed is how many virtual seconds pass in a real second; 0 means 1.
	Speed float64
	// Start is the virtual time at which the registry begins; zero means now.
	Start time.Time
	// Manual stops the clock: it moves by Advance and Shift only.
	Manual bool

	// WebhookPeriod is the virtual time from one sender run to the next; 0
	// means 60 s. Runs happen 25 s into each period, as ORCID's cron has it.
	WebhookPeriod time.Duration
	// RetryDelay is the virtual delay per failed attempt: the n-th failure is
	// followed by n times this; 0 means 15 min.
	RetryDelay time.Duration
	// MaxAttempts is how many failures kill a webhook; 0 means 15.
	MaxAttempts int
	// Threads is how many POSTs run at once; 0 means 8.
	Threads int
	// BatchSize is how many webhooks one query fetches; 0 means 5000.
	BatchSize int
	// MaxIterations is how many batches a run has at most; 0 means 3.
	MaxIterations int
	// ReplicaLag is how old (virtual) the sender's view of the webhook table
	// is; 0 means none, so that no webhook is sent twice in a run.
	ReplicaLag time.Duration
	// IndexDelay is the virtual time for which a profile is not indexed again;
	// 0 means 5 min.
	IndexDelay time.Duration
	// IndexPeriod is the virtual time between passes of the indexer over
	// changed profiles; 0 means 60 s. Re-indexed ones are taken each 1.5 times
	// this.
	IndexPeriod time.Duration
	// SearchLag is the virtual time from indexing to being found by search
	// (Solr's soft commit); 0 means 30 s, below 0 none.
	SearchLag time.Duration

	// RateLimit is how many requests a second, of REAL time, one source
	// address may make; 0 means 24, below 0 no limit.
	RateLimit float64
	// RateBurst is how many requests above RateLimit are delayed before the
	// next one is answered 503; 0 means 40.
	RateBurst int

	// PostTimeout is the REAL time that ORCID waits for a connection and for
	// the response headers of a POST; 0 means 20 s.
	PostTimeout time.Duration
	// BodyTimeout is the REAL time after which a response body that does not
	// end is given up. ORCID has no such bound and would hang for ever: such an
	// answer is recorded as Hung. 0 means 5 s.
	BodyTimeout time.Duration
	// RootCAs are the authorities that callback servers' certificates are
	// checked against; nil means the system's.
	RootCAs *x509.CertPool

	// TokenLife is how long (virtual) an access token lives; 0 means ORCID's
	// 631138518 s, about 20 years.
	TokenLife time.Duration
	// LedgerSize is how many entries the ledger keeps before the oldest go; 0
	// means 1,000,000. The counters are exact whatever it is.
	LedgerSize int
	// Seed makes everything random repeatable.
	Seed uint64
	// Clients are the API clients known from the start; none means
	// DefaultClient.
	Clients []Client
}

// Client is an API client of ORCID.
type Client struct {
	ID     string      `json:"id"`
	Secret secret.Text `json:"secret"`
	// Scopes are what its tokens may have; none means /webhook and
	// /read-public.
	Scopes []string `json:"scopes"`
	// Public marks a client of the public API, which may not register.
	Public bool `json:"public,omitempty"`
}

// DefaultClient is the client that exists when Options.Clients is empty.
func DefaultClient() Client {
	return Client{ID: "APP-SIMULATED0000001", Secret: "sim-secret", Scopes: []string{scopeWebhook, scopeReadPublic}}
}

const (
	scopeWebhook    = "/webhook"
	scopeReadPublic = "/read-public"
	// defaultTokenLife is the expires_in that ORCID answers.
	defaultTokenLife = 631138518 * time.Second
	// unclaimedFor is how long an unclaimed record is not shown.
	unclaimedFor = 10 * 24 * time.Hour
	// cronOffset is where in the minute ORCID's cron starts a run.
	cronOffset = 25 * time.Second
)

// withDefaults fills in what was left zero and names every bad field.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	for _, d := range []struct {
		name string
		v    *time.Duration
		def  time.Duration
	}{
		{"WebhookPeriod", &o.WebhookPeriod, time.Minute},
		{"RetryDelay", &o.RetryDelay, 15 * time.Minute},
		{"ReplicaLag", &o.ReplicaLag, 0},
		{"IndexDelay", &o.IndexDelay, 5 * time.Minute},
		{"IndexPeriod", &o.IndexPeriod, time.Minute},
		{"PostTimeout", &o.PostTimeout, 20 * time.Second},
		{"BodyTimeout", &o.BodyTimeout, 5 * time.Second},
		{"TokenLife", &o.TokenLife, defaultTokenLife},
	} {
		if *d.v < 0 {
			errs = append(errs, fmt.Errorf("%s must not be negative (got %s)", d.name, *d.v))
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	for _, d := range []struct {
		name string
		v    *int
		def  int
	}{
		{"MaxAttempts", &o.MaxAttempts, 15},
		{"Threads", &o.Threads, 8},
		{"BatchSize", &o.BatchSize, 5000},
		{"MaxIterations", &o.MaxIterations, 3},
		{"RateBurst", &o.RateBurst, 40},
		{"LedgerSize", &o.LedgerSize, 1_000_000},
	} {
		if *d.v < 0 {
			errs = append(errs, fmt.Errorf("%s must not be negative (got %d)", d.name, *d.v))
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if o.Speed == 0 {
		o.Speed = 1
	}
	if !(o.Speed > 0) || math.IsInf(o.Speed, 0) {
		errs = append(errs, fmt.Errorf("the option Speed must be above 0 (got %v)", o.Speed))
	}
	if o.RateLimit == 0 {
		o.RateLimit = 24
	}
	switch {
	case o.SearchLag == 0:
		o.SearchLag = 30 * time.Second
	case o.SearchLag < 0:
		o.SearchLag = 0
	}
	if o.Start.IsZero() {
		o.Start = time.Now()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if len(o.Clients) == 0 {
		o.Clients = []Client{DefaultClient()}
	}
	o.Clients = slices.Clone(o.Clients)
	for i := range o.Clients {
		if err := o.Clients[i].prepare(); err != nil {
			errs = append(errs, err)
		}
	}
	return o, errors.Join(errs...)
}

// prepare fills in the scopes of a client and checks it.
func (c *Client) prepare() error {
	if c.ID == "" || strings.ContainsAny(c.ID, "/ ") {
		return fmt.Errorf("client id must not be empty or have a slash or space (got %q)", c.ID)
	}
	if len(c.Scopes) == 0 {
		c.Scopes = DefaultClient().Scopes
	}
	c.Scopes = slices.Clone(c.Scopes)
	return nil
}

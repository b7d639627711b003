package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dispatchd/internal/orcid"
)

// ErrUnknown says that the registry has no such profile, client, item or
// webhook.
var ErrUnknown = errors.New("not in the simulated registry")

// Registry is the simulated ORCID. It is safe for concurrent use.
type Registry struct {
	opts   Options
	clock  *clock
	ledger *ledger
	limit  *limiter
	faults *faults
	poster *poster
	routes http.Handler // the control API

	// advancing keeps callers of Advance apart; running lets only one Run turn
	// the loops.
	advancing sync.Mutex
	running   sync.Mutex
	// sending is ORCID's "main webhooks lock": runs do not overlap.
	sending sync.Mutex
	paused  atomic.Bool
	threads atomic.Int64

	mu       sync.Mutex // guards everything below
	rng      *rand.Rand
	clients  map[string]*client
	order    []*client // clients in the order they came
	tokens   map[string]*token
	profiles map[uint64]*profile
	all      []*profile // in the order they came
	pending  []*profile // to be indexed by the 60 s loop
	reindex  []*profile // to be indexed by the 90 s loop
	hooks    int        // rows in the webhook table
	lag      time.Duration
	replica  []replicaWrite // writes that the replica has not seen yet
	nextPut  int64          // last put-code given out
	traffic  traffic
	nextDue  schedule
}

// client is a row of client_details.
type client struct {
	Client
	deactivated stamp
	webhooksOff bool
	ready       queue // rows that the replica shows as ready, oldest change first
	delayed     queue // rows that wait for a retry, earliest first
}

// New makes a registry. Its clock runs from now on; its loops run in Run, or
// in Advance when the clock is manual.
func New(opts Options) (*Registry, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("simulator options: %w", err)
	}
	r := &Registry{
		opts:     opts,
		clock:    newClock(opts.Start, opts.Speed, opts.Manual),
		ledger:   newLedger(opts.LedgerSize),
		limit:    newLimiter(opts.RateLimit, opts.RateBurst),
		faults:   newFaults(opts.Seed),
		poster:   newPoster(opts),
		rng:      rand.New(rand.NewPCG(opts.Seed, 0x0b5e55ed)),
		clients:  make(map[string]*client),
		tokens:   make(map[string]*token),
		profiles: make(map[uint64]*profile),
		lag:      opts.ReplicaLag,
	}
	r.threads.Store(int64(opts.Threads))
	r.nextDue.begin(r.clock.now(), opts)
	for _, c := range opts.Clients {
		if err := r.AddClient(c); err != nil {
			return nil, fmt.Errorf("simulator options: %w", err)
		}
	}
	r.routes = r.controlRoutes()
	return r, nil
}

// Now returns the virtual time.
func (r *Registry) Now() time.Time { return r.clock.now() }

// now returns the virtual time as the database writes it.
func (r *Registry) now() stamp { return stampOf(r.clock.now()) }

// write returns the virtual time of a write that others are compared with: on
// a manual clock no two are the same. The lock is held.
func (r *Registry) write() stamp {
	r.clock.tick()
	return r.now()
}

// AddClient makes an API client known.
func (r *Registry) AddClient(c Client) error {
	if err := c.prepare(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients[c.ID] != nil {
		return fmt.Errorf("client %s exists already", c.ID)
	}
	cl := &client{Client: c}
	r.clients[c.ID] = cl
	r.order = append(r.order, cl)
	return nil
}

// ClientState is what the registry holds about a client, without its secret.
type ClientState struct {
	ID          string    `json:"id"`
	Scopes      []string  `json:"scopes"`
	Public      bool      `json:"public,omitempty"`
	Deactivated time.Time `json:"deactivated,omitzero"`
	WebhooksOff bool      `json:"webhooks_off,omitempty"`
	Tokens      int       `json:"tokens"` // neither expired nor revoked
}

// Clients lists the clients in the order they were added.
func (r *Registry) Clients() []ClientState {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	live := make(map[*client]int)
	for _, t := range r.tokens {
		if t.valid(now) {
			live[t.client]++
		}
	}
	out := make([]ClientState, len(r.order))
	for i, c := range r.order {
		out[i] = ClientState{c.ID, slices.Clone(c.Scopes), c.Public, c.deactivated.time(), c.webhooksOff, live[c]}
	}
	return out
}

// withClient runs f on a client under the lock.
func (r *Registry) withClient(id string, f func(*client)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clients[id]
	if c == nil {
		return fmt.Errorf("client %s: %w", id, ErrUnknown)
	}
	f(c)
	return nil
}

// DeactivateClient sets or clears the client's deactivated_date: its pings
// stop, new tokens are refused with unauthorized_client, and reads answer
// 409/9057, but PUT and DELETE of webhooks with an old token still work.
func (r *Registry) DeactivateClient(id string, off bool) error {
	return r.withClient(id, func(c *client) {
		c.deactivated = 0
		if off {
			c.deactivated = r.now()
		}
	})
}

// EnableWebhooks sets the client's webhooks_enabled: while false its pings
// stop, and nothing else tells.
func (r *Registry) EnableWebhooks(id string, on bool) error {
	return r.withClient(id, func(c *client) { c.webhooksOff = !on })
}

// RevokeTokens revokes every token of a client and returns how many there were.
func (r *Registry) RevokeTokens(id string) (int, error) {
	n := 0
	err := r.withClient(id, func(c *client) {
		now := r.now()
		for _, t := range r.tokens {
			if t.client == c && t.valid(now) {
				t.revoked = true
				n++
			}
		}
	})
	return n, err
}

// RotateSecret changes a client's secret; tokens it has stay good.
func (r *Registry) RotateSecret(c Client) error {
	return r.withClient(c.ID, func(cl *client) { cl.Secret = c.Secret })
}

// PauseSender stops or resumes ORCID's webhook job. A run under way ends
// after its batch.
func (r *Registry) PauseSender(paused bool) { r.paused.Store(paused) }

// SetThreads changes how many POSTs run at once; it holds from the next batch.
func (r *Registry) SetThreads(n int) error {
	if n < 1 {
		return fmt.Errorf("threads must be above 0 (got %d)", n)
	}
	r.threads.Store(int64(n))
	return nil
}

// SetReplicaLag changes how old the sender's view of the webhook table is.
func (r *Registry) SetReplicaLag(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lag = max(d, 0)
	r.replicate(r.now())
}

// find returns the profile of an iD; the lock is held.
func (r *Registry) find(id orcid.ID) (*profile, error) {
	if p := r.profiles[id.Base()]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("profile %s: %w", id, ErrUnknown)
}

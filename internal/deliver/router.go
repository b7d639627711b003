package deliver

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"

	"github.com/prometheus/client_golang/prometheus"
)

// Router sends deliveries over their channels and decides what the answers
// mean. It is safe for concurrent use.
type Router struct {
	state   atomic.Pointer[routerState]
	now     func() time.Time
	rnd     func() float64
	log     *slog.Logger
	metrics *metrics
}

type routerState struct {
	senders map[event.Channel]Sender
	policy  Policy
}

// Option changes a Router while it is made.
type Option func(*routerOptions)

type routerOptions struct {
	log *slog.Logger
	reg prometheus.Registerer
}

// WithLogger makes the router log recovered panics; by default it is silent.
func WithLogger(l *slog.Logger) Option { return func(o *routerOptions) { o.log = l } }

// WithMetrics registers the router's metrics; by default they are kept but
// not registered anywhere.
func WithMetrics(reg prometheus.Registerer) Option { return func(o *routerOptions) { o.reg = reg } }

// New makes a Router. A nil now means time.Now, a nil rnd math/rand/v2. It
// fails when the metrics cannot be registered or the policy makes no sense.
func New(senders map[event.Channel]Sender, p Policy, now func() time.Time, rnd func() float64, opts ...Option) (*Router, error) {
	o := routerOptions{log: slog.New(slog.DiscardHandler), reg: prometheus.NewRegistry()}
	for _, opt := range opts {
		opt(&o)
	}
	if now == nil {
		now = time.Now
	}
	if rnd == nil {
		rnd = rand.Float64
	}
	if err := p.validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(o.reg)
	if err != nil {
		return nil, err
	}
	r := &Router{now: now, rnd: rnd, log: o.log.With("component", "deliver"), metrics: m}
	r.state.Store(&routerState{maps.Clone(senders), p})
	return r, nil
}

func (p Policy) validate() error {
	for i, w := range p.Retry {
		if w <= 0 {
			return fmt.Errorf("delivery policy: retry %d must be above 0 (got %s)", i+1, w)
		}
	}
	if p.Jitter < 0 || p.Jitter > 1 {
		return fmt.Errorf("delivery policy: jitter must be 0 to 1 (got %g)", p.Jitter)
	}
	return nil
}

// SetPolicy changes the policy for attempts that end from now on.
func (r *Router) SetPolicy(p Policy) error {
	if err := p.validate(); err != nil {
		return err
	}
	r.update(func(s *routerState) { s.policy = p })
	return nil
}

// SetSender replaces the sender of a channel for attempts that begin from now
// on; nil takes it away. The old one is the caller's to close, once the
// attempts that run on it are over.
func (r *Router) SetSender(ch event.Channel, s Sender) {
	r.update(func(st *routerState) {
		st.senders = maps.Clone(st.senders)
		if st.senders == nil {
			st.senders = map[event.Channel]Sender{}
		}
		st.senders[ch] = s
	})
}

func (r *Router) update(change func(*routerState)) {
	for {
		old := r.state.Load()
		s := *old
		change(&s)
		if r.state.CompareAndSwap(old, &s) {
			return
		}
	}
}

// Deliver makes one attempt and says what it means. It returns within the
// channel's timeout and never panics. It must not be called twice at once for
// the same slot.
func (r *Router) Deliver(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
	start := r.now()
	st := r.state.Load()
	var a Answer
	if p := st.policy; p.Timeout > 0 && !d.LeaseEnd.IsZero() && start.Add(p.Timeout).After(d.LeaseEnd) {
		a = Failure(KindCancelled, "too little time was left in the lease")
	} else {
		a = r.send(ctx, st.senders[d.Channel], o, d, who)
	}
	now := r.now()
	if a.Start.IsZero() {
		a.Start, a.Duration = start, now.Sub(start)
	}
	out := Decide(r.state.Load().policy, d, a, now, r.rnd)
	r.metrics.observe(d, out, now)
	return out
}

func (r *Router) send(ctx context.Context, s Sender, o *org.Organisation, d event.Delivery, who event.Affiliation) (a Answer) {
	if s == nil {
		return Failure(KindSettings, "the daemon is not set up for "+string(d.Channel))
	}
	defer func() {
		if v := recover(); v != nil {
			r.metrics.panics.Inc()
			// The value may hold what was being sent: only its type is logged.
			r.log.Error("sender panicked", "org", d.Org, "orcid", d.ORCID.String(), "delivery_id", d.ID(),
				"attempt", d.Attempt, "err", fmt.Sprintf("panic of type %T", v), "stack", string(debug.Stack()))
			a = Failure(KindPanic, "internal error; the log has it under "+d.ID())
		}
	}()
	return s.Send(ctx, o, d, who)
}

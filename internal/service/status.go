package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

var timeZero time.Time

// Problem is one thing that is wrong right now: since when, what it costs, and
// the next command.
type Problem struct {
	What  string    `json:"what"`
	Since time.Time `json:"since,omitzero"`
	Cost  string    `json:"cost,omitempty"`
	Do    string    `json:"do,omitempty"`
}

// Channel is one channel of an organisation as people see it.
type Channel struct {
	Channel  event.Channel `json:"channel"`
	Enabled  bool          `json:"enabled"`
	Waiting  int           `json:"waiting"`
	InFlight int           `json:"in_flight"`
	Dead     int           `json:"dead_letters"`
	Oldest   time.Time     `json:"oldest,omitzero"`
	Next     time.Time     `json:"next,omitzero"`
	Holds    []HoldView    `json:"holds,omitempty"`
	Failures int           `json:"failures_in_a_row,omitempty"`
	// Unread says that nothing is known: what Redis has of the channel is damaged.
	Unread bool `json:"unread,omitempty"`
	// Waits says why what waits does; only of one organisation that is asked for.
	Waits []Wait `json:"waits,omitempty"`
}

// HoldView is one reason why a channel waits.
type HoldView struct {
	Hold   event.Hold `json:"hold"`
	Until  time.Time  `json:"until,omitzero"` // zero: until a person acts
	Since  time.Time  `json:"since,omitzero"`
	Reason string     `json:"reason,omitempty"`
}

// Status is the state of the whole daemon, problems first.
type Status struct {
	Time          time.Time `json:"time"`
	Problems      []Problem `json:"problems"`
	Organisations int       `json:"organisations"`
	// Unknown says that Redis did not answer: what follows but the spool and the
	// actors is not known.
	Unknown       bool             `json:"unknown,omitempty"`
	Users         int64            `json:"users"`
	Registrations map[string]int64 `json:"registrations"`
	Log           int64            `json:"intake_log_entries"`
	Spool         SpoolState       `json:"spool"`
	Pending       int64            `json:"slots_pending"`
	Dead          int64            `json:"dead_letters"`
	Actors        ActorState       `json:"actors"`
	Channels      []View           `json:"organisation_list"`
}

// channels reads the state of every channel of the organisations, in order. With
// event.ErrIncomplete some are Unread.
func (s *Service) channels(ctx context.Context, list []*org.Organisation) ([]Channel, error) {
	keys := make([]event.ChannelKey, 0, len(list)*len(event.Channels))
	for _, o := range list {
		for _, ch := range event.Channels {
			keys = append(keys, event.ChannelKey{Org: o.ID, Channel: ch})
		}
	}
	states, err := s.o.Store.Channels(ctx, keys)
	if err != nil && !errors.Is(err, event.ErrIncomplete) {
		return nil, Explain("read the channels", err)
	}
	now := s.o.Store.Now()
	out := make([]Channel, len(states))
	for i, st := range states {
		out[i] = Channel{
			Channel: keys[i].Channel, Enabled: st.Enabled, Waiting: st.Waiting, InFlight: st.InFlight, Dead: st.Dead,
			Oldest: st.OldestFirst, Next: st.Next, Failures: st.Breaker.Failures, Unread: st.Unread,
		}
		for _, h := range event.Holds {
			info, ok := st.Holds[h]
			if !ok || !info.Until.After(now) {
				continue
			}
			hv := HoldView{Hold: h, Until: info.Until, Since: info.Since, Reason: info.Reason}
			if !hv.Until.Before(event.Forever) {
				hv.Until = timeZero
			}
			if since := st.Breaker.HeldSince; h == event.HoldBreaker && !since.IsZero() {
				hv.Since = since // each probe that fails begins a new hold
			}
			out[i].Holds = append(out[i].Holds, hv)
		}
	}
	return out, Explain("read the channels", err)
}

// Status gathers everything an operator asks first. It works while Redis is
// away: then it says so and leaves out what only Redis knows.
func (s *Service) Status(ctx context.Context) Status {
	st := Status{Time: s.o.Store.Now(), Organisations: s.o.Directory.Len(), Problems: []Problem{}, Registrations: map[string]int64{}, Channels: []View{}}
	if f := s.o.Probe.Degraded; f != nil {
		st.Problems = append(st.Problems, f()...)
	}
	if f := s.o.Probe.Spool; f != nil {
		st.Spool = f()
		if st.Spool.Waiting > 0 {
			st.Problems = append(st.Problems, Problem{
				What: count(int(st.Spool.Waiting), "ping waits", "pings wait") + " in the spool", Since: st.Spool.Oldest,
				Cost: "these researchers' changes are told late; nothing is lost", Do: "bring Redis back, and make data_dir writable if it is not; the spool drains by itself",
			})
		}
	}
	if f := s.o.Probe.Actors; f != nil {
		st.Actors = f()
		if st.Actors.Paused {
			st.Problems = append(st.Problems, Problem{
				What: "registrations are paused", Cost: "nobody is registered or unregistered", Do: "dispatchd registration resume",
			})
		}
		for _, c := range st.Actors.Credentials {
			if c.State != "ok" && c.State != "waiting" && c.State != "paused" {
				st.Problems = append(st.Problems, Problem{
					What: fmt.Sprintf("credential %s: %s", c.Name, c.Detail), Since: c.Since,
					Cost: "nobody is registered or unregistered with this credential", Do: "dispatchd credential show " + c.Name,
				})
			}
		}
	}
	if n := s.mailless(); n > 0 {
		st.Problems = append(st.Problems, Problem{
			What: "there is no mail server, and " + count(n, "organisation is", "organisations are") + " to be told by e-mail",
			Cost: "their mails wait", Do: "set [smtp] in the configuration file, then dispatchd reload",
		})
	}
	if err := s.fromRedis(ctx, &st); err != nil {
		st.Unknown = true
		if errors.Is(err, store.ErrForgot) {
			return st // Probe.Degraded has said so
		}
		st.Problems = append(st.Problems, unread(err))
	}
	return st
}

// unread says why the state of the queues is unknown: a Redis that answers what
// cannot be read is not to be taken for one that is down.
func unread(err error) Problem {
	var own *Error
	if errors.As(err, &own) && own.Err != nil {
		err = own.Err
	}
	if said := store.NotNow(err); said != "" {
		return Problem{
			What: "Redis refuses work, so the state of the queues is unknown: " + said,
			Cost: "deliveries wait; pings are kept in the spool", Do: "redis-cli info: is its memory or disk full, is it loading or a replica?",
		}
	}
	if absent(err) {
		return Problem{What: "Redis does not answer: the state of the queues is unknown", Cost: "deliveries wait; pings are kept in the spool", Do: "systemctl status redis-server"}
	}
	what := "what Redis answers cannot be read: " + err.Error()
	if key := wrongKey(err); key != "" {
		what = key
	}
	return Problem{What: what, Cost: "this list is not complete, and what needs this waits, or fails and the log says so", Do: damageDo}
}

// absent reports whether Redis did not answer at all, or may not be asked.
func absent(err error) bool {
	for _, is := range []error{store.ErrAway, store.ErrFenced, store.ErrForgot, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// mailless counts the organisations whose mails wait for a mail server.
func (s *Service) mailless() (n int) {
	if s.canMail() {
		return 0
	}
	for _, o := range s.o.Directory.All() {
		if o.Email.Enabled {
			n++
		}
	}
	return n
}

// fromRedis adds what Redis knows; what of it cannot be read is a problem of its
// own and hides nothing else.
func (s *Service) fromRedis(ctx context.Context, st *Status) error {
	for _, read := range []func() error{
		func() (err error) { st.Channels, err = s.views(ctx); return err },
		func() (err error) { st.Log, err = s.o.Store.LogLength(ctx); return err },
		func() (err error) { st.Users, err = s.o.Store.UserTotals(ctx); return err },
		func() error { return s.registrationTotals(ctx, st) },
		func() (err error) { st.Pending, st.Dead, err = s.o.Store.SlotTotals(ctx); return err },
		func() error { return s.parkedProblems(ctx, st) },
		func() error { return s.erasureProblems(ctx, st) },
	} {
		switch err := read(); {
		case err == nil:
		case absent(err):
			return err
		default:
			if p := unread(err); !slices.Contains(st.Problems, p) { // two may need the same
				st.Problems = append(st.Problems, p)
			}
		}
	}
	for _, v := range st.Channels {
		for _, c := range v.Channels {
			for _, h := range c.Holds {
				switch h.Hold {
				case event.HoldRetryAfter, event.HoldRate, event.HoldDigest:
					continue // the receiver or the organisation asked for it and it passes
				default:
				}
				if !c.Enabled {
					continue
				}
				st.Problems = append(st.Problems, Problem{
					What:  fmt.Sprintf("%s: %s is held (%s): %s", v.ID, c.Channel, h.Hold, h.Reason),
					Since: h.Since, Cost: count(c.Waiting, "delivery waits", "deliveries wait"), Do: "dispatchd org show " + v.ID,
				})
			}
			if c.Dead > 0 {
				st.Problems = append(st.Problems, Problem{
					What: fmt.Sprintf("%s: %s (%s)", v.ID, count(c.Dead, "dead letter", "dead letters"), c.Channel),
					Cost: "the organisation was not told of these", Do: "dispatchd delivery list " + v.ID + " --dead",
				})
			}
		}
	}
	return nil
}

func (s *Service) registrationTotals(ctx context.Context, st *Status) error {
	totals, err := s.o.Store.RegistrationTotals(ctx)
	for state, n := range totals {
		st.Registrations[state.String()] = n
	}
	return err
}

// erasureLate is when an erasure that waits is a problem.
const erasureLate = time.Hour

// erasureProblems names erasures that do not come to their end.
func (s *Service) erasureProblems(ctx context.Context, st *Status) error {
	jobs, err := s.o.Store.Jobs(ctx)
	if err != nil {
		return Explain("read the jobs", err)
	}
	for _, j := range jobs {
		if j.Kind == jobErase && j.State == jobRunning && st.Time.Sub(j.Created) > erasureLate {
			st.Problems = append(st.Problems, Problem{
				What: fmt.Sprintf("erasure %s waits for %s", j.ID, erasure(j).Waiting), Since: j.Created,
				Cost: "a researcher who asked to be erased is not yet, at ORCID or here", Do: "dispatchd credential list",
			})
		}
	}
	return nil
}

// ParkedView is news that was set aside because a stored record, or the line of
// the intake log itself, cannot be read.
type ParkedView struct {
	ORCID      orcid.ID  `json:"orcid,omitzero"`
	Credential string    `json:"credential,omitempty"`
	Line       string    `json:"line,omitempty"`
	At         time.Time `json:"at"`
}

// Parked lists what was set aside. Pings are tried again every minute.
func (s *Service) Parked(ctx context.Context) ([]ParkedView, error) {
	list, err := s.o.Store.Parked(ctx)
	if err != nil {
		return nil, Explain("list what was set aside", err)
	}
	out := make([]ParkedView, len(list))
	for i, p := range list {
		out[i] = ParkedView{Line: p.Line, At: p.At}
		if p.Line == "" {
			out[i].ORCID, out[i].Credential = p.Item.ORCID, p.Item.Subject
		}
	}
	return out, nil
}

// DropParkedLines throws away lines of the intake log that cannot be read.
func (s *Service) DropParkedLines(ctx context.Context, by By) (int, error) {
	n, err := s.o.Store.DropParkedLines(ctx)
	if err != nil {
		return 0, Explain("drop what was set aside", err)
	}
	s.audit(by, "damaged lines dropped", "count", n)
	return n, nil
}

// parkedProblems names each researcher whose record is damaged, a few of them.
func (s *Service) parkedProblems(ctx context.Context, st *Status) error {
	list, err := s.Parked(ctx)
	if err != nil {
		return err
	}
	const most = 5
	seen := map[orcid.ID]bool{}
	var lines int
	var since time.Time
	for _, p := range list {
		if p.Line != "" {
			lines++
			if since.IsZero() || p.At.Before(since) {
				since = p.At
			}
			continue
		}
		if seen[p.ORCID] {
			continue
		}
		if seen[p.ORCID] = true; len(seen) <= most {
			st.Problems = append(st.Problems, Problem{
				What: fmt.Sprintf("the stored record of %s is damaged; its news is set aside", p.ORCID), Since: p.At,
				Cost: "nobody is told about this researcher", Do: fmt.Sprintf("dispatchd user erase %s, then user unsuppress, then add the researcher again", p.ORCID),
			})
		}
	}
	if more := len(seen) - most; more > 0 {
		st.Problems = append(st.Problems, Problem{
			What: count(more, "more stored record is", "more stored records are") + " damaged", Cost: "nobody is told about these researchers", Do: "dispatchd user parked",
		})
	}
	if lines > 0 {
		st.Problems = append(st.Problems, Problem{
			What: count(lines, "line of the intake log is", "lines of the intake log are") + " damaged and set aside", Since: since,
			Cost: "the news in them may be lost; catch-up finds the changes", Do: "dispatchd user parked",
		})
	}
	return nil
}

// count says how many of something there are.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// LedgerReport is the books and what is wrong with them.
type LedgerReport struct {
	store.Ledger
	Spool SpoolState `json:"spool"`
	// Balanced is false when Differences is not empty.
	Balanced    bool     `json:"balanced"`
	Differences []string `json:"differences"`
}

// Ledger sums the books and compares them with the real sizes.
func (s *Service) Ledger(ctx context.Context) (LedgerReport, error) {
	ids := make([]string, 0, s.o.Directory.Len())
	for _, o := range s.o.Directory.All() {
		ids = append(ids, o.ID)
	}
	l, err := s.o.Store.Ledger(ctx, ids)
	if err != nil {
		return LedgerReport{}, Explain("sum the ledger", err)
	}
	r := LedgerReport{Ledger: l, Differences: l.Differences()}
	if f := s.o.Probe.Spool; f != nil {
		r.Spool = f()
		if sp := r.Spool; sp.Received != sp.Waiting+sp.Coalesced+sp.Drained {
			r.Differences = append(r.Differences, fmt.Sprintf("spool: received %d is not waiting %d + coalesced %d + drained %d", sp.Received, sp.Waiting, sp.Coalesced, sp.Drained))
		}
	}
	if r.Differences == nil {
		r.Differences = []string{}
	}
	r.Balanced = len(r.Differences) == 0
	return r, nil
}

package sim

import (
	"encoding/json"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"dispatchd/internal/orcid"
)

// Kind says what a ledger entry tells of.
type Kind string

// The kinds of ledger entries.
const (
	KindChange Kind = "change" // a record changed; Section, Op, PutCode, Count
	KindPost   Kind = "post"   // a ping was sent; Status, Error, Hung, Done
	KindPut    Kind = "put"    // a webhook was registered, or that failed
	KindDelete Kind = "delete" // a webhook was removed, or that failed
	KindToken  Kind = "token"  // a token was asked for
	KindRevoke Kind = "revoke" // a token was revoked
)

// Entry is one thing that happened. Times are virtual.
type Entry struct {
	Seq     int64 // counts from 1 without gaps
	Kind    Kind
	at      stamp
	done    stamp
	base    uint64
	Client  string
	URI     string
	Section string
	Op      string
	PutCode int64
	Count   int    // mass-reindex: how many records
	Status  int    // HTTP status; 0 for none
	Error   string // post: why there was no status
	Hung    bool   // post: ORCID would hang for ever in this body
	Reused  bool   // post: on a kept connection
	Took    time.Duration
}

// ORCID returns the record concerned; the zero ID when there is none.
func (e Entry) ORCID() orcid.ID {
	id, err := orcid.FromBase(e.base)
	if err != nil {
		return orcid.ID{}
	}
	return id
}

// Time returns when it began.
func (e Entry) Time() time.Time { return e.at.time() }

// DoneTime returns, for a post, when it was marked as sent or failed.
func (e Entry) DoneTime() time.Time { return e.done.time() }

// MarshalJSON writes the form documented in doc.go.
func (e Entry) MarshalJSON() ([]byte, error) {
	var id string
	if e.base != 0 {
		id = e.ORCID().String()
	}
	return json.Marshal(struct {
		Seq     int64     `json:"seq"`
		Kind    Kind      `json:"kind"`
		At      time.Time `json:"at"`
		Done    time.Time `json:"done,omitzero"`
		ORCID   string    `json:"orcid,omitempty"`
		Client  string    `json:"client,omitempty"`
		URI     string    `json:"uri,omitempty"`
		Section string    `json:"section,omitempty"`
		Op      string    `json:"op,omitempty"`
		PutCode int64     `json:"put_code,omitempty"`
		Count   int       `json:"count,omitempty"`
		Status  int       `json:"status,omitempty"`
		Error   string    `json:"error,omitempty"`
		Hung    bool      `json:"hung,omitempty"`
		Reused  bool      `json:"reused,omitempty"`
		TookMS  float64   `json:"took_ms,omitempty"`
	}{
		e.Seq, e.Kind, e.at.time(), e.done.time(), id, e.Client, e.URI, e.Section, e.Op, e.PutCode, e.Count,
		e.Status, e.Error, e.Hung, e.Reused, float64(e.Took.Microseconds()) / 1000,
	})
}

// Counters are exact since the start, whatever the ledger still holds.
type Counters struct {
	// Requests counts ORCID's API by operation (put, delete, token, revoke,
	// record, search, status, other) and status; -1 is no answer at all.
	Requests map[string]map[int]int64 `json:"requests"`
	// Posts counts pings by status; 0 is no answer.
	Posts map[int]int64 `json:"posts"`
	// Changes counts changes by operation.
	Changes map[string]int64 `json:"changes"`
	// Skipped counts webhooks passed over after a 429 of their client.
	Skipped int64 `json:"skipped"`
	// Hung counts answers that ORCID would have waited for without end.
	Hung int64 `json:"hung"`
	// Delayed and Limited count requests that the rate limit held up or
	// answered 503.
	Delayed int64 `json:"delayed"`
	Limited int64 `json:"limited"`
	// PeakPerSecond is the most requests that came in one second of real time.
	PeakPerSecond int64 `json:"peak_per_second"`
	// Webhooks is how many rows there are; Dead how many of them ORCID gave up.
	Webhooks int `json:"webhooks"`
	Dead     int `json:"dead"`
	// Profiles is how many records there are; Pending how many wait for the
	// indexer.
	Profiles int `json:"profiles"`
	Pending  int `json:"pending"`
}

// ledger keeps the latest entries and counts all of them.
type ledger struct {
	skipped atomic.Int64

	mu       sync.Mutex
	size     int
	seq      int64
	ring     []Entry // the entry of seq n is at (n-1) % size
	requests map[string]map[int]int64
	posts    map[int]int64
	changes  map[string]int64
	hung     int64
}

func newLedger(size int) *ledger {
	return &ledger{
		size: size, requests: make(map[string]map[int]int64), posts: make(map[int]int64), changes: make(map[string]int64),
	}
}

// add appends an entry and counts it.
func (l *ledger) add(e Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	e.Seq = l.seq
	if len(l.ring) < l.size {
		l.ring = append(l.ring, e)
	} else {
		l.ring[(l.seq-1)%int64(l.size)] = e
	}
	switch e.Kind {
	case KindPost:
		l.posts[e.Status]++
		if e.Hung {
			l.hung++
		}
	case KindChange:
		l.changes[e.Op]++
	case KindPut, KindDelete, KindToken, KindRevoke:
		// Counted as requests.
	}
}

// count counts a request.
func (l *ledger) count(op string, status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.requests[op] == nil {
		l.requests[op] = make(map[int]int64)
	}
	l.requests[op][status]++
}

// after returns up to limit entries later than seq for which match is true,
// and the seq to go on from.
func (l *ledger) after(seq int64, limit int, match func(Entry) bool) ([]Entry, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq = max(seq, l.seq-int64(len(l.ring)), 0)
	var out []Entry
	for seq < l.seq && len(out) < limit {
		e := l.ring[seq%int64(l.size)]
		seq++
		if match == nil || match(e) {
			out = append(out, e)
		}
	}
	return out, seq
}

// Ledger returns what happened after entry number seq (0 for all that is
// kept), oldest first.
func (r *Registry) Ledger(seq int64) []Entry {
	out, _ := r.ledger.after(seq, int(^uint(0)>>1), nil)
	return out
}

// Counters returns the counters.
func (r *Registry) Counters() Counters {
	l := r.ledger
	l.mu.Lock()
	c := Counters{
		Requests: make(map[string]map[int]int64, len(l.requests)), Posts: maps.Clone(l.posts), Changes: maps.Clone(l.changes),
		Skipped: l.skipped.Load(), Hung: l.hung,
	}
	for op, m := range l.requests {
		c.Requests[op] = maps.Clone(m)
	}
	l.mu.Unlock()
	c.Delayed, c.Limited, c.PeakPerSecond = r.limit.counts()
	r.mu.Lock()
	defer r.mu.Unlock()
	c.Webhooks, c.Profiles = r.hooks, len(r.all)
	c.Pending = len(r.pending) + len(r.reindex)
	for _, p := range r.all {
		for _, h := range p.hooks {
			if int(h.fails) >= r.opts.MaxAttempts {
				c.Dead++
			}
		}
	}
	return c
}

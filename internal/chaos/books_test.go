package chaos

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/sim/receiver"
)

// books hold what was acknowledged against what arrived. Only the latest
// acknowledged ping of a user matters: a delivery made after it is made after
// all before it.
type books struct {
	set setting

	mu      sync.Mutex
	index   map[orcid.ID]int
	acked   int            // pings answered 204
	refused map[int]int    // pings answered otherwise, by status; 0 is no answer
	last    map[int]ping   // latest acknowledged ping by user
	posts   map[pair][]got // what arrived, the latest few
	ids     map[string]*seen
	wrong   []string // POSTs that should never have been
	// dups counts POSTs of a webhook-id that had been taken before, by the
	// round in which it was first taken.
	dups  map[int]int
	round int
	count int // POSTs taken
}

type pair struct{ user, org int }

type ping struct {
	sent, acked time.Time
	round       int
}

// got is one POST that was answered 2xx.
type got struct {
	at, updated time.Time
	id          string
	kind        string
}

type seen struct{ round, times int }

func newBooks(set setting) *books {
	return &books{
		set: set, refused: map[int]int{}, last: map[int]ping{}, posts: map[pair][]got{}, ids: map[string]*seen{}, dups: map[int]int{},
	}
}

// know tells the books whose iD is which user's.
func (b *books) know(index map[orcid.ID]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index = index
}

// next begins a round.
func (b *books) next() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.round++
	return b.round
}

// pinged books the answer to a ping.
func (b *books) pinged(u int, sent time.Time, status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if status != http.StatusNoContent {
		b.refused[status]++
		return
	}
	b.acked++
	if old, ok := b.last[u]; !ok || old.sent.Before(sent) {
		b.last[u] = ping{sent: sent, acked: time.Now(), round: b.round}
	}
}

// received books a POST; the receiver calls it after it has answered.
func (b *books) received(r receiver.Request) {
	if r.Status/100 != 2 {
		return
	}
	var body struct {
		ID      string    `json:"id"`
		ORCID   orcid.ID  `json:"orcid"`
		Type    string    `json:"type"`
		Updated time.Time `json:"updated-at"`
	}
	org := -1
	for i, name := range b.set.orgs {
		if strings.TrimPrefix(r.Path, "/") == name {
			org = i
		}
	}
	err := json.Unmarshal(r.Body, &body)
	b.mu.Lock()
	defer b.mu.Unlock()
	user, known := b.index[body.ORCID]
	switch id := r.Header.Get("webhook-id"); {
	case err != nil:
		b.wrong = append(b.wrong, fmt.Sprintf("body %q: %v", r.Body, err))
	case r.Method != http.MethodPost || org < 0 || !known:
		b.wrong = append(b.wrong, fmt.Sprintf("%s %s about %s", r.Method, r.Path, body.ORCID))
	case b.set.belongs != nil && !b.set.belongs(user, org):
		b.wrong = append(b.wrong, fmt.Sprintf("%s was told about %s, who is not theirs", r.Path, body.ORCID))
	case id == "" || id != body.ID:
		b.wrong = append(b.wrong, fmt.Sprintf("webhook-id %q, id in the body %q", id, body.ID))
	default:
		b.count++
		if s := b.ids[id]; s != nil {
			s.times++
			b.dups[s.round]++
		} else {
			b.ids[id] = &seen{round: b.round, times: 1}
		}
		k := pair{user, org}
		list := append(b.posts[k], got{at: r.At, updated: body.Updated, id: id, kind: body.Type})
		b.posts[k] = list[max(len(list)-8, 0):]
	}
}

// clockSlack is what Redis's clock, which accepted-at comes from, and the
// test's may differ by.
const clockSlack = 50 * time.Millisecond

// covers reports whether g tells of the ping: it came after it was sent and
// carries a time that is not from before it. updated-at has whole seconds.
func (g got) covers(p ping) bool {
	return !g.at.Before(p.sent) && !g.updated.Before(p.sent.Add(-clockSlack).Truncate(time.Second))
}

// missing returns every (user, organisation) whose latest acknowledged ping was
// not followed by a delivery.
func (b *books) missing() map[pair]ping {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[pair]ping{}
	for u, p := range b.last {
	orgs:
		for o := range b.set.orgs {
			if b.set.belongs != nil && !b.set.belongs(u, o) {
				continue
			}
			for _, g := range b.posts[pair{u, o}] {
				if g.covers(p) {
					continue orgs
				}
			}
			out[pair{u, o}] = p
		}
	}
	return out
}

// told reports whether every organisation of the user was told of its latest
// acknowledged ping.
func (b *books) told(u int) bool {
	for k := range b.missing() {
		if k.user == u {
			return false
		}
	}
	return true
}

// toldFrom reports whether a delivery carries that time or a later one.
func (b *books) toldFrom(t time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, list := range b.posts {
		for _, g := range list {
			if !g.updated.Before(t) {
				return true
			}
		}
	}
	return false
}

// forgive drops what is owed for pings sent in a span of time: it says why in
// the test, not here. It returns how many of them were still owed to somebody.
func (b *books) forgive(from, to time.Time) int {
	owed := map[int]bool{}
	for k := range b.missing() {
		owed[k.user] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for u, p := range b.last {
		if !p.sent.Before(from) && !p.sent.After(to) {
			delete(b.last, u)
			if owed[u] {
				n++
			}
		}
	}
	return n
}

// numbers are the sums so far.
func (b *books) numbers() (acked, posts, dups int, wrong []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.dups {
		dups += n
	}
	return b.acked, b.count, dups, b.wrong
}

// dupsOf returns how many deliveries first taken in round n came again.
func (b *books) dupsOf(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dups[n]
}

// pingedAfter reports whether a ping of the user sent after t was acknowledged.
func (b *books) pingedAfter(u int, t time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last[u].sent.After(t)
}

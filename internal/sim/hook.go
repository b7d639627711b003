package sim

import (
	"container/heap"
	"fmt"
	"time"

	"dispatchd/internal/orcid"
)

// row is what the database holds about a webhook.
type row struct {
	created  stamp
	lastSent stamp
	lastFail stamp
	changed  stamp // profile_last_modified: written by the indexer only
	fails    int32 // failed_attempt_count
	enabled  bool
	exists   bool
}

// hook is one registration. A row that was deleted and registered again is
// another hook.
type hook struct {
	p      *profile
	client *client
	uri    string
	row           // in the primary database
	view   row    // as the replica shows it to the sender's query
	key    stamp  // what the queue is ordered by
	queue  *queue // where it waits; nil when it is not ready, or in a batch
	pos    int    // place in the queue
	taken  bool   // in the batch being sent: placed again when that ends
	posts  uint32
	oks    uint32
	last   int16 // last status; 0 for none or no answer
}

// queue is a heap of hooks by key.
type queue []*hook

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].key < q[j].key }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i]; q[i].pos, q[j].pos = i, j }

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	h, ok := x.(*hook)
	if !ok {
		panic("sim: only hooks are queued")
	}
	h.pos = len(*q)
	*q = append(*q, h)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	h := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return h
}

// replicaWrite is a row on its way to the replica.
type replicaWrite struct {
	at stamp
	h  *hook
	v  row
}

// wrote hands the row's new content on to the replica; the lock is held.
func (r *Registry) wrote(h *hook, now stamp) {
	if r.lag == 0 && len(r.replica) == 0 {
		h.view = h.row
		r.place(h)
		return
	}
	r.replica = append(r.replica, replicaWrite{now, h, h.row})
}

// replicate lets the replica see what was written a lag ago.
func (r *Registry) replicate(now stamp) {
	n := 0
	for n < len(r.replica) && r.replica[n].at.plus(r.lag) <= now {
		w := r.replica[n]
		w.h.view = w.v
		r.place(w.h)
		n++
	}
	if n == len(r.replica) {
		r.replica = nil
	} else {
		r.replica = r.replica[n:]
	}
}

// place puts a hook into the queue its view belongs in, if any: this is the
// index that spares the sender a scan of the table.
func (r *Registry) place(h *hook) {
	if h.taken {
		return
	}
	var to *queue
	v := h.view
	wanted := v.changed >= v.lastSent && v.changed != 0
	if v.lastSent == 0 {
		wanted = v.changed >= v.created
	}
	key := v.changed
	if v.exists && v.enabled && int(v.fails) < r.opts.MaxAttempts && wanted {
		if to = &h.client.ready; v.fails > 0 {
			to, key = &h.client.delayed, r.retryAt(v)
		}
	}
	if to == h.queue && (to == nil || h.key == key) {
		return
	}
	if h.queue != nil {
		heap.Remove(h.queue, h.pos)
	}
	if h.queue, h.key = to, key; to != nil {
		heap.Push(to, h)
	}
}

// retryAt is when the row's back-off ends: the query wants this to be before
// now, not at it.
func (r *Registry) retryAt(v row) stamp {
	return v.lastFail.plus(time.Duration(v.fails) * r.opts.RetryDelay)
}

// lookup finds the row of (profile, uri), or nil.
func (p *profile) lookup(uri string) *hook {
	for _, h := range p.hooks {
		if h.uri == uri {
			return h
		}
	}
	return nil
}

// register inserts a row, or leaves the one there alone whoever owns it.
func (r *Registry) register(p *profile, uri string, c *client, now stamp) (created bool) {
	if p.lookup(uri) != nil {
		return false
	}
	h := &hook{p: p, client: c, uri: uri, row: row{created: now, enabled: true, exists: true}}
	p.hooks = append(p.hooks, h)
	r.hooks++
	r.wrote(h, now)
	return true
}

// unregister removes a row.
func (r *Registry) unregister(h *hook, now stamp) {
	for i, o := range h.p.hooks {
		if o == h {
			h.p.hooks = append(h.p.hooks[:i], h.p.hooks[i+1:]...)
			break
		}
	}
	r.hooks--
	h.exists = false
	r.wrote(h, now)
}

// mark writes the outcome of a POST as ORCID does: by key, so that a row
// registered anew during the POST gets it, and a deleted one nobody.
func (r *Registry) mark(sent *hook, ok bool, status int, now stamp) {
	sent.posts++
	sent.last = int16(status)
	if ok {
		sent.oks++
	}
	h := sent.p.lookup(sent.uri)
	if h == nil {
		return
	}
	if h != sent {
		h.posts, h.last = h.posts+1, int16(status)
	}
	if ok {
		h.lastSent, h.fails = now, 0
	} else {
		h.lastFail, h.fails = now, h.fails+1
	}
	r.wrote(h, now)
}

// Webhook is the truth about one row of the webhook table.
type Webhook struct {
	ORCID           orcid.ID  `json:"orcid"`
	URI             string    `json:"uri"`
	Client          string    `json:"client"`
	Created         time.Time `json:"created"`
	LastSent        time.Time `json:"last_sent,omitzero"`
	LastFailed      time.Time `json:"last_failed,omitzero"`
	Failed          int       `json:"failed_attempt_count"`
	Enabled         bool      `json:"enabled"`
	ProfileModified time.Time `json:"profile_last_modified,omitzero"`
	// Dead says that ORCID has given up for ever: only DELETE and PUT help.
	Dead bool `json:"dead"`
	// Posts and OK count what was sent and what was answered 2xx.
	Posts int `json:"posts"`
	OK    int `json:"ok"`
	// LastStatus is the last answer; 0 for none.
	LastStatus int `json:"last_status"`
}

// Webhooks lists every row, in the order the profiles were made.
func (r *Registry) Webhooks() []Webhook {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Webhook, 0, r.hooks)
	for _, p := range r.all {
		for _, h := range p.hooks {
			out = append(out, r.webhook(h))
		}
	}
	return out
}

// WebhooksOf lists the rows of one record.
func (r *Registry) WebhooksOf(id orcid.ID) ([]Webhook, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.find(id)
	if err != nil {
		return nil, err
	}
	out := make([]Webhook, len(p.hooks))
	for i, h := range p.hooks {
		out[i] = r.webhook(h)
	}
	return out, nil
}

func (r *Registry) webhook(h *hook) Webhook {
	return Webhook{
		ORCID: h.p.id(), URI: h.uri, Client: h.client.ID, Created: h.created.time(), LastSent: h.lastSent.time(),
		LastFailed: h.lastFail.time(), Failed: int(h.fails), Enabled: h.enabled, ProfileModified: h.changed.time(),
		Dead: int(h.fails) >= r.opts.MaxAttempts, Posts: int(h.posts), OK: int(h.oks), LastStatus: int(h.last),
	}
}

// EnableWebhook sets the enabled column of a row, which at ORCID only hands
// can do.
func (r *Registry) EnableWebhook(id orcid.ID, uri string, on bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.find(id)
	if err != nil {
		return err
	}
	h := p.lookup(uri)
	if h == nil {
		return fmt.Errorf("webhook of %s: %w", id, ErrUnknown)
	}
	h.enabled = on
	r.wrote(h, r.now())
	return nil
}

// RegisterAll makes a webhook for every record that has none of this client,
// without HTTP, at the URL that url returns: the head start of a benchmark.
// It returns how many were made.
func (r *Registry) RegisterAll(clientID string, url func(orcid.ID) string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clients[clientID]
	if c == nil {
		return 0, fmt.Errorf("client %s: %w", clientID, ErrUnknown)
	}
	now, n := r.now(), 0
	for _, p := range r.all {
		if r.register(p, url(p.id()), c, now) {
			n++
		}
	}
	return n, nil
}

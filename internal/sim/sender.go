package sim

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// SendOnce makes one run of ORCID's webhook job: at most MaxIterations batches
// of at most BatchSize webhooks, each batch to its end before the next is
// fetched. It does nothing while the sender is paused. When ctx ends, POSTs
// under way are broken off and not marked, as when ORCID's process is killed.
func (r *Registry) SendOnce(ctx context.Context) {
	r.sending.Lock()
	defer r.sending.Unlock()
	run := &run{r: r, black: make(map[*client]bool)}
	for range r.opts.MaxIterations {
		if ctx.Err() != nil || r.paused.Load() || run.hung.Load() {
			return
		}
		batch := run.fetch()
		if len(batch) == 0 {
			return
		}
		run.send(ctx, batch)
		run.release(batch)
	}
}

// run is one run of the job.
type run struct {
	r    *Registry
	hung atomic.Bool // a body did not end: ORCID's job would stand still for ever

	mu    sync.Mutex
	black map[*client]bool // clients that answered 429 in this run
}

// fetch is findWebhooksReadyToProcess: the oldest changes first, without the
// clients that are off, or blacklisted in this run.
func (n *run) fetch() []*hook {
	r := n.r
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	r.replicate(now)
	var open []*client
	for _, c := range r.order {
		if c.deactivated != 0 || c.webhooksOff || n.black[c] {
			continue
		}
		for len(c.delayed) > 0 && c.delayed[0].key < now {
			h := c.delayed[0]
			heap.Pop(&c.delayed)
			h.queue, h.key = &c.ready, h.view.changed
			heap.Push(&c.ready, h)
		}
		open = append(open, c)
	}
	var batch []*hook
	for len(batch) < r.opts.BatchSize {
		var from *client
		for _, c := range open {
			if len(c.ready) > 0 && (from == nil || c.ready[0].key < from.ready[0].key) {
				from = c
			}
		}
		if from == nil {
			break
		}
		h := from.ready[0]
		heap.Pop(&from.ready)
		h.queue, h.taken = nil, true
		batch = append(batch, h)
	}
	return batch
}

// release puts the batch back where its rows belong by now.
func (n *run) release(batch []*hook) {
	n.r.mu.Lock()
	defer n.r.mu.Unlock()
	n.r.replicate(n.r.now())
	for _, h := range batch {
		h.taken = false
		n.r.place(h)
	}
}

// send posts a batch by as many threads as there are.
func (n *run) send(ctx context.Context, batch []*hook) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(int(n.r.threads.Load()), len(batch)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(batch) {
					return
				}
				n.process(ctx, batch[i])
			}
		})
	}
	wg.Wait()
}

// process is WebhookManagerImpl.processWebhook.
func (n *run) process(ctx context.Context, h *hook) {
	n.mu.Lock()
	skip := n.black[h.client]
	n.mu.Unlock()
	r := n.r
	if skip {
		r.ledger.skipped.Add(1)
		return
	}
	start, began := r.now(), time.Now()
	a := r.poster.post(ctx, h.uri)
	if ctx.Err() != nil && a.status == 0 {
		return
	}
	if a.status == 429 {
		n.mu.Lock()
		n.black[h.client] = true
		n.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.write()
	e := Entry{
		Kind: KindPost, at: start, done: now, base: h.p.base, Client: h.client.ID, URI: h.uri,
		Status: a.status, Hung: a.hung, Reused: a.reused, Took: time.Since(began),
	}
	if a.err != nil {
		e.Error = a.err.Error()
	}
	r.ledger.add(e)
	if a.hung {
		// The row stays as it was, as after a restart of ORCID's scheduler.
		n.hung.Store(true)
		h.posts++
		return
	}
	r.mark(h, a.status >= 200 && a.status < 300, a.status, now)
}

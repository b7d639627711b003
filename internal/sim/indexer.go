package sim

// IndexOnce makes one pass of both of the indexer's loops: over the changed
// records, and over those to be re-indexed.
func (r *Registry) IndexOnce() {
	r.index(&r.pending, indexPending)
	r.index(&r.reindex, indexAgain)
}

// indexChunk is how many records are indexed before others get the lock.
const indexChunk = 10_000

// index makes one pass over a list: what is allowed to be indexed becomes
// DONE, and only now its webhooks learn that the record changed.
func (r *Registry) index(list *[]*profile, status indexStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	todo := *list
	*list = nil
	var later []*profile
	for i, p := range todo {
		if i > 0 && i%indexChunk == 0 {
			r.mu.Unlock()
			r.mu.Lock()
		}
		now := r.now()
		switch {
		case p.status != status:
			// It went over to the other list, or stood here twice.
		case status == indexPending && p.lastIndexed != 0 && p.lastIndexed >= now.plus(-r.opts.IndexDelay):
			later = append(later, p)
		default:
			r.indexed(p, now)
		}
	}
	*list = append(later, *list...)
}

// indexed is ProfileDaoImpl.updateIndexingStatus(DONE).
func (r *Registry) indexed(p *profile, now stamp) {
	p.status = indexDone
	p.searchBefore = p.found(now, r.opts.SearchLag)
	p.search = p.modified
	p.lastIndexed = now
	for _, h := range p.hooks {
		h.changed = p.modified
		r.wrote(h, now)
	}
}

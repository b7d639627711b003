// Package directory holds the current organisations in memory, so that
// fan-out and the actors can ask for one without a call. The service replaces
// the content after every change; Redis and the configuration file stay the
// truth.
package directory

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"dispatchd/internal/org"
)

// Directory is safe for concurrent use. The organisations it hands out must
// not be changed.
type Directory struct {
	mu  sync.Mutex // one writer at a time; readers take the map as it is
	all atomic.Pointer[map[string]*org.Organisation]
}

// New makes an empty directory.
func New() *Directory {
	d := &Directory{}
	d.all.Store(&map[string]*org.Organisation{})
	return d
}

// Organisation returns the organisation with this id.
func (d *Directory) Organisation(id string) (*org.Organisation, bool) {
	o, ok := (*d.all.Load())[id]
	return o, ok
}

// All returns every organisation in the order of their ids.
func (d *Directory) All() []*org.Organisation {
	m := *d.all.Load()
	out := make([]*org.Organisation, 0, len(m))
	for _, id := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[id])
	}
	return out
}

// Len returns how many organisations there are.
func (d *Directory) Len() int { return len(*d.all.Load()) }

// Put adds or replaces one organisation.
func (d *Directory) Put(o org.Organisation) {
	d.change(func(m map[string]*org.Organisation) { m[o.ID] = &o })
}

// Remove removes one organisation.
func (d *Directory) Remove(id string) {
	d.change(func(m map[string]*org.Organisation) { delete(m, id) })
}

func (d *Directory) change(f func(map[string]*org.Organisation)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := maps.Clone(*d.all.Load())
	f(m)
	d.all.Store(&m)
}

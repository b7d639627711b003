package guest

import "sync"

// maxDamaged bounds what is remembered of damaged rows and records.
const maxDamaged = 10_000

// damaged is what cannot be read, and it was said. The zero value is ready.
type damaged struct {
	mu   sync.Mutex
	keys map[Key]struct{} // without a URL: the record of a user
}

// add notes one; first says that it was not known.
func (d *damaged) add(key Key) (first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.keys[key]; known || len(d.keys) >= maxDamaged {
		return false
	}
	if d.keys == nil {
		d.keys = map[Key]struct{}{}
	}
	d.keys[key] = struct{}{}
	return true
}

// remove forgets one that was read.
func (d *damaged) remove(key Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.keys, key)
}

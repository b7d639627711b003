// Package kept holds what the servers of the simulator were sent: the latest of
// it, how many there were, and a way to wait for more.
package kept

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// List is safe for concurrent use.
type List[T any] struct {
	what string
	keep int

	mu      sync.Mutex
	items   []T
	count   int
	changed chan struct{} // closed and replaced when one was added
}

// New makes an empty list. What names an item in errors; keep is how many are
// kept, the oldest go first; below 1 none.
func New[T any](what string, keep int) *List[T] {
	return &List[T]{what: what, keep: max(keep, 0), changed: make(chan struct{})}
}

// Add adds one.
func (l *List[T]) Add(item T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	if l.keep > 0 {
		if len(l.items) >= 2*l.keep { // rarely, so that it costs little
			l.items = slices.Clone(l.items[len(l.items)-l.keep:])
		}
		l.items = append(l.items, item)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// Kept returns what is kept, oldest first.
func (l *List[T]) Kept() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.items[max(len(l.items)-l.keep, 0):])
}

// Count returns how many there were since the start or Forget.
func (l *List[T]) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// Forget drops what is kept and starts counting anew.
func (l *List[T]) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.items, l.count = nil, 0
}

// Wait returns when there were at least n, or ctx's error.
func (l *List[T]) Wait(ctx context.Context, n int) error {
	for {
		l.mu.Lock()
		count, changed := l.count, l.changed
		l.mu.Unlock()
		if count >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s %d (%d came): %w", l.what, n, count, ctx.Err())
		}
	}
}

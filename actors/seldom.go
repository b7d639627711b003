package actors

import (
	"sync"
	"time"
)

// quietFor is how long a kind of trouble that many actors have is not told again.
const quietFor = time.Minute

// seldom gives the log one line a minute of what fails for many at once, as when
// Redis is away, and counts the others. The zero value is ready.
type seldom struct {
	mu   sync.Mutex
	last time.Time // of the line before
	kept int       // lines since then
}

// say reports whether the line is to be written, and how many were kept back
// before it.
func (s *seldom) say(now time.Time) (kept int, write bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.IsZero() && now.Sub(s.last) < quietFor {
		s.kept++
		return 0, false
	}
	kept, s.kept, s.last = s.kept, 0, now
	return kept, true
}

// over returns how many lines were kept back and begins anew: the trouble has
// ended.
func (s *seldom) over() (kept int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, s.kept, s.last = s.kept, 0, time.Time{}
	return kept
}

package guest

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// maxStranded bounds what is remembered of rows that wait for a credential.
const maxStranded = 10_000

// Stranded is a credential that is not configured any more and would have to be
// asked: only the client that registered a row may remove it.
type Stranded struct {
	Credential string
	Rows       int // that wait, as far as they are counted
	Since      time.Time
}

// stranded is what waits for credentials, as the looks of the last hours found it.
// The zero value is ready.
type stranded struct {
	mu    sync.Mutex
	waits map[Key]string // for which credential
	by    map[string]*Stranded
	gone  map[string]bool // credentials whose rows were given up, and it was said
}

// add notes a row; first says that it is the first of its credential.
func (s *stranded) add(key Key, credential string, now time.Time) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.waits[key]; known || len(s.waits) >= maxStranded {
		return false
	}
	if s.waits == nil {
		s.waits, s.by = map[Key]string{}, map[string]*Stranded{}
	}
	s.waits[key] = credential
	one := s.by[credential]
	if first = one == nil; first {
		one = &Stranded{Credential: credential, Since: now}
		s.by[credential] = one
	}
	one.Rows++
	return first
}

// remove forgets a row that waits no more; last says that it was the last of its
// credential.
func (s *stranded) remove(key Key) (credential string, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	credential, known := s.waits[key]
	if !known {
		return "", false
	}
	delete(s.waits, key)
	one := s.by[credential]
	if one.Rows--; one.Rows == 0 {
		delete(s.by, credential)
	}
	return credential, one.Rows == 0
}

// giveUp says whether it is the first time that rows of a credential are given up.
func (s *stranded) giveUp(credential string) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil {
		s.gone = map[string]bool{}
	}
	first = !s.gone[credential]
	s.gone[credential] = true
	return first
}

// Stranded lists the credentials that rows wait for, by name.
func (k *Keeper) Stranded() []Stranded {
	s := &k.stranded
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Stranded, 0, len(s.by))
	for _, one := range s.by {
		out = append(out, *one)
	}
	slices.SortFunc(out, func(a, b Stranded) int { return cmp.Compare(a.Credential, b.Credential) })
	return out
}

package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
)

// errNoName says that a number stands for no name. It is never read as "no
// organisation".
var errNoName = errors.New("no name is known for this number")

// numbers gives small numbers to names (organisations, credentials, bases), so
// that user records stay small. A number is given once and never again: the
// table only grows. It is read on the first use, again on a miss, and again
// when Redis was taken over anew.
type numbers struct {
	what   string
	cached atomic.Pointer[numberTable]
	mu     sync.Mutex // held while reading the table
}

// numberTable is the table at one moment; it is never changed.
type numberTable struct {
	mark   string // of the Redis it was read from
	number map[string]uint32
	names  []string // by number - 1
}

func (t *numberTable) name(n uint64) (string, bool) {
	if n == 0 || n > uint64(len(t.names)) || t.names[n-1] == "" {
		return "", false
	}
	return t.names[n-1], true
}

// table returns a table in which need holds if there can be one; reading it
// again is the only thing that may make need true.
func (s *Store) table(ctx context.Context, n *numbers, key string, need func(*numberTable) bool) (*numberTable, error) {
	fits := func(t *numberTable) bool { return t != nil && t.mark == s.guard.Mark() && need(t) }
	if t := n.cached.Load(); fits(t) {
		return t, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.cached.Load(); fits(t) {
		return t, nil // somebody else has just read it
	}
	mark := s.guard.Mark()
	raw, err := s.hashAll(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("load the numbers of %ss: %w", n.what, err)
	}
	t := &numberTable{mark: mark, number: make(map[string]uint32, len(raw)), names: make([]string, len(raw))}
	for name, text := range raw {
		x, err := strconv.ParseUint(text, 10, 32)
		if err != nil || x == 0 || x > uint64(len(raw)) || t.names[x-1] != "" {
			return nil, fmt.Errorf("the numbers of %ss are damaged: %q has %q", n.what, name, text)
		}
		t.number[name], t.names[x-1] = uint32(x), name
	}
	n.cached.Store(t)
	return t, nil
}

// assigned returns a table that has all the names; missing ones get a number.
func (s *Store) assigned(ctx context.Context, n *numbers, key string, names ...string) (*numberTable, error) {
	missing := func(t *numberTable) (out []string) {
		for _, name := range names {
			if _, ok := t.number[name]; !ok {
				out = append(out, name)
			}
		}
		return out
	}
	t, err := s.table(ctx, n, key, func(t *numberTable) bool { return len(missing(t)) == 0 })
	if err != nil {
		return nil, err
	}
	todo := missing(t)
	if len(todo) == 0 {
		return t, nil
	}
	for _, name := range todo {
		if name == "" {
			return nil, fmt.Errorf("a nameless %s cannot have a number", n.what)
		}
		c := &call{script: s.scripts.number, mark: s.keys.globalMark(), keys: []string{key}, args: []any{name}}
		if err := s.do(ctx, c); err != nil {
			return nil, fmt.Errorf("number the %s %q: %w", n.what, name, err)
		}
	}
	t, err = s.table(ctx, n, key, func(t *numberTable) bool { return len(missing(t)) == 0 })
	if err == nil && len(missing(t)) > 0 {
		err = fmt.Errorf("number the %s %q: %w", n.what, missing(t), errNoName)
	}
	return t, err
}

// numberScriptBody: KEYS mark, table; ARGV mark, name. Returns the number of
// the name. Names are never removed, so the size is the highest number.
const numberScriptBody = `
local n = redis.call('HGET', KEYS[2], ARGV[2])
if not n then
  n = redis.call('HLEN', KEYS[2]) + 1
  redis.call('HSET', KEYS[2], ARGV[2], n)
end
return tonumber(n)
`

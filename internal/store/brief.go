package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	"dispatchd/internal/secret"
)

// Brief things are what Redis forgets by itself: sessions of people, links that
// were used, how often somebody tried something. Each is one key with a time to
// live, named by a hash, so that Redis holds neither a session's id nor a link.

// briefPutBody: KEYS mark, key; ARGV mark, value, time to live (ms).
const briefPutBody = `
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
`

// briefGetBody: KEYS mark, key; ARGV mark. Returns the value or nothing.
const briefGetBody = `return redis.call('GET', KEYS[2])`

// briefDropBody: KEYS mark, key; ARGV mark. Returns whether it was there.
const briefDropBody = `return redis.call('DEL', KEYS[2])`

// briefCountBody: KEYS mark, key; ARGV mark, time to live (ms). Counts one up,
// the time to live begins with the first, and returns the count.
const briefCountBody = `
local n = redis.call('INCR', KEYS[2])
if n == 1 then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return n
`

type briefScripts struct {
	briefPut, briefGet, briefDrop, briefCount *script
}

func newBriefScripts() briefScripts {
	return briefScripts{
		briefPut:   newScript("brief_put", 0, briefPutBody),
		briefGet:   newScript("brief_get", allowOOM, briefGetBody),
		briefDrop:  newScript("brief_drop", allowOOM, briefDropBody),
		briefCount: newScript("brief_count", allowOOM, briefCountBody),
	}
}

// briefName hashes what must not be read in Redis.
func briefName(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// SaveSession keeps what is known of a session under the hash of its id, for as
// long as ttl.
func (s *Store) SaveSession(ctx context.Context, id secret.Text, value string, ttl time.Duration) error {
	if err := s.do(ctx, s.hashCall(s.scripts.briefPut, s.keys.session(briefName(id.Reveal())), value, max(ttl.Milliseconds(), 1))); err != nil {
		return fmt.Errorf("save a session: %w", err)
	}
	return nil
}

// Session returns what was saved, empty when there is no such session any more.
func (s *Store) Session(ctx context.Context, id secret.Text) (string, error) {
	c := s.hashCall(s.scripts.briefGet, s.keys.session(briefName(id.Reveal())))
	if err := s.do(ctx, c); err != nil {
		return "", fmt.Errorf("read a session: %w", err)
	}
	v, err := c.text()
	if err != nil {
		return "", fmt.Errorf("read a session: %w", err)
	}
	return v, nil
}

// DropSession ends a session.
func (s *Store) DropSession(ctx context.Context, id secret.Text) error {
	if err := s.do(ctx, s.hashCall(s.scripts.briefDrop, s.keys.session(briefName(id.Reveal())))); err != nil {
		return fmt.Errorf("end a session: %w", err)
	}
	return nil
}

// Count counts one more of what, and returns how many there were since the first
// within the window. One that is refused counts too.
func (s *Store) Count(ctx context.Context, what string, window time.Duration) (int64, error) {
	c := s.hashCall(s.scripts.briefCount, s.keys.count(briefName(what)), max(window.Milliseconds(), 1))
	if err := s.do(ctx, c); err != nil {
		return 0, fmt.Errorf("count a try: %w", err)
	}
	return c.integer()
}

// Used reports whether Use was called for this text and is remembered still.
func (s *Store) Used(ctx context.Context, text string) (bool, error) {
	c := s.hashCall(s.scripts.briefGet, s.keys.used(briefName(text)))
	if err := s.do(ctx, c); err != nil {
		return false, fmt.Errorf("look whether a link was used: %w", err)
	}
	return c.res != nil, nil
}

// Use reports whether this is the first use of the text; it is remembered for
// as long as ttl. Of several at once exactly one is the first.
func (s *Store) Use(ctx context.Context, text string, ttl time.Duration) (bool, error) {
	c := s.hashCall(s.scripts.briefCount, s.keys.used(briefName(text)), max(ttl.Milliseconds(), 1))
	if err := s.do(ctx, c); err != nil {
		return false, fmt.Errorf("note that a link is used: %w", err)
	}
	n, err := c.integer()
	return n == 1, err
}

package store

import (
	"context"
	"fmt"
)

// The small global tables (organisations, numbers, jobs, tokens, facts) are
// hashes that are read whole or by field.

// hashAllBody: KEYS mark, hash; ARGV mark. Returns every field and value.
const hashAllBody = `return redis.call('HGETALL', KEYS[2])`

// hashGetBody: KEYS mark, hash; ARGV mark, field. Returns the value or nothing.
const hashGetBody = `return redis.call('HGET', KEYS[2], ARGV[2])`

// hashSetBody: KEYS mark, hash; ARGV mark, field, value. Returns whether the
// field is new.
const hashSetBody = `return redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])`

// hashDeleteBody: KEYS mark, hash; ARGV mark, field. Returns whether it was there.
const hashDeleteBody = `return redis.call('HDEL', KEYS[2], ARGV[2])`

type orgScripts struct {
	hashAll, hashGet, hashSet, hashDelete *script
	// hashNote is hashSet for what a daemon that was taken over may write too.
	hashNote *script
	number   *script

	orgNumbers, credentialNumbers, baseNumbers *numbers
}

func newOrgScripts() orgScripts {
	return orgScripts{
		hashAll:    newScript("hash_all", allowOOM, hashAllBody),
		hashGet:    newScript("hash_get", allowOOM, hashGetBody),
		hashSet:    newScript("hash_set", fenced, hashSetBody),
		hashNote:   newScript("hash_note", 0, hashSetBody),
		hashDelete: newScript("hash_delete", allowOOM|fenced, hashDeleteBody),
		number:     newScript("number", 0, numberScriptBody),

		orgNumbers:        &numbers{what: "organisation"},
		credentialNumbers: &numbers{what: "credential"},
		baseNumbers:       &numbers{what: "base"},
	}
}

func (s *Store) hashCall(sc *script, key string, args ...any) *call {
	return &call{script: sc, mark: s.keys.globalMark(), keys: []string{key}, args: args}
}

func (s *Store) hashAll(ctx context.Context, key string) (map[string]string, error) {
	c := s.hashCall(s.scripts.hashAll, key)
	if err := s.do(ctx, c); err != nil {
		return nil, err
	}
	pairs, err := stringList(c, c.res)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		out[pairs[i]] = pairs[i+1]
	}
	return out, nil
}

// hashGet returns "" for a field that is not there; none of ours is empty.
func (s *Store) hashGet(ctx context.Context, key, field string) (string, error) {
	c := s.hashCall(s.scripts.hashGet, key, field)
	if err := s.do(ctx, c); err != nil {
		return "", err
	}
	switch v := c.res.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	default:
		return "", fmt.Errorf("%s: unexpected answer %T of redis", c.script.name, v)
	}
}

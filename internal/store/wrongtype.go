package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"dispatchd/internal/event"
)

// WrongType says that a key of ours has another type than we gave it, which only
// a hand in Redis, or another program that uses it too, can have done. What needs
// the key fails until that is put right; calls that need others work.
type WrongType struct{ Key, Is, Want string }

func (e *WrongType) Error() string {
	return fmt.Sprintf("key %s is a %s, not a %s", e.Key, e.Is, e.Want)
}

// kinds is the type of each key, by its last part, or by the last but one where
// the last is a number or a name.
var kinds = map[string]string{
	"mark": "string", "beat": "string", "month-sent": "string", "session": "string", "used": "string", "count": "string",
	"schema": "hash", "orgs": "hash", "org-numbers": "hash", "credentials": "hash", "bases": "hash", "tokens": "hash", "jobs": "hash",
	"facts": "hash", "silences": "hash", "pinged": "hash", "parked": "hash", "ledger": "hash", "slots": "hash", "dead": "hash",
	"control": "hash", "tally": "hash", "digest": "hash", "mailed": "hash", "u": "hash", "u-meta": "hash", "m-meta": "hash",
	"suppressed": "hash", "g": "hash", "guest-counts": "hash",
	"hub-taken": "set", "m": "set",
	"checks": "zset", "ready": "zset", "applied": "zset", "due": "zset", "dead-at": "zset", "user-work": "zset", "month": "zset",
	"guest-work": "zset", "api": "zset",
	"attempts": "list", "digest-users": "list", "u-history": "list",
	"log": "stream",
}

// kindOf is the type that a key of ours has.
func kindOf(key string) string {
	parts := strings.Split(key, ":")
	last := len(parts) - 1
	if kind := kinds[parts[last]]; kind != "" || last == 0 {
		return kind
	}
	return kinds[parts[last-1]]
}

// keysLooked is at how many keys wrongType looks.
const keysLooked = 200

// wrongType is err, or if it is that one of the keys has another type, an error
// that names it: Redis does not, and nobody could mend it.
func (s *Store) wrongType(ctx context.Context, name string, keys []string, err error) error {
	if !errors.Is(err, ErrAnswered) || !strings.Contains(err.Error(), "WRONGTYPE") {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, errTimeout)
	defer cancel()
	pipe := s.rdb.Pipeline()
	types := make([]*redis.StatusCmd, min(len(keys), keysLooked))
	for i := range types {
		types[i] = pipe.Type(ctx, keys[i])
	}
	_, _ = pipe.Exec(ctx) // what failed has no value below
	for i, cmd := range types {
		if is, want := cmd.Val(), kindOf(keys[i]); is != "" && is != "none" && is != want {
			return fmt.Errorf("%s: %w: %w", name, ErrAnswered, &WrongType{Key: keys[i], Is: is, Want: want})
		}
	}
	return err
}

// refusals are the errors of channels that went to Redis with others: what one of
// them was answered is not the others'. Each is looked into once.
type refusals map[event.ChannelKey]error

// of is the error that was answered for a channel; nil when that is none.
func (r *refusals) of(ctx context.Context, s *Store, name string, k event.ChannelKey, answer any) error {
	e, ok := answer.(redis.Error)
	if !ok {
		return nil
	}
	if *r == nil {
		*r = refusals{}
	}
	if (*r)[k] == nil {
		(*r)[k] = s.wrongType(ctx, name, s.channelKeys(orgPartition(k.Org), k), s.classify(ctx, name, e))
	}
	return (*r)[k]
}

package store

import (
	"errors"
	"net"
	"slices"
	"sync"

	"dispatchd/internal/event"
)

// A claim whose answer never came may have been done all the same, or be done
// later: a frozen Redis takes it in and goes on with it when it wakes. Its slots
// are in flight for nobody then; the next claim of the channel gives them back
// first, which spares them the wait for the end of the lease and the count of a
// crash that was none. Should it come before the claim that it is to undo, they
// wait for the end of the lease as after a crash.

// lostClaim is a claim whose answer never came.
type lostClaim struct {
	key   event.ChannelKey
	token string // what the tokens of its slots begin with
	till  int64  // the end of its lease, ms: the score of its slots
}

// lostClaims are those whose lease has not ended for long. The zero value is ready.
type lostClaims struct {
	mu    sync.Mutex
	byKey map[event.ChannelKey][]lostClaim
	swept int64 // ms
}

// maybeDone reports whether a claim that failed with err may have been done, or
// still be: it was sent and got no answer.
func maybeDone(err error) bool {
	var op *net.OpError
	return errors.Is(err, ErrAway) && (!errors.As(err, &op) || op.Op != "dial")
}

func (l *lostClaims) add(c lostClaim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byKey == nil {
		l.byKey = make(map[event.ChannelKey][]lostClaim)
	}
	l.byKey[c.key] = append(l.byKey[c.key], c)
}

// of returns those of a batch's channels, and now and then forgets whose lease has ended.
func (l *lostClaims) of(batch []claimQuery, nowMS int64) (list []lostClaim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.byKey) == 0 {
		return nil
	}
	if nowMS-l.swept >= 1000 { // not with every batch: after a long outage there are many
		l.swept = nowMS
		for key := range l.byKey {
			l.drop(key, func(c lostClaim) bool { return c.till <= nowMS })
		}
	}
	seen := make(map[event.ChannelKey]bool, len(batch))
	for _, q := range batch {
		if !seen[q.key] {
			seen[q.key] = true
			list = append(list, l.byKey[q.key]...)
		}
	}
	return list
}

// forget takes one away whose slots were given back.
func (l *lostClaims) forget(c lostClaim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(c.key, func(o lostClaim) bool { return o == c })
}

func (l *lostClaims) drop(key event.ChannelKey, which func(lostClaim) bool) {
	if left := slices.DeleteFunc(l.byKey[key], which); len(left) > 0 {
		l.byKey[key] = left
	} else {
		delete(l.byKey, key)
	}
}

// unclaimBody: KEYS mark, ready, ledger, then five a lost claim; ARGV mark, now,
// then per lost claim: member of the ready index, what its tokens begin with,
// the end of its lease (ms). Returns per lost claim how many slots it gave back.
const unclaimBody = `
local out = {}
for i = 3, #ARGV, 3 do
  local c, token, given = channel(4 + (i - 3) / 3 * 5, ARGV[i]), ARGV[i + 1] .. '.', 0
  local fields = redis.call('ZRANGEBYSCORE', c.due, ARGV[i + 2], ARGV[i + 2])
  for j = 1, #fields do
    local raw = redis.call('HGET', c.slots, fields[j])
    local s = raw and parse(raw)
    if s and s.token and string.sub(s.token, 1, #token) == token then
      finish(c, fields[j], s.ctype, s.cgen, s.token, 'released', now)
      given = given + 1
    end
  end
  settle(c)
  out[#out + 1] = given
end
book()
return out
`

// unclaimCalls give back what lost claims took: one call per partition, and
// which of the list each one carries.
func (s *Store) unclaimCalls(list []lostClaim) ([]*call, [][]int) {
	return byPartition(list, func(l lostClaim) string { return l.key.Org }, func(p int) *call {
		return s.slotCall(s.scripts.unclaim, p)
	}, func(c *call, p int, l lostClaim) {
		c.keys = append(c.keys, s.channelKeys(p, l.key)...)
		c.args = append(c.args, readyMember(l.key), l.token, l.till)
	})
}

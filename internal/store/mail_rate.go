package store

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// countMailBody: KEYS mark, mailed; ARGV mark, minute, oldest minute that still
// counts. Mails are counted by the minute, so that an hour costs sixty fields at
// most, however many they are.
const countMailBody = `
redis.call('HINCRBY', KEYS[2], ARGV[2], 1)
if redis.call('HLEN', KEYS[2]) > 60 then
  local all = redis.call('HKEYS', KEYS[2])
  for i = 1, #all do
    if tonumber(all[i]) < tonumber(ARGV[3]) then redis.call('HDEL', KEYS[2], all[i]) end
  end
end
redis.call('EXPIRE', KEYS[2], 7200)
return 1
`

// CountMail notes that an organisation was sent a mail at this time, for
// email.max_per_hour.
func (s *Store) CountMail(ctx context.Context, org string, at time.Time) error {
	p, minute := orgPartition(org), at.Unix()/60
	c := &call{
		script: s.scripts.countMail, mark: s.keys.mark(p), keys: []string{s.keys.mailed(p, org)}, args: []any{minute, minute - 60},
	}
	return s.one(ctx, "count a mail", org, c)
}

// mailedBody: KEYS mark, mailed; ARGV mark. Returns minute and count of each.
const mailedBody = `return redis.call('HGETALL', KEYS[2])`

// Mailed returns how many mails an organisation was sent in each minute (Unix
// time divided by 60) of the last hour at least.
func (s *Store) Mailed(ctx context.Context, org string) (map[int64]int, error) {
	p := orgPartition(org)
	c := &call{script: s.scripts.mailed, mark: s.keys.mark(p), keys: []string{s.keys.mailed(p, org)}}
	if err := s.one(ctx, "read how much was mailed", org, c); err != nil {
		return nil, err
	}
	pairs, err := stringList(c, c.res)
	if err != nil {
		return nil, err
	}
	out := make(map[int64]int, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		minute, err1 := strconv.ParseInt(pairs[i], 10, 64)
		n, err2 := strconv.Atoi(pairs[i+1])
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("read how much was mailed to %s: %q is damaged", org, pairs[i])
		}
		out[minute] = n
	}
	return out, nil
}

package store

import (
	"context"
	"fmt"
	"time"

	"dispatchd/internal/event"
)

// mendBody: KEYS mark, ready, ledger, the channel's five; ARGV mark, now, member
// of the ready index, cursor. Makes due what has no due time of about a thousand
// slots. Returns how many, when the channel is next ready or -1, and the next
// cursor.
const mendBody = `
local c, n = channel(4, ARGV[3]), 0
local page = redis.call('HSCAN', c.slots, ARGV[4], 'COUNT', 1000)
for i = 1, #page[2], 2 do
  -- Only what a claim can read: it fails as a whole.
  if string.match(page[2][i], '^%d+$') and #page[2][i] <= 15 then
    n = n + redis.call('ZADD', c.due, 'NX', ARGV[2], page[2][i])
  end
end
return {n, settle(c), tonumber(page[1])}
`

// Mended is a channel some of whose slots had lost their due time.
type Mended struct {
	event.ChannelKey
	Slots int
	Next  time.Time // when the channel is ready; zero: not
}

// MendSlots makes slots due that have no due time and so would never be told.
// Nothing here leaves one behind: it takes damage by hand.
func (s *Store) MendSlots(ctx context.Context, orgs []string) ([]Mended, error) {
	l, err := s.Ledger(ctx, orgs)
	if err != nil {
		return nil, fmt.Errorf("look for slots that are not due: %w", err)
	}
	var out []Mended
	for _, k := range l.undue {
		m := Mended{ChannelKey: k}
		for cursor, more := int64(0), true; more; more = cursor != 0 {
			c, err := s.channelCall(s.scripts.mend, k.Org, k.Channel)
			if err != nil {
				return out, err
			}
			c.args = append(c.args, cursor)
			if err := s.one(ctx, "make slots due", k.Org, c); err != nil {
				return out, err
			}
			n, err := c.ints(3)
			if err != nil {
				return out, err
			}
			m.Slots, m.Next, cursor = m.Slots+int(n[0]), milliTime(n[1]), n[2]
		}
		if m.Slots > 0 {
			out = append(out, m)
		}
	}
	return out, nil
}

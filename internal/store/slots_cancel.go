package store

import (
	"context"
	"fmt"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// maxBatch bounds how much one run of a script moves, so that none keeps Redis
// from its other work for long.
const maxBatch = 1000

func batchSize(n int) int { return min(max(n, 1), maxBatch) }

// cancelSlotsBody: KEYS mark, ready, ledger, the channel's five; ARGV mark, now,
// member of the ready index, how many. Returns how many it cancelled and how
// many are left.
const cancelSlotsBody = `
local c = channel(4, ARGV[3])
local list = redis.call('ZRANGE', c.due, 0, tonumber(ARGV[4]) - 1)
for i = 1, #list do
  local raw = redis.call('HGET', c.slots, list[i])
  drop(c, list[i], raw and parse(raw) or {types = {}})
end
count('cancelled', #list)
settle(c)
book()
return {#list, redis.call('ZCARD', c.due)}
`

// CancelSlots cancels up to max (at most 1000) slots of a channel, waiting and
// in flight; what is then finished of the latter is stale. More says that some
// are left.
func (s *Store) CancelSlots(ctx context.Context, org string, ch event.Channel, max int) (n int, more bool, err error) {
	c, err := s.channelCall(s.scripts.cancelSlots, org, ch)
	if err != nil {
		return 0, false, err
	}
	c.args = append(c.args, batchSize(max))
	return s.some(ctx, "cancel slots", org, c)
}

// some runs a call that answers how many it did and how many are left.
func (s *Store) some(ctx context.Context, doing, org string, c *call) (n int, more bool, err error) {
	if err := s.one(ctx, doing, org, c); err != nil {
		return 0, false, err
	}
	r, err := c.ints(2)
	if err != nil {
		return 0, false, err
	}
	return int(r[0]), r[1] > 0, nil
}

// cancelUserBody: KEYS mark, ready, ledger, then five a channel; ARGV mark, now,
// field, members of the ready index. Returns how many slots and dead letters
// are gone.
const cancelUserBody = `
local field, gone = ARGV[3], 0
for i = 4, #ARGV do
  local c = channel(4 + (i - 4) * 5, ARGV[i])
  local raw = redis.call('HGET', c.slots, field)
  if raw then
    drop(c, field, parse(raw))
    count('cancelled', 1)
    gone = gone + 1
  end
  if redis.call('HDEL', c.dead, field) == 1 then
    redis.call('ZREM', c.deadAt, field)
    count('purged', 1)
    count('dead', -1)
    gone = gone + 1
  end
  settle(c)
end
book()
return gone
`

// CancelUser removes what an organisation has of one user on every channel:
// slots are cancelled, dead letters purged. The attempt log keeps its entries.
func (s *Store) CancelUser(ctx context.Context, org string, id orcid.ID) (int, error) {
	if err := checkChannel(org, event.Webhook); err != nil {
		return 0, fmt.Errorf("cancel user: %w", err)
	}
	c, _ := s.orgCall(s.scripts.cancelUser, org, slotField(id))
	if err := s.one(ctx, "cancel a user", org, c); err != nil {
		return 0, err
	}
	n, err := c.integer()
	return int(n), err
}

// orgCall prepares a call about all channels of an organisation: KEYS ready,
// ledger, five a channel; ARGV now, args, the members of the ready index.
func (s *Store) orgCall(sc *script, org string, args ...any) (*call, int) {
	p := orgPartition(org)
	c := s.slotCall(sc, p)
	c.args = append(c.args, args...)
	for _, ch := range event.Channels {
		k := event.ChannelKey{Org: org, Channel: ch}
		c.keys = append(c.keys, s.channelKeys(p, k)...)
		c.args = append(c.args, readyMember(k))
	}
	return c, p
}

// freshBody: KEYS mark, ready, ledger, five a channel; ARGV mark, now, members of
// the ready index. Takes off every hold and closes the breakers.
const freshBody = `
for i = 3, #ARGV do
  local c = channel(4 + (i - 3) * 5, ARGV[i])
  redis.call('HDEL', KEYS[8 + (i - 3) * 5], 'pause', 'suspend', 'breaker', 'retry_after', 'state')
  settle(c)
end
return 1
`

// ForgetHolds takes off every hold of an organisation and closes its breakers:
// one that is new must not inherit what was written late of another by the same
// name.
func (s *Store) ForgetHolds(ctx context.Context, org string) error {
	if err := checkChannel(org, event.Webhook); err != nil {
		return fmt.Errorf("forget holds: %w", err)
	}
	c, _ := s.orgCall(s.scripts.fresh, org)
	return s.one(ctx, "forget the holds", org, c)
}

// dropOrganisationBody: KEYS mark, ready, ledger, five a channel, then the
// attempt logs, tallies and API tokens; ARGV mark, now, members of the ready index.
const dropOrganisationBody = `
for i = 3, #ARGV do
  local c = channel(4 + (i - 3) * 5, ARGV[i])
  local slots, dead = redis.call('ZCARD', c.due), redis.call('HLEN', c.dead)
  count('cancelled', slots)
  count('purged', dead)
  count('dead', -dead)
  redis.call('ZREM', READY, c.name)
end
for i = 4, #KEYS do redis.call('DEL', KEYS[i]) end
book()
return 1
`

// DropOrganisation removes every key of an organisation's channels: it disables
// them, cancels and purges what is left, and removes control and attempt logs.
// Its API tokens end too.
// It may be repeated after an error.
func (s *Store) DropOrganisation(ctx context.Context, org string) error {
	for _, ch := range event.Channels {
		if err := s.SetChannel(ctx, org, ch, false); err != nil {
			return err
		}
		for more := true; more; {
			var err error
			if _, more, err = s.CancelSlots(ctx, org, ch, maxBatch); err != nil {
				return err
			}
		}
		for more := true; more; {
			var err error
			if _, more, err = s.Purge(ctx, org, ch, Selection{}, maxBatch); err != nil {
				return err
			}
		}
	}
	c, p := s.orgCall(s.scripts.forget, org)
	for _, ch := range event.Channels {
		c.keys = append(c.keys, s.keys.attempts(p, org, ch), s.keys.tally(p, org, ch))
	}
	c.keys = append(c.keys, s.keys.apiTokens(p, org))
	return s.one(ctx, "drop the channels", org, c)
}

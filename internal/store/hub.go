package store

import (
	"context"
	"fmt"
	"slices"
)

// hubPerCall bounds one script run.
const hubPerCall = 500

type hubScripts struct{ hubTaken, hubNote *script }

func newHubScripts() hubScripts {
	return hubScripts{
		// hub_taken: KEYS mark, hub-taken; ARGV mark, then the Hub's user ids.
		// Returns 1 or 0 for each.
		hubTaken: newScript("hub_taken", allowOOM, `
local out = {}
for i = 2, #ARGV do out[i - 1] = redis.call('SISMEMBER', KEYS[2], ARGV[i]) end
return out
`),
		// hub_note: KEYS mark, hub-taken; ARGV mark, then the Hub's user ids.
		// Returns how many were new.
		hubNote: newScript("hub_note", fenced, `
local n = 0
for i = 2, #ARGV do n = n + redis.call('SADD', KEYS[2], ARGV[i]) end
return n
`),
	}
}

// HubTaken says which of the Hub's users were taken over before.
func (s *Store) HubTaken(ctx context.Context, userIDs []int) ([]bool, error) {
	out := make([]bool, 0, len(userIDs))
	for part := range slices.Chunk(userIDs, hubPerCall) {
		c := s.hubCall(s.scripts.hubTaken, part)
		if err := s.do(ctx, c); err != nil {
			return nil, fmt.Errorf("ask which users of the Hub were taken over: %w", err)
		}
		list, err := c.ints(len(part))
		if err != nil {
			return nil, fmt.Errorf("ask which users of the Hub were taken over: %w", err)
		}
		for _, n := range list {
			out = append(out, n == 1)
		}
	}
	return out, nil
}

// NoteHubTaken notes that users of the Hub were taken over: never again.
func (s *Store) NoteHubTaken(ctx context.Context, userIDs []int) error {
	for part := range slices.Chunk(userIDs, hubPerCall) {
		if err := s.do(ctx, s.hubCall(s.scripts.hubNote, part)); err != nil {
			return fmt.Errorf("note users of the Hub as taken over: %w", err)
		}
	}
	return nil
}

func (s *Store) hubCall(sc *script, userIDs []int) *call {
	c := &call{script: sc, mark: s.keys.globalMark(), keys: []string{s.keys.hubTaken()}}
	for _, id := range userIDs {
		c.args = append(c.args, id)
	}
	return c
}

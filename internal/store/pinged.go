package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// Who is registered with several credentials is pinged once by each; the latest
// ping in the record hides then that the row of one of them has died. Of these
// users, who are few, and of no others the latest ping of each credential is kept.

// pingedNoteBody: KEYS mark, pinged; ARGV mark, then field and time (ms). Keeps
// the later time of each.
const pingedNoteBody = `
for i = 2, #ARGV, 2 do
  if tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or '0') < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
return (#ARGV - 1) / 2
`

// pingedDropBody: KEYS mark, pinged; ARGV mark, then fields.
const pingedDropBody = `
local dropped = 0
for i = 2, #ARGV do dropped = dropped + redis.call('HDEL', KEYS[2], ARGV[i]) end
return dropped
`

// NotePings notes the latest pings of users whom several credentials have
// registered (event.User.Shared). It may be repeated.
func (s *Store) NotePings(ctx context.Context, pings []event.Ping) error {
	for part := range slices.Chunk(pings, checksPerCall) {
		args := make([]any, 0, 2*len(part))
		for _, p := range part {
			args = append(args, watchField(p.ORCID, p.Credential), p.AcceptedAt.UnixMilli())
		}
		if err := s.do(ctx, s.hashCall(s.scripts.pingedNote, s.keys.pinged(), args...)); err != nil {
			return fmt.Errorf("note %d pings by credential: %w", len(pings), err)
		}
	}
	return nil
}

// PingsOf returns the latest ping of each user by each of the credentials, in the
// order of both; zero when none is noted.
func (s *Store) PingsOf(ctx context.Context, ids []orcid.ID, credentials []string) ([][]time.Time, error) {
	if len(credentials) == 0 {
		return make([][]time.Time, len(ids)), nil
	}
	out := make([][]time.Time, 0, len(ids))
	for part := range slices.Chunk(ids, max(checksPerCall/len(credentials), 1)) {
		args := make([]any, 0, len(part)*len(credentials))
		for _, id := range part {
			for _, c := range credentials {
				args = append(args, watchField(id, c))
			}
		}
		c := s.hashCall(s.scripts.silences, s.keys.pinged(), args...)
		if err := s.do(ctx, c); err != nil {
			return nil, fmt.Errorf("read pings by credential: %w", err)
		}
		texts, err := stringList(c, c.res)
		if err == nil && len(texts) != len(args) {
			err = errAnswer
		}
		if err != nil {
			return nil, fmt.Errorf("read pings by credential: %w", err)
		}
		for row := range slices.Chunk(texts, len(credentials)) {
			times := make([]time.Time, len(row))
			for i, text := range row {
				if times[i], err = pingedTime(text); err != nil {
					return nil, fmt.Errorf("read pings by credential: %w", err)
				}
			}
			out = append(out, times)
		}
	}
	return out, nil
}

// pingedTime reads what is noted; ” is none.
func pingedTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: time %q", errAnswer, text)
	}
	return milliTime(ms), nil
}

// DropPings forgets the latest pings of a user by these credentials.
func (s *Store) DropPings(ctx context.Context, id orcid.ID, credentials []string) error {
	args := make([]any, len(credentials))
	for i, c := range credentials {
		args[i] = watchField(id, c)
	}
	if err := s.do(ctx, s.hashCall(s.scripts.pingedDrop, s.keys.pinged(), args...)); err != nil {
		return fmt.Errorf("forget pings by credential: %w", err)
	}
	return nil
}

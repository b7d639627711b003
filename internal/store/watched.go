package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// Watched is what catch-up keeps of one registration.
type Watched struct {
	Credential string        `json:"credential"`
	Checks     []event.Check `json:"-"`
	// Due is when the user's next check is made; zero when none is noted.
	Due time.Time `json:"next_check,omitzero"`
	// LastPing is the latest ping by this credential; kept only of who has more
	// than one, zero otherwise.
	LastPing time.Time `json:"last_ping,omitzero"`
	// Silent is when a change was found last that ORCID had not told; zero
	// when none is known.
	Silent time.Time `json:"changed_without_ping,omitzero"`
}

// watchedBody: KEYS mark, silences, pinged, then the checks of each kind; ARGV
// mark, 'erase' or 'read', then a field per credential. Returns per credential the
// silence, the ping and the time of each check, or ”; with 'erase' they are gone.
const watchedBody = `
local out = {}
for i = 3, #ARGV do
  out[#out + 1] = redis.call('HGET', KEYS[2], ARGV[i]) or ''
  out[#out + 1] = redis.call('HGET', KEYS[3], ARGV[i]) or ''
  for k = 4, #KEYS do out[#out + 1] = redis.call('ZSCORE', KEYS[k], ARGV[i]) or '' end
  if ARGV[2] == 'erase' then
    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('HDEL', KEYS[3], ARGV[i])
    for k = 4, #KEYS do redis.call('ZREM', KEYS[k], ARGV[i]) end
  end
end
return out
`

// Watched returns what catch-up keeps of a user.
func (s *Store) Watched(ctx context.Context, id orcid.ID) ([]Watched, error) {
	return s.watched(ctx, s.scripts.watchedRead, "read", id)
}

// EraseWatched removes what catch-up keeps of a user and returns what that was.
func (s *Store) EraseWatched(ctx context.Context, id orcid.ID) ([]Watched, error) {
	return s.watched(ctx, s.scripts.watchedErase, "erase", id)
}

func (s *Store) watched(ctx context.Context, sc *script, how string, id orcid.ID) ([]Watched, error) {
	// Every credential that ever was: one that is not configured any more may
	// have left something.
	t, err := s.table(ctx, s.scripts.credentialNumbers, s.keys.credentials(), func(*numberTable) bool { return false })
	if err != nil {
		return nil, fmt.Errorf("read the checks of a user: %w", err)
	}
	c := s.hashCall(sc, s.keys.silences(), how)
	c.keys = append(c.keys, s.keys.pinged())
	for _, kind := range checkKinds {
		c.keys = append(c.keys, s.keys.checks(kind))
	}
	for _, name := range t.names {
		c.args = append(c.args, watchField(id, name))
	}
	if err := s.do(ctx, c); err != nil {
		return nil, fmt.Errorf("read the checks of a user: %w", err)
	}
	texts, err := stringList(c, c.res)
	each := 2 + len(checkKinds)
	if err != nil || len(texts) != each*len(t.names) {
		return nil, fmt.Errorf("read the checks of a user: %d answers: %w", len(texts), errAnswer)
	}
	var out []Watched
	for i, name := range t.names {
		w := Watched{Credential: name}
		at, _, _ := strings.Cut(texts[each*i], " ")
		if ms, err := strconv.ParseInt(at, 10, 64); err == nil {
			w.Silent = milliTime(ms)
		}
		if w.LastPing, err = pingedTime(texts[each*i+1]); err != nil {
			return nil, fmt.Errorf("read the checks of a user: %w", err)
		}
		for k, kind := range checkKinds {
			ms, err := strconv.ParseFloat(texts[each*i+2+k], 64)
			if err != nil {
				continue // none
			}
			when := milliTime(int64(ms))
			w.Checks = append(w.Checks, event.Check{Kind: kind, ORCID: id, Credential: name, At: when})
			if w.Due.IsZero() || when.Before(w.Due) {
				w.Due = when
			}
		}
		if len(w.Checks) > 0 || !w.Silent.IsZero() || !w.LastPing.IsZero() {
			out = append(out, w)
		}
	}
	return out, nil
}

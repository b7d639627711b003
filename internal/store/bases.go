package store

import (
	"context"
	"encoding/json"
	"fmt"
)

// Bases returns every base by its number, as it stands in Redis now.
func (s *Store) Bases(ctx context.Context) (map[int]Base, error) {
	t, err := s.table(ctx, s.scripts.baseNumbers, s.keys.bases(), func(*numberTable) bool { return false })
	if err != nil {
		return nil, err
	}
	out := make(map[int]Base, len(t.names))
	for i, name := range t.names {
		var parts [3]string
		if err := json.Unmarshal([]byte(name), &parts); err != nil {
			return nil, fmt.Errorf("callback base %d: %w", i+1, ErrDamaged)
		}
		out[i+1] = Base{parts[0], parts[1], parts[2]}
	}
	return out, nil
}

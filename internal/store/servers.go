package store

import (
	"context"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// servers remembers which servers have answered. One that is new may have less
// than the one before it: after a restart what its disk had, after a failover
// what had been copied to it.
type servers struct {
	mu    sync.Mutex
	seen  map[string]bool
	count uint64
}

// note counts the server at the other end of a new connection if it is another
// than before: by its run, and by its history, which changes when a replica is
// promoted. One that does not say is taken for another. It reports whether the
// other end is a sentinel: go-redis sets its connections up as it does ours, and
// they have no data.
func (s *servers) note(ctx context.Context, cn *redis.Conn) (sentinel bool) {
	name := ""
	if info, err := cn.Info(ctx, "server", "replication").Result(); err == nil {
		for line := range strings.Lines(info) {
			switch k, v, _ := strings.Cut(strings.TrimSpace(line), ":"); k {
			case "run_id", "master_replid":
				name += v + " "
			case "redis_mode":
				if v == "sentinel" {
					return true
				}
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != "" && s.seen[name] {
		return false
	}
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	s.seen[name] = true
	s.count++
	return false
}

// Servers counts the servers that have answered so far. When it changes, what
// was written last may be gone, though no call has failed.
func (s *Store) Servers() uint64 {
	s.servers.mu.Lock()
	defer s.servers.mu.Unlock()
	return s.servers.count
}

package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"dispatchd/internal/secret"
)

// Guard knows whether Redis is the one we know. A mark (the canary) lies in
// every partition of Redis and in a file of data_dir; every script compares it.
// A beat that only grows lies beside both, so that a Redis restored from an
// older state is found too. Once tripped, every call fails with ErrForgot until
// a person says `recover --accept-loss`.
type Guard struct {
	path   string
	state  atomic.Pointer[guardState]
	beat   atomic.Int64 // the latest beat known to be in Redis, in ms
	onTrip func(reason string)
}

// guardState changes as a whole.
type guardState struct {
	id   string
	mark string // what stands in every partition: canary and fencing number
	err  error  // nil while Redis is the one we know
}

// canaryFile is what stands in data_dir. Beat is the latest beat (ms, Redis's
// clock) that was in Redis when the file was written.
type canaryFile struct {
	ID          string `json:"id"`
	Initialised bool   `json:"initialised"`
	Beat        int64  `json:"beat"`
}

// beatTolerance is what a Redis may lose by itself (appendfsync everysec, or an
// asynchronous failover) without being called rolled back.
const beatTolerance = 5 * time.Second

const (
	beatEvery      = time.Second
	beatFileEvery  = 10 * time.Second
	canaryFileName = "canary.json"
)

func newGuard(path string, onTrip func(string)) *Guard {
	g := &Guard{path: path, onTrip: onTrip}
	g.state.Store(&guardState{err: fmt.Errorf("redis was not reached yet: %w", ErrAway)})
	return g
}

// Err is nil while Redis is the one we know. Before the first Attach it wraps
// ErrAway, later ErrForgot, and says why.
func (g *Guard) Err() error { return g.state.Load().err }

// Forgot reports whether only a person can end what Err says.
func (g *Guard) Forgot() bool { return errors.Is(g.Err(), ErrForgot) }

// Mark is what stands in every partition: the canary and our fencing number;
// empty before the first Attach.
func (g *Guard) Mark() string { return g.state.Load().mark }

// trip says that Redis forgot; the first reason stays.
func (g *Guard) trip(reason string) {
	for {
		old := g.state.Load()
		if errors.Is(old.err, ErrForgot) {
			return
		}
		next := *old
		next.err = fmt.Errorf("%w: %s", ErrForgot, reason)
		if g.state.CompareAndSwap(old, &next) {
			if g.onTrip != nil {
				g.onTrip(reason)
			}
			return
		}
	}
}

func (g *Guard) read() (canaryFile, error) {
	var f canaryFile
	raw, err := os.ReadFile(g.path)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("read the canary: %w", err)
	}
	if err := json.Unmarshal(raw, &f); err != nil || f.ID == "" {
		return f, fmt.Errorf("%s is damaged; restore it from a backup, or remove it and run `dispatchd recover --accept-loss`", g.path)
	}
	return f, nil
}

// write replaces the file so that a crash leaves the old or the new one.
func (g *Guard) write(f canaryFile) error {
	raw, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("write the canary: %w", err)
	}
	return writeFileAtomic(g.path, raw)
}

func writeFileAtomic(path string, raw []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // it is gone already when all went well
	_, err = tmp.Write(raw)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Attach compares Redis with data_dir and, when they agree (or both are new),
// takes Redis over with the next fencing number. It fails with ErrForgot when
// they do not agree, with ErrAway when Redis does not answer, and otherwise
// when Redis is not fit (DESIGN §5 "Refuse").
func (s *Store) Attach(ctx context.Context) error {
	if err := s.clock.sync(ctx, s); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	if err := s.checkServer(ctx); err != nil {
		return err
	}
	file, err := s.guard.read()
	if err != nil {
		return err
	}
	mark, beat, err := s.readMark(ctx)
	if err != nil {
		return err
	}
	id, _, _ := strings.Cut(mark, ":")
	switch {
	case file.ID == "" && mark == "":
		file = canaryFile{ID: secret.NewKey(12).Reveal()}
		if err := s.guard.write(file); err != nil {
			return err
		}
	case file.ID != "" && !file.Initialised && mark == "":
		// The first start was cut off before Redis was marked: go on with it.
	case file.ID == "":
		return s.refuse("it holds the state of another installation (this data_dir has no canary)")
	case mark == "":
		return s.refuse("it is empty or another database, but this data_dir has seen it filled")
	case id != file.ID:
		return s.refuse("it belongs to another installation than this data_dir")
	case beat < file.Beat-beatTolerance.Milliseconds():
		return s.refuse(fmt.Sprintf("it was rolled back by at least %s", time.Duration(file.Beat-beat)*time.Millisecond))
	}
	// Redis's clock may have been set back while we were not there; the beat must
	// not go back, and what is due must not wait for the clock.
	s.clock.notBefore(time.UnixMilli(beat).UTC())
	return s.take(ctx, file)
}

func (s *Store) refuse(reason string) error {
	s.guard.trip(reason)
	return s.guard.Err()
}

// Recover makes this Redis ours as it is, whatever it lost. It is what
// `recover --accept-loss` calls, on a person's word only.
func (s *Store) Recover(ctx context.Context) error {
	s.guard.beat.Store(0) // connections are not compared any more; the guard stays tripped until take
	if err := s.clock.sync(ctx, s); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	if err := s.checkServer(ctx); err != nil {
		return err
	}
	// A new id: whoever still holds the old one must not write.
	file := canaryFile{ID: secret.NewKey(12).Reveal()}
	if err := s.guard.write(file); err != nil {
		return err
	}
	return s.take(ctx, file)
}

// take writes our mark everywhere and ends with the file saying so.
func (s *Store) take(ctx context.Context, file canaryFile) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 4*s.timeout, errTimeout)
	defer cancel()
	if err := s.checkSchema(ctx); err != nil {
		return err
	}
	fence, err := s.rdb.HIncrBy(ctx, s.keys.schema(), "fence", 1).Result()
	if err != nil {
		return s.classify(ctx, "take over", err)
	}
	now := s.Now().UnixMilli()
	mark := file.ID + ":" + strconv.FormatInt(fence, 10)
	pipe := s.rdb.Pipeline()
	for p := range Partitions {
		pipe.Set(ctx, s.keys.mark(p), mark, 0)
	}
	for l := range Lanes {
		pipe.Set(ctx, s.keys.laneMark(l), mark, 0)
	}
	pipe.Set(ctx, s.keys.beat(), now, 0)
	pipe.Set(ctx, s.keys.globalMark(), mark, 0)
	cmds, err := pipe.Exec(ctx)
	for _, c := range cmds {
		if c.Err() != nil {
			err = c.Err()
		}
	}
	if err != nil {
		return s.classify(ctx, "take over", err)
	}
	file.Initialised, file.Beat = true, now
	if err := s.guard.write(file); err != nil {
		return err
	}
	s.guard.beat.Store(now)
	s.guard.state.Store(&guardState{id: file.ID, mark: mark})
	return nil
}

func (s *Store) readMark(ctx context.Context) (mark string, beat int64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, errTimeout)
	defer cancel()
	mark, err = s.rdb.Get(ctx, s.keys.globalMark()).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", 0, s.classify(ctx, "read the mark", err)
	}
	beat, err = s.rdb.Get(ctx, s.keys.beat()).Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", 0, s.classify(ctx, "read the beat", err)
	}
	return mark, beat, nil
}

// beatScript: KEYS mark, beat; ARGV mark, now (ms). Returns the beat that was
// there before, or -1. A beat never goes back.
var beatScriptBody = `
local old = tonumber(redis.call('GET', KEYS[2]) or '-1')
if tonumber(ARGV[2]) > old then redis.call('SET', KEYS[2], ARGV[2]) end
return old
`

// Beat makes one beat and checks the one before; Keep calls it every second.
func (s *Store) Beat(ctx context.Context) error {
	// Before the call: one made beside it may be noted before this one's answer
	// is read, hours later when the process stood still.
	known := s.guard.beat.Load()
	now := s.Now().UnixMilli()
	c := &call{script: s.scripts.beat, mark: s.keys.globalMark(), keys: []string{s.keys.beat()}, args: []any{now}}
	if err := s.do(ctx, c); err != nil {
		return err
	}
	old, err := c.integer()
	if err != nil {
		return err
	}
	if old < known-beatTolerance.Milliseconds() {
		s.guard.trip(fmt.Sprintf("it was rolled back by at least %s", time.Duration(known-old)*time.Millisecond))
		return s.guard.Err()
	}
	for newest := max(now, old); ; {
		noted := s.guard.beat.Load()
		if newest <= noted || s.guard.beat.CompareAndSwap(noted, newest) {
			return nil
		}
	}
}

// checkConnection runs on every new connection, before any call can use it: a
// Redis that was restarted from an older state is found before it is trusted.
func (s *Store) checkConnection(ctx context.Context, cn *redis.Conn) error {
	if !s.embedded && s.servers.note(ctx, cn) {
		return nil
	}
	known := s.guard.beat.Load()
	if known == 0 || s.cluster {
		return nil
	}
	beat, err := cn.Get(ctx, s.keys.beat()).Int64()
	switch {
	case errors.Is(err, redis.Nil):
		s.guard.trip("it is empty or another database")
	case err != nil:
		return err
	case beat < known-beatTolerance.Milliseconds():
		s.guard.trip(fmt.Sprintf("it was rolled back by at least %s", time.Duration(known-beat)*time.Millisecond))
	default:
		return nil
	}
	// The connection fails, or the very call that needed it would go through:
	// it has asked the guard already.
	return s.guard.Err()
}

// Keep beats, keeps the clock and the canary file until ctx ends. It needs an
// attached store.
func (s *Store) Keep(ctx context.Context) {
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	var written time.Time
	fenced := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
		}
		if err := s.Beat(ctx); err != nil {
			if errors.Is(err, ErrFenced) && !fenced {
				fenced = true
				s.onFenced()
			}
			continue // the callers of real work meet the same and tell
		}
		if time.Since(written) < beatFileEvery {
			continue
		}
		written = time.Now()
		if err := s.clock.sync(ctx, s); err != nil {
			continue
		}
		file := canaryFile{ID: s.guard.state.Load().id, Initialised: true, Beat: s.guard.beat.Load()}
		if err := s.guard.write(file); err != nil {
			s.log.Warn("the canary file cannot be written", "err", err)
		}
	}
}

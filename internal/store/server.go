package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Unfit is an error of Attach: this Redis answered, and must not be used.
type Unfit struct{ Why string }

// Error implements error.
func (e *Unfit) Error() string { return "redis is not fit: " + e.Why }

// checkServer refuses a Redis that would lose what we promise to keep, and
// collects warnings (DESIGN §5).
func (s *Store) checkServer(ctx context.Context) error {
	s.warnings = nil
	warn := func(format string, args ...any) { s.warnings = append(s.warnings, fmt.Sprintf(format, args...)) }
	if s.embedded {
		warn("Redis is embedded: everything is lost when the daemon stops. This is for trials only.")
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, errTimeout)
	defer cancel()
	raw, err := s.rdb.Info(ctx, "server", "replication", "persistence", "stats", "memory").Result()
	if err != nil {
		return s.classify(ctx, "INFO", err)
	}
	info := map[string]string{}
	for line := range strings.Lines(raw) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[k] = v
		}
	}
	version := info["redis_version"]
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < 7 {
		return &Unfit{fmt.Sprintf("version %s, at least 7.0 is needed", version)}
	}
	if info["role"] != "" && info["role"] != "master" {
		return &Unfit{"it is a replica; name the master, or use Sentinel (redis.addresses with redis.master_name)"}
	}
	config, err := s.rdb.ConfigGet(ctx, "*").Result()
	if err != nil {
		warn("CONFIG is forbidden to us: check by hand that maxmemory-policy is noeviction and appendonly is yes")
		config = map[string]string{"maxmemory-policy": info["maxmemory_policy"]}
		if info["aof_enabled"] == "1" {
			config["appendonly"] = "yes"
		} else {
			config["appendonly"] = "no"
		}
	}
	if p := config["maxmemory-policy"]; p != "" && p != "noeviction" {
		return &Unfit{fmt.Sprintf("maxmemory-policy is %s and would silently delete queued work; set it to noeviction", p)}
	}
	if config["appendonly"] != "yes" {
		if !s.volatile {
			return &Unfit{"it has no append-only file, so a restart would lose acknowledged pings; set appendonly yes, or redis.allow_volatile = true"}
		}
		warn("Redis has no append-only file (redis.allow_volatile): a restart loses acknowledged pings")
	}
	switch fsync := config["appendfsync"]; {
	case s.strict && fsync != "always":
		return &Unfit{fmt.Sprintf("redis.strict needs appendfsync always (it is %q)", fsync)}
	case fsync == "no":
		warn("appendfsync is no: a power cut loses what the kernel had not written, often 30 s")
	}
	if st := info["aof_last_write_status"]; st != "" && st != "ok" {
		warn("the append-only file reports %q on its last write: is the disk full?", st)
	}
	if n := info["evicted_keys"]; n != "" && n != "0" {
		warn("Redis has evicted %s keys since it started: work may be missing", n)
	}
	if off := s.clock.offset().Abs(); off.Seconds() > 1 {
		warn("the clocks of Redis and of this machine differ by %s", off.Round(100_000_000))
	}
	atLeast := func(key string, want int) {
		if n, err := strconv.Atoi(config[key]); err == nil && n < want {
			warn("%s is %d; at %d idle users take less memory", key, n, want)
		}
	}
	atLeast("hash-max-listpack-entries", 128)
	atLeast("hash-max-listpack-value", 1024)
	return nil
}

// checkSchema compares what the state was made with, or notes it on a new one.
func (s *Store) checkSchema(ctx context.Context) error {
	want := map[string]int{"version": SchemaVersion, "partitions": Partitions, "lanes": Lanes}
	for field, n := range want {
		if err := s.rdb.HSetNX(ctx, s.keys.schema(), field, n).Err(); err != nil {
			return s.classify(ctx, "note the schema", err)
		}
	}
	got, err := s.rdb.HGetAll(ctx, s.keys.schema()).Result()
	if err != nil {
		return s.classify(ctx, "read the schema", err)
	}
	for field, n := range want {
		if got[field] != strconv.Itoa(n) {
			return &Unfit{fmt.Sprintf("its state was made with %s = %s, this dispatchd needs %d; run the dispatchd that made it, or `dispatchd hub import` into a new database", field, got[field], n)}
		}
	}
	return nil
}

// Check asks Redis whether it is fit and ours, without taking it over or
// changing anything; it is for `check --online`. It returns warnings.
func (s *Store) Check(ctx context.Context) ([]string, error) {
	if err := s.clock.sync(ctx, s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	if err := s.checkServer(ctx); err != nil {
		return s.warnings, err
	}
	file, err := s.guard.read()
	if err != nil {
		return s.warnings, err
	}
	mark, _, err := s.readMark(ctx)
	if err != nil {
		return s.warnings, err
	}
	id, _, _ := strings.Cut(mark, ":")
	if file.ID != id && (mark != "" || file.Initialised) {
		return s.warnings, fmt.Errorf("data_dir and redis do not belong together: %w", ErrForgot)
	}
	return s.warnings, nil
}

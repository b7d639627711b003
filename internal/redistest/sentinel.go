package redistest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Sentinel is a master, its replica, and one sentinel that watches them.
type Sentinel struct {
	Addr   string // of the sentinel
	Name   string // by which it knows the master
	Master *Server
	// Replica is promoted by a failover.
	Replica *Server
	watcher *Server
}

// NewSentinel starts one below dir; the caller stops it with Kill.
func NewSentinel(dir string) (_ *Sentinel, err error) {
	s := &Sentinel{Name: "mymaster"}
	defer func() {
		if err != nil {
			s.Kill()
		}
	}()
	if s.Master, err = New(filepath.Join(dir, "master")); err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(s.Master.Addr, ":")
	if s.Replica, err = New(filepath.Join(dir, "replica"), "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0"); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor %s %s %s 1\nsentinel down-after-milliseconds %s 2000\nsentinel failover-timeout %s 10000\n", s.Name, host, port, s.Name, s.Name)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write the sentinel's configuration: %w", err)
	}
	watched, err := freePort()
	if err != nil {
		return nil, err
	}
	// A sentinel's own options only: it has no data of its own.
	s.watcher = &Server{Addr: "127.0.0.1:" + strconv.Itoa(watched), Dir: dir, args: []string{
		conf, "--sentinel", "--port", strconv.Itoa(watched), "--bind", "127.0.0.1", "--dir", dir,
		"--loglevel", "warning", "--logfile", filepath.Join(dir, "redis.log"),
	}}
	if err := s.watcher.Restart(); err != nil {
		return nil, err
	}
	s.Addr = s.watcher.Addr
	return s, s.synced()
}

// synced waits until the replica has everything and the sentinel knows it.
func (s *Sentinel) synced() error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	err := s.Replica.until(ctx, func(rdb *redis.Client) bool {
		info, err := rdb.Info(ctx, "replication").Result()
		return err == nil && strings.Contains(info, "master_link_status:up")
	})
	return errors.Join(err, s.watcher.until(ctx, func(rdb *redis.Client) bool {
		known, err := sentinelOf(rdb).Replicas(ctx, s.Name).Result()
		return err == nil && len(known) == 1 && !strings.Contains(known[0]["flags"], "s_down")
	}))
}

func sentinelOf(rdb *redis.Client) *redis.SentinelClient {
	return redis.NewSentinelClient(rdb.Options())
}

// Failover kills the master and waits until its replica is the master.
func (s *Sentinel) Failover() error {
	s.Master.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	return s.Replica.until(ctx, func(rdb *redis.Client) bool {
		info, err := rdb.Info(ctx, "replication").Result()
		return err == nil && strings.Contains(info, "role:master")
	})
}

// Kill ends all three.
func (s *Sentinel) Kill() {
	for _, one := range []*Server{s.watcher, s.Replica, s.Master} {
		if one != nil {
			one.Kill()
		}
	}
}

package redistest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Cluster is a Redis Cluster of three masters.
type Cluster struct{ Nodes []*Server }

// NewCluster starts one below dir; the caller stops it with Kill.
func NewCluster(dir string) (_ *Cluster, err error) {
	c := &Cluster{}
	defer func() {
		if err != nil {
			c.Kill()
		}
	}()
	for i := range 3 {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		sub := filepath.Join(dir, strconv.Itoa(i))
		n, err := at(sub, port, "--cluster-enabled", "yes", "--cluster-config-file", filepath.Join(sub, "nodes.conf"))
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c, c.join()
}

// Addrs returns host:port of every node.
func (c *Cluster) Addrs() []string {
	out := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		out[i] = n.Addr
	}
	return out
}

// Kill ends every node.
func (c *Cluster) Kill() {
	for _, n := range c.Nodes {
		n.Kill()
	}
}

// join gives each node its third of the slots and waits until all agree.
func (c *Cluster) join() error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	const slots = 16384
	for i, n := range c.Nodes {
		rdb := n.plain()
		from, to := i*slots/len(c.Nodes), (i+1)*slots/len(c.Nodes)-1
		err := rdb.ClusterAddSlotsRange(ctx, from, to).Err()
		for _, other := range c.Nodes[:i] {
			host, port, _ := strings.Cut(other.Addr, ":")
			err = errors.Join(err, rdb.ClusterMeet(ctx, host, port).Err())
		}
		if err = errors.Join(err, rdb.Close()); err != nil {
			return fmt.Errorf("join the cluster: %w", err)
		}
	}
	for _, n := range c.Nodes {
		if err := n.until(ctx, func(rdb *redis.Client) bool {
			info, err := rdb.ClusterInfo(ctx).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:"+strconv.Itoa(len(c.Nodes)))
		}); err != nil {
			return fmt.Errorf("the cluster does not come up: %w", err)
		}
	}
	return nil
}

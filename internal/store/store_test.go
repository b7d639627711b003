package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(withCluster{m})
}

// shared is one Redis Cluster for all tests, each under a prefix of its own.
var shared struct {
	once    sync.Once
	cluster *redistest.Cluster
	dir     string
	err     error
	stores  atomic.Int64 // made so far: each has a prefix of its own
}

func startShared() {
	if shared.dir, shared.err = os.MkdirTemp("", "dispatchd-cluster-"); shared.err == nil {
		shared.cluster, shared.err = redistest.NewCluster(shared.dir)
	}
}

// withCluster ends the cluster after the tests.
type withCluster struct{ m *testing.M }

// Run implements goleak.TestingM.
func (w withCluster) Run() int {
	code := w.m.Run()
	if shared.cluster != nil {
		shared.cluster.Kill()
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
	return code
}

// onCluster makes a store on the cluster that is ready for work.
func onCluster(t testing.TB) *Store {
	t.Helper()
	shared.once.Do(startShared)
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return attached(t, "", func(o *Options) {
		o.Addresses, o.Cluster, o.Prefix = shared.cluster.Addrs(), true, fmt.Sprintf("t%d:", shared.stores.Add(1))
	})
}

// empty takes everything away that the store has in Redis.
func empty(ctx context.Context, s *Store) error {
	c, ok := s.rdb.(*redis.ClusterClient)
	if !ok {
		return s.rdb.FlushAll(ctx).Err()
	}
	return c.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		for scan := node.Scan(ctx, 0, s.keys.prefix+"*", 1000).Iterator(); ; {
			if !scan.Next(ctx) {
				return scan.Err()
			}
			if err := node.Unlink(ctx, scan.Val()).Err(); err != nil {
				return err
			}
		}
	})
}

// newStore makes a store on the URL that is not attached yet.
func newStore(t testing.TB, url, dataDir string, change ...func(*Options)) *Store {
	t.Helper()
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	if err != nil {
		t.Fatal(err)
	}
	// Beside every other test also a Redis that works is late now and then.
	o := Options{URL: url, DataDir: dataDir, Box: box, Logger: slog.New(slog.DiscardHandler), Timeout: 30 * time.Second}
	for _, c := range change {
		c(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// attached makes a store that is ready for work.
func attached(t testing.TB, url string, change ...func(*Options)) *Store {
	t.Helper()
	s := newStore(t, url, t.TempDir(), change...)
	if err := s.Attach(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

// onEach runs a test against a real redis-server, a cluster, and miniredis.
func onEach(t *testing.T, run func(t *testing.T, s *Store)) {
	t.Helper()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		run(t, attached(t, redistest.Start(t).URL()))
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		run(t, onCluster(t))
	})
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		run(t, attached(t, redistest.Embedded(t), func(o *Options) { o.Embedded = true }))
	})
}

func testID(t testing.TB, base uint64) orcid.ID {
	t.Helper()
	id, err := orcid.FromBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestLogKeepsEveryPingUntilRemoved(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		at := time.Date(2026, 11, 23, 1, 2, 3, 456789000, time.UTC)
		for i := range uint64(10) {
			if err := s.Append(ctx, []event.Ping{
				{Credential: "main", ORCID: testID(t, 2*i), AcceptedAt: at},
				{Credential: "with space", ORCID: testID(t, 2*i+1), AcceptedAt: at, CaughtUp: true},
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Announce(ctx, "uni-a", []orcid.ID{testID(t, 99)}, at); err != nil {
			t.Fatal(err)
		}
		seen := map[uint64]Item{}
		for lane := range Lanes {
			after := ""
			for {
				entries, err := s.ReadLog(ctx, lane, after, 3)
				if err != nil {
					t.Fatal(err)
				}
				if len(entries) == 0 {
					break
				}
				for _, e := range entries {
					after = e.ID
					for _, it := range e.Items {
						seen[it.ORCID.Base()] = it
					}
					// Twice: the second must count nothing.
					for range 2 {
						if err := s.RemoveEntries(ctx, lane, []Processed{{ID: e.ID, Pings: 2, Told: 1, Unknown: 1}}); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
		}
		if len(seen) != 21 {
			t.Fatalf("read %d items, want 21", len(seen))
		}
		if it := seen[3]; it.Kind != KindCaughtUp || it.Subject != "with space" || !it.At.Equal(at) {
			t.Errorf("item came back as %+v", it)
		}
		if it := seen[99]; it.Kind != KindCreated || it.Subject != "uni-a" {
			t.Errorf("announcement came back as %+v", it)
		}
		if n, err := s.LogLength(ctx); err != nil || n != 0 {
			t.Errorf("after removal: %d entries, %v", n, err)
		}
	})
}

func TestAForgottenRedisIsNeverTrusted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	ping := []event.Ping{{Credential: "main", ORCID: testID(t, 1), AcceptedAt: time.Now()}}

	t.Run("emptied under way", func(t *testing.T) {
		t.Parallel()
		srv := redistest.Start(t)
		var told string
		s := attached(t, srv.URL(), func(o *Options) { o.OnForgot = func(r string) { told = r } })
		if err := srv.Client(t).FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		if err := s.Append(ctx, ping); !errors.Is(err, ErrForgot) {
			t.Fatalf("the first append after FLUSHALL: %v, want ErrForgot", err)
		}
		if told == "" || s.Guard().Err() == nil {
			t.Error("nobody was told")
		}
		if err := s.Recover(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.Append(ctx, ping); err != nil {
			t.Fatalf("after recover: %v", err)
		}
	})
	t.Run("emptied between two starts", func(t *testing.T) {
		t.Parallel()
		srv, dir := redistest.Start(t), t.TempDir()
		if err := newStore(t, srv.URL(), dir).Attach(ctx); err != nil {
			t.Fatal(err)
		}
		if err := srv.Client(t).FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		if err := newStore(t, srv.URL(), dir).Attach(ctx); !errors.Is(err, ErrForgot) {
			t.Fatalf("attach: %v, want ErrForgot", err)
		}
	})
	t.Run("another installation's data_dir", func(t *testing.T) {
		t.Parallel()
		srv := redistest.Start(t)
		attached(t, srv.URL())
		for range 2 {
			if err := newStore(t, srv.URL(), t.TempDir()).Attach(ctx); !errors.Is(err, ErrForgot) {
				t.Fatalf("attach: %v, want ErrForgot", err)
			}
		}
	})
	t.Run("rolled back", func(t *testing.T) {
		t.Parallel()
		srv := redistest.Start(t)
		s := attached(t, srv.URL())
		past := s.Now().Add(-time.Minute).UnixMilli()
		if err := srv.Client(t).Set(ctx, s.keys.beat(), past, 0).Err(); err != nil {
			t.Fatal(err)
		}
		// Every connection breaks, as in a restart; the next one is checked
		// before it is used.
		if err := srv.Client(t).Do(ctx, "CLIENT", "KILL", "TYPE", "normal").Err(); err != nil {
			t.Fatal(err)
		}
		for range 40 { // the broken connections of the pool come first
			err := s.Append(ctx, ping)
			if err == nil {
				t.Fatal("a rolled-back redis took a ping, which a restore would lose")
			}
			if errors.Is(err, ErrForgot) {
				if n := srv.Client(t).XLen(ctx, s.keys.log(0)).Val() + srv.Client(t).XLen(ctx, s.keys.log(1)).Val(); n != 0 {
					t.Fatalf("%d entries in the log", n)
				}
				if err := s.Recover(ctx); err != nil {
					t.Fatalf("recover: %v", err)
				}
				return
			}
		}
		t.Fatal("appends go on in a rolled-back redis")
	})
	t.Run("taken over", func(t *testing.T) {
		t.Parallel()
		srv, dir := redistest.Start(t), t.TempDir()
		old := newStore(t, srv.URL(), dir)
		for _, s := range []*Store{old, newStore(t, srv.URL(), dir)} {
			if err := s.Attach(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if err := old.Beat(ctx); !errors.Is(err, ErrFenced) {
			t.Errorf("the old daemon beats: %v, want ErrFenced", err)
		}
		if err := old.Append(ctx, ping); err != nil {
			t.Errorf("a ping may be appended by anybody who knows the mark: %v", err)
		}
	})
}

func TestUnfitServersAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		opts func(*Options)
		want string // "" means accepted
	}{
		"eviction":           {[]string{"--maxmemory-policy", "allkeys-lru"}, nil, "noeviction"},
		"no aof":             {[]string{"--appendonly", "no"}, nil, "appendonly yes"},
		"no aof but allowed": {[]string{"--appendonly", "no"}, func(o *Options) { o.AllowVolatile = true }, ""},
		"strict":             {nil, func(o *Options) { o.Strict = true }, "appendfsync always"},
		"strict and always":  {[]string{"--appendfsync", "always"}, func(o *Options) { o.Strict = true }, ""},
		"replica":            {[]string{"--replicaof", "127.0.0.1 1"}, nil, "replica"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, redistest.Start(t, c.args...).URL(), t.TempDir())
			if c.opts != nil {
				s = newStore(t, redistest.Start(t, c.args...).URL(), t.TempDir(), c.opts)
			}
			err := s.Attach(context.Background())
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var unfit *Unfit
			if !errors.As(err, &unfit) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestScriptsSurviveScriptFlush(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s := attached(t, srv.URL())
	ctx := context.Background()
	for range 3 {
		if err := srv.Client(t).ScriptFlush(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		if err := s.Beat(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhoReadsTheLogIsToldTheLane(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		var told []int
		s.onAppended = func(lane int) { told = append(told, lane) }
		for i := range uint64(4) {
			if err := s.Append(ctx, []event.Ping{{Credential: "main", ORCID: testID(t, i), AcceptedAt: s.Now()}}); err != nil {
				t.Fatal(err)
			}
			entries, err := s.ReadLog(ctx, told[len(told)-1], "", 10)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(entries); n == 0 || entries[n-1].Items[0].ORCID != testID(t, i) {
				t.Errorf("append %d: told lane %d, which has %v", i, told[len(told)-1], entries)
			}
		}
		if len(told) != 4 {
			t.Errorf("told %v, want one lane for each append", told)
		}
	})
}

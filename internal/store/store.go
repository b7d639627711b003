// Package store owns all of Redis: the keys, the scripts, the intake log, the
// slots, the users, the organisations, the registrations and the ledger. It
// promises that every change of state is one script in one partition, that a
// Redis which forgot is never trusted, and that every verb may be called twice.
// DESIGN.md beside this file has the key table and the drawing of states.
// Intake, fan-out and the service call it; actors reach it through their ports.
package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"dispatchd/internal/secret"
)

// Options says where Redis is and how it is used.
type Options struct {
	// URL is redis://, rediss:// or unix://. With Addresses it gives only the
	// database and TLS.
	URL string
	// Addresses with MasterName is Sentinel, with Cluster a cluster.
	Addresses  []string
	MasterName string
	Cluster    bool
	Username   string
	Password   secret.Text
	CAFile     string
	// Prefix comes before every key. Default none.
	Prefix string
	// Embedded says that the server is miniredis in this process.
	Embedded bool
	// Strict requires appendfsync always.
	Strict bool
	// AllowVolatile accepts a Redis without AOF.
	AllowVolatile bool
	// DataDir holds the canary file.
	DataDir string
	// Timeout bounds one call. Default 5 s.
	Timeout time.Duration
	// DeadLetters is how many are kept per organisation and channel; then the
	// oldest is dropped. Default (0) 100,000.
	DeadLetters int
	// AttemptLog is how many attempts are kept per organisation and channel, for
	// at most 90 days. Default (0) 1,000.
	AttemptLog int
	// OnAppended is called after each entry that was appended to a lane of the
	// intake log, for whoever reads it; nil means nothing. It must not block.
	OnAppended func(lane int)
	// OnForgot is called once when Redis turns out to have forgotten; it must
	// not block.
	OnForgot func(reason string)
	// OnFenced is called once by Keep when another dispatchd has taken this
	// Redis over, which only a restart ends; nil means nothing. It must not block.
	OnFenced   func()
	Box        *secret.Box
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Now replaces the clock in tests; nil means Redis's time.
	Now func() time.Time
}

// Store is the one way to Redis. It is safe for concurrent use.
type Store struct {
	rdb      redis.UniversalClient
	keys     keys
	guard    *Guard
	servers  servers
	clock    *clock
	nowFunc  func() time.Time
	box      *secret.Box
	log      *slog.Logger
	metrics  *metrics
	scripts  scripts
	timeout  time.Duration
	embedded bool
	cluster  bool
	strict   bool
	volatile bool
	warnings []string

	onAppended func(lane int)
	onFenced   func()

	deadLetters, attemptLog int
	recent                  recent
	slotMergers
}

// New makes the client; it does not talk to Redis yet (Attach does), so that
// the daemon can start while Redis is away.
func New(o Options) (*Store, error) {
	if o.DataDir == "" {
		return nil, errors.New("store: Options.DataDir must be set")
	}
	if o.Box == nil || o.Logger == nil {
		return nil, errors.New("store: Options.Box and Options.Logger must be set")
	}
	uo, err := o.universal()
	if err != nil {
		return nil, err
	}
	s := &Store{
		keys:     keys{o.Prefix},
		guard:    newGuard(filepath.Join(o.DataDir, canaryFileName), o.OnForgot),
		clock:    newClock(time.Now().UTC()),
		nowFunc:  o.Now,
		box:      o.Box,
		log:      o.Logger.With("component", "store"),
		metrics:  newMetrics(o.Registerer),
		timeout:  o.Timeout,
		embedded: o.Embedded,
		cluster:  o.Cluster,
		strict:   o.Strict,
		volatile: o.AllowVolatile,

		onAppended: o.OnAppended,
		onFenced:   o.OnFenced,

		deadLetters: orDefault(o.DeadLetters, 100_000),
		attemptLog:  orDefault(o.AttemptLog, 1000),
	}
	if s.onAppended == nil {
		s.onAppended = func(int) {}
	}
	if s.onFenced == nil {
		s.onFenced = func() {}
	}
	if s.timeout <= 0 {
		s.timeout = 5 * time.Second
	}
	uo.OnConnect = s.checkConnection
	s.rdb = redis.NewUniversalClient(uo)
	s.scripts = newScripts()
	s.slotMergers = newSlotMergers(s)
	return s, nil
}

func (o *Options) universal() (*redis.UniversalOptions, error) {
	uo := &redis.UniversalOptions{
		Addrs:      o.Addresses,
		MasterName: o.MasterName,
		// By default go-redis runs a pipelined command twice after a broken
		// connection and says nothing. Our verbs decide themselves.
		MaxRetries:            -1,
		ContextTimeoutEnabled: true,
		DialTimeout:           2 * time.Second,
		ReadTimeout:           -1, // the context of every call bounds it
		WriteTimeout:          -1,
		DialerRetries:         1,
		IsClusterMode:         o.Cluster,
		DisableIdentity:       true,
		PoolSize:              32,
		MinIdleConns:          2,
	}
	if o.URL != "" {
		single, err := redis.ParseURL(o.URL)
		if err != nil {
			return nil, errors.New("redis.url is not a redis://, rediss:// or unix:// URL") // its own text may hold the password
		}
		if len(uo.Addrs) == 0 {
			uo.Addrs = []string{single.Addr} // a path is a unix socket's
		}
		uo.DB, uo.TLSConfig, uo.Username, uo.Password = single.DB, single.TLSConfig, single.Username, single.Password
	}
	if len(uo.Addrs) == 0 {
		return nil, errors.New("redis.url or redis.addresses must be set")
	}
	if o.Username != "" {
		uo.Username = o.Username
	}
	if o.Password.IsSet() {
		uo.Password = o.Password.Reveal()
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read redis.ca_file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis.ca_file %s holds no certificate", o.CAFile)
		}
		if uo.TLSConfig == nil {
			uo.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		uo.TLSConfig.RootCAs = pool
	}
	return uo, nil
}

// Now is the time that everything stored is measured by.
func (s *Store) Now() time.Time {
	if s.nowFunc != nil {
		return s.nowFunc()
	}
	return s.clock.now()
}

// Guard tells whether Redis is the one we know.
func (s *Store) Guard() *Guard { return s.guard }

// Warnings are what Attach found that an operator should know.
func (s *Store) Warnings() []string { return s.warnings }

// Ping asks whether Redis answers and is ours.
func (s *Store) Ping(ctx context.Context) error { return s.Beat(ctx) }

// Close waits for calls under way and closes the connections.
func (s *Store) Close() error {
	s.waitMergers()
	return s.rdb.Close()
}

// scripts are prepared once; they are values, not state.
type scripts struct {
	beat *script
	logScripts
	slotScripts
	userScripts
	orgScripts
	checkScripts
	mailScripts
	hubScripts
	briefScripts

	apiTokenScripts
	guestScripts
}

func newScripts() scripts {
	return scripts{
		beat:         newScript("beat", allowOOM|fenced, beatScriptBody),
		logScripts:   newLogScripts(),
		slotScripts:  newSlotScripts(),
		userScripts:  newUserScripts(),
		orgScripts:   newOrgScripts(),
		checkScripts: newCheckScripts(),
		mailScripts:  newMailScripts(),
		hubScripts:   newHubScripts(),
		briefScripts: newBriefScripts(),

		apiTokenScripts: newAPITokenScripts(),
		guestScripts:    newGuestScripts(),
	}
}

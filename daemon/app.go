package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dispatchd/actors"
	"dispatchd/config"
	"dispatchd/internal/admin"
	"dispatchd/internal/callback"
	"dispatchd/internal/deliver"
	"dispatchd/internal/deliver/email"
	"dispatchd/internal/deliver/webhook"
	"dispatchd/internal/directory"
	"dispatchd/internal/fanout"
	"dispatchd/internal/guest"
	"dispatchd/internal/hub"
	"dispatchd/internal/intake"
	"dispatchd/internal/intake/spool"
	"dispatchd/internal/liveness"
	"dispatchd/internal/org"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
	"dispatchd/internal/signed"
	"dispatchd/internal/store"
)

// drainTime is what deliveries under way get when the daemon stops.
const drainTime = 5 * time.Second

// app is one running daemon.
type app struct {
	o       options
	log     *slog.Logger
	reg     *prometheus.Registry
	metrics *processMetrics
	stop    stopStack

	config    atomic.Pointer[config.Config]
	keys      atomic.Pointer[callback.Keys]
	clients   atomic.Pointer[map[string]string] // ORCID client id → credential
	prefixes  atomic.Pointer[[]string]          // paths of public_url, now and before
	sender    atomic.Pointer[webhook.Sender]
	mail      atomic.Pointer[email.Sender] // nil without a mail server
	embedded  *embeddedRedis
	stateDir  string // spool and marks: data_dir, but in a trial one that goes with it
	store     *store.Store
	spool     *spool.Spool
	intake    *intake.Server
	directory *directory.Directory
	hints     hints
	service   *service.Service
	router    *deliver.Router
	orcid     orcidClients
	signer    *signed.Signer
	admin     *admin.Server
	web       *http.Server
	gaps      *liveness.Gaps
	prober    *liveness.Prober
	watch     *liveness.Watcher
	locks     atomic.Pointer[locks]
	hub       atomic.Pointer[hub.Callbacks] // nil without the Hub's callbacks
	taker     *hub.Taker
	guests    *guest.Keeper

	reloading    sync.Mutex
	reloadFailed atomic.Bool // the last reload did
	stopping     atomic.Bool
	fenced       atomic.Bool // another daemon works with our Redis
	told         herald
	attached     attachment
	began        time.Time
	failed       chan error // a part that must not end has ended
}

// newApp builds everything that works without Redis: from here on pings are
// taken. The rest follows when Redis answers (attach.go). On an error nothing
// is left behind.
func newApp(ctx context.Context, o options) (_ *app, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	a := &app{o: o, log: o.Logger, reg: prometheus.NewRegistry(), directory: directory.New(), began: time.Now(), failed: make(chan error, 8)}
	a.metrics = newProcessMetrics(a.reg, o.Version)
	a.stop.log = o.Logger
	a.attached.init()
	a.config.Store(o.Config)
	defer func() {
		if err != nil {
			err = errors.Join(err, a.stop.run(ctx))
		}
	}()
	c := o.Config
	if err := a.setStateDir(c); err != nil {
		return nil, err
	}
	if err := a.setKeys(c); err != nil {
		return nil, err
	}
	box, err := secret.NewBox([]byte(c.MasterKey.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("use the master key: %w", err)
	}
	if a.signer, err = signed.New([]byte(c.MasterKey.Reveal())); err != nil {
		return nil, fmt.Errorf("use the master key: %w", err)
	}
	if err := a.setStore(c, box); err != nil {
		return nil, err
	}
	if err := a.setDelivery(c); err != nil {
		return nil, err
	}
	if err := a.setService(); err != nil {
		return nil, err
	}
	if err := a.setAdmin(); err != nil {
		return nil, err
	}
	if err := a.setWeb(); err != nil {
		return nil, err
	}
	callbacks, err := loadHub(c)
	if err != nil {
		return nil, err
	}
	if err := a.newTaker(); err != nil {
		return nil, err
	}
	a.setHub(callbacks)
	// The callback listener comes last and so is stopped first in the list, but
	// what it acknowledges must outlive everything: its step only stops taking.
	if err := a.setIntake(); err != nil {
		return nil, err
	}
	if err := a.setLiveness(); err != nil {
		return nil, err
	}
	if err := a.setGuests(); err != nil {
		return nil, err
	}
	// Only now that everything is built may anybody ask.
	go func() { a.ended("callback listener", a.intake.Serve(o.Callback)) }()
	a.startLiveness()
	go func() { a.ended("admin listener", a.admin.Serve(o.Admin)) }()
	go func() { a.ended("web listener", a.serveWeb()) }()
	return a, nil
}

// setStateDir keeps what belongs to an embedded Redis out of data_dir: the next
// start would take its own empty Redis, or the real one, for one that forgot.
func (a *app) setStateDir(c *config.Config) error {
	if !c.Embedded() {
		a.stateDir = c.DataDir
		return nil
	}
	dir, err := os.MkdirTemp("", "dispatchd-trial-")
	if err != nil {
		return fmt.Errorf("make a directory for the trial: %w", err)
	}
	a.stateDir = dir
	a.stop.push("directory of the trial", func(context.Context) error { return os.RemoveAll(dir) })
	return nil
}

func (a *app) setKeys(c *config.Config) error {
	keys, err := callback.NewKeys(c.CallbackKeys)
	if err != nil {
		return fmt.Errorf("use the callback keys: %w", err)
	}
	a.keys.Store(keys)
	a.know(c, nil, nil)
	return nil
}

func (a *app) setStore(c *config.Config, box *secret.Box) error {
	redisURL := c.Redis.URL
	if c.Embedded() {
		e, err := startEmbedded()
		if err != nil {
			return err
		}
		a.embedded, redisURL = e, e.url()
		a.stop.push("embedded redis", func(context.Context) error {
			e.stop(a.log)
			return nil
		})
	}
	st, err := store.New(store.Options{
		URL: redisURL, Addresses: c.Redis.Addresses, MasterName: c.Redis.MasterName, Cluster: c.Redis.Cluster,
		Username: c.Redis.Username, Password: c.Redis.Password, CAFile: c.Redis.CAFile, Prefix: c.Redis.Prefix,
		Embedded: c.Embedded(), Strict: c.Redis.Strict, AllowVolatile: c.Redis.AllowVolatile, DataDir: a.stateDir,
		DeadLetters: c.Delivery.DeadLetters, AttemptLog: c.Delivery.AttemptLog,
		OnAppended: a.wakeFanout, OnForgot: a.forgot, OnFenced: a.fence, Box: box, Logger: a.log, Registerer: a.reg, Now: a.o.now,
	})
	if err != nil {
		return fmt.Errorf("prepare redis: %w", err)
	}
	a.store = st
	a.stop.push("redis", func(context.Context) error { return st.Close() })
	sp, err := spool.Open(filepath.Join(a.stateDir, "spool.db"), spool.Options{Logger: a.log, Registerer: a.reg})
	if err != nil {
		return fmt.Errorf("open the spool: %w", err)
	}
	a.spool = sp
	a.stop.push("spool", func(context.Context) error { return sp.Close() })
	return nil
}

// forgot is called once when Redis turns out not to be the one we know.
func (a *app) forgot(reason string) {
	a.attached.setProblem("Redis forgot: " + reason)
	a.log.Error("REDIS FORGOT: fan-out, deliveries and every DELETE at ORCID have stopped; pings go to the spool; "+
		"put the right Redis back and restart dispatchd, or restore its backup and run `dispatchd recover --accept-loss`", "reason", reason)
}

// fence is called once when another daemon works with this Redis as ours: one
// that was started with a copy of data_dir.
func (a *app) fence() {
	a.fenced.Store(true)
	a.attached.setProblem("another dispatchd has taken this Redis over")
	a.log.Error("ANOTHER DISPATCHD HAS TAKEN THIS REDIS OVER: this one delivers, registers and unregisters nothing until it is restarted; " +
		"stop the other one first (it has a copy of this data_dir)")
}

func (a *app) setService() error {
	svc, err := service.New(service.Options{
		Store: a.store, Directory: a.directory, Hints: &a.hints, Tester: tester{&a.sender}, Mailer: mailer{&a.mail}, Registrar: a, Callbacks: callbacks{a},
		CheckCredential: a.checkCredential,
		CanMail:         func() bool { return a.config.Load().SMTP.Host != "" },
		OwnURLs: func() []string {
			c := a.config.Load()
			return []string{c.PublicURL, c.Hub.LegacyBaseURL}
		},
		WebURL:      func() string { return a.config.Load().WebURL },
		Signer:      a.signer,
		Probe:       service.Probe{Spool: a.spoolState, Actors: a.actorState, Degraded: a.degraded, Wanted: a.wanted},
		Credentials: func() []string { return credentialNames(a.config.Load()) },
		Logger:      a.log, Panics: a.metrics.panicked,
	})
	if err != nil {
		return err
	}
	a.service = svc
	a.reg.MustRegister(newStateCollector(a.store, svc), registrationCollector{a})
	return nil
}

func (a *app) setAdmin() error {
	srv, err := admin.New(admin.Options{
		Service: a.service, Token: func() secret.Text { return a.config.Load().Admin.Token }, Gatherer: a.reg,
		Health: func() error { return nil }, Ready: a.readiness, Reload: a.reload, Recover: a.recoverLoss,
		LogLevel: a.o.Level, Logger: a.log, Panics: a.metrics.panicked, Version: a.o.Version, Hosts: hostsOf(a.config.Load().Listen.Admin),
	})
	if err != nil {
		return fmt.Errorf("prepare the admin listener: %w", err)
	}
	a.admin = srv
	a.stop.push("admin listener", srv.Shutdown)
	return nil
}

// hostsOf is the name that an address to listen on has, if it has one.
func hostsOf(address string) []string {
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return nil
	}
	return []string{strings.ToLower(host)}
}

func (a *app) setIntake() error {
	srv, err := intake.New(intake.Options{
		Keys: a.keys.Load, PathPrefixes: func() []string { return *a.prefixes.Load() }, Log: a.store, Spool: a.spool, Guard: a.store.Guard().Err,
		Credential: func(clientID string) (string, bool) {
			name, ok := (*a.clients.Load())[clientID]
			return name, ok
		},
		Hub:     a.findHub,
		OnTaken: func() { a.gaps.Pinged() }, Now: a.store.Now, Lanes: store.Lanes, Logger: a.log, Registerer: a.reg,
		RedisWait: a.o.redisWait, SpoolWait: a.o.diskWait,
	})
	if err != nil {
		return fmt.Errorf("prepare the callback listener: %w", err)
	}
	a.intake = srv
	return nil
}

// ended reports a part that must not end by itself.
func (a *app) ended(part string, err error) {
	if err == nil {
		return
	}
	select {
	case a.failed <- fmt.Errorf("%s: %w", part, err):
	default:
	}
}

// run works until ctx ends or a part fails, then stops everything.
func (a *app) run(ctx context.Context) error {
	attached := make(chan struct{})
	attachCtx, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() { a.keepTold(attachCtx) })
	if a.o.WatchdogTime > 0 {
		w := watchdog{every: a.o.WatchdogTime / 3, alive: a.alive, feed: func() { a.o.Notify("WATCHDOG=1") }, log: a.log}
		telling.Go(func() { w.run(attachCtx) })
	}
	fatal := make(chan error, 1)
	go func() {
		defer close(attached)
		if err := a.attachLoop(attachCtx); err != nil {
			fatal <- err
		}
	}()
	var err error
	select {
	case <-ctx.Done():
	case err = <-a.failed:
	case err = <-fatal:
	}
	a.stopping.Store(true)
	a.o.Notify("STOPPING=1\nSTATUS=Stopping")
	cancel()
	<-attached
	telling.Wait()
	return errors.Join(err, a.shutdown())
}

// shutdown stops in this order: no new work is begun; deliveries under way get
// their time; pings are taken until the last moment, since ORCID counts a
// refused one; then what it was all stored with.
func (a *app) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Second)
	defer cancel()
	began := time.Now()
	grace, away := ctx, a.redisAway()
	if away {
		// No outcome can be written, so waiting for them only takes the time that
		// the callback listener needs.
		var cut context.CancelFunc
		grace, cut = context.WithTimeout(ctx, time.Second)
		defer cut()
		a.attached.letGo()
	}
	err := a.attached.stop(grace)
	if away {
		// What waits for Redis may wait for seconds: pings are taken meanwhile.
		err = errors.Join(err, a.attached.stopLate(ctx))
	}
	if err != nil && away {
		// What waits for a Redis that is away ends with its own time limit. It is
		// due again, so nothing failed.
		a.log.Warn("stopping without redis; what was under way is due again at the next start", "err", err)
		err = nil
	}
	if ierr := a.intake.Shutdown(ctx); ierr != nil {
		err = errors.Join(err, fmt.Errorf("stop the callback listener: %w", ierr))
	}
	err = errors.Join(err, a.attached.stopLate(ctx), a.stop.run(ctx))
	a.log.Info("stopped", "took", time.Since(began).Round(time.Millisecond))
	return err
}

// alive asks the actors for an answer, for the watchdog. Before there are any,
// that we come to ask is all that can be said.
func (a *app) alive(ctx context.Context) error {
	if system := a.hints.system.Load(); system != nil {
		return system.Alive(ctx)
	}
	return nil
}

// redisAway asks Redis itself, shortly.
func (a *app) redisAway() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	return errors.Is(a.store.Ping(ctx), store.ErrAway)
}

func (a *app) spoolState() service.SpoolState {
	st := a.spool.Stats()
	return service.SpoolState{Waiting: st.Waiting, Received: st.Received, Coalesced: st.Coalesced, Drained: st.Drained, Oldest: st.Oldest}
}

func (a *app) actorState() service.ActorState {
	system := a.hints.system.Load()
	if system == nil {
		return service.ActorState{}
	}
	return actorStateOf(system.Status())
}

// Organisation implements actors.Directory.
func (a *app) Organisation(id string) (*org.Organisation, bool) { return a.directory.Organisation(id) }

func limitsOf(c *config.Config) actors.Limits {
	return actors.Limits{
		Concurrency: c.Delivery.Concurrency, MaxInFlight: c.Delivery.MaxInFlight,
		Timeout:   timeoutsOf(c),
		ORCIDRate: c.ORCID.Rate,
	}
}

func (a *app) fanoutOptions() fanout.Options {
	return fanout.Options{
		Store: a.store, Directory: a.directory, Hints: &a.hints,
		QuietPeriod: func() time.Duration { return a.config.Load().Delivery.QuietPeriod },
		Logger:      a.log, Registerer: a.reg, Panics: a.metrics.panicked,
	}
}

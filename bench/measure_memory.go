package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/secret"
	"dispatchd/internal/store"
)

// measureSweep: registrations a second against what ORCID allows, which must
// never see one too many.
func (b *bench) measureSweep(ctx context.Context) error {
	const allowed = 24
	registry, err := startChild(ctx, "orcid")
	if err != nil {
		return err
	}
	defer registry.stop()
	users := allowed * (int(b.sweep.Seconds())*b.rounds + 20)
	var addr string
	if err := registry.call(ctx, "Listen", users, &addr); err != nil {
		return err
	}
	r, err := b.startRig(ctx, rigOptions{name: "sweep", people: population{Users: users, Orgs: 1}, orcidURL: "http://" + addr, orcidRate: fmt.Sprint(allowed)})
	if err != nil {
		return err
	}
	defer r.stop()
	count := func() (a Asked, err error) {
		err = registry.call(ctx, "Count", struct{}{}, &a)
		return a, err
	}
	// The burst that is allowed at first is not the rate.
	if err := poll(ctx, 20*time.Second, 20*time.Millisecond, func() error {
		if a, err := count(); err != nil || a.Registered < 2*allowed {
			return fmt.Errorf("%d registrations: %w", a.Registered, errTooFew)
		}
		return nil
	}); err != nil {
		return err
	}
	var rates []float64
	var last Asked
	for range b.rounds {
		from, err := count()
		if err != nil {
			return err
		}
		if !sleep(ctx, b.sweep) {
			return context.Cause(ctx)
		}
		if last, err = count(); err != nil {
			return err
		}
		rates = append(rates, float64(last.Registered-from.Registered)/last.At.Sub(from.At).Seconds()/allowed)
	}
	b.report.atLeast("registration sweep / allowed rate", 0.95, "", fmt.Sprintf("allowed: %d/s", allowed), rates...)
	b.report.atMost("requests that ORCID refused for their rate", 0, "", fmt.Sprintf("of %d", last.Requests), float64(last.Limited))
	return nil
}

// measureMemory: bytes of Redis for a researcher who is registered and of whom
// nothing is to be done, and what the daemon does when nothing is to be done.
func (b *bench) measureMemory(ctx context.Context) error {
	for _, personal := range []bool{false, true} {
		name := "memory-bare"
		if personal {
			name = "memory-personal"
		}
		per, r, err := b.idleUsers(ctx, name, population{Users: b.users, Orgs: 1, Personal: personal})
		if err != nil {
			return err
		}
		if !personal {
			b.report.atMost("Redis per idle user without personal data", 50, "B", fmt.Sprintf("affiliation, member index, registration; %s users", number(float64(b.users))), per)
			r.stop()
			continue
		}
		b.report.atMost("Redis per idle user with personal data", 180, "B", fmt.Sprintf("e-mail and name, %s users", number(float64(b.users))), per)
		if err := b.leaveIdle(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// idling is a rig that has nothing to do.
type idling struct {
	rig   *rig
	since time.Time
	used  usage
}

// leaveIdle starts a rig's daemon and leaves it alone; measureIdle looks at it
// again after other measurements.
func (b *bench) leaveIdle(ctx context.Context, r *rig) error {
	if err := r.startDaemon(ctx); err != nil {
		return err
	}
	if !sleep(ctx, 2*time.Second) { // what a start does is not idling
		return context.Cause(ctx)
	}
	used, err := r.usage()
	b.idle = &idling{r, time.Now(), used}
	return err
}

// measureIdle: what the daemon and its Redis do in a minute or more in which
// there is nothing to do.
func (b *bench) measureIdle(ctx context.Context) error {
	if b.idle == nil {
		return fmt.Errorf("it needs the measurement memory before it")
	}
	if !sleep(ctx, time.Until(b.idle.since.Add(20*b.sweep))) {
		return context.Cause(ctx)
	}
	ended, err := b.idle.rig.usage()
	if err != nil {
		return err
	}
	took, used := time.Since(b.idle.since), ended.since(b.idle.used)
	note := fmt.Sprintf("over %.0f s, %s users", took.Seconds(), number(float64(b.users)))
	b.report.atMost("daemon when idle", 1, "% CPU", note, used.daemon.Seconds()/took.Seconds()*100)
	b.report.atMost("Redis when idle", 1, "% CPU", note, used.redis.Seconds()/took.Seconds()*100)
	b.idle.rig.stop()
	return nil
}

// idleUsers returns what a researcher takes, and the rig without its daemon.
func (b *bench) idleUsers(ctx context.Context, name string, people population) (per float64, r *rig, err error) {
	if r, err = b.startRig(ctx, rigOptions{name: name, people: population{Orgs: 1}}); err != nil {
		return 0, nil, err
	}
	r.people = people
	before, err := r.redis.memory(ctx)
	if err != nil {
		return 0, nil, err
	}
	if _, err := r.importUsers(ctx, 0, strings.NewReader(people.csv(0)), false); err != nil {
		return 0, nil, err
	}
	// Registering them at ORCID's rate would take an hour: their records are
	// written as the daemon writes them when ORCID has answered.
	r.kill()
	if err := r.register(ctx); err != nil {
		return 0, nil, err
	}
	after, err := r.redis.memory(ctx)
	return (after - before) / float64(people.Users), r, err
}

// register gives every researcher of a rig without a daemon a living
// registration.
func (r *rig) register(ctx context.Context) error {
	box, err := secret.NewBox([]byte(strings.Repeat("k", 32)))
	if err != nil {
		return err
	}
	s, err := store.New(store.Options{
		URL: "redis://" + r.redis.addr + "/0", DataDir: filepath.Join(r.dir, "data"), Box: box,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer func() { _ = s.Close() }() // everything was written
	if err := s.Attach(ctx); err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	batches := make(chan []int)
	errs := make([]error, 64)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for batch := range batches {
				if errs[w] == nil {
					errs[w] = registerBatch(ctx, s, batch)
				}
			}
		})
	}
	all := make([]int, r.people.Users)
	for n := range all {
		all[n] = n
	}
	for batch := range slices.Chunk(all, 200) {
		batches <- batch
	}
	close(batches)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("write registrations: %w", err)
		}
	}
	return nil
}

func registerBatch(ctx context.Context, s *store.Store, batch []int) error {
	ids := make([]orcid.ID, len(batch))
	for i, n := range batch {
		ids[i] = person(n)
	}
	users, err := s.Users(ctx, ids)
	if err != nil {
		return err
	}
	for _, u := range users {
		if u == nil {
			return fmt.Errorf("a researcher is missing")
		}
		u.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 1, Base: 1, Changed: s.Now()}}
		if _, err := s.SaveUser(ctx, *u, time.Time{}); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// sizes say how much is measured.
type sizes struct {
	rounds int
	// users and orgs are the usual workload; many and manyOrgs the large one.
	users, orgs, many, manyOrgs int
	isolated                    int // organisations of the isolation run
	// burst is how long a run as fast as possible lasts, steady one at a rate.
	burst, steady time.Duration
	tasks         int // of the asynq baseline
	sweep         time.Duration
	slow          int // deliveries to the slow receiver
}

// fullSizes are those of the goals; quickSizes only show that all of it runs.
func fullSizes() sizes {
	return sizes{
		rounds: 3, users: 100_000, orgs: 100, many: 1_000_000, manyOrgs: 5000, isolated: 500,
		burst: 2 * time.Second, steady: 3 * time.Second, tasks: 9000, sweep: 3 * time.Second, slow: 5000,
	}
}

func quickSizes() sizes {
	return sizes{
		rounds: 1, users: 10_000, orgs: 20, many: 40_000, manyOrgs: 200, isolated: 100,
		burst: time.Second, steady: time.Second, tasks: 1800, sweep: 2 * time.Second, slow: 1000,
	}
}

// bench is one run of everything.
type bench struct {
	sizes
	out    io.Writer
	root   string // of the repository
	dir    string // for what the processes write
	binary string // the daemon
	asynq  string // the baseline's worker
	report *report
	undo   []func()

	sender, receiver, bare, poster, pipeliner *child
	receiverAddr, bareAddr                    string
	usual                                     *rig // the usual workload, kept for several measurements
	cursor                                    int  // the next researcher of usual
	idle                                      *idling
}

// later has f run when the bench ends; the last first.
func (b *bench) later(f func()) { b.undo = append(b.undo, f) }

func (b *bench) close() {
	for i := len(b.undo) - 1; i >= 0; i-- {
		b.undo[i]()
	}
}

// say tells whoever watches what is going on.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.out, "%s  "+format+"\n", append([]any{time.Since(b.report.Started).Round(time.Second)}, args...)...)
}

// repository finds the root of the repository from the working directory up.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		raw, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(raw), "module dispatchd\n") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("run the bench inside the repository")
		}
		dir = up
	}
}

// build builds the daemon as a release is built, and the baseline.
func (b *bench) build(ctx context.Context) error {
	b.binary, b.asynq = filepath.Join(b.dir, "dispatchd"), filepath.Join(b.dir, "asynq-worker")
	for _, c := range []struct{ dir, out, pkg string }{
		{b.root, b.binary, "./daemon"},
		{filepath.Join(b.root, "bench", "asynq"), b.asynq, "."},
	} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", c.out, c.pkg) //nolint:gosec // our own arguments
		cmd.Dir, cmd.Env = c.dir, append(os.Environ(), "CGO_ENABLED=0")
		if raw, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", c.pkg, err, raw)
		}
	}
	return nil
}

// startRoles starts the load generator, the receiver and the baselines.
func (b *bench) startRoles(ctx context.Context) error {
	for _, c := range []struct {
		role string
		to   **child
	}{{"sender", &b.sender}, {"receiver", &b.receiver}, {"server204", &b.bare}, {"poster", &b.poster}, {"pipeliner", &b.pipeliner}} {
		started, err := startChild(ctx, c.role)
		if err != nil {
			return err
		}
		b.later(started.stop)
		*c.to = started
	}
	if err := b.receiver.call(ctx, "Listen", struct{}{}, &b.receiverAddr); err != nil {
		return err
	}
	return b.bare.call(ctx, "Listen", struct{}{}, &b.bareAddr)
}

// measurement is one part of the bench.
type measurement struct {
	name string
	run  func(context.Context) error
}

func (b *bench) measurements() []measurement {
	return []measurement{
		{"intake", b.measureIntake},
		{"deliveries", b.measureDeliveries},
		{"latency", b.measureLatency},
		{"curve", b.measureCurve},
		{"slow", b.measureSlow},
		{"isolation", b.measureIsolation},
		{"sweep", b.measureSweep},
		{"memory", b.measureMemory},
		{"million", b.measureMillion},
		{"idle", b.measureIdle},
		{"growth", b.measureGrowth},
	}
}

// run makes the measurements whose names are in only, or all.
func (b *bench) run(ctx context.Context, only []string) error {
	if err := b.build(ctx); err != nil {
		return err
	}
	if err := b.startRoles(ctx); err != nil {
		return err
	}
	b.report.describe(ctx, b.root)
	for _, m := range b.measurements() {
		if len(only) > 0 && !contains(only, m.name) {
			continue
		}
		b.say("%s", m.name)
		began := time.Now()
		if err := m.run(ctx); err != nil {
			if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return context.Cause(ctx)
			}
			// One that cannot be measured must not hide the others.
			b.report.failed(m.name, err)
			b.say("%s could not be measured: %v", m.name, err)
		}
		b.report.Parts = append(b.report.Parts, part{m.name, time.Since(began).Seconds()})
		runtime.GC()
	}
	b.report.Took = time.Since(b.report.Started).Seconds()
	return nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// usualRig returns the rig with the usual workload, made when first asked for.
func (b *bench) usualRig(ctx context.Context) (*rig, error) {
	if b.usual != nil {
		return b.usual, b.prepare(ctx, b.usual, b.users)
	}
	r, err := b.startRig(ctx, rigOptions{name: "usual", people: population{Users: b.users, Orgs: b.orgs, Personal: true}})
	if err != nil {
		return nil, err
	}
	b.usual = r
	return r, b.prepare(ctx, r, b.users)
}

// prepare makes the sender's requests for a rig.
func (b *bench) prepare(ctx context.Context, r *rig, users int) error {
	keys, err := r.keys()
	if err != nil {
		return err
	}
	return b.sender.call(ctx, "Prepare", Prepare{Keys: keys, Host: r.callback, ClientID: clientID, Users: users}, &struct{}{})
}

// ping sends pings to a rig.
func (b *bench) ping(ctx context.Context, addr string, p Pings) (Pinged, error) {
	p.Addr = addr
	if p.Conns == 0 {
		p.Conns = 64
	}
	var out Pinged
	err := b.sender.call(ctx, "Run", p, &out)
	return out, err
}

// behave sets how the receivers of some organisations answer.
func (b *bench) behave(ctx context.Context, how map[int]Manner) error {
	return b.receiver.call(ctx, "Behave", how, &struct{}{})
}

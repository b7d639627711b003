package chaos

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// options are the flags of this suite.
type options struct {
	rounds  int           // faults of TestChaos; 0 is the short version
	seed    uint64        // of TestChaos; 0 draws one and prints it
	pending int           // slots that wait when TestStartWithPending starts the daemon
	outage  time.Duration // of TestOutage
	sweep   int           // users of TestSweep, killed 20 times; 0 is the short version
	race    bool          // build the daemon with the race detector
	restart int           // restarts of TestRestartUnderLoad
	only    string        // run only the faults whose name contains this
	keep    bool          // print the daemon's log also when nothing failed
}

var opts options

// claims reports whether this is a long version, which runs alone: only then
// seconds are counted.
func (o options) claims() bool { return o.rounds > 0 || o.pending > 100_000 || o.restart > 5 }

// built is the daemon's binary, made when the first test asks for it.
var built = sync.OnceValues(build)

func TestMain(m *testing.M) {
	flag.IntVar(&opts.rounds, "chaos.rounds", 0, "faults of TestChaos; 0: the short version")
	flag.Uint64Var(&opts.seed, "chaos.seed", 0, "seed of TestChaos; 0: a random one, printed")
	flag.IntVar(&opts.pending, "chaos.pending", 20_000, "slots that wait in TestStartWithPending (1000000 for the long version)")
	flag.DurationVar(&opts.outage, "chaos.outage", 4*time.Second, "how long Redis is away in TestOutage (60s for the long version)")
	flag.IntVar(&opts.sweep, "chaos.sweep", 0, "users of TestSweep, killed 20 times; 0: the short version, 120 and 3 times")
	flag.BoolVar(&opts.race, "chaos.race", false, "build the daemon with the race detector")
	flag.IntVar(&opts.restart, "chaos.restarts", 5, "restarts of TestRestartUnderLoad (50 for the long version)")
	flag.StringVar(&opts.only, "chaos.only", "", "only faults whose name contains this")
	flag.BoolVar(&opts.keep, "chaos.log", false, "print the daemon's log also when nothing failed")
	flag.Parse()
	goleak.VerifyTestMain(tidy{m})
}

// tidy removes the binary after the tests.
type tidy struct{ m *testing.M }

// Run implements goleak.TestingM.
func (t tidy) Run() int {
	code := t.m.Run()
	if _, err := os.Stat(buildDir()); err == nil {
		_ = os.RemoveAll(buildDir())
	}
	return code
}

// buildDir is this process's own.
func buildDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("dispatchd-chaos-%d", os.Getpid()))
}

// build makes the real daemon. Without -trimpath it shares the build cache with
// the tests, and it does not ask git for anything.
func build() (string, error) {
	if err := os.MkdirAll(buildDir(), 0o700); err != nil {
		return "", err
	}
	bin := filepath.Join(buildDir(), "dispatchd")
	args := []string{"build", "-buildvcs=false", "-o", bin}
	if opts.race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "dispatchd/daemon")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build the daemon: %w\n%s", err, out.Bytes())
	}
	return bin, nil
}

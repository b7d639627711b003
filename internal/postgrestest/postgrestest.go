// Package postgrestest runs a real PostgreSQL for tests, behind a unix socket in a
// directory of its own: the Hub's database is one.
package postgrestest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is loose: it starts in a second, on a loaded machine in many of them.
const patience = 3 * time.Minute

// Server is a PostgreSQL that runs until the test ends.
type Server struct {
	t    testing.TB
	home string
	// Bin is where psql is.
	Bin string
}

// Start starts a server. Where PostgreSQL is missing the test is skipped, with CI
// set it fails. The server refuses to be root's: then it is run as the user that
// its package makes.
func Start(t testing.TB) *Server {
	t.Helper()
	programs := map[string]string{}
	for _, name := range []string{"initdb", "postgres", "psql"} {
		path, err := find(name)
		if err != nil {
			missing(t, name+" is missing: make deps")
		}
		programs[name] = path
	}
	home, err := os.MkdirTemp("", "dispatchd-pg-") // short: the path of a socket is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) }) // a temporary directory
	as := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		id, err := credential()
		if err != nil {
			missing(t, "root may not run PostgreSQL: "+err.Error())
		}
		if err := os.Chown(home, int(id.Uid), int(id.Gid)); err != nil {
			t.Fatal(err)
		}
		as.Credential = id
	}
	data := filepath.Join(home, "data")
	initdb := exec.CommandContext(t.Context(), programs["initdb"], "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync") //nolint:gosec // what find found
	initdb.SysProcAttr, initdb.Dir = as, home
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	server := exec.Command(programs["postgres"], "-D", data, "-k", home, "-c", "listen_addresses=", "-c", "fsync=off") //nolint:gosec,noctx // what find found; the clean-up ends it
	server.SysProcAttr, server.Dir = as, home
	var log strings.Builder
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT) // fast shutdown
		_ = server.Wait()                         // how it ends says nothing
		if t.Failed() {
			t.Logf("PostgreSQL said:\n%s", log.String())
		}
	})
	s := &Server{t: t, home: home, Bin: filepath.Dir(programs["psql"])}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		out, err := s.psql(".", "postgres", "-c", "SELECT 1")
		if err == nil {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("PostgreSQL does not start: %v\n%s", err, out)
		}
	}
}

// URL is where a database is, for psql and libpq.
func (s *Server) URL(database string) string {
	return "postgresql:///" + database + "?host=" + s.home + "&user=postgres"
}

// Psql runs psql in a directory against a database; what it refuses fails the test.
func (s *Server) Psql(dir, database string, args ...string) {
	s.t.Helper()
	if out, err := s.psql(dir, database, args...); err != nil {
		s.t.Fatalf("psql %q: %v\n%s", args, err, out)
	}
}

func (s *Server) psql(dir, database string, args ...string) ([]byte, error) {
	args = append([]string{"-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", s.URL(database)}, args...)
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(s.Bin, "psql"), args...) //nolint:gosec // of a test
	cmd.Dir = dir
	return cmd.CombinedOutput()
}

// missing skips the test, and fails it in CI.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "" {
		t.Skip(what)
	}
	t.Fatal(what)
}

// find looks for a program, also where Debian keeps those of a server.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	there, globErr := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if globErr != nil || len(there) == 0 {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return there[len(there)-1], nil
}

// credential is the user that the package of PostgreSQL makes.
func credential() (*syscall.Credential, error) {
	owner, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(owner.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(owner.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

package hub

import (
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

// The tables of Hubs of different ages, as far as the script looks: of 2019, with
// is_deleted and webhook_append_orcid since 2020, and with the key of the webhook.
const (
	hub2019 = `
CREATE TABLE organisation (id serial PRIMARY KEY, name varchar(100), tuakiri_name varchar(80), orcid_client_id varchar(80), orcid_secret varchar(80),
  tech_contact_id integer, webhook_enabled boolean, webhook_url varchar(100), email_notifications_enabled boolean, notification_email varchar(100));
CREATE TABLE "user" (id serial PRIMARY KEY, name varchar(64), first_name varchar(255), last_name varchar(255), email varchar(120), eppn varchar(120),
  orcid char(19), webhook_enabled boolean, organisation_id integer);
CREATE TABLE user_org (id serial PRIMARY KEY, user_id integer NOT NULL, org_id integer NOT NULL);
CREATE TABLE client (id serial PRIMARY KEY, org_id integer NOT NULL, client_id varchar(100), client_secret varchar(55));
INSERT INTO organisation (name, orcid_client_id, orcid_secret, tech_contact_id, webhook_enabled, webhook_url) VALUES
  ('Uni A', 'APP-A', 'secret-a', 1, true, 'https://uni-a.example/orcid'), ('Uni B', 'APP-B', 'secret-b', NULL, NULL, NULL);
INSERT INTO "user" (name, email, orcid, webhook_enabled, organisation_id) VALUES
  ('Josiah Carberry', 'jc@uni-a.example', '0000-0002-1825-0097', true, 1), ('Laura', 'l@uni-b.example', '0000-0001-5109-3700', NULL, 2);
INSERT INTO user_org (user_id, org_id) VALUES (1, 1), (2, 1), (2, 2);
INSERT INTO client (org_id, client_id, client_secret) VALUES (1, 'hub-a', 'hub-secret-a'), (2, 'hub-b', 'hub-secret-b');
`
	hub2020 = hub2019 + `
ALTER TABLE organisation ADD is_deleted boolean, ADD webhook_append_orcid boolean;
ALTER TABLE "user" ADD is_deleted boolean;
ALTER TABLE user_org ADD is_deleted boolean;
ALTER TABLE client ADD is_deleted boolean;
UPDATE organisation SET is_deleted = true WHERE id = 2;
UPDATE organisation SET webhook_append_orcid = true, is_deleted = false WHERE id = 1;
UPDATE user_org SET is_deleted = true WHERE user_id = 2 AND org_id = 1;
`
	hubNow = hub2020 + `
ALTER TABLE organisation ADD webhook_apikey varchar(20);
UPDATE organisation SET webhook_apikey = 'key' WHERE id = 1;
UPDATE "user" SET is_deleted = true WHERE id = 2;
`
)

// TestTheScriptRunsOnHubsOfAnyAge on a real PostgreSQL. It is not among what tests
// install; without one this is skipped.
func TestTheScriptRunsOnHubsOfAnyAge(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"initdb", "postgres", "psql"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is missing", program)
		}
	}
	psql := startPostgres(t)
	script := filepath.Join(t.TempDir(), "export.sql")
	write(t, script, SQL)
	for name, c := range map[string]struct {
		tables             string
		orgs, users, inOne int
		appends            bool
		key                string
	}{
		"hub2019": {hub2019, 2, 2, 2, false, ""},
		"hub2020": {hub2020, 1, 1, 1, true, ""},
		"hubnow":  {hubNow, 1, 1, 1, true, "key"},
	} {
		psql(".", "postgres", "-c", "CREATE DATABASE "+name)
		tables := filepath.Join(t.TempDir(), name+".sql")
		write(t, tables, c.tables)
		psql(".", name, "-f", tables)
		dir := t.TempDir()
		psql(dir, name, "-f", script)
		e, err := ReadExport(dir, nil)
		if err != nil || e.Bad > 0 {
			t.Fatalf("%s: %v, %q", name, err, e.Notes)
		}
		users := 0
		for _, o := range e.Organisations {
			users += len(o.Users)
		}
		if c.orgs == 2 {
			users-- // one is a user of both
		}
		a := e.Organisations[0]
		if len(e.Organisations) != c.orgs || users != c.users || len(a.Users) != c.inOne || a.AppendORCID != c.appends || a.APIKey.Reveal() != c.key ||
			!a.WebhookEnabled || a.Contact != "jc@uni-a.example" || a.APIClientID != "hub-a" {
			t.Errorf("%s: %d organisations, %d users, the first is %+v", name, len(e.Organisations), users, a)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startPostgres runs a server behind a unix socket until the test ends, and returns
// what runs psql in a directory against a database. It refuses to be root's: then
// it is run as the user that its package makes.
func startPostgres(t *testing.T) func(dir, database string, args ...string) {
	t.Helper()
	home, err := os.MkdirTemp("", "hub-pg") // short: the path of a socket is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	as := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		owner, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("root may not run PostgreSQL, and there is no user postgres")
		}
		uid, err1 := strconv.ParseUint(owner.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(owner.Gid, 10, 32)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if err := os.Chown(home, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(home, "data")
	initdb := exec.CommandContext(t.Context(), "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	initdb.SysProcAttr, initdb.Dir = as, home
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	server := exec.Command("postgres", "-D", data, "-k", home, "-c", "listen_addresses=", "-c", "fsync=off")
	server.SysProcAttr, server.Dir = as, home
	var log strings.Builder
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT) // fast shutdown
		_ = server.Wait()                         // how it ends says nothing
	})
	run := func(dir, database string, args ...string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), "psql", append([]string{"-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", home, "-U", "postgres", "-d", database}, args...)...)
		cmd.Dir = dir
		return cmd.CombinedOutput()
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		out, err := run(".", "postgres", "-c", "SELECT 1")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("PostgreSQL does not start: %v\n%s", err, out)
		}
	}
	return func(dir, database string, args ...string) {
		t.Helper()
		if out, err := run(dir, database, args...); err != nil {
			t.Fatalf("psql %q: %v\n%s", args, err, out)
		}
	}
}

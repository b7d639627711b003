package hub

import (
	"os"
	"path/filepath"
	"testing"

	"dispatchd/internal/postgrestest"
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

// TestTheScriptRunsOnHubsOfAnyAge on a real PostgreSQL.
func TestTheScriptRunsOnHubsOfAnyAge(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
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
		server.Psql(".", "postgres", "-c", "CREATE DATABASE "+name)
		tables := filepath.Join(t.TempDir(), name+".sql")
		write(t, tables, c.tables)
		server.Psql(".", name, "-f", tables)
		dir := t.TempDir()
		server.Psql(dir, name, "-f", script)
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

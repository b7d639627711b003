-- A small Hub, as far as docs/migrate-from-hub.md looks at it. Variables: client,
-- secret, receiver, one, two (iDs).
CREATE TABLE organisation (id serial PRIMARY KEY, name varchar(100), tuakiri_name varchar(80), orcid_client_id varchar(80), orcid_secret varchar(80),
  tech_contact_id integer, webhook_enabled boolean, webhook_url varchar(100), webhook_append_orcid boolean, webhook_apikey varchar(20),
  email_notifications_enabled boolean, notification_email varchar(100), is_deleted boolean);
CREATE TABLE "user" (id serial PRIMARY KEY, name varchar(64), first_name varchar(255), last_name varchar(255), email varchar(120), eppn varchar(120),
  orcid char(19), webhook_enabled boolean, organisation_id integer, orcid_updated_at timestamp, is_deleted boolean);
CREATE TABLE user_org (id serial PRIMARY KEY, user_id integer NOT NULL, org_id integer NOT NULL, is_deleted boolean);
CREATE TABLE client (id serial PRIMARY KEY, org_id integer NOT NULL, client_id varchar(100), client_secret varchar(55), is_deleted boolean);
INSERT INTO organisation (name, orcid_client_id, orcid_secret, tech_contact_id, webhook_enabled, webhook_url, webhook_append_orcid, webhook_apikey) VALUES
  ('University A', :'client', :'secret', 1, true, :'receiver' || '/orcid', true, 'kong-key'),
  ('Institute B', :'client', :'secret', 2, true, :'receiver' || '/b', NULL, NULL);
INSERT INTO "user" (id, name, email, eppn, orcid, webhook_enabled, organisation_id, orcid_updated_at) VALUES
  (1, 'Contact A', 'it@uni-a.example', NULL, NULL, NULL, 1, NULL),
  (2, 'Contact B', 'it@b.example', NULL, NULL, NULL, 2, NULL),
  (101, 'Ākenehi One', 'one@uni-a.example', 'one@uni-a.example', :'one', true, 1, now() - interval '1 day'),
  (102, 'Two', 'two@uni-a.example', NULL, :'two', true, 1, now() - interval '30 days'),
  (103, 'Test', 'test@uni-a.example', NULL, '0000-0000-0000-00X3', true, 1, NULL);
INSERT INTO user_org (user_id, org_id) VALUES (1, 1), (2, 2), (101, 1), (102, 1), (102, 2), (103, 1);
INSERT INTO client (org_id, client_id, client_secret) VALUES (1, 'uni-a-at-the-hub', 'a-secret-of-the-hub-40-characters-long-xx');

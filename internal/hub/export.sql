-- What dispatchd needs of an NZ ORCID Hub, as CSV files in the current directory:
--
--     dispatchd hub sql > export.sql
--     mkdir -m 700 hub-export && cd hub-export
--     psql -X -v ON_ERROR_STOP=1 -f ../export.sql "$HUB_DATABASE"
--
-- It only reads. The files hold secrets: keep them where others cannot read, and
-- remove them when the import is done.

BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;

\copy (SELECT o.id, coalesce(o.name, o.tuakiri_name) AS name, o.orcid_client_id, o.orcid_secret, t.email AS tech_contact_email, coalesce(o.webhook_enabled, false) AS webhook_enabled, o.webhook_url, coalesce(o.webhook_append_orcid, false) AS webhook_append_orcid, o.webhook_apikey, coalesce(o.email_notifications_enabled, false) AS email_notifications_enabled, o.notification_email FROM organisation AS o LEFT JOIN "user" AS t ON t.id = o.tech_contact_id ORDER BY o.id) TO 'organisations.csv' WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')

\copy (SELECT u.id, trim(u.orcid) AS orcid, u.email, u.eppn, coalesce(nullif(trim(u.name), ''), nullif(trim(concat_ws(' ', u.first_name, u.last_name)), '')) AS name, u.organisation_id, coalesce(u.webhook_enabled, false) AS webhook_enabled FROM "user" AS u WHERE trim(coalesce(u.orcid, '')) <> '' ORDER BY u.id) TO 'users.csv' WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')

\copy (SELECT uo.user_id, uo.org_id AS organisation_id FROM user_org AS uo JOIN "user" AS u ON u.id = uo.user_id WHERE trim(coalesce(u.orcid, '')) <> '' ORDER BY uo.org_id, uo.user_id) TO 'memberships.csv' WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')

\copy (SELECT c.org_id AS organisation_id, c.client_id, c.client_secret FROM client AS c ORDER BY c.org_id, c.id) TO 'clients.csv' WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')

COMMIT;

-- What dispatchd needs of an NZ ORCID Hub, as CSV files in the current directory:
--
--     dispatchd hub sql > export.sql
--     mkdir -m 700 hub-export && cd hub-export
--     psql -X -v ON_ERROR_STOP=1 -f ../export.sql "$HUB_DATABASE"
--
-- It only reads. The files hold secrets: keep them where others cannot read, and
-- remove them when the import is done.
--
-- Columns that not every Hub has (is_deleted, webhook_append_orcid, webhook_apikey)
-- are read through to_jsonb, which has none where the table has none.

BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;

\copy (SELECT o.id, coalesce(o.name, o.tuakiri_name) AS name, o.orcid_client_id, o.orcid_secret, t.email AS tech_contact_email, coalesce(o.webhook_enabled, false) AS webhook_enabled, o.webhook_url, coalesce((to_jsonb(o)->>'webhook_append_orcid')::boolean, false) AS webhook_append_orcid, to_jsonb(o)->>'webhook_apikey' AS webhook_apikey, coalesce(o.email_notifications_enabled, false) AS email_notifications_enabled, o.notification_email FROM organisation AS o LEFT JOIN "user" AS t ON t.id = o.tech_contact_id WHERE NOT coalesce((to_jsonb(o)->>'is_deleted')::boolean, false) ORDER BY o.id) TO 'organisations.csv' WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')

\copy (SELECT u.id, trim(u.orcid) AS orcid, u.email, u.eppn, coalesce(nullif(trim(u.name), ''), nullif(trim(concat_ws(' ', u.first_name, u.last_name)), '')) AS name, u.organisation_id, coalesce(u.webhook_enabled, false) AS webhook_enabled FROM "user" AS u WHERE trim(coalesce(u.orcid, '')) <> '' AND NOT coalesce((to_jsonb(u)->>'is_deleted')::boolean, false) ORDER BY u.id) TO 'users.csv' WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')

\copy (SELECT uo.user_id, uo.org_id AS organisation_id FROM user_org AS uo JOIN "user" AS u ON u.id = uo.user_id JOIN organisation AS o ON o.id = uo.org_id WHERE trim(coalesce(u.orcid, '')) <> '' AND NOT (coalesce((to_jsonb(uo)->>'is_deleted')::boolean, false) OR coalesce((to_jsonb(u)->>'is_deleted')::boolean, false) OR coalesce((to_jsonb(o)->>'is_deleted')::boolean, false)) ORDER BY uo.org_id, uo.user_id) TO 'memberships.csv' WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')

\copy (SELECT c.org_id AS organisation_id, c.client_id, c.client_secret FROM client AS c JOIN organisation AS o ON o.id = c.org_id WHERE NOT (coalesce((to_jsonb(c)->>'is_deleted')::boolean, false) OR coalesce((to_jsonb(o)->>'is_deleted')::boolean, false)) ORDER BY c.org_id, c.id) TO 'clients.csv' WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')

COMMIT;

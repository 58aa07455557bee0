-- writes: orgs, projects, api_keys, audit_log
-- reads: usage_months

-- name: insert_org
INSERT INTO orgs (org_id, name, plan) VALUES ($1, $2, $3);

-- name: insert_project
INSERT INTO projects (org_id, id, name) VALUES ($1, $2, $3);

-- name: find_org
SELECT org_id, name, plan, created_at FROM orgs WHERE org_id = $1;

-- name: find_project
SELECT id, name, created_at FROM projects WHERE org_id = $1 AND id = $2;

-- name: first_project
-- Ids are UUIDv7, so the smallest is the oldest.
SELECT id FROM projects WHERE org_id = $1 ORDER BY id LIMIT 1;

-- name: insert_key
INSERT INTO api_keys (org_id, id, prefix, hash, name, kind, environment, project_id, scopes, role, rate_per_second, rate_burst)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
RETURNING created_at;

-- name: count_keys
-- The org's row is locked first, so that two mints at once cannot both take the last place.
SELECT count(*) FROM api_keys
 WHERE org_id = (SELECT org_id FROM orgs WHERE org_id = $1 FOR UPDATE) AND revoked_at IS NULL;

-- name: find_key
-- The plan comes along: whoever proves a key asks next what its org may do.
SELECT k.*, o.plan FROM api_keys k JOIN orgs o USING (org_id) WHERE k.prefix = $1 AND k.revoked_at IS NULL;

-- name: list_keys
SELECT k.*, o.plan FROM api_keys k JOIN orgs o USING (org_id)
 WHERE k.org_id = $1 AND k.revoked_at IS NULL ORDER BY k.id LIMIT $2;

-- name: revoke_key
UPDATE api_keys SET revoked_at = now() WHERE org_id = $1 AND id = $2 AND revoked_at IS NULL RETURNING prefix;

-- name: touch_key
-- At most once a minute, whoever asks: the condition holds across processes.
UPDATE api_keys SET last_used_at = now()
 WHERE org_id = $1 AND id = $2 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute');

-- name: insert_audit
INSERT INTO audit_log (org_id, id, actor, action, resource, details) VALUES ($1, $2, $3, $4, $5, $6);

-- name: list_audit
SELECT id, at, actor, action, resource, details, count(*) OVER () AS total
  FROM audit_log
 WHERE org_id = $1 AND ($2::text IS NULL OR resource = $2) AND ($3::text IS NULL OR actor = $3)
 ORDER BY id DESC OFFSET $4 LIMIT $5;

-- name: count_audit
-- For a page behind the end, which has no row to carry the total.
SELECT count(*) FROM audit_log
 WHERE org_id = $1 AND ($2::text IS NULL OR resource = $2) AND ($3::text IS NULL OR actor = $3);

-- name: events_used
-- Written by the storer (C99): stored events alone, duplicates and bad rows not.
SELECT coalesce((SELECT events FROM usage_months WHERE org_id = $1 AND month = $2), 0);

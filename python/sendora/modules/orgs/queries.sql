-- writes: orgs, projects, api_keys, audit_log, audit_keys
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
-- Number, time and hash are the database's own (migration 0016).
INSERT INTO audit_log (org_id, id, actor, action, resource, details, payload_size) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: list_audit
SELECT id, seq, at, actor, action, resource, details, payload_size, hash
  FROM audit_log
 WHERE org_id = $1 AND ($2::text IS NULL OR resource = $2) AND ($3::text IS NULL OR actor = $3)
 ORDER BY seq DESC OFFSET $4 LIMIT $5;

-- name: count_audit
SELECT count(*) FROM audit_log
 WHERE org_id = $1 AND ($2::text IS NULL OR resource = $2) AND ($3::text IS NULL OR actor = $3);

-- name: audit_length
-- Of the whole log without counting it: the chain has no gaps.
SELECT coalesce((SELECT seq FROM audit_heads WHERE org_id = $1), 0);

-- name: audit_heads
-- One snapshot of both ends: an entry that is written meanwhile is in neither.
SELECT o.org_id, coalesce(h.seq, 0) AS seq, h.hash, coalesce(newest.seq, 0) AS newest
  FROM orgs o
  LEFT JOIN audit_heads h USING (org_id)
  LEFT JOIN LATERAL (SELECT max(a.seq) AS seq FROM audit_log a WHERE a.org_id = o.org_id) newest ON true
 WHERE o.org_id > $1 ORDER BY o.org_id LIMIT $2;

-- name: audit_chain
SELECT seq, id, at, actor, action, resource, payload_size, details::text AS details, hash
  FROM audit_log WHERE org_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4;

-- name: find_audit_key
SELECT sealed FROM audit_keys WHERE org_id = $1;

-- name: insert_audit_key
INSERT INTO audit_keys (org_id, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: events_used
-- Written by the storer (C99): stored events alone, duplicates and bad rows not.
SELECT coalesce((SELECT events FROM usage_months WHERE org_id = $1 AND month = $2), 0);

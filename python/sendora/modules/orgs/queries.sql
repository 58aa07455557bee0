-- writes: orgs, org_settings, projects, api_keys, key_grants, ai_usage_days, audit_log, audit_keys
-- reads: usage_months

-- name: insert_org
INSERT INTO orgs (org_id, name, plan) VALUES ($1, $2, $3);

-- name: insert_project
INSERT INTO projects (org_id, id, name) VALUES ($1, $2, $3);

-- name: find_org
SELECT org_id, name, plan, created_at FROM orgs WHERE org_id = $1;

-- name: find_project
SELECT id, name, created_at FROM projects WHERE org_id = $1 AND id = $2;

-- name: some_projects
-- Two are as good as many: the question is whether it is one.
SELECT id FROM projects WHERE org_id = $1 LIMIT 2;

-- name: insert_key
INSERT INTO api_keys (org_id, id, prefix, hash, name, kind, environment, project_id, scopes, role, rate_per_second, rate_burst)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
RETURNING created_at;

-- name: lock_orgs
-- Before their keys are counted, so that two mints at once cannot both take the last place; in one order, so that two
-- that touch the same orgs take turns. Who only refers to an org does not wait.
SELECT org_id, plan FROM orgs WHERE org_id = ANY($1) ORDER BY org_id FOR NO KEY UPDATE;

-- name: count_keys
-- Its own, and those that it has let in.
SELECT (SELECT count(*) FROM api_keys WHERE org_id = $1 AND revoked_at IS NULL)
     + (SELECT count(*) FROM key_grants g JOIN api_keys k ON k.org_id = g.home_org_id AND k.id = g.key_id
         WHERE g.org_id = $1 AND k.revoked_at IS NULL);

-- name: find_key
-- The plans come along: whoever proves a key asks next what its orgs may do.
SELECT k.*, o.plan, g.orgs, g.projects, g.plans
  FROM api_keys k
  JOIN orgs o USING (org_id)
 CROSS JOIN LATERAL (
       SELECT array_agg(g.org_id ORDER BY g.org_id) AS orgs, array_agg(g.project_id ORDER BY g.org_id) AS projects,
              array_agg(there.plan ORDER BY g.org_id) AS plans
         FROM key_grants g JOIN orgs there ON there.org_id = g.org_id
        WHERE g.home_org_id = k.org_id AND g.key_id = k.id) g
 WHERE k.prefix = $1 AND k.revoked_at IS NULL;

-- name: list_keys
SELECT k.*, o.plan, g.orgs, g.projects, g.plans
  FROM api_keys k
  JOIN orgs o USING (org_id)
 CROSS JOIN LATERAL (
       SELECT array_agg(g.org_id ORDER BY g.org_id) AS orgs, array_agg(g.project_id ORDER BY g.org_id) AS projects,
              array_agg(there.plan ORDER BY g.org_id) AS plans
         FROM key_grants g JOIN orgs there ON there.org_id = g.org_id
        WHERE g.home_org_id = k.org_id AND g.key_id = k.id) g
 WHERE k.org_id = $1 AND k.revoked_at IS NULL ORDER BY k.id LIMIT $2;

-- name: list_guests
-- Other orgs' keys that act in this one, with this one alone.
SELECT k.*, home.plan, ARRAY[g.org_id] AS orgs, ARRAY[g.project_id] AS projects, ARRAY[o.plan] AS plans
  FROM key_grants g
  JOIN orgs o USING (org_id)
  JOIN api_keys k ON k.org_id = g.home_org_id AND k.id = g.key_id
  JOIN orgs home ON home.org_id = g.home_org_id
 WHERE g.org_id = $1 AND k.revoked_at IS NULL ORDER BY k.id LIMIT $2;

-- name: insert_grant
INSERT INTO key_grants (org_id, key_id, home_org_id, project_id) VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, key_id) DO UPDATE SET project_id = excluded.project_id;

-- name: delete_grant
DELETE FROM key_grants g USING api_keys k
 WHERE g.org_id = $1 AND g.key_id = $2 AND k.org_id = g.home_org_id AND k.id = g.key_id AND k.revoked_at IS NULL
RETURNING g.home_org_id, k.prefix;

-- name: delete_grants
DELETE FROM key_grants WHERE home_org_id = $1 AND key_id = $2 RETURNING org_id;

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

-- name: find_settings
SELECT coalesce((SELECT ai_lifecycle_classifier_enabled FROM org_settings WHERE org_id = $1), false);

-- name: classifier_orgs
SELECT org_id FROM org_settings WHERE ai_lifecycle_classifier_enabled ORDER BY org_id;

-- name: set_classifier
INSERT INTO org_settings (org_id, ai_lifecycle_classifier_enabled) VALUES ($1, $2)
ON CONFLICT (org_id) DO UPDATE SET ai_lifecycle_classifier_enabled = excluded.ai_lifecycle_classifier_enabled;

-- name: find_ai_key
SELECT ai_key FROM org_settings WHERE org_id = $1;

-- name: set_ai_key
INSERT INTO org_settings (org_id, ai_key) VALUES ($1, $2)
ON CONFLICT (org_id) DO UPDATE SET ai_key = excluded.ai_key;

-- name: ai_tokens_used
SELECT coalesce((SELECT tokens FROM ai_usage_days WHERE org_id = $1 AND day = $2), 0);

-- name: count_ai_tokens
INSERT INTO ai_usage_days AS used (org_id, day, tokens) VALUES ($1, $2, $3)
ON CONFLICT (org_id, day) DO UPDATE SET tokens = used.tokens + excluded.tokens
RETURNING tokens;

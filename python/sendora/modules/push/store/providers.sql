-- writes: push_providers, push_grants

-- name: lock
-- Until the transaction ends: whether a bundle id is another app's is looked up before the row is written.
SELECT pg_advisory_xact_lock(hashtextextended('push_providers.' || $1::uuid || '.' || $2::text, 0));

-- name: put
INSERT INTO push_providers (org_id, project_id, provider, app, id, sealed, shown)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (org_id, project_id, provider, app) DO UPDATE
SET id = excluded.id, sealed = excluded.sealed, shown = excluded.shown, configured_at = now();

-- name: put_once
-- C42: of several first calls at the same time exactly one makes the key pair.
INSERT INTO push_providers (org_id, project_id, provider, id, sealed, shown)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (org_id, project_id, provider, app) DO NOTHING;

-- name: of_provider
-- The project's own comes first.
SELECT app, id, sealed, shown FROM push_providers
 WHERE org_id = $1 AND project_id = $2 AND provider = $3 ORDER BY app;

-- name: exists
SELECT EXISTS (SELECT FROM push_providers WHERE org_id = $1 AND project_id = $2 AND provider = $3);

-- name: shown
SELECT provider, app, shown, configured_at FROM push_providers
 WHERE org_id = $1 AND (project_id = $2 OR (project_id = $3 AND provider = 'vapid')) ORDER BY app;

-- name: remove
DELETE FROM push_providers WHERE org_id = $1 AND project_id = $2 AND provider = $3 AND app = $4 RETURNING id;

-- name: remove_grant
DELETE FROM push_grants WHERE org_id = $1 AND provider_id = $2;

-- name: page_of_all
-- For the operator: every credential of the installation, in the order of its key.
SELECT org_id, project_id, provider, app, id, sealed FROM push_providers
 WHERE (org_id, project_id, provider, app) > ($1, $2, $3, $4) ORDER BY org_id, project_id, provider, app LIMIT $5;

-- name: has_any
SELECT EXISTS (SELECT FROM push_providers WHERE org_id = $1 AND project_id = $2 AND provider IN ('apns', 'fcm'));

-- name: make_grant
-- So that there is a row to lock.
INSERT INTO push_grants (org_id, provider_id) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: find_grant
-- Without the lock: what is committed and young is good, whoever makes the next one meanwhile.
SELECT sealed, extract(epoch FROM clock_timestamp() - minted_at)::double precision AS age_s,
       extract(epoch FROM expires_at - clock_timestamp())::double precision AS left_s,
       extract(epoch FROM clock_timestamp())::double precision AS now_s
  FROM push_grants WHERE org_id = $1 AND provider_id = $2;

-- name: lock_grant
-- Ages by PostgreSQL's clock: whose own clock is wrong still sees the token as old as it is (F-V8). Not now(), which is the
-- instant before we waited for the lock.
SELECT sealed, extract(epoch FROM clock_timestamp() - minted_at)::double precision AS age_s,
       extract(epoch FROM expires_at - clock_timestamp())::double precision AS left_s,
       extract(epoch FROM clock_timestamp())::double precision AS now_s
  FROM push_grants WHERE org_id = $1 AND provider_id = $2 FOR UPDATE;

-- name: store_grant
UPDATE push_grants SET sealed = $3, minted_at = clock_timestamp(),
                       expires_at = clock_timestamp() + make_interval(secs => $4::double precision)
 WHERE org_id = $1 AND provider_id = $2;

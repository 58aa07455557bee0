-- writes: push_tokens
-- reads: profiles

-- name: upsert
-- A batch of registrations, each (org, token) once. Known rows are locked in the order of their key, so that two batches
-- never wait for each other in a circle. What a registration does not say stays as it was. isActive is preserved (B083)
-- unless the device changes hands or asks for it (C36); a row that only a raw send has made was never registered, and one
-- that was replaced is the device's choice again, so these ($17) have nothing to preserve. A row that somebody else inserts
-- at the same moment comes back in neither part: the caller asks again.
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                         $9::smallint[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::boolean[],
                         $16::text[])
        AS g (org, id, project, token, platform, p256dh, auth, person, shard, locale, zone, version, environment, bundle,
              reactivate, device)
), known AS (
    SELECT t.org_id, t.id, t.token, t.retired_at, t.retired_reason, t.quarantined_at, g.project, g.platform, g.p256dh, g.auth,
           CASE WHEN t.project_id = g.project THEN coalesce(g.person, t.user_id) ELSE g.person END AS person,
           -- Who has taken over the former owner is the same person (C69): what is under way for them still reaches them.
           t.project_id = g.project AND (
               coalesce(g.person, t.user_id) IS NOT DISTINCT FROM t.user_id
               OR EXISTS (SELECT FROM profiles p WHERE p.org_id = g.org AND p.project_id = g.project
                             AND p.external_id = t.user_id AND p.merged_into = g.person)) AS same_owner,
           CASE WHEN t.project_id = g.project AND g.person IS NULL THEN t.shard ELSE g.shard END AS shard,
           coalesce(g.locale, t.locale) AS locale, coalesce(g.zone, t.timezone) AS zone,
           coalesce(g.version, t.app_version) AS version, coalesce(g.environment, t.environment) AS environment,
           coalesce(g.bundle, t.bundle_id) AS bundle, coalesce(g.device, t.device_id) AS device,
           t.is_active OR g.reactivate OR coalesce(t.retired_reason = ANY($17::text[]), false)
               OR (g.person IS NOT NULL AND g.person IS DISTINCT FROM t.user_id) AS active
      FROM given g JOIN push_tokens t ON t.org_id = g.org AND t.token = g.token
     ORDER BY t.org_id, t.token FOR UPDATE OF t
), updated AS (
    UPDATE push_tokens t SET
        project_id = k.project,
        platform = k.platform,
        subscription = CASE WHEN k.p256dh IS NOT NULL THEN jsonb_build_object('p256dh', k.p256dh, 'auth', k.auth) END,
        user_id = k.person,
        owner_since = CASE WHEN k.same_owner THEN t.owner_since ELSE now() END,
        shard = k.shard, locale = k.locale, timezone = k.zone, app_version = k.version, environment = k.environment,
        bundle_id = k.bundle, device_id = k.device, is_active = k.active, registered_at = now(),
        retired_at = CASE WHEN NOT k.active THEN k.retired_at END,
        retired_reason = CASE WHEN NOT k.active THEN k.retired_reason END,
        -- Registered anew, it may be tried anew.
        quarantined_at = CASE WHEN NOT k.active THEN k.quarantined_at END
      FROM known k WHERE t.org_id = k.org_id AND t.id = k.id
    RETURNING t.*
), inserted AS (
    INSERT INTO push_tokens (org_id, id, project_id, token, platform, subscription, user_id, owner_since, shard, locale,
                             timezone, app_version, environment, bundle_id, device_id, is_active, registered_at)
    SELECT g.org, g.id, g.project, g.token, g.platform,
           CASE WHEN g.p256dh IS NOT NULL THEN jsonb_build_object('p256dh', g.p256dh, 'auth', g.auth) END,
           g.person, now(), g.shard, g.locale, g.zone, g.version, coalesce(g.environment, 'production'), g.bundle,
           g.device, true, now()
      FROM given g
     WHERE NOT EXISTS (SELECT FROM known k WHERE k.org_id = g.org AND k.token = g.token)
     ORDER BY g.org, g.token
    ON CONFLICT (org_id, token) DO NOTHING
    RETURNING *
)
SELECT org_id, token, id, user_id, platform, is_active, locale, timezone, app_version, environment, bundle_id, device_id,
       registered_at
  FROM updated
UNION ALL
SELECT org_id, token, id, user_id, platform, is_active, locale, timezone, app_version, environment, bundle_id, device_id,
       registered_at
  FROM inserted;

-- name: supersede
-- Of a device only the newest registration stays: for each of these devices ($1..$4), whoever has an active newer sibling of
-- the same app is retired. Asked after the registrations are committed, so of two processes the later one sees both; locked
-- in the order in which registrations lock.
WITH older AS (
    SELECT t.org_id, t.id
      FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) AS g (org, project, device, platform)
     CROSS JOIN LATERAL (
         SELECT * FROM push_tokens t
          WHERE t.org_id = g.org AND t.project_id = g.project AND t.device_id = g.device AND t.is_active
         OFFSET 0) AS t
     WHERE t.platform = g.platform AND EXISTS (
         SELECT FROM push_tokens n
          WHERE n.org_id = t.org_id AND n.project_id = t.project_id AND n.device_id = t.device_id
            AND n.platform = t.platform AND n.bundle_id IS NOT DISTINCT FROM t.bundle_id AND n.is_active
            AND (n.registered_at, n.id) > (t.registered_at, t.id))
), locked AS (
    SELECT t.org_id, t.id FROM older o JOIN push_tokens t ON t.org_id = o.org_id AND t.id = o.id
     ORDER BY t.org_id, t.token FOR UPDATE OF t
)
UPDATE push_tokens t SET is_active = false, retired_at = now(), retired_reason = $5, quarantined_at = NULL
  FROM locked l WHERE t.org_id = l.org_id AND t.id = l.id AND t.is_active;

-- name: deactivate
-- Out of the quarantine as well: nobody may restore a device whose owner has signed out.
UPDATE push_tokens SET is_active = false, quarantined_at = NULL, retired_at = coalesce(retired_at, now()),
                       retired_reason = CASE WHEN retired_reason = $5 THEN $5 ELSE $4 END
 WHERE org_id = $1 AND project_id = $2 AND id = $3
RETURNING id;

-- name: find
SELECT org_id, token, id, user_id, platform, is_active, locale, timezone, app_version, environment, bundle_id, device_id,
       registered_at
  FROM push_tokens WHERE org_id = $1 AND project_id = $2 AND id = $3 AND retired_reason IS DISTINCT FROM $4;

-- name: listed
SELECT org_id, token, id, user_id, platform, is_active, locale, timezone, app_version, environment, bundle_id, device_id,
       registered_at,
       count(*) OVER () AS total
  FROM push_tokens
 WHERE org_id = $1 AND project_id = $2 AND ($3::text[] IS NULL OR user_id = ANY($3)) AND ($4::boolean IS NULL OR is_active = $4)
   AND retired_reason IS DISTINCT FROM $7
 ORDER BY id DESC OFFSET $5 LIMIT $6;

-- name: counted
-- For a page behind the end, which has no row to carry the total.
SELECT count(*) FROM push_tokens
 WHERE org_id = $1 AND project_id = $2 AND ($3::text[] IS NULL OR user_id = ANY($3)) AND ($4::boolean IS NULL OR is_active = $4)
   AND retired_reason IS DISTINCT FROM $5;

-- name: has_web
-- C43: Web Push needs no credential of the customer's.
SELECT EXISTS (SELECT FROM push_tokens WHERE org_id = $1 AND project_id = $2 AND platform = 'web' AND is_active);

-- name: collect
-- B088: thirty days of grace, a bounded bite at a time.
DELETE FROM push_tokens WHERE (org_id, id) IN (
    SELECT org_id, id FROM push_tokens
     WHERE NOT is_active AND retired_at < now() - make_interval(days => $1) LIMIT $2);

-- name: forget
DELETE FROM push_tokens WHERE org_id = $1 AND project_id = $2 AND user_id = $3 RETURNING id;

-- name: of_names
SELECT id, is_active FROM push_tokens WHERE org_id = $1 AND project_id = $2 AND user_id = ANY($3::text[]);

-- name: of_person
SELECT org_id, token, id, user_id, platform, is_active, locale, timezone, app_version, environment, bundle_id, device_id,
       registered_at
  FROM push_tokens WHERE org_id = $1 AND project_id = $2 AND user_id = $3 ORDER BY id;

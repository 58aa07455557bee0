-- writes: push_tokens
--
-- An address is in quarantine (`quarantined_at`) from when a provider called it dead until it is restored, registered anew,
-- signed out, or deleted with the end of its grace period: retired, or held by the guard, and then it is still active.

-- name: retire
-- Once each: a second report of the same death finds nothing to do. A device that was registered after the instant of its
-- death is alive again (F-V9), and what was said before it was restored has been overruled. Of the raw kind there is nothing
-- to retire.
UPDATE push_tokens t SET is_active = false, retired_at = now(), retired_reason = g.reason, quarantined_at = now(),
       dead_reason = g.reason, dead_lane = g.lane, dead_send = g.send, dead_at = g.said_at
  FROM unnest($2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::timestamptz[], $7::timestamptz[])
    AS g (id, reason, lane, send, gone_at, said_at)
 WHERE t.org_id = $1 AND t.id = g.id AND t.is_active AND t.registered_at < g.gone_at
   AND (t.restored_at IS NULL OR t.restored_at < g.said_at)
RETURNING t.id, t.project_id, t.user_id, t.platform, t.retired_at, t.retired_reason;

-- name: hold
UPDATE push_tokens t SET quarantined_at = now(),
       dead_reason = g.reason, dead_lane = g.lane, dead_send = g.send, dead_at = g.said_at
  FROM unnest($2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::timestamptz[], $7::timestamptz[])
    AS g (id, reason, lane, send, gone_at, said_at)
 WHERE t.org_id = $1 AND t.id = g.id AND t.is_active AND t.quarantined_at IS NULL AND t.registered_at < g.gone_at
   AND (t.restored_at IS NULL OR t.restored_at < g.said_at)
RETURNING t.id;

-- name: listed
-- The latest first. A reason is asked for as it is shown.
SELECT id, user_id, platform, is_active, dead_reason, dead_lane, dead_send, dead_at, quarantined_at, retired_at,
       count(*) OVER () AS total
  FROM push_tokens
 WHERE org_id = $1 AND project_id = $2 AND quarantined_at IS NOT NULL
   AND ($3::text IS NULL OR split_part(dead_lane, ':', 1) = $3)
   AND ($4::text IS NULL OR CASE WHEN is_active THEN 'held' ELSE dead_reason END = $4)
   AND ($5::timestamptz IS NULL OR quarantined_at >= $5)
 ORDER BY quarantined_at DESC, id DESC OFFSET $6 LIMIT $7;

-- name: counted
-- For a page behind the end, which has no row to carry the total.
SELECT count(*) FROM push_tokens
 WHERE org_id = $1 AND project_id = $2 AND quarantined_at IS NOT NULL
   AND ($3::text IS NULL OR split_part(dead_lane, ':', 1) = $3)
   AND ($4::text IS NULL OR CASE WHEN is_active THEN 'held' ELSE dead_reason END = $4)
   AND ($5::timestamptz IS NULL OR quarantined_at >= $5);

-- name: restore
-- One bite of what a filter, or a list of ids ($6), asks for. A device that has a newer token, active or itself in
-- quarantine, keeps that one: nobody is to get a message twice. Locked in the order in which registrations lock.
WITH chosen AS (
    SELECT t.org_id, t.id FROM push_tokens t
     WHERE t.org_id = $1 AND t.project_id = $2 AND t.quarantined_at IS NOT NULL
       AND ($3::text IS NULL OR split_part(t.dead_lane, ':', 1) = $3)
       AND ($4::text IS NULL OR CASE WHEN t.is_active THEN 'held' ELSE t.dead_reason END = $4)
       AND ($5::timestamptz IS NULL OR t.quarantined_at >= $5)
       AND ($6::uuid[] IS NULL OR t.id = ANY($6))
       AND NOT EXISTS (
           SELECT FROM push_tokens n
            WHERE n.org_id = t.org_id AND n.project_id = t.project_id AND n.device_id = t.device_id
              AND n.platform = t.platform AND n.bundle_id IS NOT DISTINCT FROM t.bundle_id
              AND (n.is_active OR n.quarantined_at IS NOT NULL) AND (n.registered_at, n.id) > (t.registered_at, t.id))
     LIMIT $7
), locked AS (
    SELECT t.org_id, t.id FROM chosen c JOIN push_tokens t ON t.org_id = c.org_id AND t.id = c.id
     ORDER BY t.token FOR UPDATE OF t
)
UPDATE push_tokens t SET is_active = true, retired_at = NULL, retired_reason = NULL, quarantined_at = NULL, restored_at = now()
  FROM locked l WHERE t.org_id = l.org_id AND t.id = l.id AND t.quarantined_at IS NOT NULL;

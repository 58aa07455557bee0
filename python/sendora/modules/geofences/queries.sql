-- writes: geofences, geofence_days
-- reads: events, event_skips

-- name: insert
-- Nothing when the project is full. Several at the same moment may pass the bound together, which is no harm.
INSERT INTO geofences (org_id, id, project_id, name, latitude, longitude, radius_meters, triggers, priority, enabled,
                       dwell_seconds)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
 WHERE (SELECT count(*) FROM geofences WHERE org_id = $1 AND project_id = $3) < $12
RETURNING *;

-- name: find
SELECT * FROM geofences WHERE org_id = $1 AND project_id = $2 AND id = $3;

-- name: listed
-- By priority; among equals the nearest to ($5, $6), when they are given. Distance grows with its haversine, so that is
-- enough to sort by; the sines of a difference do not mind the antimeridian. A project's fences are bounded, so they are
-- all measured: an index on places could not help where priority comes first.
SELECT *, count(*) OVER () AS total FROM geofences
 WHERE org_id = $1 AND project_id = $2 AND ($3::boolean IS NULL OR enabled = $3) AND (enabled OR NOT $4::boolean)
 ORDER BY priority DESC,
          CASE WHEN $5::double precision IS NOT NULL THEN
              power(sind((latitude - $5) / 2), 2)
              + cosd(latitude) * cosd($5) * power(sind((longitude - $6::double precision) / 2), 2) END,
          id
OFFSET $7 LIMIT $8;

-- name: counted
-- For a page behind the end, which has no row to carry the total.
SELECT count(*) FROM geofences
 WHERE org_id = $1 AND project_id = $2 AND ($3::boolean IS NULL OR enabled = $3) AND (enabled OR NOT $4::boolean);

-- name: update
UPDATE geofences SET name = coalesce($4, name), latitude = coalesce($5, latitude), longitude = coalesce($6, longitude),
       radius_meters = coalesce($7, radius_meters), triggers = coalesce($8, triggers), priority = coalesce($9, priority),
       enabled = coalesce($10, enabled), dwell_seconds = CASE WHEN $11 THEN $12 ELSE dwell_seconds END, updated_at = now()
 WHERE org_id = $1 AND project_id = $2 AND id = $3 RETURNING *;

-- name: delete
WITH gone AS (
    DELETE FROM geofences WHERE org_id = $1 AND project_id = $2 AND id = $3 RETURNING *
), days AS (
    DELETE FROM geofence_days d USING gone g WHERE d.org_id = g.org_id AND d.geofence_id = g.id
)
SELECT * FROM gone;

-- name: skips
SELECT position, ordinals FROM event_skips WHERE lane = 0 AND position = ANY($1::bigint[]);

-- name: by_index
-- For this transaction: plan the look-up for the partitions as they are now. A plan that was made when the month's was empty
-- would read all of it for each key once it has grown.
SELECT set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: count_stored
-- The transitions behind these keys, as the storer has stored them. What is of a fence that is gone counts no more, and
-- neither does what was erased before it was counted.
INSERT INTO geofence_days AS d (org_id, geofence_id, day, entered, exited, dwelled)
SELECT f.org_id, f.id, (e.occurred_at AT TIME ZONE 'UTC')::date,
       count(*) FILTER (WHERE e.event_type = 'geofence.entered'),
       count(*) FILTER (WHERE e.event_type = 'geofence.exited'),
       count(*) FILTER (WHERE e.event_type = 'geofence.dwelled')
  FROM unnest($1::uuid[], $2::uuid[]) AS k (org_id, key)
 CROSS JOIN LATERAL (SELECT * FROM events e WHERE e.org_id = k.org_id AND e.key = k.key OFFSET 0) AS e
 CROSS JOIN LATERAL (
     SELECT * FROM geofences f WHERE f.org_id = e.org_id AND f.id = (e.properties ->> 'geofenceId')::uuid OFFSET 0) AS f
 WHERE e.module = $3
 GROUP BY 1, 2, 3
ON CONFLICT (org_id, geofence_id, day) DO UPDATE
   SET entered = d.entered + excluded.entered, exited = d.exited + excluded.exited, dwelled = d.dwelled + excluded.dwelled;

-- name: stats
-- A device's clock may be a day ahead, so the window has no upper end.
SELECT coalesce(sum(entered), 0)::bigint AS entered, coalesce(sum(exited), 0)::bigint AS exited,
       coalesce(sum(dwelled), 0)::bigint AS dwelled
  FROM geofence_days WHERE org_id = $1 AND geofence_id = $2 AND day >= $3;

-- name: forget_days
DELETE FROM geofence_days WHERE (org_id, geofence_id, day) IN
       (SELECT org_id, geofence_id, day FROM geofence_days WHERE day < $1 LIMIT $2);

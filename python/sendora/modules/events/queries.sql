-- writes: events, bad_rows, event_counts, event_skips, event_days, event_cuts, usage_months
-- reads: log_positions

-- name: by_index
-- For this transaction: plan the look-up for the partitions as they are now (a plan made when the month's was empty would
-- cost minutes a batch once it has grown), and scan nothing that has an index.
SELECT set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: known
-- Which of the batch's keys are stored already, as ordinals. The keys come as one bytea, 32 bytes each, and are cut here:
-- no object for each event on the way. LIMIT 1 keeps the planner from hashing whole partitions: it is an index look-up
-- for each key, in the one partition that can hold it.
SELECT k.ordinal
  FROM (SELECT n AS ordinal,
               encode(substring($1::bytea FROM n * 32 + 1 FOR 16), 'hex')::uuid AS org_id,
               encode(substring($1::bytea FROM n * 32 + 17 FOR 16), 'hex')::uuid AS key
          FROM generate_series(0, $2::int - 1) AS n) AS k
 CROSS JOIN LATERAL (SELECT FROM events e WHERE e.org_id = k.org_id AND e.key = k.key LIMIT 1) AS e
 ORDER BY k.ordinal;

-- name: make_landing
-- For a batch that met a row all the same: COPY knows no ON CONFLICT.
CREATE TEMP TABLE IF NOT EXISTS events_landing (LIKE events) ON COMMIT DROP;

-- name: clear_landing
DELETE FROM events_landing;

-- name: insert_landed
INSERT INTO events SELECT * FROM events_landing ON CONFLICT (org_id, key) DO NOTHING RETURNING org_id, key;

-- name: add_counts
-- Sorted by the library, so that two storers could not lock each other out.
INSERT INTO event_counts AS c (org_id, project_id, accepted, stored, duplicate, bad)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
ON CONFLICT (org_id, project_id) DO UPDATE
   SET accepted = c.accepted + excluded.accepted, stored = c.stored + excluded.stored,
       duplicate = c.duplicate + excluded.duplicate, bad = c.bad + excluded.bad;

-- name: add_usage
-- C99: stored events count against the plan, duplicates and bad rows do not; what is free (C30) comes with a minus.
INSERT INTO usage_months AS u (org_id, month, events)
SELECT org_id, $1, sum(stored) FROM unnest($2::uuid[], $3::bigint[]) AS t (org_id, stored) GROUP BY org_id ORDER BY org_id
ON CONFLICT (org_id, month) DO UPDATE SET events = u.events + excluded.events;

-- name: insert_bad
INSERT INTO bad_rows (org_id, id, project_id, position, record, reason) VALUES ($1, $2, $3, $4, $5, $6);

-- name: accounting
-- One statement, so that the numbers and the position belong together.
SELECT coalesce(c.accepted, 0) AS accepted, coalesce(c.stored, 0) AS stored, coalesce(c.duplicate, 0) AS duplicate,
       coalesce(c.bad, 0) AS bad, coalesce(p.position, 0) AS position
  FROM (SELECT) AS one
  LEFT JOIN event_counts c ON c.org_id = $1 AND c.project_id = $2
  LEFT JOIN log_positions p ON p.consumer = $3 AND p.lane = 0;

-- name: forget_bad
-- The bound keeps the transaction short; the job comes again until there is nothing old left.
DELETE FROM bad_rows WHERE (org_id, id) IN
       (SELECT org_id, id FROM bad_rows WHERE at < now() - make_interval(days => $1) LIMIT $2);

-- name: add_skips
-- Again only when the stream was made anew and its numbers began again.
INSERT INTO event_skips (lane, position, ordinals) VALUES (0, $1, $2)
ON CONFLICT (lane, position) DO UPDATE SET ordinals = excluded.ordinals, at = excluded.at;

-- name: clear_skips
DELETE FROM event_skips WHERE lane = 0;

-- name: forget_skips
DELETE FROM event_skips WHERE (lane, position) IN
       (SELECT lane, position FROM event_skips WHERE at < now() - make_interval(secs => $1) ORDER BY 1, 2 LIMIT $2);

-- name: roll_up
-- One partition, named by the range of its keys. An event that came after its month was rolled up is added to its day.
INSERT INTO event_days AS d (org_id, project_id, event_type, person, day, count, first_at, last_at)
SELECT org_id, project_id, event_type, person, (occurred_at AT TIME ZONE 'UTC')::date, count(*)::integer,
       min(occurred_at), max(occurred_at)
  FROM events WHERE key >= $1 AND key < $2 AND person IS NOT NULL GROUP BY 1, 2, 3, 4, 5
ON CONFLICT (org_id, project_id, event_type, person, day) DO UPDATE
   SET count = d.count + excluded.count, first_at = least(d.first_at, excluded.first_at),
       last_at = greatest(d.last_at, excluded.last_at);

-- name: cut_month
INSERT INTO event_cuts AS c (org_id, project_id, cuts)
SELECT DISTINCT org_id, project_id, 1 FROM events WHERE key >= $1 AND key < $2
ON CONFLICT (org_id, project_id) DO UPDATE SET cuts = c.cuts + 1;

-- name: cut_project
INSERT INTO event_cuts AS c (org_id, project_id, cuts) VALUES ($1, $2, 1)
ON CONFLICT (org_id, project_id) DO UPDATE SET cuts = c.cuts + 1;

-- name: unhurried
-- Nothing leads to a person's events but the org's, month by month: in a large one that takes longer than a request may.
SET LOCAL statement_timeout = 0;

-- name: erase_person
-- Of one month, by the range of its keys; $6 is the cut (NULL: everything).
DELETE FROM events
 WHERE org_id = $1 AND project_id = $2 AND person = ANY($3::text[]) AND key >= $4 AND key < $5
   AND ($6::timestamptz IS NULL OR received_at <= $6);

-- name: erase_bad
-- A text of a record stands behind its length, and so do these names.
DELETE FROM bad_rows
 WHERE org_id = $1 AND project_id = $2 AND ($4::bigint IS NULL OR position <= $4)
   AND EXISTS (SELECT FROM unnest($3::bytea[]) AS name WHERE position(name IN record) > 0);

-- name: erase_days
DELETE FROM event_days WHERE org_id = $1 AND project_id = $2 AND person = ANY($3::text[]);

-- name: export_days
SELECT event_type, person, day, count, first_at, last_at
  FROM event_days
 WHERE org_id = $1 AND project_id = $2 AND ($3::text[] IS NULL OR person = ANY($3::text[]))
   AND (event_type, person, day) > ($4, $5, $6)
 ORDER BY event_type, person, day LIMIT $7;

-- name: export_events
-- A page, behind $4; $3 is whose (NULL: everybody's, and those of nobody).
SELECT key, event_type, module, person, device_id, session_id, environment, occurred_at, received_at, event_id, properties
  FROM events
 WHERE org_id = $1 AND project_id = $2 AND ($3::text[] IS NULL OR person = ANY($3::text[])) AND key > $4 AND key < $5
 ORDER BY key LIMIT $6;

-- writes: audiences, audience_evaluations
-- reads: events, event_days, event_cuts, event_skips, profiles, log_positions

-- name: insert
INSERT INTO audiences (org_id, id, project_id, name, description, type, rules) VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING *;

-- name: find
-- With its tombstone: a deleted audience resolves to nobody, one that never was is 404 (C47).
SELECT * FROM audiences WHERE org_id = $1 AND id = $2;

-- name: listed
SELECT *, count(*) OVER () AS total FROM audiences
 WHERE org_id = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR project_id = $2)
 ORDER BY id DESC OFFSET $3 LIMIT $4;

-- name: counted
-- For a page behind the end, which has no row to carry the total.
SELECT count(*) FROM audiences WHERE org_id = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR project_id = $2);

-- name: of_project
SELECT * FROM audiences WHERE org_id = $1 AND project_id = $2 AND deleted_at IS NULL ORDER BY id LIMIT $3;

-- name: update
-- Only what was given (B078): two patches of different fields at once both stay.
UPDATE audiences SET name = coalesce($3, name), description = CASE WHEN $4 THEN $5 ELSE description END,
                     rules = coalesce($6, rules), updated_at = now()
 WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING *;

-- name: bury
UPDATE audiences SET deleted_at = now(), updated_at = now()
 WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING *;

-- name: evaluated
-- A size that is asked for by everybody who looks is not written each time.
INSERT INTO audience_evaluations AS e (org_id, audience_id, at, size)
SELECT $1, g.id, g.at, g.size FROM unnest($2::uuid[], $3::timestamptz[], $4::bigint[]) AS g (id, at, size) ORDER BY g.id
ON CONFLICT (org_id, audience_id) DO UPDATE SET at = excluded.at, size = excluded.size, failed_at = NULL, error = NULL
 WHERE e.at IS NULL OR e.error IS NOT NULL OR e.size <> excluded.size OR e.at < excluded.at - interval '1 minute';

-- name: evaluation_failed
INSERT INTO audience_evaluations AS e (org_id, audience_id, failed_at, error) VALUES ($1, $2, now(), $3)
ON CONFLICT (org_id, audience_id) DO UPDATE SET failed_at = excluded.failed_at, error = excluded.error
 WHERE e.error IS DISTINCT FROM excluded.error OR e.failed_at < excluded.failed_at - interval '1 minute';

-- name: evaluations
SELECT audience_id, at, size, failed_at, error, greatest(extract(epoch FROM clock_timestamp() - at), 0)::bigint AS age
  FROM audience_evaluations WHERE org_id = $1 AND audience_id = ANY($2::uuid[]);

-- name: forget_evaluation
DELETE FROM audience_evaluations WHERE org_id = $1 AND audience_id = $2;

-- name: as_of
SELECT clock_timestamp();

-- name: moment
-- Now, and the last position of the log that any of what an answer comes from is made of.
SELECT clock_timestamp() AS now, coalesce(max(position), 0) AS position
  FROM log_positions WHERE consumer = ANY($1::text[]) AND lane = 0;

-- name: stored
-- How far each reader of the log has come.
SELECT consumer, position FROM log_positions WHERE consumer = ANY($1::text[]) AND lane = 0;

-- name: skips
SELECT position, ordinals FROM event_skips WHERE lane = 0 AND position > $1 AND position <= $2;

-- name: cuts
SELECT project_id, cuts FROM event_cuts WHERE org_id = ANY($1::uuid[]) AND project_id = ANY($2::uuid[]);

-- name: cuts_of
SELECT project_id, cuts FROM event_cuts WHERE project_id = ANY($1::uuid[]);

-- name: hold_events
-- Before the snapshot is taken: as long as this is held, no month of events can become days behind its back.
LOCK TABLE events IN ACCESS SHARE MODE;

-- name: has_days
SELECT EXISTS (SELECT FROM event_days WHERE org_id = $1 AND project_id = $2);

-- name: events
-- An event counts for whoever the person is now (C69): the one at the end of the chain of takeovers. $3 are the types
-- that the rule asks for, $4 the earliest instant that matters (NULL: ever), $5 whether properties are looked at, $6 whose
-- events (NULL: everybody's). COPY takes its arguments as literals, so a NULL leaves nothing in the plan.
SELECT coalesce(m.person, e.person), e.event_type, e.occurred_at, CASE WHEN $5::boolean THEN e.properties END
  FROM events e LEFT JOIN takeovers_of_project($1::uuid, $2::uuid) AS m ON m.name = e.person
 WHERE e.org_id = $1::uuid AND e.project_id = $2::uuid AND e.event_type = ANY($3::text[])
   AND ($4::timestamptz IS NULL OR e.occurred_at >= $4::timestamptz) AND e.person IS NOT NULL
   AND ($6::text[] IS NULL OR coalesce(m.person, e.person) = ANY($6::text[]));

-- name: days
-- The same of events that were rolled up; $5 is whose.
SELECT coalesce(m.person, d.person), d.event_type, d.day, d.count, d.first_at, d.last_at
  FROM event_days d LEFT JOIN takeovers_of_project($1::uuid, $2::uuid) AS m ON m.name = d.person
 WHERE d.org_id = $1::uuid AND d.project_id = $2::uuid AND d.event_type = ANY($3::text[])
   AND ($4::timestamptz IS NULL OR d.last_at >= $4::timestamptz)
   AND ($5::text[] IS NULL OR coalesce(m.person, d.person) = ANY($5::text[]));

-- name: people_of_some
SELECT external_id, email, traits, lifecycle FROM profiles
 WHERE org_id = $1::uuid AND project_id = $2::uuid AND external_id = ANY($3::text[]) AND merged_into IS NULL;

-- name: people
SELECT external_id, email, traits, lifecycle FROM profiles
 WHERE org_id = $1::uuid AND project_id = $2::uuid AND merged_into IS NULL;

-- name: events_of_one
-- $7: every name that the person ever had; $8: only what had arrived by then (NULL: everything).
SELECT $5::text, e.event_type, e.occurred_at, CASE WHEN $6::boolean THEN e.properties END
  FROM events e
 WHERE e.org_id = $1::uuid AND e.project_id = $2::uuid AND e.event_type = ANY($3::text[])
   AND ($4::timestamptz IS NULL OR e.occurred_at >= $4::timestamptz) AND e.person = ANY($7::text[])
   AND ($8::timestamptz IS NULL OR e.received_at <= $8::timestamptz);

-- name: days_of_one
-- $5: every name that the person ever had.
SELECT $4::text, d.event_type, d.day, d.count, d.first_at, d.last_at
  FROM event_days d
 WHERE d.org_id = $1::uuid AND d.project_id = $2::uuid AND d.event_type = ANY($3::text[]) AND d.person = ANY($5::text[]);

-- name: mirrored_events
-- As `events_of_one` within a window ($4), at the instants that a mirror ($6) shows: what was first is last there. The
-- mirror is made so that whole seconds stay whole seconds.
SELECT $5::text, e.event_type, 'epoch'::timestamptz + ($6::timestamptz - e.occurred_at),
       CASE WHEN $8::boolean THEN e.properties END
  FROM events e
 WHERE e.org_id = $1::uuid AND e.project_id = $2::uuid AND e.event_type = ANY($3::text[])
   AND ($4::timestamptz IS NULL OR e.occurred_at >= $4::timestamptz) AND e.person = ANY($7::text[])
   AND ($9::timestamptz IS NULL OR e.received_at <= $9::timestamptz);

-- name: mirrored_days
-- The same of days that lie in the window, which is to say their last event does.
SELECT $5::text, d.event_type, d.day, d.count, 'epoch'::timestamptz + ($6::timestamptz - d.last_at),
       'epoch'::timestamptz + ($6::timestamptz - d.first_at)
  FROM event_days d
 WHERE d.org_id = $1::uuid AND d.project_id = $2::uuid AND d.event_type = ANY($3::text[])
   AND ($4::timestamptz IS NULL OR d.last_at >= $4::timestamptz) AND d.person = ANY($7::text[]);

-- name: one_person
SELECT external_id, email, traits, lifecycle FROM profiles
 WHERE org_id = $1::uuid AND project_id = $2::uuid AND external_id = $3::text AND merged_into IS NULL;

-- name: load_people
-- Everything, as an index is filled with it.
SELECT external_id, email, traits, lifecycle, merged_into FROM profiles
 WHERE org_id = $1::uuid AND project_id = $2::uuid;

-- name: load_events
-- One month, by the range of its keys, so that no statement takes long.
SELECT person, event_type, occurred_at, NULL::jsonb FROM events
 WHERE org_id = $1::uuid AND project_id = $2::uuid AND key >= $3::uuid AND key < $4::uuid AND person IS NOT NULL;

-- name: load_days
SELECT person, event_type, day, count, first_at, last_at FROM event_days
 WHERE org_id = $1::uuid AND project_id = $2::uuid;

-- name: load_stream
SELECT person, event_type, occurred_at, properties FROM events
 WHERE org_id = $1::uuid AND project_id = $2::uuid AND key >= $3::uuid AND key < $4::uuid
   AND event_type = ANY($5::text[]) AND person IS NOT NULL;

-- writes: live_activities, live_activity_updates, live_activity_starts, live_activity_starters
-- reads: profiles, chunks, deliveries
--
-- A person is everybody whom the person has taken over (`person_of_names`, `names_of_people`; C69): each look-up follows that,
-- and a row keeps the name under which it was made. LATERAL with OFFSET 0 keeps a look-up one for each row, also on tables that
-- PostgreSQL knows nothing of yet.

-- name: person
-- Whoever took this name over, and all names of that person.
SELECT n.person, array_agg(n.name) AS names
  FROM names_of_people($1, $2, ARRAY(SELECT person FROM person_of_names($1, $2, ARRAY[$3::text]))) AS n
 GROUP BY n.person;

-- name: claim
-- Registrations of one token, and those of one activity, take turns; in one order, so that none wait in a circle.
SELECT pg_advisory_xact_lock(h.key)
  FROM (SELECT DISTINCT hashtextextended($1::uuid::text || u.name, 0) AS key FROM unnest($2::text[]) AS u (name) ORDER BY 1) AS h;

-- name: involved
-- Whatever a registration may change, locked in the order of ids so that two of them never wait in a circle.
SELECT a.*
  FROM (SELECT id FROM live_activities
         WHERE org_id = $1 AND project_id = $2 AND user_id = ANY($3::text[]) AND activity_type = $4 AND external_id = $5
         UNION
        SELECT id FROM live_activities WHERE org_id = $1 AND token = $6 AND status = 'active'
         ORDER BY id) AS g
 CROSS JOIN LATERAL (SELECT * FROM live_activities a WHERE a.org_id = $1 AND a.id = g.id OFFSET 0 FOR UPDATE) AS a;

-- name: move_token
-- A token belongs to one activity; whoever had it before has none any more.
UPDATE live_activities SET status = 'invalidated', reason = $4, ended_at = now(), updated_at = now()
 WHERE org_id = $1 AND token = $2 AND status = 'active' AND id IS DISTINCT FROM $3;

-- name: begin
INSERT INTO live_activities (org_id, id, project_id, user_id, activity_type, external_id, platform, token, token_at,
                             environment, bundle_id, shard, status, stamp, started_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now(), $9, $10, $11, 'active', 0, now())
ON CONFLICT DO NOTHING
RETURNING *;

-- name: register
-- A token for an activity that is there. One that lives, or is said to live ($8), is active; any other stays over.
UPDATE live_activities SET
    token = $3, token_at = now(), platform = $4, environment = coalesce($5, environment), bundle_id = coalesce($6, bundle_id),
    status = CASE WHEN $7 THEN 'active' ELSE status END,
    reason = CASE WHEN $7 THEN NULL ELSE reason END,
    ended_at = CASE WHEN $7 THEN NULL ELSE ended_at END,
    started_at = CASE WHEN status = 'active' THEN started_at ELSE now() END,
    updated_at = now()
 WHERE org_id = $1 AND id = $2
RETURNING *;

-- name: involved_starters
SELECT s.id, s.user_id, s.device_id
  FROM (SELECT id FROM live_activity_starters
         WHERE org_id = $1 AND project_id = $2 AND user_id = ANY($3::text[]) AND activity_type = $4 AND device_id = $5
         UNION
        SELECT id FROM live_activity_starters WHERE org_id = $1 AND token = $6 AND activity_type = $4
         ORDER BY id) AS g
 CROSS JOIN LATERAL (
     SELECT * FROM live_activity_starters s WHERE s.org_id = $1 AND s.id = g.id OFFSET 0 FOR UPDATE) AS s;

-- name: drop_starters
DELETE FROM live_activity_starters WHERE org_id = $1 AND id = ANY($2::uuid[]);

-- name: put_starter
-- Upsert by (user, device, activityType): the newer token replaces the older one.
INSERT INTO live_activity_starters AS s
       (org_id, id, project_id, user_id, device_id, activity_type, token, environment, bundle_id, registered_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($8, 'production'), $9, now())
ON CONFLICT (org_id, project_id, user_id, activity_type, device_id) DO UPDATE SET
    token = excluded.token, environment = coalesce($8, s.environment), bundle_id = coalesce($9, s.bundle_id),
    registered_at = now()
RETURNING id;

-- name: find
SELECT * FROM live_activities WHERE org_id = $1 AND project_id = $2 AND id = $3;

-- name: advance
-- The next payload's timestamp: now, but always above the one before, so that two updates of one second keep their order.
-- The row's lock is what puts concurrent ones in order. $6 ends the activity.
UPDATE live_activities SET
    stamp = greatest(stamp + 1, extract(epoch FROM clock_timestamp())::bigint),
    content_state = coalesce($4::jsonb, content_state),
    status = coalesce($5, status), reason = coalesce($6, reason),
    ended_at = CASE WHEN $5::text IS NULL THEN ended_at ELSE now() END,
    updated_at = now()
 WHERE org_id = $1 AND project_id = $2 AND id = $3 AND status IN ('starting', 'active')
RETURNING *;

-- name: count_urgent
-- By the payloads' own time.
SELECT count(*) FROM live_activity_updates
 WHERE org_id = $1 AND activity_id = $2 AND stamp > $3::bigint - $4::integer AND urgent;

-- name: insert_update
INSERT INTO live_activity_updates
       (org_id, activity_id, stamp, send_id, event, urgent, content_state, alert, stale_s, dismiss_s, relevance)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: find_update
SELECT * FROM live_activity_updates WHERE org_id = $1 AND activity_id = $2 AND stamp = $3;

-- name: find_start
SELECT said FROM live_activity_starts WHERE org_id = $1 AND send_id = $2;

-- name: listed
SELECT a.*, count(*) OVER () AS total FROM live_activities a
 WHERE org_id = $1 AND project_id = $2 AND status = $3 AND ($4::text[] IS NULL OR user_id = ANY($4))
 ORDER BY id DESC OFFSET $5 LIMIT $6;

-- name: counted
-- For a page behind the end, which has no row to carry the total.
SELECT count(*) FROM live_activities
 WHERE org_id = $1 AND project_id = $2 AND status = $3 AND ($4::text[] IS NULL OR user_id = ANY($4));

-- name: startable
-- Each person once, with the token that was registered last, and whether an activity of that name was there before: one
-- whose start came to nobody does not count.
WITH asked AS (
    SELECT DISTINCT person FROM person_of_names($1, $2, $3)
), names AS (
    SELECT person, name FROM names_of_people($1, $2, ARRAY(SELECT person FROM asked))
), found AS (
    SELECT DISTINCT ON (d.person) d.person, s.id
      FROM names d
     CROSS JOIN LATERAL (
         SELECT id, registered_at FROM live_activity_starters s
          WHERE s.org_id = $1 AND s.project_id = $2 AND s.user_id = d.name AND s.activity_type = $4
         OFFSET 0) AS s
     ORDER BY d.person, s.registered_at DESC, s.id DESC
), before AS (
    SELECT DISTINCT d.person
      FROM names d
     CROSS JOIN LATERAL (
         SELECT FROM live_activities a
          WHERE a.org_id = $1 AND a.project_id = $2 AND a.user_id = d.name AND a.activity_type = $4 AND a.external_id = $5
            AND NOT (a.status = 'invalidated' AND a.token IS NULL)
         OFFSET 0) AS a
)
SELECT a.person, f.id AS starter, b.person IS NOT NULL AS was_there
  FROM asked a LEFT JOIN found f ON f.person = a.person LEFT JOIN before b ON b.person = a.person
 ORDER BY a.person;

-- name: start
-- Whoever was started by somebody else at the same moment is left out.
INSERT INTO live_activities (org_id, id, project_id, user_id, activity_type, external_id, platform, environment, starter_id,
                             shard, status, stamp, content_state)
SELECT $1, g.id, $2, g.person, $3, $4, 'ios', 'production', g.starter, g.shard, 'starting', $5, $6
  FROM unnest($7::uuid[], $8::text[], $9::uuid[], $10::smallint[]) AS g (id, person, starter, shard)
 ORDER BY g.person
ON CONFLICT DO NOTHING
RETURNING id;

-- name: keep_start
-- What was said, and of which activities.
WITH said AS (
    INSERT INTO live_activity_starts (org_id, send_id, said) VALUES ($1, $3, $4)
)
UPDATE live_activities SET start_send = $3 WHERE org_id = $1 AND id = ANY($2::uuid[]);

-- name: second
SELECT extract(epoch FROM clock_timestamp())::bigint;

-- name: plan
INSERT INTO plan_targets (shard, recipient)
SELECT a.shard, a.id
  FROM (SELECT DISTINCT id FROM unnest($3::uuid[]) AS u (id)) AS g
 CROSS JOIN LATERAL (SELECT * FROM live_activities a WHERE a.org_id = $1 AND a.id = g.id OFFSET 0) AS a
 WHERE a.project_id = $2
ON CONFLICT DO NOTHING;

-- name: rows
-- What the decision needs of each recipient of a chunk that has no outcome yet, in the library's order of columns: the token
-- as it is now. $6: a start, which goes to the push-to-start token. Nobody is named, so that the ledger names nobody and
-- frequency caps, which count people's messages, do not count updates.
SELECT (r.n - 1)::smallint, r.id, v.platform, v.token, NULL::jsonb, v.environment, v.bundle_id, NULL::text,
       coalesce(v.status <> 'invalidated', false), to_timestamp(0), NULL::text, NULL::text, NULL::jsonb, NULL::text,
       NULL::timestamptz, NULL::timestamptz
  FROM chunks c
 CROSS JOIN LATERAL unnest(c.recipients) WITH ORDINALITY AS r (id, n)
  LEFT JOIN LATERAL (
      SELECT a.status, a.project_id,
             CASE WHEN NOT $6::boolean THEN a.platform WHEN s.id IS NOT NULL THEN 'ios' END AS platform,
             CASE WHEN $6::boolean THEN s.token ELSE coalesce(a.token, '') END AS token,
             CASE WHEN $6::boolean THEN s.environment ELSE a.environment END AS environment,
             CASE WHEN $6::boolean THEN s.bundle_id ELSE a.bundle_id END AS bundle_id
        FROM live_activities a
        LEFT JOIN LATERAL (
            SELECT * FROM live_activity_starters s
             WHERE $6::boolean AND s.org_id = a.org_id AND s.id = a.starter_id
            OFFSET 0) AS s ON true
       WHERE a.org_id = c.org_id AND a.id = r.id
      OFFSET 0) AS v ON v.project_id = $5::uuid
 WHERE c.org_id = $1::uuid AND c.send_id = $2::uuid AND c.shard = $3::smallint AND c.seq = $4::integer
   AND NOT EXISTS (
       SELECT FROM deliveries d
        WHERE d.org_id = $1::uuid AND d.send_id = $2::uuid AND d.shard = $3::smallint AND d.seq = $4::integer
          AND d.position = (r.n - 1)::smallint
       OFFSET 0);

-- name: standing
-- How each activity stands just before its payload ($3: its stamp) is built. A newer one that a provider took, or may have
-- taken, has come first: by the ledger, which is written within milliseconds of the answer.
SELECT a.id, a.activity_type, a.external_id, a.status, a.token IS NULL AS awaited,
       EXISTS (
           SELECT FROM (
               SELECT u.send_id FROM live_activity_updates u
                WHERE u.org_id = $1 AND u.activity_id = a.id AND u.stamp > $3 ORDER BY u.stamp DESC
               OFFSET 0) AS u
            CROSS JOIN LATERAL (
                SELECT FROM deliveries d
                 WHERE d.org_id = $1 AND d.send_id = u.send_id AND d.state IN ('accepted', 'unknown')
                OFFSET 0) AS d) AS superseded
  FROM (SELECT DISTINCT id FROM unnest($2::uuid[]) AS u (id)) AS g
 CROSS JOIN LATERAL (SELECT * FROM live_activities a WHERE a.org_id = $1 AND a.id = g.id OFFSET 0) AS a;

-- name: accepted
-- The activities that an accepted update was of.
SELECT a.*, g.send AS send_id, g.at
  FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[]) AS g (org, send, activity, at)
 CROSS JOIN LATERAL (SELECT * FROM live_activities a WHERE a.org_id = g.org AND a.id = g.activity OFFSET 0) AS a
 CROSS JOIN LATERAL (
     SELECT FROM live_activity_updates u
      WHERE u.org_id = g.org AND u.activity_id = g.activity AND u.send_id = g.send AND u.event = 'update'
     OFFSET 0) AS u;

-- name: invalidate
-- Once each. A start that came to nobody; or a token that is dead, unless it was registered after its death (F-V9).
UPDATE live_activities a SET status = 'invalidated', reason = g.reason, ended_at = now(), updated_at = now()
  FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::boolean[], $6::timestamptz[])
    AS g (org, send, activity, reason, dead, dead_at)
 WHERE a.org_id = g.org AND a.id = g.activity
   AND CASE WHEN a.start_send = g.send THEN a.status = 'starting'
            ELSE a.status = 'active' AND g.dead AND a.token_at < g.dead_at END;

-- name: retire_starters
DELETE FROM live_activity_starters s
 USING unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[]) AS g (org, send, activity, dead_at)
 CROSS JOIN LATERAL (SELECT starter_id, start_send FROM live_activities WHERE org_id = g.org AND id = g.activity OFFSET 0) AS a
 WHERE s.org_id = g.org AND s.id = a.starter_id AND a.start_send = g.send AND s.registered_at < g.dead_at;

-- name: expire
-- Apple's system has ended them by itself.
UPDATE live_activities SET status = 'expired', reason = $2, ended_at = now(), updated_at = now()
 WHERE (org_id, id) IN (
     SELECT org_id, id FROM live_activities
      WHERE status = 'active' AND platform = 'ios' AND started_at < now() - make_interval(secs => $1::double precision)
      LIMIT $3 FOR UPDATE SKIP LOCKED);

-- name: aged
-- Android's, which nobody has ended.
SELECT org_id, project_id, id FROM live_activities
 WHERE status = 'active' AND platform = 'android' AND started_at < now() - make_interval(secs => $1::double precision)
 LIMIT $2;

-- name: give_up
UPDATE live_activities SET status = 'invalidated', reason = $2, ended_at = now(), updated_at = now()
 WHERE (org_id, id) IN (
     SELECT org_id, id FROM live_activities
      WHERE status = 'starting' AND created_at < now() - make_interval(secs => $1::double precision)
      LIMIT $3 FOR UPDATE SKIP LOCKED);

-- name: untold
SELECT * FROM live_activities WHERE told <> status ORDER BY updated_at LIMIT $1;

-- name: set_told
UPDATE live_activities a SET told = g.status
  FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS g (org, id, status) WHERE a.org_id = g.org AND a.id = g.id;

-- name: collect
-- Thirty days of grace, as of devices (B088), a bounded bite at a time.
WITH old AS (
    SELECT org_id, id, start_send FROM live_activities WHERE ended_at < now() - make_interval(days => $1) LIMIT $2
), updates AS (
    DELETE FROM live_activity_updates u USING old WHERE u.org_id = old.org_id AND u.activity_id = old.id
), starts AS (
    DELETE FROM live_activity_starts s USING old
     WHERE s.org_id = old.org_id AND s.send_id = old.start_send
       AND NOT EXISTS (
           SELECT FROM live_activities a
            WHERE a.org_id = s.org_id AND a.start_send = s.send_id AND a.id NOT IN (SELECT id FROM old))
)
DELETE FROM live_activities a USING old WHERE a.org_id = old.org_id AND a.id = old.id;

-- name: forget
-- What a start said to others too is not this person's alone, and names nobody of itself.
WITH theirs AS (
    SELECT id, start_send FROM live_activities WHERE org_id = $1 AND project_id = $2 AND user_id = $3
), updates AS (
    DELETE FROM live_activity_updates u USING theirs WHERE u.org_id = $1 AND u.activity_id = theirs.id
), starts AS (
    DELETE FROM live_activity_starts s USING theirs
     WHERE s.org_id = $1 AND s.send_id = theirs.start_send
       AND NOT EXISTS (
           SELECT FROM live_activities a
            WHERE a.org_id = $1 AND a.start_send = s.send_id AND a.id NOT IN (SELECT id FROM theirs))
), starters AS (
    DELETE FROM live_activity_starters WHERE org_id = $1 AND project_id = $2 AND user_id = $3
)
DELETE FROM live_activities WHERE org_id = $1 AND project_id = $2 AND user_id = $3;

-- name: activities_of_person
SELECT * FROM live_activities WHERE org_id = $1 AND project_id = $2 AND user_id = $3 AND id > $4 ORDER BY id LIMIT $5;

-- name: updates_of_activity
SELECT * FROM live_activity_updates WHERE org_id = $1 AND activity_id = $2 AND stamp > $3 ORDER BY stamp LIMIT $4;

-- name: starters_of_person
SELECT * FROM live_activity_starters
 WHERE org_id = $1 AND project_id = $2 AND user_id = $3 AND id > $4 ORDER BY id LIMIT $5;

-- writes: push_tokens
-- reads: profiles, chunks, deliveries
--
-- A person owns the devices registered under their own id and under the anonymous ids that they have taken over
-- (`person_of_names`, `names_of_people`; C69). `plan_targets` is the planner's temporary table, `audience_members` the
-- audience's.
--
-- LATERAL with OFFSET 0 keeps a look-up one for each row. PostgreSQL knows nothing of a table that was filled a moment ago,
-- takes a project's devices for one row, and would read all of them for each recipient: seconds for a chunk of 250.

-- name: strays
-- Devices that are still registered under a name that somebody has taken over.
SELECT t.id, t.user_id, g.person FROM takeovers_of_project($1, $2) AS g
 CROSS JOIN LATERAL (
     SELECT id, user_id FROM push_tokens t WHERE t.org_id = $1 AND t.project_id = $2 AND t.user_id = g.name
     OFFSET 0) AS t
 WHERE g.person <> g.name
 ORDER BY t.id LIMIT $3;

-- name: strays_of_users
SELECT t.id, t.user_id, n.person
  FROM names_of_people($1, $2, ARRAY(SELECT DISTINCT person FROM person_of_names($1, $2, $3))) AS n
 CROSS JOIN LATERAL (
     SELECT id, user_id FROM push_tokens t WHERE t.org_id = $1 AND t.project_id = $2 AND t.user_id = n.name
     OFFSET 0) AS t
 WHERE n.name <> n.person
 ORDER BY t.id LIMIT $4;

-- name: adopt
-- The rewriting that a takeover leaves for later (C69): it is no change of hands, so `owner_since` stays. Whoever registered
-- the device anew in between is right.
UPDATE push_tokens t SET user_id = g.person, shard = g.shard
  FROM unnest($3::uuid[], $4::text[], $5::text[], $6::smallint[]) AS g (id, name, person, shard)
 WHERE t.org_id = $1 AND t.project_id = $2 AND t.id = g.id AND t.user_id = g.name;

-- name: plan_users
-- Each user once, as whoever took them over; returns how many have no device. $4: the zone of devices of which none is
-- known, NULL where the send has one time for all.
WITH asked AS (
    SELECT DISTINCT person FROM person_of_names($1, $2, $3)
), found AS (
    SELECT n.person, t.shard, t.id, t.timezone
      FROM names_of_people($1, $2, ARRAY(SELECT person FROM asked)) AS n
     CROSS JOIN LATERAL (
         SELECT shard, id, timezone FROM push_tokens t
          WHERE t.org_id = $1 AND t.project_id = $2 AND t.user_id = n.name AND t.is_active
         OFFSET 0) AS t
), written AS (
    INSERT INTO plan_targets (shard, recipient, zone)
    SELECT DISTINCT shard, id, CASE WHEN $4::text IS NOT NULL THEN coalesce(timezone, $4) END FROM found ON CONFLICT DO NOTHING
)
SELECT (SELECT count(*) FROM asked) - (SELECT count(DISTINCT person) FROM found);

-- name: count_users
-- What `plan_users` would find now (C96: tokenCount is exact).
SELECT count(DISTINCT t.id)
  FROM names_of_people($1, $2, ARRAY(SELECT DISTINCT person FROM person_of_names($1, $2, $3))) AS n
 CROSS JOIN LATERAL (
     SELECT id FROM push_tokens t
      WHERE t.org_id = $1 AND t.project_id = $2 AND t.user_id = n.name AND t.is_active
     OFFSET 0) AS t;

-- name: make_slices
-- The tables of one plan's slices, on the connection whose snapshot they are read in. Who took over whom is worked out once.
CREATE TEMPORARY TABLE audience_members (external_id text NOT NULL) ON COMMIT DROP;
CREATE TEMPORARY TABLE slice_targets (recipient uuid, zone text, person text NOT NULL) ON COMMIT DROP;
CREATE TEMPORARY TABLE slice_merged (person text NOT NULL, name text NOT NULL) ON COMMIT DROP;

-- name: fill_merged
INSERT INTO slice_merged (person, name) SELECT person, name FROM takeovers_of_project($1, $2);

-- name: index_merged
CREATE INDEX ON slice_merged (person);
ANALYZE slice_merged;

-- name: clear_slice
TRUNCATE audience_members, slice_targets;

-- name: fill_slice
-- The devices of each member, under every name that the member ever had; a row without one tells of who has none.
INSERT INTO slice_targets (recipient, zone, person)
SELECT t.id, CASE WHEN $3::text IS NOT NULL THEN coalesce(t.timezone, $3) END, o.person
  FROM (SELECT external_id AS person, external_id AS owner FROM audience_members
         UNION ALL
        SELECT g.person, g.name FROM audience_members m JOIN slice_merged g ON g.person = m.external_id) AS o
  LEFT JOIN LATERAL (
      SELECT id, timezone FROM push_tokens t
       WHERE t.org_id = $1 AND t.project_id = $2 AND t.user_id = o.owner AND t.is_active
      OFFSET 0) AS t ON true;

-- name: count_members
ANALYZE audience_members;

-- name: reach
-- Active devices of the members, under every name that each ever had, by platform.
SELECT t.platform, count(*) AS devices
  FROM (SELECT external_id AS owner FROM audience_members
         UNION ALL
        SELECT g.name FROM audience_members m JOIN slice_merged g ON g.person = m.external_id) AS o
  JOIN push_tokens t ON t.org_id = $1 AND t.project_id = $2 AND t.user_id = o.owner AND t.is_active
 GROUP BY t.platform;

-- name: unreachable_of_slice
SELECT count(*) FROM (SELECT FROM slice_targets GROUP BY person HAVING count(recipient) = 0) AS nobody;

-- name: targets_of_slice
-- A person's shard, not what stands at the device: whoever was just taken over has caps in one place all the same.
SELECT $1::smallint, recipient, zone FROM slice_targets WHERE recipient IS NOT NULL;

-- name: known_tokens
SELECT token FROM push_tokens WHERE org_id = $1 AND token = ANY($2::text[]);

-- name: add_raw
-- B095: a token that nobody has registered gets a row that no other send will find, so that it has an id in the ledger.
INSERT INTO push_tokens (org_id, id, project_id, token, platform, owner_since, shard, is_active, registered_at, retired_at,
                         retired_reason)
SELECT $1, g.id, $2, g.token, g.platform, now(), g.shard, false, now(), now(), $7
  FROM unnest($3::uuid[], $4::text[], $5::text[], $6::smallint[]) AS g (id, token, platform, shard)
 ORDER BY g.token
ON CONFLICT (org_id, token) DO NOTHING;

-- name: plan_tokens
WITH written AS (
    INSERT INTO plan_targets (shard, recipient, zone)
    SELECT t.shard, t.id, CASE WHEN $4::text IS NOT NULL THEN coalesce(t.timezone, $4) END FROM push_tokens t
     WHERE t.org_id = $1 AND t.project_id = $2 AND t.token = ANY($3::text[])
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT count(*) FROM written;

-- name: refused_elsewhere
-- Devices of a shard that one of Apple's environments did not know and that go on, to be tried in the other.
SELECT DISTINCT recipient FROM deliveries
 WHERE org_id = $1 AND send_id = $2 AND shard = $3 AND state = 'deferred' AND reason = 'BadDeviceToken';

-- name: move_elsewhere
-- Each to the environment that has not refused it. Whoever was moved already, by another send or before a crash, stays.
UPDATE push_tokens t SET environment = CASE t.environment WHEN 'sandbox' THEN 'production' ELSE 'sandbox' END
  FROM (SELECT DISTINCT recipient, provider FROM deliveries
         WHERE org_id = $1 AND send_id = $2 AND shard = $3 AND state = 'deferred' AND reason = 'BadDeviceToken') AS d
 WHERE t.org_id = $1 AND t.id = d.recipient
   AND d.provider = CASE t.environment WHEN 'sandbox' THEN 'apns:sandbox' ELSE 'apns' END;

-- name: rows
-- What the decision needs of each recipient of a chunk that has no outcome yet, in the library's order of columns. Whose
-- device it is and what is known of them is read now, not as it was planned. The project is compared outside of the look-up,
-- where it cannot tempt PostgreSQL away from the primary key. $7: devices whose environment is a guess (`apns.GUESS`).
WITH devices AS (
    SELECT (r.n - 1)::smallint AS position, r.id AS recipient, v.*
      FROM chunks c
     CROSS JOIN LATERAL unnest(c.recipients) WITH ORDINALITY AS r (id, n)
      LEFT JOIN LATERAL (SELECT t.* FROM push_tokens t WHERE t.org_id = c.org_id AND t.id = r.id OFFSET 0) AS v
        ON v.project_id = $5::uuid
     WHERE c.org_id = $1::uuid AND c.send_id = $2::uuid AND c.shard = $3::smallint AND c.seq = $4::integer
       AND NOT EXISTS (
           SELECT FROM deliveries d
            WHERE d.org_id = $1::uuid AND d.send_id = $2::uuid AND d.shard = $3::smallint AND d.seq = $4::integer
              AND d.position = (r.n - 1)::smallint
           OFFSET 0)
)
SELECT v.position, v.recipient, v.platform, v.token, v.subscription,
       CASE WHEN v.recipient = ANY($7::uuid[]) THEN v.environment || '?' ELSE v.environment END, v.bundle_id, o.person,
       coalesce(v.is_active, false), v.owner_since, v.locale, v.timezone, p.traits, p.email, p.created_at, p.last_seen_at
  FROM devices v
  LEFT JOIN person_of_names($1::uuid, $5::uuid, ARRAY(SELECT DISTINCT user_id FROM devices)) AS o ON o.name = v.user_id
  LEFT JOIN LATERAL (
      SELECT * FROM profiles p
       WHERE $6::boolean AND p.org_id = $1::uuid AND p.project_id = $5::uuid AND p.external_id = o.person
      OFFSET 0) AS p ON true
 ORDER BY v.position;

-- name: has_takeovers
SELECT EXISTS (SELECT FROM profiles WHERE org_id = $1 AND project_id = $2 AND merged_into IS NOT NULL);

-- name: rows_straight
-- The same where nobody of the project was ever taken over: a third of the work.
SELECT (r.n - 1)::smallint, r.id, v.platform, v.token, v.subscription,
       CASE WHEN r.id = ANY($7::uuid[]) THEN v.environment || '?' ELSE v.environment END, v.bundle_id, v.user_id,
       coalesce(v.is_active, false), v.owner_since, v.locale, v.timezone, p.traits, p.email, p.created_at, p.last_seen_at
  FROM chunks c
 CROSS JOIN LATERAL unnest(c.recipients) WITH ORDINALITY AS r (id, n)
  LEFT JOIN LATERAL (SELECT * FROM push_tokens t WHERE t.org_id = c.org_id AND t.id = r.id OFFSET 0) AS v
    ON v.project_id = $5::uuid
  LEFT JOIN LATERAL (
      SELECT * FROM profiles p
       WHERE $6::boolean AND p.org_id = $1::uuid AND p.project_id = $5::uuid AND p.external_id = v.user_id
      OFFSET 0) AS p ON true
 WHERE c.org_id = $1::uuid AND c.send_id = $2::uuid AND c.shard = $3::smallint AND c.seq = $4::integer
   AND NOT EXISTS (
       SELECT FROM deliveries d
        WHERE d.org_id = $1::uuid AND d.send_id = $2::uuid AND d.shard = $3::smallint AND d.seq = $4::integer
          AND d.position = (r.n - 1)::smallint
       OFFSET 0);

-- name: row_of
-- The same of one device, whatever chunk it stands in: for who asks why.
WITH device AS (
    SELECT t.* FROM push_tokens t WHERE t.org_id = $1::uuid AND t.id = $3::uuid AND t.project_id = $2::uuid
)
SELECT 0::smallint, $3::uuid, v.platform, v.token, v.subscription, v.environment, v.bundle_id, o.person,
       coalesce(v.is_active, false), v.owner_since, v.locale, v.timezone, p.traits, p.email, p.created_at, p.last_seen_at
  FROM (VALUES (1)) AS one
  LEFT JOIN device v ON true
  LEFT JOIN person_of_names($1::uuid, $2::uuid, ARRAY[v.user_id]) AS o ON true
  LEFT JOIN profiles p ON p.org_id = $1::uuid AND p.project_id = $2::uuid AND p.external_id = o.person;

-- name: scopes
-- What placeholders may name of each of these devices' owners (B123); the same look at owners as `rows`.
WITH devices AS (
    SELECT t.id, t.user_id, t.locale, t.timezone
      FROM (SELECT DISTINCT id FROM unnest($3::uuid[]) AS u (id)) AS g
     CROSS JOIN LATERAL (SELECT * FROM push_tokens t WHERE t.org_id = $1 AND t.id = g.id OFFSET 0) AS t
     WHERE t.project_id = $2
)
SELECT v.id, o.person, v.locale, v.timezone, p.traits, p.email, p.created_at, p.last_seen_at
  FROM devices v
  LEFT JOIN person_of_names($1, $2, ARRAY(SELECT DISTINCT user_id FROM devices)) AS o ON o.name = v.user_id
  LEFT JOIN LATERAL (
      SELECT * FROM profiles p WHERE p.org_id = $1 AND p.project_id = $2 AND p.external_id = o.person
      OFFSET 0) AS p ON true;

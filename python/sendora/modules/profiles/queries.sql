-- writes: profiles

-- name: find
-- By external id or by profile id (C70), following takeovers to the person who is meant now (C69). The library and
-- `takeovers` keep chains short and free of circles; the depth bounds them all the same. A chain that ends at nobody
-- (the person was deleted in between) finds nobody. OFFSET 0 keeps each step a look-up, also while PostgreSQL knows nothing
-- of a table that was filled a moment ago: it would read all people of the project for one.
WITH RECURSIVE chain AS (
    (SELECT external_id, merged_into, 0 AS depth
       FROM profiles
      WHERE org_id = $1 AND project_id = $2 AND (external_id = $3 OR id = $4)
      ORDER BY (id = $4) IS TRUE DESC LIMIT 1)
    UNION ALL
    SELECT p.external_id, p.merged_into, c.depth + 1
      FROM chain c
     CROSS JOIN LATERAL (
         SELECT p.external_id, p.merged_into FROM profiles p
          WHERE p.org_id = $1 AND p.project_id = $2 AND p.external_id = c.merged_into
         OFFSET 0) AS p
     WHERE c.depth < 16)
SELECT p.id, p.external_id, p.email, p.traits, p.locale, p.timezone, p.lifecycle, p.created_at, p.last_seen_at
  FROM chain c
 CROSS JOIN LATERAL (
     SELECT * FROM profiles p WHERE p.org_id = $1 AND p.project_id = $2 AND p.external_id = c.external_id
     OFFSET 0) AS p
 WHERE c.merged_into IS NULL;

-- name: list_people
-- Who was taken over is not listed beside whom they became.
SELECT id, external_id, email, traits, locale, timezone, lifecycle, created_at, last_seen_at
  FROM profiles
 WHERE org_id = $1 AND project_id = $2 AND merged_into IS NULL
   AND ($3::text IS NULL OR external_id = $3) AND ($4::text IS NULL OR email = $4)
 ORDER BY external_id OFFSET $5 LIMIT $6;

-- name: count_people
SELECT count(*) FROM profiles
 WHERE org_id = $1 AND project_id = $2 AND merged_into IS NULL
   AND ($3::text IS NULL OR external_id = $3) AND ($4::text IS NULL OR email = $4);

-- name: people_named
SELECT p.id, p.external_id, p.email, p.traits, p.locale, p.timezone, p.lifecycle, p.created_at, p.last_seen_at
  FROM unnest($3::text[]) WITH ORDINALITY AS n (external_id, place)
  JOIN profiles p ON p.org_id = $1 AND p.project_id = $2 AND p.external_id = n.external_id
 ORDER BY n.place;

-- name: names_of
-- People and everybody whom they have taken over: $5 only those who were there before that instant (NULL: all).
WITH RECURSIVE names AS (
    SELECT unnest($3::text[]) AS name
    UNION
    SELECT p.external_id
      FROM names n JOIN profiles p ON p.org_id = $1 AND p.project_id = $2 AND p.merged_into = n.name
       AND ($5::timestamptz IS NULL OR p.created_at <= $5))
SELECT name FROM names LIMIT $4;

-- name: count_named
SELECT count(*) FROM profiles WHERE org_id = $1 AND project_id = $2 AND external_id = ANY($3::text[]);

-- name: aliases_among
SELECT external_id FROM profiles
 WHERE org_id = $1 AND project_id = $2 AND external_id = ANY($3::text[]) AND merged_into IS NOT NULL AND created_at <= $4;

-- name: people_behind
-- A page of people by their names, for whoever walks over all of them.
SELECT id, external_id, email, traits, locale, timezone, lifecycle, created_at, last_seen_at
  FROM profiles
 WHERE org_id = $1 AND project_id = $2 AND external_id > $3 AND merged_into IS NULL
 ORDER BY external_id LIMIT $4;

-- name: by_index
-- For this transaction: plan each statement for the tables as they are now (a plan made for an empty table costs minutes
-- once it has grown), and scan nothing that has an index.
SELECT set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: make_changes
-- Traits land as bytes (one of version, then the text): a value that jsonb refused would refuse the whole COPY.
CREATE TEMP TABLE profile_changes (
    n            integer GENERATED ALWAYS AS IDENTITY,
    org_id       uuid, project_id uuid, external_id text, id uuid, reset boolean, present boolean, email text,
    traits_set   bytea, traits_unset text[], locale text, timezone text, merged_into text,
    first_at     timestamptz, last_at timestamptz
) ON COMMIT DROP;

-- name: reset_people
-- By row addresses from look-ups in the index: a join could be planned as a scan of all profiles.
DELETE FROM profiles WHERE ctid = ANY (ARRAY(
    SELECT p.place
      FROM profile_changes c
     CROSS JOIN LATERAL (SELECT o.ctid AS place FROM profiles o
                          WHERE o.org_id = c.org_id AND o.project_id = c.project_id AND o.external_id = c.external_id
                          LIMIT 1) AS p
     WHERE c.reset));

-- name: upsert_people
-- Read and write in one statement is safe because there is one writer, who holds the lane's position. The old row is
-- looked up as the first one at or behind the name, since only the primary key has that order: asked for by equality, a
-- planner who sees a small table may as well take another index of the org, whose entries this very statement adds to.
-- A row that nothing but its last sight would change is written at most once a minute.
INSERT INTO profiles AS p
       (org_id, project_id, external_id, id, email, traits, locale, timezone, created_at, last_seen_at)
SELECT c.org_id, c.project_id, c.external_id, c.id, coalesce(c.email, o.email),
       CASE WHEN pg_column_size(o.traits) >= $3 THEN o.traits - c.traits_unset
            ELSE coalesce(o.traits, '{}') - c.traits_unset || convert_from(substr(c.traits_set, 2), 'UTF8')::jsonb END,
       coalesce(c.locale, o.locale), coalesce(c.timezone, o.timezone),
       coalesce(o.created_at, c.first_at), greatest(o.last_seen_at, c.last_at)
  FROM profile_changes c
  LEFT JOIN LATERAL (SELECT * FROM profiles o
                      WHERE (o.org_id, o.project_id, o.external_id) >= (c.org_id, c.project_id, c.external_id)
                      ORDER BY o.org_id, o.project_id, o.external_id LIMIT 1) AS o
    ON o.org_id = c.org_id AND o.project_id = c.project_id AND o.external_id = c.external_id
 WHERE c.present AND c.n BETWEEN $1 AND $2
   AND (o.id IS NULL OR c.email IS NOT NULL AND c.email IS DISTINCT FROM o.email
        OR octet_length(c.traits_set) > 3 OR cardinality(c.traits_unset) > 0
        OR c.locale IS NOT NULL AND c.locale IS DISTINCT FROM o.locale
        OR c.timezone IS NOT NULL AND c.timezone IS DISTINCT FROM o.timezone
        OR c.last_at >= o.last_seen_at + interval '1 minute')
ON CONFLICT (org_id, project_id, external_id) DO UPDATE
   SET email = excluded.email, traits = excluded.traits, locale = excluded.locale, timezone = excluded.timezone,
       last_seen_at = excluded.last_seen_at;

-- name: wanted_takeovers
-- A person is taken over once: the first one keeps the device's past.
SELECT c.org_id, c.project_id, c.external_id, c.merged_into
  FROM profile_changes c
 CROSS JOIN LATERAL (SELECT FROM profiles p
                      WHERE p.org_id = c.org_id AND p.project_id = c.project_id AND p.external_id = c.external_id
                        AND p.merged_into IS NULL LIMIT 1) AS p
 WHERE c.merged_into IS NOT NULL ORDER BY c.n;

-- name: roots
-- Where the targets lead already. Whether a name was taken over is asked outside of the look-up, where it cannot tempt
-- PostgreSQL away from the primary key to the index of those who were.
WITH RECURSIVE chain AS (
    SELECT t.org_id, t.project_id, t.name, t.name AS at, 0 AS depth
      FROM (SELECT DISTINCT * FROM unnest($1::uuid[], $2::uuid[], $3::text[])) AS t (org_id, project_id, name)
    UNION ALL
    SELECT c.org_id, c.project_id, c.name, p.merged_into, c.depth + 1
      FROM chain c
     CROSS JOIN LATERAL (SELECT p.merged_into FROM profiles p
                          WHERE p.org_id = c.org_id AND p.project_id = c.project_id AND p.external_id = c.at
                          LIMIT 1) AS p
     WHERE p.merged_into IS NOT NULL AND c.depth < 16)
SELECT DISTINCT ON (org_id, project_id, name) org_id, project_id, name, at
  FROM chain ORDER BY org_id, project_id, name, depth DESC;

-- name: take_over
UPDATE profiles p SET merged_into = t.into_id
  FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) AS t (org_id, project_id, external_id, into_id)
 WHERE p.org_id = t.org_id AND p.project_id = t.project_id AND p.external_id = t.external_id;

-- name: in_order
-- For this transaction: walk along the key, and look up by it, also while PostgreSQL knows nothing of the table.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_sort', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: activity
-- The next people in the order of the key, each with what those did whom they took over (C69). The bite is cut first, by
-- the key's order alone, which only the primary key has; what of it lies in the next org is left out afterwards.
SELECT p.project_id, p.external_id, p.lifecycle, least(p.created_at, a.created_at) AS created_at,
       greatest(p.last_seen_at, a.last_seen_at) AS last_seen_at
  FROM (SELECT * FROM profiles
         WHERE (org_id, project_id, external_id) > ($1, $2, $3) AND merged_into IS NULL
         ORDER BY org_id, project_id, external_id LIMIT $4) AS p
 CROSS JOIN LATERAL (
     SELECT min(a.created_at) AS created_at, max(a.last_seen_at) AS last_seen_at FROM profiles a
      WHERE a.org_id = $1 AND a.project_id = p.project_id AND a.merged_into = p.external_id
     OFFSET 0) AS a
 WHERE p.org_id = $1
 ORDER BY p.project_id, p.external_id;

-- name: set_stages
-- Row by row in the order of the key, as the writer of the log takes them, so that the two never wait for each other in a
-- circle.
UPDATE profiles p SET lifecycle = g.stage
  FROM unnest($2::uuid[], $3::text[], $4::text[]) AS g (project_id, external_id, stage)
 WHERE p.org_id = $1 AND p.project_id = g.project_id AND p.external_id = g.external_id;

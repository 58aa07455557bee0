-- writes: audience_contacts
-- reads: profiles, audiences
--
-- A contact is whoever the person is now: the one at the end of the chain of takeovers (C69), if there still is one. LATERAL
-- with OFFSET 0 keeps each step a look-up by the primary key; whether a name was taken over is asked outside of it, where it
-- cannot tempt PostgreSQL to another index. Sets are taken from each other by EXCEPT and UNION, which hash whatever the
-- statistics say and leave each person once.

-- name: resolve
-- Of each name given, the person it leads to (no row: nobody), and whether that person is in the list under any name.
WITH ends AS (
    SELECT name, person FROM person_of_names($1, $2, $4)
), people AS (
    SELECT e.name, e.person FROM ends e
     CROSS JOIN LATERAL (
         SELECT p.merged_into FROM profiles p WHERE p.org_id = $1 AND p.project_id = $2 AND p.external_id = e.person
         OFFSET 0) AS p
     WHERE p.merged_into IS NULL
), names AS (
    SELECT person, name FROM names_of_people($1, $2, ARRAY(SELECT DISTINCT person FROM people))
), there AS (
    SELECT DISTINCT n.person FROM names n
     CROSS JOIN LATERAL (
         SELECT c.audience_id FROM audience_contacts c
          WHERE c.org_id = $1 AND c.project_id = $2 AND c.external_id = n.name
         OFFSET 0) AS c
     WHERE c.audience_id = $3
)
SELECT p.name, p.person, t.person IS NOT NULL AS there FROM people p LEFT JOIN there t USING (person);

-- name: add
-- In order, so that two calls that add the same people do not wait for each other in a circle.
INSERT INTO audience_contacts (org_id, audience_id, shard, external_id, project_id)
SELECT $1, $2, g.shard, g.external_id, $3 FROM unnest($4::text[], $5::smallint[]) AS g (external_id, shard)
 ORDER BY g.shard, g.external_id
ON CONFLICT DO NOTHING;

-- name: listed
-- In the order in which they are stored: a page is a walk along the primary key.
SELECT external_id, added_at FROM audience_contacts
 WHERE org_id = $1 AND audience_id = $2 ORDER BY shard, external_id OFFSET $3 LIMIT $4;

-- name: counted
SELECT count(*) FROM audience_contacts WHERE org_id = $1 AND audience_id = $2;

-- name: remove
-- One person, under all names.
DELETE FROM audience_contacts
 WHERE org_id = $1 AND project_id = $2 AND audience_id = $3 AND external_id = ANY($4::text[]);

-- name: forget
DELETE FROM audience_contacts WHERE org_id = $1 AND project_id = $2 AND external_id = ANY($3::text[]);

-- name: of_person
-- The lists that a person is in, under any name, and since when.
SELECT c.audience_id, a.name, min(c.added_at) AS added_at
  FROM audience_contacts c JOIN audiences a ON a.org_id = c.org_id AND a.id = c.audience_id
 WHERE c.org_id = $1 AND c.project_id = $2 AND c.external_id = ANY($3::text[]) AND a.deleted_at IS NULL
 GROUP BY c.audience_id, a.name ORDER BY c.audience_id;

-- name: find
-- Of these names, who is in one of the lists; under any name that the person ever had.
WITH ends AS (
    SELECT name, person FROM person_of_names($1, $2, $3)
), names AS (
    SELECT person, name FROM names_of_people($1, $2, ARRAY(SELECT DISTINCT person FROM ends))
), listed AS (
    SELECT DISTINCT n.person FROM names n
     CROSS JOIN LATERAL (
         SELECT c.audience_id FROM audience_contacts c
          WHERE c.org_id = $1 AND c.project_id = $2 AND c.external_id = n.name
         OFFSET 0) AS c
     WHERE c.audience_id = ANY($4::uuid[])
)
SELECT e.name, e.person, l.person IS NOT NULL AS listed FROM ends e LEFT JOIN listed l USING (person);

-- name: people
-- The different people that a list comes to: how many, and a page of them in the order of their names.
WITH RECURSIVE contacts AS (
    SELECT c.external_id AS name, p.merged_into AS at
      FROM audience_contacts c
     CROSS JOIN LATERAL (
         SELECT p.merged_into FROM profiles p
          WHERE p.org_id = $1 AND p.project_id = $2 AND p.external_id = c.external_id
         OFFSET 0) AS p
     WHERE c.org_id = $1 AND c.audience_id = $3
), chain AS (
    SELECT name, at, 1 AS depth FROM contacts WHERE at IS NOT NULL
    UNION ALL
    SELECT c.name, p.merged_into, c.depth + 1
      FROM chain c
     CROSS JOIN LATERAL (
         SELECT p.merged_into FROM profiles p WHERE p.org_id = $1 AND p.project_id = $2 AND p.external_id = c.at
         OFFSET 0) AS p
     WHERE p.merged_into IS NOT NULL AND c.depth < 16
), ends AS (
    SELECT DISTINCT ON (name) at AS person FROM chain ORDER BY name, depth DESC
), people AS (
    SELECT name AS person FROM contacts WHERE at IS NULL
    UNION
    SELECT e.person FROM ends e
     CROSS JOIN LATERAL (
         SELECT p.merged_into FROM profiles p WHERE p.org_id = $1 AND p.project_id = $2 AND p.external_id = e.person
         OFFSET 0) AS p
     WHERE p.merged_into IS NULL
)
SELECT (SELECT count(*) FROM people) AS total,
       ARRAY(SELECT person FROM people ORDER BY person COLLATE "C" OFFSET $4 LIMIT $5) AS names;

-- name: make_sieve
-- The tables of one reading, on the connection whose snapshot it is made in.
CREATE TEMPORARY TABLE sieve_people (external_id text NOT NULL) ON COMMIT DROP;
CREATE TEMPORARY TABLE sieve_minus (external_id text NOT NULL) ON COMMIT DROP;
CREATE TEMPORARY TABLE sieve_merged (audience_id uuid NOT NULL, shard smallint NOT NULL, person text NOT NULL) ON COMMIT DROP;

-- name: clear_sieve
TRUNCATE sieve_people, sieve_minus;

-- name: merged
-- Contacts of these lists who were taken over since they were added, as whoever they are now.
WITH RECURSIVE chain AS (
    SELECT c.audience_id, c.external_id AS name, p.merged_into AS at, 1 AS depth
      FROM audience_contacts c
     CROSS JOIN LATERAL (
         SELECT p.merged_into FROM profiles p
          WHERE p.org_id = $1 AND p.project_id = $2 AND p.external_id = c.external_id
         OFFSET 0) AS p
     WHERE c.org_id = $1 AND c.audience_id = ANY($3::uuid[]) AND p.merged_into IS NOT NULL
    UNION ALL
    SELECT c.audience_id, c.name, p.merged_into, c.depth + 1
      FROM chain c
     CROSS JOIN LATERAL (
         SELECT p.merged_into FROM profiles p WHERE p.org_id = $1 AND p.project_id = $2 AND p.external_id = c.at
         OFFSET 0) AS p
     WHERE p.merged_into IS NOT NULL AND c.depth < 16
), ends AS (
    SELECT DISTINCT ON (audience_id, name) audience_id, at AS person FROM chain ORDER BY audience_id, name, depth DESC
)
SELECT DISTINCT e.audience_id, e.person FROM ends e
 CROSS JOIN LATERAL (
     SELECT p.merged_into FROM profiles p WHERE p.org_id = $1 AND p.project_id = $2 AND p.external_id = e.person
     OFFSET 0) AS p
 WHERE p.merged_into IS NULL;

-- name: keep_merged
INSERT INTO sieve_merged (audience_id, shard, person)
SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::text[]);

-- name: people_left
-- Whoever stands in `sieve_people`, but for `sieve_minus` and the lists $3. $2: of one shard (NULL: of all).
SELECT external_id FROM sieve_people
EXCEPT
SELECT external_id FROM sieve_minus
EXCEPT
SELECT person FROM sieve_merged
 WHERE audience_id = ANY($3::uuid[]) AND ($2::smallint IS NULL OR shard = $2::smallint)
EXCEPT
SELECT external_id FROM audience_contacts
 WHERE org_id = $1::uuid AND audience_id = ANY($3::uuid[]) AND ($2::smallint IS NULL OR shard = $2::smallint);

-- name: contacts_left
-- The people of one shard of the list $5, but for the same.
(SELECT c.external_id
   FROM audience_contacts c
  CROSS JOIN LATERAL (
      SELECT p.merged_into FROM profiles p
       WHERE p.org_id = $1::uuid AND p.project_id = $4::uuid AND p.external_id = c.external_id
      OFFSET 0) AS p
  WHERE c.org_id = $1::uuid AND c.audience_id = $5::uuid AND c.shard = $2::smallint AND p.merged_into IS NULL
  UNION
 SELECT person FROM sieve_merged WHERE audience_id = $5::uuid AND shard = $2::smallint)
EXCEPT
SELECT external_id FROM sieve_minus
EXCEPT
SELECT person FROM sieve_merged WHERE audience_id = ANY($3::uuid[]) AND shard = $2::smallint
EXCEPT
SELECT external_id FROM audience_contacts
 WHERE org_id = $1::uuid AND audience_id = ANY($3::uuid[]) AND shard = $2::smallint;

-- name: sweep
-- Contacts of a list that was deleted; its tombstone stays.
DELETE FROM audience_contacts c
 WHERE (c.org_id, c.audience_id, c.shard, c.external_id) IN (
       SELECT k.org_id, k.audience_id, k.shard, k.external_id
         FROM audiences a
        CROSS JOIN LATERAL (
            SELECT * FROM audience_contacts k WHERE k.org_id = a.org_id AND k.audience_id = a.id LIMIT $1) AS k
        WHERE a.deleted_at IS NOT NULL AND a.type = 'list' LIMIT $1);

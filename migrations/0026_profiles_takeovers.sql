-- Who is who (C69), for every room that asks: a person is everybody whom the person has taken over (profiles.merged_into).
-- The library and the writer of the log keep chains short and free of circles; the depth bounds them all the same. LATERAL with
-- OFFSET 0 keeps each step a look-up, also while PostgreSQL knows nothing of a table that was filled a moment ago: it would
-- take a project's people for one, and read all of them for each step. Whether a name was taken over is asked outside of the
-- look-up, where it cannot tempt PostgreSQL away from the primary key.

-- Of each of these names, whoever took it over: itself if nobody did, and also a name that nobody has.
CREATE FUNCTION person_of_names(org uuid, project uuid, names text[]) RETURNS TABLE (name text, person text)
LANGUAGE sql STABLE AS $$
WITH RECURSIVE chain AS (
    SELECT u.name, u.name AS at, 0 AS depth FROM (SELECT DISTINCT unnest(names) AS name) AS u WHERE u.name IS NOT NULL
    UNION ALL
    SELECT c.name, p.merged_into, c.depth + 1
      FROM chain c
     CROSS JOIN LATERAL (
         SELECT p.merged_into FROM profiles p WHERE p.org_id = org AND p.project_id = project AND p.external_id = c.at
         OFFSET 0) AS p
     WHERE p.merged_into IS NOT NULL AND c.depth < 16
)
SELECT DISTINCT ON (c.name) c.name, c.at FROM chain c ORDER BY c.name, c.depth DESC
$$;

-- All names of each of these people, their own among them.
CREATE FUNCTION names_of_people(org uuid, project uuid, people text[]) RETURNS TABLE (person text, name text)
LANGUAGE sql STABLE AS $$
WITH RECURSIVE names AS (
    SELECT u.person, u.person AS name FROM unnest(people) AS u (person)
    UNION
    SELECT n.person, p.external_id
      FROM names n
     CROSS JOIN LATERAL (
         SELECT p.external_id FROM profiles p WHERE p.org_id = org AND p.project_id = project AND p.merged_into = n.name
         OFFSET 0) AS p
)
SELECT n.person, n.name FROM names n
$$;

-- Every name of the project that was taken over, and by whom. It begins with what was taken over: by way of `person_of_names`
-- and a list of all names 50,000 take half as long again.
CREATE FUNCTION takeovers_of_project(org uuid, project uuid) RETURNS TABLE (name text, person text)
LANGUAGE sql STABLE AS $$
WITH RECURSIVE chain AS (
    SELECT p.external_id AS name, p.merged_into AS at, 1 AS depth
      FROM profiles p WHERE p.org_id = org AND p.project_id = project AND p.merged_into IS NOT NULL
    UNION ALL
    SELECT c.name, p.merged_into, c.depth + 1
      FROM chain c
     CROSS JOIN LATERAL (
         SELECT p.merged_into FROM profiles p WHERE p.org_id = org AND p.project_id = project AND p.external_id = c.at
         OFFSET 0) AS p
     WHERE p.merged_into IS NOT NULL AND c.depth < 16
)
SELECT DISTINCT ON (c.name) c.name, c.at FROM chain c ORDER BY c.name, c.depth DESC
$$;

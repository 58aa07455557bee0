-- writes: deletion_requests, erased_names

-- name: begin
-- The row is locked either way. One that runs already is begun again at its end, since the person may have come back behind
-- its cut; one whose cut is still to come will cover everything until then.
INSERT INTO deletion_requests AS d (org_id, id, project_id, hash, status, sealed, due_at)
VALUES ($1, $2, $3, $4, 'pending', $5, now() + make_interval(secs => $6))
ON CONFLICT (org_id, project_id, hash) DO UPDATE SET again = d.status = 'running'
RETURNING *;

-- name: begin_again
-- An older run that is still at work finds its number gone and writes nothing more.
UPDATE deletion_requests
   SET status = 'pending', run = run + 1, sealed = $4, position = NULL, cut_at = NULL, again = false, done = '{}',
       requested_at = now(), completed_at = NULL, due_at = now() + make_interval(secs => $5), tries = 0
 WHERE org_id = $1 AND id = $2 AND run = $3 RETURNING *;

-- name: find
SELECT * FROM deletion_requests WHERE org_id = $1 AND project_id = $2 AND id = $3;

-- name: claim
-- Whoever takes one up has it for $1 seconds, and keeps it by saying so.
UPDATE deletion_requests d SET due_at = now() + make_interval(secs => $1), tries = d.tries + 1
  FROM (SELECT org_id, id FROM deletion_requests WHERE status <> 'completed' AND due_at <= now()
         ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED) AS next
 WHERE d.org_id = next.org_id AND d.id = next.id
RETURNING d.*;

-- name: postpone
UPDATE deletion_requests SET due_at = now() + make_interval(secs => $4)
 WHERE org_id = $1 AND id = $2 AND run = $3 AND status <> 'completed' RETURNING id;

-- name: keep_names
UPDATE deletion_requests SET sealed = $4 WHERE org_id = $1 AND id = $2 AND run = $3 AND status <> 'completed' RETURNING *;

-- name: cut
-- No room has erased since this cut.
UPDATE deletion_requests
   SET status = 'running', position = $4, cut_at = $5, done = '{}', due_at = now(),
       deleted = deleted || jsonb_build_object('profiles', coalesce((deleted ->> 'profiles')::bigint, 0) + $6::bigint)
 WHERE org_id = $1 AND id = $2 AND run = $3 AND status <> 'completed' RETURNING *;

-- name: bury
-- A name that is erased a second time is erased up to there.
INSERT INTO erased_names AS e (org_id, project_id, hash, position, cut_at)
SELECT $1, $2, h, $4, $5 FROM unnest($3::bytea[]) AS h ORDER BY h
ON CONFLICT (org_id, project_id, hash) DO UPDATE SET position = excluded.position, cut_at = excluded.cut_at;

-- name: add_profiles
UPDATE deletion_requests
   SET deleted = deleted || jsonb_build_object('profiles', coalesce((deleted ->> 'profiles')::bigint, 0) + $4::bigint)
 WHERE org_id = $1 AND id = $2 AND run = $3 AND status = 'running' RETURNING id;

-- name: go_on
-- With names that were not known before: no room has erased under them.
UPDATE deletion_requests SET sealed = $4, done = '{}'
 WHERE org_id = $1 AND id = $2 AND run = $3 AND status = 'running' RETURNING *;

-- name: room_done
UPDATE deletion_requests
   SET done = done || $4::text,
       deleted = deleted || jsonb_build_object($4::text, coalesce((deleted ->> $4::text)::bigint, 0) + $5::bigint)
 WHERE org_id = $1 AND id = $2 AND run = $3 AND status = 'running' RETURNING *;

-- name: complete
UPDATE deletion_requests SET status = 'completed', completed_at = now(), sealed = NULL
 WHERE org_id = $1 AND id = $2 AND run = $3 AND status = 'running' RETURNING *;

-- name: ahead
-- Cuts at or behind this place in the log.
SELECT org_id, project_id, hash, position, cut_at FROM erased_names WHERE position >= $1;

-- name: cut_of
-- Of a deletion under way: a name that was erased long ago is nobody's any more.
SELECT e.position, e.cut_at
  FROM erased_names e
 WHERE e.org_id = $1 AND e.project_id = $2 AND e.hash = ANY($3::bytea[])
   AND EXISTS (SELECT FROM deletion_requests d WHERE d.org_id = e.org_id AND d.project_id = e.project_id
                  AND d.status = 'running' AND d.position = e.position)
 ORDER BY e.position DESC LIMIT 1;

-- name: forget_names
DELETE FROM erased_names WHERE cut_at < now() - make_interval(secs => $1);

-- name: open
SELECT count(*) FROM deletion_requests WHERE status <> 'completed';

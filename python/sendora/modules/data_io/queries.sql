-- writes: exports

-- name: ask
-- The same question gives the same export, until its time is over; then the row is a new one.
INSERT INTO exports AS e (org_id, id, project_id, module, profile_id, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
ON CONFLICT (org_id, project_id, module, profile_id) DO UPDATE
   SET id = CASE WHEN e.expires_at <= now() THEN excluded.id ELSE e.id END,
       created_at = CASE WHEN e.expires_at <= now() THEN excluded.created_at ELSE e.created_at END,
       expires_at = CASE WHEN e.expires_at <= now() THEN excluded.expires_at ELSE e.expires_at END
RETURNING *;

-- name: find
SELECT * FROM exports WHERE org_id = $1 AND project_id = $2 AND id = $3 AND expires_at > now();

-- name: of_person
SELECT * FROM exports WHERE org_id = $1 AND project_id = $2 AND profile_id = $3 AND expires_at > now() ORDER BY id;

-- name: erase
DELETE FROM exports WHERE org_id = $1 AND project_id = $2 AND profile_id = ANY($3::uuid[]);

-- name: sweep
DELETE FROM exports WHERE expires_at <= now();

-- writes: push_templates, push_ab_tests, push_settings
-- reads: sends, deliveries, push_opens

-- name: insert_template
INSERT INTO push_templates (org_id, id, project_id, name, content) VALUES ($1, $2, $3, $4, $5) RETURNING *;

-- name: find_template
SELECT * FROM push_templates WHERE org_id = $1 AND project_id = $2 AND id = $3;

-- name: lock_template
SELECT * FROM push_templates WHERE org_id = $1 AND project_id = $2 AND id = $3 FOR UPDATE;

-- name: list_templates
SELECT *, count(*) OVER () AS total FROM push_templates
 WHERE org_id = $1 AND project_id = $2 ORDER BY id DESC OFFSET $3 LIMIT $4;

-- name: count_templates
SELECT count(*) FROM push_templates WHERE org_id = $1 AND project_id = $2;

-- name: update_template
UPDATE push_templates SET name = $4, content = $5, updated_at = now()
 WHERE org_id = $1 AND project_id = $2 AND id = $3 RETURNING *;

-- name: delete_template
DELETE FROM push_templates WHERE org_id = $1 AND project_id = $2 AND id = $3 RETURNING id;

-- name: insert_test
INSERT INTO push_ab_tests (org_id, id, project_id, name, status, variants, auto_promote)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *;

-- name: find_test
SELECT * FROM push_ab_tests WHERE org_id = $1 AND project_id = $2 AND id = $3;

-- name: lock_test
SELECT * FROM push_ab_tests WHERE org_id = $1 AND project_id = $2 AND id = $3 FOR UPDATE;

-- name: list_tests
SELECT *, count(*) OVER () AS total FROM push_ab_tests
 WHERE org_id = $1 AND project_id = $2 AND ($3::text IS NULL OR status = $3) ORDER BY id DESC OFFSET $4 LIMIT $5;

-- name: count_tests
SELECT count(*) FROM push_ab_tests WHERE org_id = $1 AND project_id = $2 AND ($3::text IS NULL OR status = $3);

-- name: update_test
UPDATE push_ab_tests SET name = $4, status = $5, variants = $6, winner_key = $7, auto_promote = $8
 WHERE org_id = $1 AND project_id = $2 AND id = $3 RETURNING *;

-- name: delete_test
DELETE FROM push_ab_tests WHERE org_id = $1 AND project_id = $2 AND id = $3 RETURNING id;

-- name: mark_test_sent
-- From here on the weights are fixed (C44).
UPDATE push_ab_tests SET first_sent_at = now()
 WHERE org_id = $1 AND project_id = $2 AND id = $3 AND first_sent_at IS NULL;

-- name: test_stats
-- B120. A recipient counts once, by its final row; an open counts for the variant that was sent.
SELECT d.variant, count(*) AS assigned, count(*) FILTER (WHERE d.state = 'accepted') AS sent,
       count(o.opened_at) AS opened, count(o.clicked_at) AS clicked
  FROM sends s
  JOIN deliveries d ON d.org_id = s.org_id AND d.send_id = s.id AND d.state <> 'deferred' AND d.variant IS NOT NULL
  LEFT JOIN push_opens o ON o.org_id = d.org_id AND o.send_id = d.send_id AND o.recipient = d.recipient
 WHERE s.org_id = $1 AND s.project_id = $2 AND s.channel = 'push' AND s.content->>'abTestId' = $3
 GROUP BY d.variant;

-- name: policies
SELECT * FROM push_settings WHERE org_id = $1;

-- name: make_policies
-- So that there is a row to lock: two patches at once both count.
INSERT INTO push_settings (org_id) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: lock_policies
SELECT * FROM push_settings WHERE org_id = $1 FOR UPDATE;

-- name: set_policies
UPDATE push_settings SET quiet_start = $2, quiet_end = $3, defer = $4, cap_day = $5, cap_hour = $6, default_zone = $7,
                         critical_bypass = $8
 WHERE org_id = $1;

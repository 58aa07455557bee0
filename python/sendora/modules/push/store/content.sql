-- writes: push_templates, push_ab_tests, push_settings
-- reads: sends, chunks, deliveries

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
UPDATE push_ab_tests SET name = $4, status = $5, variants = $6, winner_key = $7, auto_promote = $8, promoted_at = $9
 WHERE org_id = $1 AND project_id = $2 AND id = $3 RETURNING *;

-- name: delete_test
DELETE FROM push_ab_tests WHERE org_id = $1 AND project_id = $2 AND id = $3 RETURNING id;

-- name: mark_test_sent
-- From here on the weights are fixed (C44).
UPDATE push_ab_tests SET first_sent_at = now()
 WHERE org_id = $1 AND project_id = $2 AND id = $3 AND first_sent_at IS NULL;

-- name: take_undecided_test
-- The test that has waited longest to be examined, once in $1 seconds; nothing for most callers, by an index of its own.
UPDATE push_ab_tests t SET examined_at = now()
  FROM (SELECT org_id, id FROM push_ab_tests
         WHERE auto_promote AND status = 'active' AND winner_key IS NULL AND first_sent_at IS NOT NULL
           AND examined_at < now() - make_interval(secs => $1)
         ORDER BY examined_at LIMIT 1 FOR UPDATE SKIP LOCKED) AS next
 WHERE t.org_id = next.org_id AND t.id = next.id
RETURNING t.*;

-- name: promote_test
-- C45. Not when somebody has changed their mind meanwhile, or named a winner themselves.
UPDATE push_ab_tests SET status = 'completed', winner_key = $4, promoted_at = now()
 WHERE org_id = $1 AND project_id = $2 AND id = $3 AND auto_promote AND status = 'active' AND winner_key IS NULL
RETURNING id;

-- name: tally_test
-- B120, in people (readout.py says who counts, and when somebody is settled). `deferred` rows count as assigned: who is
-- tried later was drawn already. Opens of the send as a whole belong to nobody, and are left out.
WITH people AS (
    SELECT d.variant, coalesce(d.user_id, d.recipient::text) AS person,
           min(d.at) FILTER (WHERE d.state = 'accepted') AS first_at, min(r.delivered_at) AS delivered_at,
           min(o.opened_at) AS opened_at,
           min(o.clicked_at) AS clicked_at
      FROM sends s
      JOIN chunks c ON c.org_id = s.org_id AND c.send_id = s.id AND c.closed_at IS NOT NULL
     CROSS JOIN LATERAL (
         SELECT * FROM deliveries d
          WHERE d.org_id = c.org_id AND d.send_id = c.send_id AND d.shard = c.shard AND d.seq = c.seq
         OFFSET 0) AS d
      LEFT JOIN LATERAL (
          SELECT * FROM push_opens o
           WHERE o.org_id = d.org_id AND o.send_id = d.send_id AND o.recipient = d.recipient
          OFFSET 0) AS o ON d.state = 'accepted'
      LEFT JOIN LATERAL (
          SELECT n FROM push_receipt_counts k WHERE k.org_id = s.org_id AND k.send_id = s.id OFFSET 0) AS k ON true
      LEFT JOIN LATERAL (
          SELECT * FROM push_receipts r
           WHERE r.org_id = d.org_id AND r.send_id = d.send_id AND r.recipient = d.recipient
          OFFSET 0) AS r ON d.state = 'accepted' AND k.n > 0
     WHERE s.org_id = $1 AND s.project_id = $2 AND s.channel = 'push' AND s.content ->> 'abTestId' = $3
       AND d.variant IS NOT NULL
     GROUP BY d.variant, person
)
SELECT variant, count(*) AS assigned, count(first_at) AS sent, count(delivered_at) AS delivered,
       count(opened_at) AS opened,
       count(clicked_at) AS clicked,
       count(*) FILTER (WHERE settled) AS settled,
       count(*) FILTER (WHERE settled AND opened_at <= first_at + $4::interval) AS settled_opened,
       count(*) FILTER (WHERE settled AND clicked_at <= first_at + $4::interval) AS settled_clicked
  FROM people
 CROSS JOIN LATERAL (SELECT first_at <= now() - $4::interval AS settled) AS day
 GROUP BY variant;

-- name: lock_tallies
SELECT pg_advisory_xact_lock(hashtextextended('push_ab_tests.tallies.' || $1::uuid, 0));

-- name: clock
SELECT clock_timestamp();

-- name: last_tallies
SELECT tallies, tallied_at, tallied_s, extract(epoch FROM clock_timestamp() - tallied_at)::double precision AS age_s
  FROM push_ab_tests WHERE org_id = $1 AND project_id = $2 AND id = $3 AND tallied_at IS NOT NULL;

-- name: keep_tallies
UPDATE push_ab_tests
   SET tallies = $4, tallied_at = $5, tallied_s = extract(epoch FROM clock_timestamp() - $5::timestamptz)::double precision
 WHERE org_id = $1 AND project_id = $2 AND id = $3 RETURNING tallied_at, tallied_s;

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

-- writes: push_receipts, push_receipt_counts
-- reads: sends
--
-- The nil uuid stands for a device that only knew the send.

-- name: record_receipts
-- A receipt of a send or a device that is not of the caller's project is dropped: anybody who has the public key can make one
-- up (C94). The first one counts, and no device has a message before it was asked for. OFFSET 0 keeps both look-ups by the
-- primary key.
WITH said AS MATERIALIZED (
    SELECT g.org AS org_id, g.send AS send_id, g.recipient, greatest(g.at, s.created_at) AS at, s.project_id, t.user_id
      FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[]) AS g (org, project, send, recipient, at)
     CROSS JOIN LATERAL (
         SELECT project_id, channel, created_at FROM sends WHERE org_id = g.org AND id = g.send OFFSET 0) AS s
      LEFT JOIN LATERAL (
         SELECT project_id, user_id FROM push_tokens WHERE org_id = g.org AND id = g.recipient OFFSET 0) AS t ON true
     WHERE s.project_id = g.project AND s.channel = 'push'
       AND (g.recipient = '00000000-0000-0000-0000-000000000000' OR t.project_id = g.project)
), written AS (
    INSERT INTO push_receipts (org_id, send_id, recipient, delivered_at)
    SELECT org_id, send_id, recipient, at FROM said ORDER BY org_id, send_id, recipient
        ON CONFLICT (org_id, send_id, recipient) DO NOTHING
    RETURNING org_id, send_id, recipient
), counted AS (
    INSERT INTO push_receipt_counts AS c (org_id, send_id, project_id, n)
    SELECT org_id, send_id, project_id, count(*) FILTER (WHERE recipient <> '00000000-0000-0000-0000-000000000000')
      FROM written JOIN said USING (org_id, send_id, recipient)
     GROUP BY org_id, send_id, project_id ORDER BY org_id, send_id
        ON CONFLICT (org_id, send_id) DO UPDATE SET n = c.n + excluded.n
)
SELECT s.*, w.send_id IS NOT NULL AS first
  FROM said s LEFT JOIN written w USING (org_id, send_id, recipient) ORDER BY org_id, send_id, recipient;

-- name: delivered_of_sends
-- Where only nameless ones came somebody has it all the same.
SELECT send_id, greatest(n, 1) AS n FROM push_receipt_counts WHERE org_id = $1 AND send_id = ANY($2::uuid[]);

-- name: delivered_of_project
SELECT coalesce(sum(greatest(n, 1)), 0)::bigint FROM push_receipt_counts WHERE org_id = $1 AND project_id = $2;

-- name: delivered_sends
-- A send's id begins with its time.
SELECT send_id FROM push_receipt_counts WHERE org_id = $1 AND project_id = $2 ORDER BY send_id DESC LIMIT $3 OFFSET $4;

-- name: count_delivered_sends
SELECT count(*) FROM push_receipt_counts WHERE org_id = $1 AND project_id = $2;

-- name: heard_of
-- What devices said of these recipients of a send.
SELECT g.recipient, r.delivered_at, o.opened_at, o.clicked_at
  FROM unnest($3::uuid[]) AS g (recipient)
  LEFT JOIN LATERAL (
      SELECT delivered_at FROM push_receipts WHERE org_id = $1 AND send_id = $2 AND recipient = g.recipient OFFSET 0) AS r ON true
  LEFT JOIN LATERAL (
      SELECT opened_at, clicked_at FROM push_opens
       WHERE org_id = $1 AND send_id = $2 AND recipient = g.recipient OFFSET 0) AS o ON true;

-- name: owners_since
-- Whose these devices have been since before that instant.
SELECT id, user_id FROM push_tokens
 WHERE org_id = $1 AND project_id = $2 AND id = ANY($3::uuid[]) AND user_id IS NOT NULL AND owner_since <= $4;

-- name: devices_since
SELECT id FROM push_tokens WHERE org_id = $1 AND project_id = $2 AND user_id = ANY($3::text[]) AND owner_since <= $4;

-- name: forget_receipts
DELETE FROM push_receipts WHERE org_id = $1 AND recipient = ANY($2::uuid[]);
